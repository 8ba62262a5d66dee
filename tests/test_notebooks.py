"""The notebooks of examples/notebooks: sources by day; executed as plain programs at night."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import HANGS_S

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples/notebooks"
NOTEBOOKS = [path for path in sorted(FOLDER.glob("*.py")) if path.stem != "execute"]
NEEDS = {"reading_runs": ("pandas", "tensorflow_datasets")}  # besides the package


def name_of(path):
    return path.stem


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_source_is_a_notebook_without_commands_that_a_program_cannot_run(path):
    text = path.read_text("utf-8")
    assert text.startswith("# ---\n# jupyter:\n")
    cells = re.split(r"^# %%", text, flags=re.MULTILINE)[1:]
    assert cells[0].startswith(" [markdown]\n# # ")
    code = [cell for cell in cells if not cell.startswith(" [markdown]")]
    assert all(cell.startswith("\n") for cell in code)
    assert not re.search(r"^# [%!]\w", "".join(code), re.MULTILINE)
    assert "plt.show(" not in text  # a kernel shows pictures by itself


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_names_that_a_notebook_imports_from_the_package_are_there(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "asc_jax":
            module = importlib.import_module(node.module)
            for each in node.names:
                name = f"{node.module}.{each.name}"
                assert hasattr(module, each.name) or importlib.util.find_spec(name), name


def test_page_names_every_notebook():
    page = (FOLDER / "README.md").read_text("utf-8")
    assert NOTEBOOKS
    assert all(f"]({path.name})" in page for path in NOTEBOOKS)


DRAW = """
import os

from asc_jax.evaluation.report import figures

print(figures.svg("a", (90, 90), lambda figure: figure.text(0, 0, "drawn")))
print(os.environ["MPLBACKEND"])
"""


def test_picture_is_drawn_where_a_kernel_names_a_backend_that_this_python_has_not(monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MPLBACKEND", "module://a_kernel.backend_inline")
    command = [sys.executable, "-W", "error", "-c", DRAW]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS_S)
    assert (done.returncode, done.stderr) == (0, "")
    assert ">drawn</text>" in done.stdout
    assert done.stdout.endswith("module://a_kernel.backend_inline\n")


@pytest.mark.nightly
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_notebook_runs_as_a_plain_program(path, tmp_path, monkeypatch):
    """Set the variables of a notebook's kernel, without a display."""
    for module in NEEDS.get(path.stem, ("matplotlib",)):
        pytest.importorskip(module)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    done = subprocess.run(
        [sys.executable, path], cwd=tmp_path, capture_output=True, text=True, timeout=HANGS_S
    )
    assert done.returncode == 0, done.stderr
