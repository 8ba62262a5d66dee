"""The architecture: imports go down the layers, and some packages live in one place only."""

import ast
import functools
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
# From the bottom to the top. A module imports from lower layers and from its own folder only;
# folders named in one string are one layer, and do not import each other.
LAYERS = (
    "errors types",
    "machine features",
    "data models",
    "complexity",
    "operations",
    "training",
    "experiment",
    "evaluation",
    "export pytorch prediction challenge crossval distil",
    "quantisation",
    "library",
    "cli",
    "__main__",
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names.split()}
MODULES = sorted((ROOT / "asc_jax").rglob("*.py"))


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def nodes_of(path):
    """Every node of a module's syntax tree."""
    return [*ast.walk(ast.parse(path.read_text()))]


def imports_of(path):
    """Absolute names of what a module imports, at any depth."""
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def folder_of(name):
    """The folder, or the single file, directly in `asc_jax` that a module lies in."""
    package, _, rest = name.partition(".")
    return rest.split(".")[0] if package == "asc_jax" else None


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down_the_layers(path):
    own = folder_of(name_of(path))
    for other in imports_of(path):
        folder = folder_of(other)
        if own and folder in LAYER and folder != own:
            assert LAYER[folder] < LAYER[own], f"{name_of(path)} imports {other} from above"


def test_no_modules_import_each_other_in_a_circle():
    known = {name_of(path): path for path in MODULES}
    graph = {
        name: {
            other if other in known else other.rpartition(".")[0]
            for other in imports_of(path)
            if folder_of(other)
        }
        & known.keys() - {name}
        for name, path in known.items()
    }
    while leaves := {name for name, others in graph.items() if not others & graph.keys()}:
        for name in leaves:
            del graph[name]
    assert not graph, f"in a circle, or above one: {sorted(graph)}"


@pytest.mark.parametrize(
    ("package", "places"),
    [
        ("tensorflow", ("asc_jax.data.store", "asc_jax.export.litert")),
        ("tensorflow_datasets", "asc_jax.data.store"),
        ("soundfile", "asc_jax.data"),
        ("orbax", "asc_jax.training.workdir.checkpoints"),
    ],
)
def test_heavy_packages_live_in_one_place(package, places):
    for path in MODULES:
        used = any(other.split(".")[0] == package for other in imports_of(path))
        assert not used or name_of(path).startswith(places), name_of(path)


def test_pmap_is_called_in_one_file():
    users = [
        name_of(path)
        for path in MODULES
        if any(isinstance(node, ast.Attribute) and node.attr == "pmap" for node in nodes_of(path))
    ]
    assert users == ["asc_jax.machine.replicas"]


def test_core_imports_without_tensorflow_and_soundfile():
    """A GPU box with only jax, flax, optax and orbax runs the model and the step."""
    code = """
import sys
for name in ("tensorflow", "tensorflow_datasets", "soundfile", "array_record", "torch",
             "matplotlib", "tqdm", "tensorboardX"):
    sys.modules[name] = None  # importing it raises ImportError
import asc_jax.training.steps, asc_jax.features, asc_jax.models, asc_jax.complexity
import asc_jax.experiment, asc_jax.machine.replicas, asc_jax.training.workdir.checkpoints
import asc_jax.data.clips
import benchmarks.ours
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_config_loads_and_is_locked():
    sys.path.insert(0, str(ROOT))
    import importlib.util

    paths = sorted((ROOT / "configs").rglob("*.py"))
    assert len(paths) == 27
    for path in paths:
        spec = importlib.util.spec_from_file_location("config_under_test", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = module.get_config()
        assert config.is_locked, path
        assert module.__doc__, path
