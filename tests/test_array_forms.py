"""Every public function that takes arrays, beside every form in which an array may come.

Each works, with the result that the plain array gives, or refuses the form by its name, and says
what to pass in its place.
"""

import re
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest

from bp_xp import GradientFlow, Network, book, to_numpy
from bp_xp.inspection import sensitivity

# Whole numbers of eighths, which even bfloat16 holds.
X = np.array([[0, 8, 4], [8, 2, 0], [6, 6, 1], [8, 0, 8], [2, 5, 7], [1, 1, 3]]) / 8
Y = np.array([[0, 1], [1, 0], [1, 0], [1, 0], [0, 1], [0, 1]]) / 1.0
LABELS = np.array([1, 0, 0, 0, 1, 1])
WEIGHTS = np.array([1, 2, 1, 1, 3, 1])


# ---------------------------------------------------------------------------------------------
# Forms: how an array comes, and the words with which it is refused, if it is


def matrix(array):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)  # of NumPy, for its own class
        return np.matrix(array)


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def strided(array):
    return np.repeat(array, 2, axis=0)[::2]


def backwards(array):
    return array[::-1].copy()[::-1]


def data_frame(array):
    pandas = pytest.importorskip("pandas")
    return (pandas.DataFrame if array.ndim == 2 else pandas.Series)(array)


def nullable_frame(array):
    return data_frame(array).convert_dtypes()


def masked(array):
    return np.ma.masked_array(array, mask=array == array.flat[0])


def list_of_masked(array):
    return [masked(row) for row in array] if array.ndim == 2 else masked(array)


def csr(array):
    return pytest.importorskip("scipy.sparse").csr_array(np.atleast_2d(array))


def coo(array):
    return pytest.importorskip("scipy.sparse").coo_matrix(np.atleast_2d(array))


def bfloat16_of_numpy(array):
    return array.astype(pytest.importorskip("ml_dtypes").bfloat16)


def torch_of(dtype):
    def make(array):
        torch = pytest.importorskip("torch")
        return torch.tensor(array).to(getattr(torch, dtype))

    return make


def torch_sparse(array):
    return torch_of("float32")(array).to_sparse()


MASKED = r"a masked array, whose mask would be lost: fill it first, as in .*\.filled\(0\)"
SPARSE = r"a sparse matrix: pass .*\.toarray\(\)"

HOST_FORMS = {
    "read-only": (read_only, None),
    "strided": (strided, None),
    "backwards": (backwards, None),
    "fortran": (np.asfortranarray, None),
    "big-endian": (lambda array: array.astype(">f8"), None),
    "float16": (lambda array: array.astype(np.float16), None),
    "objects": (lambda array: array.astype(object), None),
    "list": (lambda array: array.tolist(), None),
    "tuple": (lambda array: tuple(map(tuple, array)) if array.ndim == 2 else tuple(array), None),
    "data frame": (data_frame, None),
    "nullable data frame": (nullable_frame, None),
    "bfloat16": (bfloat16_of_numpy, None),
    "masked": (masked, MASKED),
    "list of masked": (list_of_masked, MASKED),
    "csr": (csr, SPARSE),
    "coo": (coo, SPARSE),
    "matrix": (matrix, r"a numpy\.matrix, .*: pass numpy\.asarray\("),
}
TORCH_FORMS = {
    "float16": (torch_of("float16"), None),
    "bfloat16": (torch_of("bfloat16"), None),
    "float64": (torch_of("float64"), None),
    "strided": (lambda array: torch_of("float32")(np.repeat(array, 2, axis=0))[::2], None),
    "requires grad": (lambda array: torch_of("float32")(array).requires_grad_(), None),
    "sparse": (torch_sparse, r"a sparse tensor: pass .*\.to_dense\(\)"),
    "csr": (csr, SPARSE),
    "masked": (masked, MASKED),
    "read-only": (read_only, None),
}


# ---------------------------------------------------------------------------------------------
# Doors: what takes arrays, as a function of the form of one of them


def network(backend="numpy"):
    return Network([3, 4, 2], seed=0, dtype="float64", backend=backend)


def fitted(net, *args, **options):
    net.fit(*args, epochs=1, batch_size=3, shuffle=False, progress=False, **options)
    return net.layers[0].W


def with_layers(net, W):
    net.layers = [(W, np.zeros(6)), (np.ones((2, 6)), np.zeros(2))]
    return net.layers[0].W


def flow_of(net, *samples):
    flow = GradientFlow(*samples)
    net.fit(X, LABELS, epochs=1, progress=False, callbacks=flow)
    return flow.records[0].gradient_norms


# Each takes a network, and what makes a form of an array.
DOORS = {
    "to_numpy": lambda net, form: to_numpy(form(X)),
    "feedforward": lambda net, form: net.feedforward(form(X)),
    "call": lambda net, form: net(form(X)),
    "predict": lambda net, form: net.predict(form(X)),
    "predict_proba": lambda net, form: net.predict_proba(form(X)),
    "asarray": lambda net, form: net.asarray(form(X)),
    "evaluate x": lambda net, form: net.evaluate(form(X), Y)["cost"],
    "evaluate targets": lambda net, form: net.evaluate(X, form(Y))["cost"],
    "evaluate labels": lambda net, form: net.evaluate(X, form(LABELS))["cost"],
    "evaluate weights": lambda net, form: net.evaluate(X, LABELS, sample_weight=form(WEIGHTS))[
        "cost"
    ],
    "backprop x": lambda net, form: net.backprop(form(X), Y)[0].W,
    "backprop y": lambda net, form: net.backprop(X, form(Y))[0].W,
    "trace x": lambda net, form: net.trace(form(X), Y).layers[0].delta,
    "trace y": lambda net, form: net.trace(X, form(LABELS)).layers[0].delta,
    "fit x": lambda net, form: fitted(net, form(X), LABELS),
    "fit targets": lambda net, form: fitted(net, X, form(Y)),
    "fit labels": lambda net, form: fitted(net, X, form(LABELS)),
    "fit weights": lambda net, form: fitted(net, X, LABELS, sample_weight=form(WEIGHTS)),
    "fit validation x": lambda net, form: fitted(net, X, Y, validation_data=(form(X), Y)),
    "fit validation y": lambda net, form: fitted(net, X, Y, validation_data=(X, form(LABELS))),
    "partial_fit": lambda net, form: net.partial_fit(form(X), LABELS).cost,
    "from_layers": lambda net, form: Network.from_layers(
        [(form(X), np.zeros(6))], backend=net.backend
    )(X),
    "from_layers b": lambda net, form: Network.from_layers(
        [(X, form(np.zeros(6)))], backend=net.backend
    )(X),
    "layers": lambda net, form: with_layers(Network([3, 6, 2], backend=net.backend), form(X)),
    "sensitivity": lambda net, form: sensitivity(net, form(X), LABELS, 1, 1).predicted,
    "gradient flow": lambda net, form: flow_of(net, form(X), LABELS),
}


def column(form, i):
    """Return a sample as the book has it, a column in a form."""
    return form(X[i][:, None])


def stepped(net, pairs):
    net.update_mini_batch(pairs, 0.5)
    return net.weights[0]


def with_weights(net, W):
    net.weights = [W, np.ones((2, 6))]
    return net.weights[0]


def books_network(backend="numpy", hidden=4):
    np.random.seed(0)
    return book.Network([3, hidden, 2], backend=backend)


BOOK_DOORS = {
    "feedforward": lambda net, form: net.feedforward(form(X.T.copy())),
    "update_mini_batch x": lambda net, form: stepped(net, [(column(form, 0), Y[:1].T)]),
    "update_mini_batch y": lambda net, form: stepped(net, [(X[:1].T, form(Y[:1].T))]),
    "backprop": lambda net, form: net.backprop(column(form, 0), Y[:1].T)[1][0],
    "evaluate": lambda net, form: net.evaluate([(column(form, 0), 1), (column(form, 1), 0)]),
    "weights": lambda net, form: with_weights(books_network(hidden=6), form(X)),
    "sigmoid": lambda net, form: book.sigmoid(form(X)),
    "sigmoid_prime": lambda net, form: book.sigmoid_prime(form(X)),
    "a cost": lambda net, form: book.network2.QuadraticCost.delta(form(X), form(X), X - 1),
}


def judge(door, make, form, refusal, *, rtol=1e-6):
    """Check that a door takes a form, with the result of the plain array, or refuses it."""
    if refusal is None:
        result, expected = door(make(), form), door(make(), lambda array: array)
        result = to_numpy(result).astype(np.float64)  # one that holds objects is still one
        np.testing.assert_allclose(result, to_numpy(expected), rtol=rtol, atol=1e-7)
        return
    with pytest.raises((TypeError, ValueError)) as caught:
        door(make(), form)
    assert re.search(refusal, str(caught.value)), str(caught.value)


# Inputs of these may be sparse: no more than a mini-batch of them needs to be dense at a time.
TAKE_SPARSE = {
    *("feedforward", "call", "predict", "predict_proba", "evaluate x", "partial_fit"),
    *("fit x", "fit validation x", "confusion_matrix x"),
}


@pytest.mark.parametrize("form", HOST_FORMS)
@pytest.mark.parametrize("door", DOORS)
def test_a_network_takes_a_form_of_array_or_refuses_it_by_name(door, form):
    shape, refusal = HOST_FORMS[form]
    if door in TAKE_SPARSE and form in ("csr", "coo"):
        refusal = None
    if door == "to_numpy" and form == "matrix":  # its values are all there is to it
        refusal = None
    judge(DOORS[door], network, shape, refusal)


@pytest.mark.parametrize("form", TORCH_FORMS)
@pytest.mark.parametrize("door", DOORS)
def test_a_network_on_torch_takes_a_form_of_array_or_refuses_it_by_name(door, form):
    pytest.importorskip("torch")
    shape, refusal = TORCH_FORMS[form]
    if door in TAKE_SPARSE and form == "csr":
        refusal = None
    judge(DOORS[door], lambda: network("torch"), shape, refusal)


@pytest.mark.parametrize("form", HOST_FORMS)
@pytest.mark.parametrize("door", BOOK_DOORS)
def test_the_book_s_network_takes_a_form_of_array_or_refuses_it_by_name(door, form):
    shape, refusal = HOST_FORMS[form]
    low = form == "float16" and door.startswith(("sigmoid", "a cost"))  # which keep the dtype
    judge(BOOK_DOORS[door], books_network, shape, refusal, rtol=2e-3 if low else 1e-6)


@pytest.mark.parametrize("form", ["bfloat16", "float64"])
@pytest.mark.parametrize("door", sorted(DOORS.keys() - {"to_numpy"}))
def test_an_array_of_another_library_is_refused_by_name(door, form):
    shape, _ = TORCH_FORMS[form]
    refusal = r"an array of torch, .*: pass bp_xp\.to_numpy\("
    judge(DOORS[door], network, shape, refusal)


# ---------------------------------------------------------------------------------------------
# Pictures

PICTURES = {
    "confusion_matrix x": lambda plot, net, form: plot.confusion_matrix(net, form(X), LABELS),
    "confusion_matrix y": lambda plot, net, form: plot.confusion_matrix(net, X, form(LABELS)),
    "confusion_matrix counts": lambda plot, net, form: plot.confusion_matrix(form(np.eye(2))),
    "misclassified x": lambda plot, net, form: plot.misclassified(net, form(X), LABELS, (1, 3)),
    "misclassified y": lambda plot, net, form: plot.misclassified(net, X, form(LABELS), (1, 3)),
    "network_graph": lambda plot, net, form: plot.network_graph(net, form(X[:1]), Y[:1]),
    "decision_regions": lambda plot, net, form: plot.decision_regions(
        Network([2, 3, 2], seed=0), form(X[:, :2].copy()), LABELS
    ),
}


@pytest.mark.parametrize("form", ["list", "data frame", "float16", "bfloat16", "masked", "csr"])
@pytest.mark.parametrize("picture", PICTURES)
def test_a_picture_is_drawn_of_a_form_of_array_or_refuses_it_by_name(picture, form):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    plotting = pytest.importorskip("bp_xp.plotting")
    shape, refusal = HOST_FORMS[form]
    if picture in TAKE_SPARSE and form == "csr":
        refusal = None
    try:
        if refusal is None:
            assert PICTURES[picture](plotting, network(), shape) is not None
            return
        with pytest.raises(TypeError, match=refusal):
            PICTURES[picture](plotting, network(), shape)
    finally:
        pyplot.close("all")


# ---------------------------------------------------------------------------------------------
# Estimators, which take sparse matrices


def estimator(backend="numpy"):
    estimators = pytest.importorskip("bp_xp.estimators")
    settings = {"max_iter": 2, "batch_size": 3, "random_state": 0, "backend": backend}
    return estimators.MLPClassifier((4,), **settings)


def quietly(call):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two epochs do not converge
        return call()


ESTIMATOR_DOORS = {
    "fit X": lambda mlp, form: quietly(lambda: mlp.fit(form(X), LABELS)).coefs_[0],
    "fit y": lambda mlp, form: quietly(lambda: mlp.fit(X, form(LABELS))).coefs_[0],
    "fit weights": lambda mlp, form: quietly(lambda: mlp.fit(X, LABELS, form(WEIGHTS))).coefs_[0],
    "validation X": lambda mlp, form: (
        quietly(
            lambda: mlp.fit(X, LABELS, validation_data=(form(X), LABELS))
        ).validation_loss_curve_
    ),
    "partial_fit": lambda mlp, form: mlp.partial_fit(form(X), LABELS, classes=[0, 1]).coefs_[0],
    "predict": lambda mlp, form: quietly(lambda: mlp.fit(X, LABELS)).predict(form(X)),
    "predict_proba": lambda mlp, form: quietly(lambda: mlp.fit(X, LABELS)).predict_proba(form(X)),
    "score": lambda mlp, form: quietly(lambda: mlp.fit(X, LABELS)).score(form(X), LABELS),
}


@pytest.mark.parametrize("form", HOST_FORMS)
@pytest.mark.parametrize("door", ESTIMATOR_DOORS)
def test_an_estimator_takes_a_form_of_array_or_refuses_it_by_name(door, form):
    shape, refusal = HOST_FORMS[form]
    if form in ("csr", "coo"):
        if door in ("fit y", "fit weights"):
            pytest.skip("a sparse vector has a form of its own, which scikit-learn refuses")
        refusal = None
    if form == "objects" and door == "fit y":
        refusal = "Unknown label type"  # scikit-learn's words
    low = form in ("float16", "bfloat16") and door != "fit y"
    judge(ESTIMATOR_DOORS[door], estimator, shape, refusal, rtol=1e-4 if low else 1e-6)


@pytest.mark.parametrize("form", ["float16", "bfloat16", "requires grad", "sparse"])
@pytest.mark.parametrize("door", ESTIMATOR_DOORS)
def test_an_estimator_takes_a_form_of_tensor_or_refuses_it_by_name(door, form):
    shape, refusal = TORCH_FORMS[form]
    judge(ESTIMATOR_DOORS[door], estimator, shape, refusal, rtol=1e-4)


# ---------------------------------------------------------------------------------------------
# JAX


@pytest.fixture
def jax_net():
    pytest.importorskip("jax")
    return Network([3, 4, 2], seed=0, backend="jax")


@pytest.mark.parametrize("form", ["bfloat16", "float16", "placed by a sharding"])
@pytest.mark.parametrize("door", ["to_numpy", "predict_proba", "evaluate labels", "fit x"])
def test_a_network_on_jax_takes_a_form_of_array(jax_net, door, form):
    import jax

    def shape(array):
        if form in ("bfloat16", "float16"):
            return jax.numpy.asarray(array, dtype=form)
        mesh = jax.sharding.Mesh(np.array(jax.devices("cpu")[:1]), ("rows",))
        rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("rows"))
        return jax.device_put(jax.numpy.asarray(array, dtype="float32"), rows)

    judge(DOORS[door], lambda: Network([3, 4, 2], seed=0, backend="jax"), shape, None, rtol=1e-5)


def test_labels_in_bfloat16_that_are_not_whole_are_refused(jax_net):
    import jax

    halves = jax.numpy.asarray([0.5, 1, 0, 0, 1, 1], dtype="bfloat16")
    with pytest.raises(ValueError, match=r"y\[0\] is 0\.5, and labels are whole numbers"):
        jax_net.evaluate(X, halves)


@pytest.mark.parametrize("backend", ["numpy", "torch", "jax", "array_api_strict"])
def test_what_comes_home_may_be_written_to(backend):
    pytest.importorskip(backend)
    net = Network([3, 4, 2], seed=0, backend=backend)
    for result in (net.feedforward(X), net.predict(X), net.predict_proba(X), net.layers[0].W):
        home = to_numpy(result)
        home[home < 0] = 0
    confusion = net.evaluate(X, LABELS, metrics="accuracy")
    assert isinstance(confusion["accuracy"], float)


def test_what_an_estimator_on_jax_returns_may_be_written_to():
    pytest.importorskip("jax")
    mlp = quietly(lambda: estimator("jax").set_params(dtype="float32").fit(X, LABELS))
    for result in (mlp.predict(X), mlp.predict_proba(X), mlp.predict_log_proba(X), *mlp.coefs_):
        result[result < 0] = 0


@pytest.mark.process
def test_an_array_of_jax_on_two_devices_is_refused_by_name():
    pytest.importorskip("jax")
    program = textwrap.dedent(
        r"""
        import jax, numpy as np, sys
        sys.path.insert(0, sys.argv[1])
        import test_array_forms as forms
        jax.config.update("jax_num_cpu_devices", 2)
        mesh = jax.sharding.Mesh(np.array(jax.devices()), ("rows",))
        rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("rows"))

        def shape(array):
            return jax.device_put(jax.numpy.asarray(array, dtype="float32"), rows)

        def network():
            return forms.Network([3, 4, 2], seed=0, backend="jax")

        refusal = r"an array that is sharded over 2 devices: pass jax\.device_put\(.*\[0\]\)"
        for name, door in forms.DOORS.items():
            forms.judge(door, network, shape, None if name == "to_numpy" else refusal)
        print("judged", len(forms.DOORS))
        """
    )
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", program, here], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"judged {len(DOORS)}\n"
