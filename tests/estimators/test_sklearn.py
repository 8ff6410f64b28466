"""The estimators before scikit-learn's own judges: its checks, and its tests of its own MLP."""

import functools
import json
import os
import re
import subprocess
import sys
import textwrap
import unittest
import warnings
from inspect import signature

import pytest

pytest.importorskip("sklearn")

from pathlib import Path

from sklearn.neural_network.tests import test_mlp as their_tests
from sklearn.utils.estimator_checks import estimator_checks_generator

import bp_xp
from bp_xp.backends import LIBRARIES
from bp_xp.estimators import (
    BaggingClassifier,
    BaggingRegressor,
    GridSearchCV,
    MLPClassifier,
    MLPRegressor,
    RandomizedSearchCV,
)

# ---------------------------------------------------------------------------------------------
# scikit-learn's checks of estimators. None is expected to fail; nor is any of its own MLP.


def checks_of(*estimators):
    """Return pairs (estimator, check), without those that need SciPy's array API switch."""
    pairs = []
    for one in estimators:
        for estimator, check in estimator_checks_generator(one):
            if "array_api" not in check_name(check):
                name = f"{type(one).__name__}-{label(check)}"
                pairs.append(pytest.param(estimator, check, id=name))
    return pairs


def networks(backend):
    """Return the estimators, as scikit-learn checks its own: some checks ask for a good score."""
    return [kind(max_iter=100, backend=backend) for kind in (MLPClassifier, MLPRegressor)]


def check_name(check):
    return check_name(check.func) if isinstance(check, functools.partial) else check.__name__


def label(check):
    options = check.keywords if isinstance(check, functools.partial) else {}
    options = {name: value for name, value in options.items() if name != "name"}
    return check_name(check) + "".join(f"-{name}={value}" for name, value in options.items())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("estimator", "check"), checks_of(*networks("numpy")))
def test_scikit_learns_checks_pass_with_numpy(estimator, check):
    check(estimator)


@pytest.mark.slow  # the same code as with NumPy, but for the arrays
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("estimator", "check"), checks_of(*networks("torch")))
def test_scikit_learns_checks_pass_with_torch(estimator, check):
    pytest.importorskip("torch")
    check(estimator)


# ---------------------------------------------------------------------------------------------
# Searches and ensembles, as scikit-learn checks its own: small, and alike each time

SHORT = {"hidden_layer_sizes": (8,), "learning_rate_init": 0.1, "max_iter": 10, "random_state": 0}
ALPHAS, TWO_FOLDS = {"alpha": [0.1, 1.0]}, {"cv": 2, "error_score": "raise"}
AROUND_NETWORKS = [
    GridSearchCV(MLPClassifier(**SHORT), ALPHAS, **TWO_FOLDS),
    RandomizedSearchCV(MLPRegressor(**SHORT), ALPHAS, n_iter=2, random_state=0, **TWO_FOLDS),
    BaggingClassifier(MLPClassifier(**SHORT), 2),
]
# scikit-learn's own are expected to fail in these, for the same reason.
DRAWN_BY_WEIGHT = "an ensemble draws samples by their weights: only its mean over seeds counts them"
CAN_NOT_PASS = {
    "check_sample_weight_equivalence_on_dense_data": DRAWN_BY_WEIGHT,
    "check_sample_weight_equivalence_on_sparse_data": DRAWN_BY_WEIGHT,
}


def check_around_networks(estimator, check):
    if hasattr(estimator, "n_estimators") and check_name(check) in CAN_NOT_PASS:
        pytest.skip(CAN_NOT_PASS[check_name(check)])
    try:
        check(estimator)
    except unittest.SkipTest as skipped:  # a search has decision_function where its estimator has
        pytest.skip(str(skipped))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("estimator", "check"), checks_of(*AROUND_NETWORKS))
def test_scikit_learns_checks_pass_around_networks(estimator, check):
    check_around_networks(estimator, check)


@pytest.mark.slow  # the same code as of the classifier
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("estimator", "check"), checks_of(BaggingRegressor(MLPRegressor(**SHORT), 2))
)
def test_scikit_learns_checks_pass_around_networks_of_a_regressor(estimator, check):
    check_around_networks(estimator, check)


@pytest.fixture(scope="module")
def their_meta_tests():
    """scikit-learn's modules of tests of estimators around others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they go through all estimators as they are imported
        from sklearn.tests import test_metaestimators, test_metaestimators_metadata_routing
    return test_metaestimators, test_metaestimators_metadata_routing


OURS = {type(one).__name__: type(one) for one in AROUND_NETWORKS}


def test_methods_are_there_where_the_estimator_has_them(their_meta_tests, monkeypatch):
    theirs, _ = their_meta_tests
    for name in ("GridSearchCV", "RandomizedSearchCV", "BaggingClassifier"):
        monkeypatch.setattr(theirs, name, OURS[name])  # by which the searches are made
    each = [one for one in theirs.DELEGATING_METAESTIMATORS if one.name in OURS]
    for one in each:
        if one.construct.__name__ != "<lambda>":
            monkeypatch.setattr(one, "construct", OURS[one.name])
    monkeypatch.setattr(theirs, "DELEGATING_METAESTIMATORS", each)
    theirs.test_metaestimator_delegation()
    assert len(each) == 3


@pytest.mark.parametrize("name", ["GridSearchCV", "RandomizedSearchCV"])
def test_samples_are_checked_by_the_estimator(their_meta_tests, name):
    theirs, _ = their_meta_tests
    search = next(one for one in AROUND_NETWORKS if type(one).__name__ == name)
    search = theirs._get_instance_with_pipeline(search, {*signature(type(search)).parameters})
    theirs.test_meta_estimators_delegate_data_validation(search)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["GridSearchCV", "RandomizedSearchCV"])
def test_metadata_is_passed_on(their_meta_tests, name):
    _, theirs = their_meta_tests
    row = next(one for one in theirs.METAESTIMATORS if one["metaestimator"].__name__ == name)
    row = row | {"metaestimator": OURS[name]}
    tests = [test for test in vars(theirs).values() if "metaestimator" in parameters_of(test)]
    assert len(tests) >= 8
    for test in tests:
        test(row)


def parameters_of(value):
    """Return the names of a test's parameters; of what is none, nothing."""
    named = getattr(value, "__name__", "")
    return signature(value).parameters if named.startswith("test_") else ()


# ---------------------------------------------------------------------------------------------
# scikit-learn's tests of its own MLP, with the import replaced

PRIVATE = {
    "test_gradient": "calls _loss_grad_lbfgs with scikit-learn's buffers; "
    "test_lbfgs_is_given_the_gradient_of_its_cost asks the same",
}


@pytest.mark.process
def test_scikit_learns_tests_of_its_own_mlp_pass(tmp_path):
    source = Path(their_tests.__file__).read_text(encoding="utf-8")
    line = "from sklearn.neural_network import MLPClassifier, MLPRegressor\n"
    assert source.count(line) == 1
    source = source.replace(line, line.replace("sklearn.neural_network", "bp_xp.estimators"))
    (tmp_path / "test_mlp.py").write_text(source, encoding="utf-8")
    fixture = "import pytest\n\n@pytest.fixture\ndef global_random_seed():\n    return 42\n"
    (tmp_path / "conftest.py").write_text(fixture, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    assert all(f"def {name}(" in source for name in PRIVATE)
    command = [sys.executable, "-m", "pytest", "-q", "--assert=plain"]
    for plugin in ("cacheprovider", "xdist", "hypothesispytest"):
        command += ["-p", f"no:{plugin}"]
    for name in PRIVATE:
        command += ["--deselect", f"test_mlp.py::{name}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stdout[-5000:]
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])
    tests = len(re.findall(r"^def test_", source, re.MULTILINE))
    assert passed >= tests - len(PRIVATE)  # some are parametrized
    assert "skipped" not in done.stdout.splitlines()[-1]


# ---------------------------------------------------------------------------------------------
# Arrays of other libraries. SciPy must know before it is imported: each in a process of its own.


def environment():
    root = str(Path(bp_xp.__file__).resolve().parents[1])
    paths = [root, os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else [root]
    given = {"PYTHONPATH": os.pathsep.join(paths), "SCIPY_ARRAY_API": "1"}
    return os.environ | {"OMP_NUM_THREADS": "1"} | given


def run(program, *arguments):
    """Return what a program prints as JSON."""
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(done.stdout)


def works(backend):
    """Return whether a library is here, with a device."""
    try:
        return bool(LIBRARIES[backend].devices())
    except Exception:  # it may fail to load in any way
        return False


@pytest.mark.process
def test_scikit_learns_checks_of_arrays_pass():
    program = """
    import json, sys, unittest
    from sklearn.utils.estimator_checks import estimator_checks_generator
    from bp_xp.estimators import MLPClassifier, MLPRegressor

    report = {"passed": [], "skipped": []}
    for kind in (MLPClassifier, MLPRegressor):
        for estimator, check in estimator_checks_generator(kind(max_iter=20)):
            if "array_api" not in repr(check) or "cupy" in repr(check) and sys.argv[1] == "no":
                continue
            try:
                check(estimator)
                report["passed"].append(repr(check))
            except unittest.SkipTest:
                report["skipped"].append(repr(check))
    print(json.dumps(report))
    """
    report = run(program, "yes" if works("cupy") else "no")
    for library in ("numpy", "torch", "array_api_strict"):
        if works(library):
            assert any(library in check for check in report["passed"]), library
    assert any("same_namespace" in check for check in report["passed"])
    if works("torch"):  # of two libraries: the only pair that needs no GPU has it
        assert any("mixed" in check for check in report["passed"])


FOLLOWS = """
import json, sys
import numpy as np
from sklearn import set_config
from bp_xp.backends import place, library_of, to_numpy
from bp_xp.datasets import load_digits
from bp_xp.estimators import MLPClassifier, MLPRegressor

set_config(array_api_dispatch=True)
where = place(sys.argv[2], sys.argv[1])
digits = load_digits()
X, y = digits.x_train[:300], digits.y_train[:300]
there = where.asarray(X), where.asarray(y), where.asarray(np.ones(300, dtype=np.float32))

def is_there(array):
    return library_of(array) is where.library and where.library.device_of(array) == where.device

settings = dict(max_iter=20, random_state=0, learning_rate_init=0.01)
host = MLPClassifier(**settings, early_stopping=True).fit(X, y)
mlp = MLPClassifier(**settings, early_stopping=True).fit(*there)
arrays = [*mlp.coefs_, *mlp.intercepts_, mlp.classes_, mlp.predict(there[0]),
          mlp.predict_proba(there[0]), mlp.predict_log_proba(there[0])]
words = MLPClassifier(**settings).fit(there[0], np.array(list("abcdefghij"))[y])
binary = MLPClassifier(**settings).fit(there[0], where.asarray((y > 4).astype(int)))
labels = MLPClassifier(**settings).fit(there[0], where.asarray(np.stack([y > 4, y < 7], 1) * 1))
numbers = MLPRegressor(**settings).fit(there[0], where.asarray(y.astype(np.float32)))
arrays += [binary.predict(there[0]), labels.predict(there[0]), numbers.predict(there[0])]
lbfgs = MLPRegressor(solver="lbfgs", max_iter=5, dtype="float32").fit(there[0], there[2])
arrays += lbfgs.coefs_
goes_on = numbers.partial_fit(there[0], where.asarray(y.astype(np.float32)))
refused = []
for call in (lambda: mlp.predict(X), lambda: binary.partial_fit(X, y > 4),
             lambda: MLPClassifier(backend="numpy", device="cpu").fit(*there[:2])):
    try:
        call()
        refused.append("")
    except ValueError as error:
        refused.append(str(error))
import pickle
copied = pickle.loads(pickle.dumps(mlp))
print(json.dumps({
    "there": [bool(is_there(array)) for array in arrays],
    "off": float(np.abs(to_numpy(mlp.predict_proba(there[0])) - host.predict_proba(X)).max()),
    "same": bool((to_numpy(mlp.predict(there[0])) == host.predict(X)).all()),
    "labels": bool((to_numpy(labels.predict(there[0]))
                    == (to_numpy(labels.predict_proba(there[0])) > 0.5)).all()),
    "binary": float((to_numpy(binary.predict(there[0])) == (y > 4)).mean()),
    "words": "".join(words.predict(there[0])[:3]),
    "score": mlp.score(there[0], there[1]),
    "kinds": [str(a.dtype).split(".")[-1] for a in (binary.predict(there[0]), mlp.coefs_[0])],
    "refused": refused,
    "copied": bool(is_there(copied.coefs_[0])),
    "copied_same": np.array_equal(
        *(to_numpy(one.predict_proba(there[0])) for one in (copied, mlp))
    ),
}))
"""


@pytest.mark.process
@pytest.mark.parametrize(
    ("backend", "device"),
    [
        ("torch", "cpu"),
        ("torch", "cuda:0"),
        ("array_api_strict", "cpu"),
        ("array_api_strict", "device1"),
        ("cupy", "cuda:0"),
    ],
)
def test_arrays_in_are_the_same_kind_of_arrays_out(backend, device):
    library = LIBRARIES[backend]
    if not works(backend) or device not in map(library.device_name, library.devices()):
        pytest.skip(f"{backend} has no {device} here")
    found = run(FOLLOWS, backend, device)
    assert all(found["there"]), found["there"]
    assert found["off"] < 1e-4  # float32, 20 epochs
    assert found["same"]
    assert found["labels"]
    assert found["binary"] > 0.9
    assert set(found["words"]) <= set("abcdefghij")
    assert found["score"] > 0.8
    assert found["kinds"] == ["int64", "float32"]
    assert "MLPClassifier.predict() must use the same namespace" in found["refused"][0]
    assert "MLPClassifier.partial_fit() must use the same namespace" in found["refused"][1]
    assert f"X is an array of {backend}" in found["refused"][2]
    assert found["copied"]
    assert found["copied_same"]
