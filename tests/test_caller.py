"""What a function says is wrong, and advises, names its own arguments."""

import threading

import numpy as np
import pytest
from messages import strange_to_function

from bp_xp import SGD, Checkpoint, EarlyStopping, Network, ReduceOnPlateau
from bp_xp._caller import NO_VALUE, advice, in_python, named, own_arguments, speaking
from bp_xp.backends import devices
from bp_xp.datasets import load_csv, load_file, load_mnist, load_npy, load_npz
from bp_xp.storage.tensors import read_tensors, write_tensors


def shell(argument, value):
    """Return what a command with one flag calls arguments."""
    return None if argument != "size" else "--size" if value is NO_VALUE else f"--size {value}"


def test_arguments_are_named_as_in_python_until_somebody_speaks():
    assert named("size"), named("size", "big") == ("size", "size='big'")
    assert advice(", or pass {}", "size", 3) == ", or pass size=3"
    assert in_python("; see help") == "; see help"


def test_a_command_is_told_of_its_flags_and_of_nothing_else():
    with speaking(shell, to_program=False):
        assert (named("size"), named("size", 3)) == ("--size", "--size 3")
        assert advice(", or pass {}", "size", 3) == ", or pass --size 3"
        assert advice(", or pass {}", "color", "red") == in_python("; see help") == ""
        assert named("color", "red") == "color='red'"
    assert named("size") == "size"


def test_of_functions_in_one_another_the_outer_one_is_spoken_to():
    @own_arguments
    def inner(size=1, color="red"):
        return advice("{} ", "size", size) + advice("{}", "color", color)

    @own_arguments
    def outer(size=1):
        return inner(size)

    assert inner() == "size=1 color='red'"
    assert outer() == "size=1 "
    with speaking(shell):
        assert outer() == inner() == "--size 1 "


def test_what_is_said_in_one_thread_is_not_said_in_another():
    heard = []
    with speaking(shell):
        thread = threading.Thread(target=lambda: heard.append(named("size")))
        thread.start()
        thread.join()
    assert heard == ["size"]


# ---------------------------------------------------------------------------------------------
# Every public reader, and a network


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of which each is wrong in a way of its own."""
    folder = tmp_path_factory.mktemp("files")
    for name, text in {
        "header": "1,2,kind\n3,4,0\n",
        "gap": "a,b\n1,\n",
        "nan": "a,b\nnan,1\n",
        "uneven": "1,2\n3\n",
        "short": "1,2,0\n3,4,1\n",
        "none": "a,b\n",
        "fine": "1,2,0\n" * 20,
        "nul": "1,\0\n",
    }.items():
        (folder / f"{name}.csv").write_text(text)
    (folder / "latin.csv").write_bytes(b"a,b\n\xff,1\n")
    np.save(folder / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(folder / "flat.npy", np.ones(3))
    np.savez(folder / "half.npz", x=np.ones((3, 2)))
    np.savez(folder / "nan.npz", x=np.full((9, 2), np.nan), y=np.arange(9) % 2)
    np.savez(folder / "nan-target.npz", x=np.ones((9, 2)), y=np.full(9, np.nan))
    np.savez_compressed(folder / "bomb.npz", x=np.zeros((10**5, 2)), y=np.zeros(10**5))
    (folder / "text.txt").write_text("no data")
    network = Network([2, 3, 2], cost="categorical_cross_entropy", dtype="float64", seed=0)
    tensors, header = read_tensors(network.save(folder / "good"))
    write_tensors(folder / "nan", {name: array * np.nan for name, array in tensors.items()}, header)
    write_tensors(folder / "pie", tensors, header | {"kind": "pie"})
    for name, change in {
        "unmatched": {"activations": ["relu", "tanh"]},
        "coupled": {"activations": ["softmax", "softmax"]},
        "unknown": {"activations": ["curve", "softmax"]},
        "half": {"dtype": "float16"},
    }.items():
        write_tensors(folder / name, tensors, header | {"network": header["network"] | change})
    return folder


@pytest.fixture
def files(folder, monkeypatch):
    """The folder of the files, which the test is in."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("bp_xp.datasets.bounded._HARMLESS", 1000)
    return folder


READS = [
    *((load_csv, f"{name}.csv") for name in ("header", "gap", "nan", "uneven", "none", "nul")),
    (load_csv, "latin.csv"),
    (load_csv, "fine.csv", {"missing": "alow"}),
    *((load_file, f"{name}.csv") for name in ("header", "gap", "nan", "uneven", "none", "short")),
    *((load_file, f"{name}.npz") for name in ("half", "nan", "nan-target", "bomb")),
    *((load_file, name) for name in ("objects.npy", "flat.npy", "text.txt", "absent.csv")),
    *((load_file, "fine.csv", {"target": target}) for target in (9, "kind")),
    (load_file, "fine.csv", {"test_fraction": 2.0}),
    (load_npz, "bomb.npz"),
    (load_npy, "objects.npy"),
    (load_mnist, ".", {"download": False}),
    (load_mnist, None, {"download": False}),
    *((Network.load, name) for name in ("nan", "pie", "unmatched", "coupled", "unknown", "half")),
    *((Network.load, "good", {"device": device}) for device in ("gpu", "cuda")),
    *((Network.load, "good", {"backend": name}) for name in ("tensorflow", 3)),
    (Network.load, "good", {"engine": "fast"}),
    (Network.load, "good", {"custom": [3]}),
]


def words_of(read):
    function, *arguments = read
    return "-".join([function.__name__, *map(str, arguments)])


@pytest.mark.parametrize("read", READS, ids=words_of)
def test_a_reader_names_its_own_arguments(read, files, monkeypatch):
    function, file, options = (*read, {})[:3]
    monkeypatch.delenv("BP_XP_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(files))
    with pytest.raises(Exception) as caught:  # noqa: PT011 - of any kind: what it says is checked
        function(file, **options)
    assert isinstance(caught.value, ValueError | TypeError | OSError | ImportError | RuntimeError)
    assert not strange_to_function(function, str(caught.value)), caught.value


def test_what_only_another_function_takes_is_not_advised(files):
    with pytest.raises(ValueError, match=r"or pass header=True if this line holds names\.$"):
        load_csv("header.csv")
    with pytest.raises(ValueError, match=r"'kind' is not a number. Correct it\.$"):
        load_file("header.csv")


def test_float64_on_jax_is_advised_to_be_float32_where_a_dtype_can_be_passed(files):
    jax = pytest.importorskip("jax")
    network = Network.load("good")
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(ValueError, match=r"JAX_ENABLE_X64=1\.$"):
            Network.load("good", backend="jax")
        with pytest.raises(ValueError, match=r", or use dtype='float32'\.$"):
            network.to(backend="jax")
    finally:
        jax.config.update("jax_enable_x64", True)


def test_the_list_of_devices_names_no_arguments():
    for report in devices():
        assert not strange_to_function(devices, report.reason)


FITS = [
    {"epochs": 0},
    {"batch_size": -1},
    {"optimizer": "sdg"},
    {"optimizer": 3},
    {"learning_rate": 0.1},
    {"l2": -1.0},
    {"l1": [0.1]},
    {"dropout": 1.0},
    {"clip_norm": 0.0},
    {"regularization": 3},
    {"trainable": [True]},
    {"validation_data": 3},
    {"validation_data": 0.99999},
    {"validation_data": [1]},
    {"metrics": "f2"},
    {"metrics": "f1"},
    {"early_stopping": 3},
    {"early_stopping": "soon"},
    {"callbacks": 3},
    {"class_weight": "even"},
    {"class_weight": {7: 1.0}},
    {"sample_weight": [1.0]},
    {"sample_weight": [0.0] * 20},
    {"checkpoint": 3},
    {"checkpoint": "half.npz"},
    {"checkpoint": "good"},
    {"checkpoint": Checkpoint("good", resume=True)},
    {"checkpoint": Checkpoint("nan", resume=True)},
    {"shuffle": 1},
    {"x": [1.0, 2.0]},
    {"x": np.ones((20, 3))},
    {"x": np.full((20, 2), np.nan)},
    {"x": np.full((20, 2), 1e300)},
    {"y": [7] * 20},
    {"y": [0.5] * 20},
    {"y": np.ones((20, 2))},
    {"y": np.full((20, 2), 5.0)},
    {"y": [0, 1]},
]


@pytest.mark.parametrize("change", FITS, ids=str)
@pytest.mark.usefixtures("files")
def test_fit_names_its_own_arguments(change):
    network = Network([2, 3, 2], cost="categorical_cross_entropy", seed=0)
    x, y = np.ones((20, 2)), np.arange(20) % 2
    with pytest.raises((ValueError, TypeError, OSError)) as caught:
        network.fit(**{"x": x, "y": y, "progress": False, **change})
    assert not strange_to_function(Network.fit, str(caught.value)), caught.value


@pytest.mark.parametrize(
    "watch",
    [
        {"early_stopping": EarlyStopping("validation_cost")},
        {"optimizer": SGD(ReduceOnPlateau(0.1, monitor="validation_cost"))},
    ],
    ids=str,
)
def test_what_is_watched_and_not_recorded_is_told_without_another_functions_argument(watch):
    network = Network([2, 1], seed=0)
    with pytest.raises(ValueError, match=r"or monitor another value") as caught:
        network.fit(np.ones((3, 2)), np.ones((3, 1)), progress=False, **watch)
    assert not strange_to_function(Network.fit, str(caught.value))


@pytest.mark.parametrize(
    ("message", "strange"),
    [
        ("the field is empty. Fill it, or pass missing='allow'.", []),
        ("Write numbers only, or pass header=True.", ["header"]),
        ("above the limit: raise max_bytes.", []),
        ("pass --missing allow.", ["--missing"]),
        ("pass Checkpoint(path, resume=True) to resume it.", []),
        ("Save them with numpy.savez(path, x=..., y=...).", []),
    ],
)
def test_what_is_no_argument_of_the_function_is_found(message, strange):
    assert strange_to_function(load_file, message) == strange
