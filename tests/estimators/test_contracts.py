"""What scikit-learn asks of estimators beyond what its own checks look at."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn import config_context, neural_network
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import _array_api
from sklearn.utils._param_validation import InvalidParameterError

from bp_xp import to_numpy
from bp_xp.estimators import MLPClassifier, MLPRegressor, from_sklearn, to_network, to_sklearn

# Few epochs do not converge, and need not.
pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer")


@pytest.fixture
def samples(rng):
    X = rng.normal(size=(40, 3))
    return X, (X[:, 0] > 0).astype(int)


# ---------------------------------------------------------------------------------------------
# Subclasses with a constructor of their own


class Small(MLPClassifier):
    """Takes two of the parameters, and one of its own."""

    def __init__(self, hidden_layer_sizes=(4,), max_iter=5, note=""):
        super().__init__(hidden_layer_sizes, max_iter=max_iter, random_state=0, alpha=0.5)
        self.note = note


class SmallTheirs(neural_network.MLPClassifier):
    """The same of scikit-learn's class."""

    def __init__(self, hidden_layer_sizes=(4,), max_iter=5, note=""):
        super().__init__(hidden_layer_sizes, max_iter=max_iter, random_state=0, alpha=0.5)
        self.note = note


def test_a_subclass_may_take_fewer_parameters(samples):
    small, whole = Small(note="mine"), MLPClassifier((4,), max_iter=5, random_state=0, alpha=0.5)
    for one in (small, whole):
        one.fit(*samples)
        one.partial_fit(*samples)
    np.testing.assert_array_equal(small.predict_proba(samples[0]), whole.predict_proba(samples[0]))


def test_a_subclass_is_judged_by_the_parameters_that_it_has(samples):
    small = Small()
    small.alpha = -1.0
    with pytest.raises(ValueError, match="alpha must be"):
        small.fit(*samples)


def test_a_subclass_is_converted(samples):
    X, y = samples
    theirs = SmallTheirs(note="theirs").fit(X, y)
    ours = from_sklearn(theirs)
    assert ours.alpha == 0.5
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-12)
    back = to_sklearn(Small(note="mine").fit(X, y))
    assert (back.alpha, hasattr(back, "note")) == (0.5, False)
    assert to_network(Small().fit(X, y)).sizes == (3, 4, 1)


# ---------------------------------------------------------------------------------------------
# Parameters that are refused


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        ("max_iter", 2.5, "max_iter must be an integer of at least 1, not 2.5"),
        ("max_iter", 0, "max_iter must be at least 1"),
        ("alpha", "much", "alpha must be a number"),
        ("alpha", -1.0, "alpha must be finite and at least 0"),
        ("momentum", 1.5, "momentum must be at most 1"),
        ("batch_size", 1.5, "batch_size must be an integer"),
        ("hidden_layer_sizes", (3, 0), "hidden_layer_sizes must be > 0"),
        ("hidden_layer_sizes", "many", "hidden_layer_sizes must be an integer"),
        ("activation", "wobbly", "unknown activation 'wobbly'"),
        ("activation", 3, "activation must be a name"),
        ("solver", "newton", "unknown solver 'newton'"),
        ("solver", 3, "solver must be"),
        ("learning_rate", 0.1, "a number is learning_rate_init"),
        ("early_stopping", "yes", "early_stopping must be True or False"),
        ("verbose", "loud", "verbose must be"),
        ("random_state", "dice", "random_state must be"),
        ("loss", 3, "loss must be a name"),
        ("callbacks", print, "callbacks must be a list or None"),
        ("dropout", 1.0, "dropout must be"),
        ("dropout", [0.1] * 5, "dropout must be a single value, or one for each"),
        ("dtype", "float8", "dtype 'float8' is not supported"),
    ],
)
@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_a_parameter_is_refused_in_scikit_learn_s_way(samples, kind, parameter, value, message):
    with pytest.raises(InvalidParameterError, match=message):
        kind(**{parameter: value}).fit(*samples)


# ---------------------------------------------------------------------------------------------
# Estimators that are moved


def moved_to(array, estimator):
    namespace, _ = _array_api.get_namespace(array)
    return _array_api.move_estimator_to(estimator, namespace, "cpu")


def moved_to_numpy(estimator):
    return _array_api.move_estimator_to(estimator, np, "cpu")


@pytest.fixture
def dispatched(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    monkeypatch.setattr("scipy._lib._array_api.SCIPY_ARRAY_API", "1", raising=False)
    try:
        with config_context(array_api_dispatch=True):
            yield
    except RuntimeError as error:  # SciPy was told too late in this process
        pytest.skip(str(error))


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_an_estimator_moves_from_a_library_to_numpy_and_back(samples, dispatched, kind):
    import torch

    X, y = samples
    there = torch.tensor(X)
    settings = {"hidden_layer_sizes": (4,), "max_iter": 3, "random_state": 0}
    fitted = kind(**settings).fit(there, torch.tensor(y))
    expected = to_numpy(fitted.predict(there))

    home = moved_to_numpy(fitted)
    assert all(isinstance(W, np.ndarray) for W in [*home.coefs_, *home.intercepts_])
    assert isinstance(home.predict(X), np.ndarray)
    np.testing.assert_allclose(home.predict(X), expected, rtol=1e-10)
    home.partial_fit(X, y)

    back = moved_to(there, home)
    assert isinstance(back.predict(there), torch.Tensor)
    assert isinstance(back.coefs_[0], torch.Tensor)
    np.testing.assert_allclose(to_numpy(back.predict(there)), to_numpy(home.predict(X)), rtol=1e-10)
    # The first is as it was, for all that was learned meanwhile.
    np.testing.assert_allclose(to_numpy(fitted.predict(there)), expected, rtol=1e-12)


def test_an_estimator_with_labels_of_text_moves(samples, dispatched):
    X, y = samples
    import torch

    names = np.array(["no", "yes"])[y]
    fitted = MLPClassifier((4,), max_iter=3, random_state=0).fit(X, names)
    there = moved_to(torch.tensor(X), fitted)
    assert list(there.predict(torch.tensor(X))) == list(fitted.predict(X))


def test_an_estimator_that_is_not_fitted_moves(dispatched):
    assert moved_to_numpy(MLPClassifier((4,))).hidden_layer_sizes == (4,)


# ---------------------------------------------------------------------------------------------
# Validation samples in parts


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_validation_samples_come_together_or_in_parts(samples, kind):
    X, y = samples
    weights = np.arange(1.0, 41.0)
    settings = {"hidden_layer_sizes": (4,), "max_iter": 4, "random_state": 0}
    together = kind(**settings).fit(X, y, validation_data=(X[::2], y[::2], weights[::2]))
    parts = kind(**settings).fit(X, y, X_val=X[::2], y_val=y[::2], sample_weight_val=weights[::2])
    assert parts.validation_loss_curve_ == together.validation_loss_curve_
    bare = kind(**settings).fit(X, y, X_val=X[::2], y_val=y[::2])
    assert len(bare.validation_loss_curve_) == 4


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["X_val"], "X_val and y_val go together, but only X_val was given"),
        (["y_val"], "but only y_val was given"),
        (["sample_weight_val"], "but only sample_weight_val was given"),
        (["X_val", "y_val", "validation_data"], "pass validation_data or X_val, not both"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(samples, parts, message):
    X, y = samples
    given = {"X_val": X, "y_val": y, "sample_weight_val": y + 1.0, "validation_data": (X, y)}
    with pytest.raises(ValueError, match=message):
        MLPClassifier((4,), max_iter=2).fit(X, y, **{name: given[name] for name in parts})


def test_a_pipeline_transforms_validation_inputs_and_nothing_else(samples):
    X, y = samples
    X = 100.0 * X + 5.0
    with config_context(enable_metadata_routing=True):
        mlp = MLPClassifier((4,), max_iter=4, random_state=0).set_fit_request(
            X_val=True, y_val=True
        )
        scaled = Pipeline([("scale", StandardScaler()), ("mlp", mlp)], transform_input=["X_val"])
        scaled.fit(X, y, X_val=X[::2], y_val=y[::2])
    by_hand = StandardScaler().fit(X)
    alone = MLPClassifier((4,), max_iter=4, random_state=0).fit(
        by_hand.transform(X), y, validation_data=(by_hand.transform(X[::2]), y[::2])
    )
    assert scaled[-1].validation_loss_curve_ == pytest.approx(alone.validation_loss_curve_)
