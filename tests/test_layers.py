"""The house: imports go down the floors, and some names live in one place only."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FLOORS = {
    0: "types taxonomy errors json_object jaxpr_walk mac_count primitive_costs huge_pages machine "
    "compiler_memory per_clip filters clusters models.compiler",
    1: "features augment losses metrics precision complexity limits table1 signals models.shifts"
    " statistics calibration segments svg html_page files lock memory version",
    2: "models.ops models.normalisation models.chunks state optim",
    3: "models models.blocks models.cp_mobile models.folding steps training_input",
    4: "experiment parallel distributed rendezvous hosts checkpoints run_config"
    " config_checks process_exit"
    " interop interop.optional interop.torch interop.torch_files"
    " interop.torch_config interop.torch_layout interop.torch_twin"
    " interop.graph interop.onnx_graph interop.onnx_network interop.onnx_writer"
    " interop.litert interop.litert_network interop.litert_flatbuffer"
    " interop.stablehlo interop.c_header interop.c_reader"
    " interop.parity interop.parity_checks interop.parity_front_end interop.parity_network"
    " interop.parity_optim interop.parity_trajectory"
    " interop.live interop.live_front_end interop.live_network interop.live_optim",
    5: "evaluation exporting export_check torch_runs report result_files figures journal"
    " budget budget_figure resident analysis report_figures report_sections html_report"
    " prediction prediction_lines prediction_figure prediction_loop"
    " submission submission_author submission_check submission_check_meta"
    " submission_meta submission_runs"
    " run_results campaign campaign_runs campaign_progress best not_finite"
    " step_batches epoch_sums provenance"
    " table1_collect table1_statistics table1_grids table1_notes table1_figures"
    " table1_html table1_report",
    6: "training_run program",
    7: "loop",
    8: "cli",
}
FLOOR = {f"asc_jax.{name}": floor for floor, names in FLOORS.items() for name in names.split()}
MODULES = sorted((ROOT / "asc_jax").rglob("*.py"))


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path):
    """Absolute names of what a module imports, at any depth."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def floor_of(name):
    if name.startswith("asc_jax.cli"):
        return 7
    return FLOOR.get(name)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down_the_floors(path):
    name = name_of(path)
    if name.startswith("asc_jax.data") or name == "asc_jax":
        upper = {n for n in imports_of(path) if (floor_of(n) or 0) > 1}
        assert not upper, f"{name} may import floors 0 and 1 only, not {upper}"
        return
    floor = floor_of(name)
    assert floor is not None, f"{name} has no floor: add it to FLOORS"
    for other in imports_of(path):
        if other == name or floor_of(other) is None:
            if other.startswith("asc_jax.data"):
                assert floor >= 5, f"{name} may not import {other}"
            continue
        package = other in ("asc_jax.models", "asc_jax.interop") and name.startswith(other)
        limit = floor if floor >= 3 and floor != 1 else floor - 1
        assert floor_of(other) <= limit or package, f"{name} imports {other} from above"


@pytest.mark.parametrize(
    ("package", "places"),
    [
        ("tensorflow", ("asc_jax.data", "asc_jax.export.litert.build")),
        ("tensorflow_datasets", "asc_jax.data"),
        ("soundfile", "asc_jax.data"),
        ("orbax", "asc_jax.training.workdir.checkpoints"),
    ],
)
def test_heavy_packages_live_in_one_place(package, places):
    for path in MODULES:
        used = any(other.split(".")[0] == package for other in imports_of(path))
        assert not used or name_of(path).startswith(places), name_of(path)


def test_pmap_is_named_in_one_file():
    users = [
        name_of(path) for path in MODULES if "jax.pmap" in ast.unparse(ast.parse(path.read_text()))
    ]
    code_users = [
        name_of(path)
        for path in MODULES
        if any(
            isinstance(node, ast.Attribute) and node.attr == "pmap"
            for node in ast.walk(ast.parse(path.read_text()))
        )
    ]
    assert code_users == ["asc_jax.machine.replicas"]
    assert "asc_jax.machine.replicas" in users


def test_core_imports_without_tensorflow_and_soundfile():
    """A GPU box with only jax, flax, optax and orbax runs the model and the step."""
    code = """
import sys
for name in ("tensorflow", "tensorflow_datasets", "soundfile", "array_record", "torch",
             "matplotlib", "tqdm", "tensorboardX"):
    sys.modules[name] = None  # importing it raises ImportError
import asc_jax.steps, asc_jax.features, asc_jax.models, asc_jax.complexity
import asc_jax.experiment, asc_jax.parallel, asc_jax.checkpoints, asc_jax.data.pipeline
import benchmarks.ours
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_config_loads_and_is_locked():
    sys.path.insert(0, str(ROOT))
    import importlib.util

    paths = sorted((ROOT / "configs").rglob("*.py"))
    assert len(paths) == 12
    for path in paths:
        spec = importlib.util.spec_from_file_location("config_under_test", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = module.get_config()
        assert config.is_locked, path
        assert module.__doc__, path
