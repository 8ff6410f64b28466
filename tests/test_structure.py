"""How bp_xp is built: who imports whom, who knows a library, and how long things are."""

import ast
import importlib
import io
import json
import pkgutil
import re
import subprocess
import sys
import textwrap
import tokenize
from pathlib import Path

import pytest

import bp_xp

ROOT = Path(bp_xp.__file__).parent
MODULES = {
    name.removesuffix("__init__").strip("."): path
    for path in sorted(ROOT.rglob("*.py"))
    for name in [".".join(path.relative_to(ROOT).with_suffix("").parts)]
}
PACKAGES = {module for module, path in MODULES.items() if path.name == "__init__.py"}
SOURCES = {module: path.read_text(encoding="utf-8") for module, path in MODULES.items()}
EVERY_MODULE = pytest.mark.parametrize("module", MODULES, ids=lambda name: name or "bp_xp")


# ---------------------------------------------------------------------------------------------
# Imports go one way

# A room is a folder, or a module beside the folders; inside a room all may import each other.
LIBRARY_ROOMS = {module for module in PACKAGES if module.startswith("backends.")}
BASIS = {"_caller", "_typing", "_trees", "_optional", "_files", "errors", "checks"}
BACKENDS = {"backends", "backends.library", *LIBRARY_ROOMS}

MAY_IMPORT = {
    "_caller": set(),
    "_typing": set(),
    "_trees": set(),
    "_files": set(),
    "errors": set(),
    "checks": {"_caller", "errors"},
    "_optional": {"errors"},
    "datasets": {"_caller", "_typing", "_files", "_optional", "errors"},
    "storage": {"_caller", "_typing", "_files", "errors"},
    "math": {"_typing", "_trees", "checks"},
    "engines": {"_typing", "_trees"},
    # What bp_xp asks of a library, the room of each, which knows no other, and what finds them.
    "backends.library": {"_caller", "_typing", "engines"},
    **{
        room: {
            *("_caller", "_typing", "_trees", "_optional", "errors"),
            *("engines", "backends.library"),
        }
        for room in LIBRARY_ROOMS
    },
    "backends": {
        *("_caller", "_typing", "errors", "engines", "backends.library"),
        *LIBRARY_ROOMS,
    },
    "optim": {"_caller", "_typing", "_trees", "checks", "math", "backends"},
    "ranks": {"_caller", "_typing", "_optional", "checks", "backends"},
    "sources": {"_caller", "_typing", "checks", "math", "backends"},
    "architecture": {"_caller", "_typing", "checks", "math", "backends"},
    "training": {
        *(BASIS - {"_optional"}),
        *("math", "engines", "backends", "optim", "ranks", "sources", "architecture", "storage"),
    },
    "parameters": {
        *("_typing", "_trees", "checks", "math", "engines", "backends"),
        *("sources", "architecture", "storage", "training"),
    },
    "inspection": {"_typing", "checks", "math", "backends", "training"},
    "book": {
        *("_typing", "errors", "checks", "math", "engines", "backends"),
        *("sources", "training", "storage", "datasets"),
    },
    "network": {
        *("_caller", "_typing", "_trees", "checks", "math", "backends", "optim", "sources"),
        *("architecture", "storage", "training", "parameters", "inspection"),
    },
    "members": {"_typing", "_trees", "math", "backends", "storage", "training", "parameters"},
    "ensemble": {
        *("_caller", "_typing", "_trees", "checks", "math", "backends", "optim", "sources"),
        *("architecture", "storage", "training", "members", "network"),
    },
    "sweeps": {
        *(
            "_caller",
            "_optional",
            "checks",
            "errors",
            "math",
            "backends",
            "optim",
            "storage",
            "training",
        ),
        *("network", "ensemble"),
    },
    "testing": {*BASIS, "math", "backends", "training", "inspection", "network"},
    "plotting": {*BASIS, "math", "backends", "training", "inspection", "network", "sweeps"},
    "estimators": {*BASIS, "math", "backends", "optim", "ranks", "sources", "training", "network"},
    "tables": {
        *("_caller", "_typing", "_optional", "_files", "errors", "checks", "math"),
        *("", "backends", "datasets", "optim", "ranks", "sources", "storage", "sweeps", "training"),
        "network",
    },
    "export": {
        *("", "_typing", "_trees", "_optional", "math", "engines", "backends", "storage"),
        *("network", "tables"),
    },
    "": {
        *("_typing", "errors", "math", "backends", "optim", "training", "inspection", "network"),
        *("ensemble", "sources", "sweeps"),
    },
    "cli": {
        *BASIS,
        *("", "backends", "optim", "ranks", "storage", "training", "datasets", "testing"),
        "plotting",
        *("tables", "export", "sweeps"),
    },
    "__main__": {"cli"},
}


def room_of(module):
    """Return the room of a module, or of a name in one: the longest that it begins with."""
    parts = module.split(".")
    while parts and ".".join(parts) not in MAY_IMPORT:
        parts.pop()
    return ".".join(parts)


def imports_of(source, module):
    """Return what a module imports of bp_xp, wherever in it: inside functions too."""
    package = ["bp_xp", *module.split(".")]
    package = package if module in PACKAGES else package[:-1]
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{origin}.{alias.name}" for alias in node.names]
        found |= {name.partition(".")[2] for name in names if name.split(".")[0] == "bp_xp"}
    return found


def rooms_imported(source, module):
    return {room_of(name) for name in imports_of(source, module)} - {room_of(module)}


@EVERY_MODULE
def test_a_room_imports_only_what_it_may(module):
    room = room_of(module)
    more = rooms_imported(SOURCES[module], module) - MAY_IMPORT[room]
    assert not more, f"{module} imports {sorted(more)}, which the room {room!r} may not"


def test_every_module_has_a_room_and_every_room_a_module():
    # The package itself is room "": a module that is no room's would be found in it.
    assert [module for module in MODULES if not room_of(module)] == [""]
    assert set(map(room_of, MODULES)) == set(MAY_IMPORT)


def test_rooms_can_be_put_in_an_order():
    left, order = dict(MAY_IMPORT), []
    while ready := [room for room, may in left.items() if may <= set(order)]:
        order += ready
        for room in ready:
            del left[room]
    assert not left, f"{sorted(left)} import each other"


def test_optimizers_know_of_backends_no_more_than_where_arrays_are_placed():
    for module, source in SOURCES.items():
        if room_of(module) == "optim":
            names = {name for name in imports_of(source, module) if name.startswith("backends")}
            assert names <= {"backends.Placement"}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from bp_xp import Network", {""}),
        ("from bp_xp import training, checks", {"training", "checks"}),
        ("import bp_xp.network", {"network"}),
        ("import bp_xp", {""}),
        ("def f():\n    from bp_xp.backends.jax.engine import ENGINE", {"backends.jax"}),
        ("from bp_xp.backends import jax, place", {"backends.jax", "backends"}),
        ("from bp_xp.backends.library import Library", {"backends.library"}),
        ("from . import npy\nfrom ..errors import DeviceError", {"errors"}),
        ("import numpy\nfrom os import path", set()),
    ],
    ids=[
        *("name", "modules", "dotted", "package", "in-a-function", "library-room", "library"),
        *("relative", "others"),
    ],
)
def test_every_form_of_import_is_seen(source, found):
    assert rooms_imported(source, "datasets.mnist") == found


# ---------------------------------------------------------------------------------------------
# Who knows a library

LIBRARIES = (
    *("numpy", "np", "cupy", "torch", "jax", "jnp", "mlx", "dpnp", "dask", "tensorflow"),
    *("array_api_compat", "array_api_strict", "scipy", "sklearn"),
)
HOST = {"numpy", "np"}  # where there is no choice of a library: arrays that people pass, files

# Beside bp_xp/backends: which libraries a file or a folder names, and why.
KNOW_A_LIBRARY = {
    "_optional": (
        {"cupy", "mlx", "array_api_strict", "sklearn"},
        "what package a missing one is in",
    ),
    "cli/_options": ({"cupy"}, "the help of --device"),
    "cli/parity": ({"torch"}, "the help of --backends and an example"),
    "estimators": ({"sklearn", "scipy"}, "they are scikit-learn's, and take its sparse matrices"),
    "sweeps/making": ({"sklearn"}, "the extra that joblib comes with"),
    "tables/parameters": ({"sklearn"}, "scikit-learn's tools ask a model for its tags"),
    "testing/parity": ({"torch"}, "an example in a message"),
    "testing/pytest_plugin": ({"torch", "jax", "cupy"}, "the help of its options"),
    "testing/targets": (
        {"torch", "jax", "cupy", "dpnp", "mlx", "array_api_strict"},
        "what tests run on",
    ),
    "testing/transfers": (
        {"torch", "jax", "cupy", "dpnp", "mlx", "array_api_strict", "array_api_compat"},
        "the ways in which each library brings values to the host",
    ),
}
MATHEMATICS_ON_THE_HOST = {"math.initializers", "math.dropout"}  # what is drawn once, and moved


def docstrings_of(tree):
    """Yield the strings that document something, those below an assignment too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.value


def words_of(source):
    """Return all names, attributes, imports and strings, but for documentation."""
    tree = ast.parse(source)
    documentation = set(docstrings_of(tree))
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=word) | ast.Attribute(attr=word) | ast.arg(arg=word):
                yield word
            case ast.alias(name=name, asname=asname):
                yield from (name, asname or "")
            case ast.ImportFrom(module=name):
                yield name or ""
            case ast.Constant(value=str(text)) if node not in documentation:
                yield text


def libraries_in(source):
    pattern = re.compile(rf"\b({'|'.join(LIBRARIES)})\b", re.IGNORECASE)
    return {name.lower() for word in words_of(source) for name in pattern.findall(word)}


def known_place_of(module):
    """Return the entry of KNOW_A_LIBRARY for a module, or None."""
    parts = module.split(".")
    places = ("/".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((place for place in places if place in KNOW_A_LIBRARY), None)


@EVERY_MODULE
def test_a_library_is_named_in_backends_and_in_few_other_places(module):
    found = libraries_in(SOURCES[module])
    room = room_of(module)
    if room in LIBRARY_ROOMS:
        allowed = {room.rpartition(".")[2], "array_api_compat"} | HOST
        if module == "backends.numpy.engine":
            allowed = HOST
    elif room.startswith("backends"):
        allowed = set(LIBRARIES)
    elif room == "math":
        allowed = HOST if module in MATHEMATICS_ON_THE_HOST else set()
    else:
        allowed = HOST | KNOW_A_LIBRARY.get(known_place_of(module), (set(), ""))[0]
    assert found <= allowed, f"{module} names {sorted(found - allowed)}"


@pytest.mark.parametrize("place", KNOW_A_LIBRARY)
def test_who_may_name_a_library_does(place):
    found = set()
    for module, source in SOURCES.items():
        if known_place_of(module) == place:
            found |= libraries_in(source)
    names, reason = KNOW_A_LIBRARY[place]
    assert names <= found, f"{place} names {sorted(names - found)} no more: {reason}"


@pytest.mark.parametrize("module", sorted(MATHEMATICS_ON_THE_HOST))
def test_what_the_mathematics_makes_on_the_host_is_made_with_numpy(module):
    assert libraries_in(SOURCES[module]) <= HOST
    assert libraries_in(SOURCES[module])


@pytest.mark.parametrize(
    "source",
    [
        "import numpy as np",
        "from jax import numpy as xp",
        "import array_api_compat.torch",
        "def f(x):\n    import cupy",
        "y = np.sin(x)",
        "y = compat.torch.sin(x)",
        "if xp.__name__ == 'torch': pass",
        "def f(np): return np",
        "f(backend=f'{x} of jax')",
    ],
)
def test_every_way_to_name_a_library_is_seen(source):
    assert libraries_in(source)


def test_documentation_may_name_a_library():
    assert not libraries_in('"""Runs on numpy and torch."""\ndef f():\n    """Not on jax."""')
    assert not libraries_in("x = to_numpy(y)  # numpy or torch")
    assert not libraries_in('X = 1\n"""As in torch."""')


def test_no_name_for_a_placement_is_place():
    for module, source in SOURCES.items():
        for node in ast.walk(ast.parse(source)):
            match node:
                case ast.Attribute(attr="_place"):
                    raise AssertionError(f"{module}, line {node.lineno}: an attribute _place")
                case ast.arg(arg="place", annotation=kind) if kind is not None:
                    assert "Placement" not in ast.unparse(kind), f"{module}, line {node.lineno}"


# ---------------------------------------------------------------------------------------------
# How long things are

MOST_LINES, MOST_LINES_OF_A_BODY, MOST_POSITIONAL = 600, 60, 5

COMPILED = "a compiled function has its settings and then its arrays by position"
MORE_POSITIONAL = {
    "book._base._step": COMPILED,
    "book.network2.SGD": "public, and called like this: the book's arguments in the book's order",
    "estimators._solvers._sums": COMPILED,
    "inspection._measure": COMPILED,
    "training.evaluation._evaluation": COMPILED,
    "training.evaluation.totals_of": COMPILED,
    "training.looks._chunk": COMPILED,
    "optim.adaptive.rule": "each_parameter gives it a parameter of each tree, and each setting",
    "optim.nadam.rule": "likewise",
    "inspection.sensitivity": "public, and called like this: network, x, y, then which neuron",
}


def lines_of_code(source):
    """Return the numbers of the lines that hold more than a comment."""
    nothing = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER}
    nothing |= {tokenize.INDENT, tokenize.DEDENT}
    found = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in nothing:
            found.update(range(token.start[0], token.end[0] + 1))
    return found


def functions_of(source):
    """Yield all functions, those in classes and in other functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def long_bodies(source, most):
    """Return the names of functions with longer bodies, docstrings not counted."""
    code, found = lines_of_code(source), []
    for function in functions_of(source):
        body = function.body[ast.get_docstring(function) is not None :]
        lines = code & set(range(body[0].lineno, function.end_lineno + 1)) if body else set()
        found += [function.name] if len(lines) > most else []
    return found


def greedy_functions(source, most):
    """Return the names of functions that take more arguments by position; self is none."""
    found = []
    for function in functions_of(source):
        names = [one.arg for one in (*function.args.posonlyargs, *function.args.args)]
        if len([name for name in names if name not in ("self", "cls")]) > most:
            found.append(function.name)
    return found


@EVERY_MODULE
def test_no_file_is_too_long_to_be_read(module):
    assert len(SOURCES[module].splitlines()) <= MOST_LINES


@EVERY_MODULE
def test_no_function_is_too_long_to_be_seen_at_once(module):
    assert long_bodies(SOURCES[module], MOST_LINES_OF_A_BODY) == []


@EVERY_MODULE
def test_arguments_beyond_five_go_by_name(module):
    greedy = {f"{module}.{name}" for name in greedy_functions(SOURCES[module], MOST_POSITIONAL)}
    assert greedy <= set(MORE_POSITIONAL)


def test_who_may_take_more_by_position_does():
    greedy = {
        f"{module}.{name}"
        for module, source in SOURCES.items()
        for name in greedy_functions(source, MOST_POSITIONAL)
    }
    assert greedy == set(MORE_POSITIONAL)


def test_lines_and_arguments_are_counted_as_they_are_meant():
    source = textwrap.dedent(
        '''
        def f(
            a,
            b,
        ):
            """Do this.

            And that.
            """
            # First
            x = (
                1,
                2,
            )

            return x

        class C:
            def g(self, a, b, *rest, c, d):
                def h(a, b, c):
                    pass
        '''
    )
    assert (long_bodies(source, 4), long_bodies(source, 5)) == (["f"], [])
    assert greedy_functions(source, 2) == ["h"]
    assert greedy_functions(source, 1) == ["f", "g", "h"]


# ---------------------------------------------------------------------------------------------
# What an import costs

OPTIONAL = ["cupy", "torch", "jax", "sklearn", "matplotlib", "scipy", "pooch", "requests"]
OPTIONAL += ["duckdb", "narwhals", "pandas", "polars", "onnx", "onnxruntime"]


@pytest.mark.process
def test_import_loads_no_optional_library():
    program = textwrap.dedent(
        """
        import json, sys
        import bp_xp
        print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = json.loads(done.stdout)
    assert "bp_xp" in loaded
    assert not set(loaded) & set(OPTIONAL)


@pytest.mark.process
def test_import_loads_few_modules_beyond_numpy():
    # What an import takes is mostly the number of modules; seconds depend on what else is at work.
    program = "import numpy, sys; before = set(sys.modules); import bp_xp; " + (
        "print(len([m for m in set(sys.modules) - before if not m.startswith('bp_xp')]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 180


# ---------------------------------------------------------------------------------------------
# Public names

EVERYTHING = ["bp_xp", *(info.name for info in pkgutil.walk_packages(bp_xp.__path__, "bp_xp."))]

PUBLIC: dict[str, set[str]] = {}
for line in (Path(__file__).parent / "public_names.txt").read_text(encoding="utf-8").splitlines():
    if line and not line.startswith("#"):
        of_module, _, public_name = line.rpartition(".")
        PUBLIC.setdefault(of_module, set()).add(public_name)


# Importing __main__ would run it.
@pytest.mark.parametrize("name", [name for name in EVERYTHING if not name.endswith("__main__")])
def test_every_public_name_exists_and_is_listed_once(name):
    module = importlib.import_module(name)
    assert len(module.__all__) == len(set(module.__all__))
    assert all(hasattr(module, public) for public in module.__all__)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_those_that_are_promised(name):
    if name == "bp_xp.estimators":
        pytest.importorskip("sklearn")
    if name == "bp_xp.plotting":
        pytest.importorskip("matplotlib")
    promised, there = PUBLIC[name], set(importlib.import_module(name).__all__)
    assert not promised - there, "lost: people use these"
    assert not there - promised, "new: enter them in tests/public_names.txt, where they stay"


def test_the_package_tells_type_checkers_that_it_is_annotated():
    assert (ROOT / "py.typed").is_file()
