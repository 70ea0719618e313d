"""The house (CONTRIBUTING.md), read from the source: who imports whom, what lives where, how long things are."""

import ast
import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
LIBRARY = ROOT / "hvt_jax"
FILES = sorted(LIBRARY.rglob("*.py"))

# A file imports only from rows above it; within a row, its own room (data and nn do not know each other).
ROWS = {
    "disk": 0,
    "hierarchy": 0,
    "processor": 0,
    "settings": 0,
    "shapes": 0,
    "data": 1,
    "nn": 1,
    "model": 2,
    "objectives": 3,
    "engine": 4,
    "evaluation": 5,
    "run": 6,
    "interop": 7,
    "tools": 7,
    "commands": 8,
    "main": 8,
    "__main__": 8,
}
# The same inside `data`: what a data set is; one video file; videos wherever they are kept; data sets; batches.
_DATA_ROWS = (
    "dataset parallel problems sampling profiling usage",
    "containers decode images indexing readers transforms",
    "annotations listing manifest quarantine storages",
    "catalog",
    "batches pipeline shared_arrays video_windows views",
)
DATA_ROWS = {name: row for row, names in enumerate(_DATA_ROWS) for name in names.split()} | {"__init__": 0}
NUMPY_ONLY = {"numpy"}
JAX = {"jax", "numpy"}
_STORAGES = {"av", "h5py", "array_record", "tensorflow_datasets", "simplejpeg"}
MAY_USE = {
    "disk": set(),
    "hierarchy": NUMPY_ONLY,
    "processor": set(),
    "settings": NUMPY_ONLY | {"ml_collections"},
    "shapes": NUMPY_ONLY,
    "data": NUMPY_ONLY | _STORAGES | {"grain"},
    "nn": JAX | {"flax", "einops"},
    "model": JAX | {"flax", "einops"},
    "objectives": JAX | {"einops"},
    "engine": JAX | {"optax", "dm_pix"},
    "evaluation": JAX | {"optax", "sklearn", "matplotlib", "threadpoolctl", "umap"},
    "run": JAX | {"clu", "optax", "ml_collections", "rich", "tensorboardX", "wandb", "matplotlib", "markdown_it"},
    "interop": JAX | {"safetensors", "torch", "yaml", "ml_collections"},
    "tools": JAX | _STORAGES | {"sklearn", "apache_beam", "ray", "rich", "matplotlib", "pyarrow", "ml_collections"},
    "commands": {"absl", "ml_collections", "rich"},
    "main": {"absl", "ml_collections", "jax"},
    "__main__": set(),
}
# Single files with a licence of their own, each with its reason.
EXTRA = {
    "engine/state.py": {"flax"},  # the one place where modules are split and merged
    "run/checkpoint.py": {"orbax"},
    "interop/parameter_checkpoint.py": {"orbax"},  # a checkpoint that Orbax alone restores
    "data/pipeline.py": {"absl"},  # Grain's processes want parsed flags, in notebooks too
}
LONGEST_FILE, LONGEST_FUNCTION, MOST_POSITIONAL = 300, 50, 6
# Inside functions only: slow or optional.
LAZY = {"sklearn", "matplotlib", "wandb", "torch", "safetensors", "yaml", "tensorflow_datasets", "apache_beam", "ray"}
LAZY |= {"pyarrow", "umap", "markdown_it", "threadpoolctl"}


def _name(path: pathlib.Path) -> str:
    return path.relative_to(LIBRARY).as_posix()


def _room(name: str) -> str:
    return name.split("/")[0].removesuffix(".py")


def _imports(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def forbidden_imports(name: str, source: str) -> list[str]:
    """Return what the file `name` of the library imports against the table."""
    room, bad = _room(name), []
    if room == "__init__":
        return _imports(ast.parse(source))
    for module in _imports(ast.parse(source)):
        package, _, rest = module.partition(".")
        if package == "hvt_jax":
            other = rest.split(".")[0]
            if other == room == "data" and DATA_ROWS[rest.split(".")[1]] > DATA_ROWS[_room(name.removeprefix("data/"))]:
                bad.append(module)
            if other == "__version__" or other == room:
                continue
            rows = ROWS[room], ROWS[other]
            if rows[1] > rows[0] or (rows[0] == rows[1] == 1):
                bad.append(module)
        elif package not in sys.stdlib_module_names | MAY_USE[room] | EXTRA.get(name, set()):
            bad.append(module)
    return bad


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_imports(path):
    assert _room(_name(path)) in ROWS.keys() | {"__init__"}, "a new room needs its row here and in CONTRIBUTING.md"
    assert forbidden_imports(_name(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("nn/attention.py", "from hvt_jax.model import level"),
        ("nn/attention.py", "from hvt_jax.data import sampling"),
        ("data/sampling.py", "import jax.numpy as jnp"),
        ("data/decode.py", "from hvt_jax.data.storages import Storage"),
        ("data/dataset.py", "from hvt_jax.data import catalog"),
        ("data/catalog/folder.py", "from hvt_jax.data import pipeline"),
        ("objectives/local.py", "from flax import nnx"),
        ("engine/optim.py", "import orbax.checkpoint"),
        ("engine/optim.py", "from absl import flags"),
        ("engine/steps.py", "import hvt_jax.evaluation.knn"),
        ("evaluation/knn.py", "import grain"),
        ("run/loop.py", "from configs import default"),
        ("evaluation/knn.py", "from hvt_jax.run import report"),
        ("data/decode.py", "from hvt_jax.tools import encode"),
        ("hierarchy.py", "def f():\n  from hvt_jax import settings, run"),
    ],
)
def test_the_table_forbids(name, source):
    assert forbidden_imports(name, source)


def test_only_objectives_stop_targets_and_only_the_model_stops_borders():
    """Elsewhere a `stop_gradient` could hide a leak; its other users: statistics, monitors, the softmax shift."""
    users = {_name(path) for path in FILES if "lax.stop_gradient(" in path.read_text()}
    others = {"nn/attention.py", "nn/normalization.py", "engine/monitors.py", "engine/step_metrics.py"}
    methods = {f"objectives/{name}.py" for name in ("local", "brave", "masked", "svt")}
    # And the step, which stops what a method keeps from step to step.
    assert users - others == methods | {"model/pyramid.py", "engine/steps.py"}


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_slow_and_optional_libraries_are_imported_late(path):
    top = [node for node in ast.parse(path.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    packages = {module.split(".")[0] for node in top for module in _imports(ast.Module([node], []))}
    assert not packages & LAZY


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.name)
def test_what_a_benchmark_takes_from_here_is_there(path):
    """They take hours or a GPU, so nothing else would tell that a name has moved."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ("benchmarks", "configs", "hvt_jax"):
            file = ROOT.joinpath(*node.module.split("."))
            if file.is_dir():  # of a package its modules, or what its __init__ has
                names = {other.stem for other in file.iterdir()} | _top_names(file / "__init__.py")
            else:
                names = _top_names(file.with_suffix(".py"))
            assert {alias.name for alias in node.names} <= names, f"{path.name}: from {node.module}"


def _top_names(path: pathlib.Path) -> set[str]:
    """Return what can be imported from a module: what its outermost statements define, assign or import."""
    names = set()
    for node in ast.parse(path.read_text()).body if path.exists() else ():
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        else:
            names |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    return names


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_sizes(path):
    source = path.read_text()
    assert len(source.splitlines()) < LONGEST_FILE
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        lines = node.end_lineno - node.lineno + 1
        assert lines < LONGEST_FUNCTION, f"{node.name} has {lines} lines"
        positional = len(node.args.posonlyargs) + len(node.args.args)
        positional -= bool(node.args.args) and node.args.args[0].arg in ("self", "cls")
        assert positional <= MOST_POSITIONAL, f"{node.name} has {positional} positional arguments"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_nothing_that_runs_what_it_reads(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "compile", "__import__", "yaml.load", "os.system", "os.popen"), called
            for keyword in node.keywords:
                value = ast.unparse(keyword.value)
                assert (keyword.arg, value) not in (("allow_pickle", "True"), ("shell", "True"))
                assert (keyword.arg, value) != ("weights_only", "False")
    assert not {"pickle", "dill", "cloudpickle", "marshal", "shelve"} & {
        module.split(".")[0] for module in _imports(ast.parse(path.read_text()))
    }


def test_no_path_of_a_machine_and_no_secret():
    pattern = re.compile(r"/home/|/Users/|/w[o]rk/|WANDB_API_KEY\s*=")
    assert [_name(path) for path in FILES if pattern.search(path.read_text())] == []
