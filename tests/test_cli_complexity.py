"""`asc-jax complexity` as a person starts it, and what it prints."""

import json
import pathlib
import re

import pytest
from commands import call
from small import small_config

from asc_jax.cli import complexity
from asc_jax.complexity import budget
from asc_jax.errors import UserError
from asc_jax.training.workdir import run_config

ROOT = pathlib.Path(__file__).parent.parent
PNG = b"\x89PNG\r\n\x1a\n"
OVER = {"budget__max_macs": 50_000}


def start(*args):
    return call("complexity", *args, cwd=ROOT)


def show(config, **flags):
    return complexity.show(
        "mine.py", config, **{"solve": False, "json_only": False, "png": None} | flags
    )


def test_the_reports_config_is_within_budget_and_ends_with_0():
    done = start("--config", "splits/5pct.py")
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"^b6/project +32×9×104 +12,688 +3,594,240 +12.0% +25,376 +19.8%$", done.stdout, re.M
    )
    assert re.search(r"^total +61,148 +29,425,664 +98.1% +122,296 +95.5%$", done.stdout, re.M)
    assert re.search(r"^headroom +574,336 +1.9% +5,704 +4.5%$", done.stdout, re.M)
    assert "torchinfo: 29,428,372 MACs, the 2,708 parameters of BatchNorm" in done.stdout
    assert done.stdout.endswith("verdict:   within budget\n")


@pytest.mark.parametrize("enforce", [True, False])
def test_over_budget_prints_the_table_and_ends_with_1(tmp_path, enforce):
    run_config.save(tmp_path, "mine.py", small_config(budget__enforce=enforce, **OVER))
    done = start("--workdir", tmp_path, "--json")
    assert (done.returncode, done.stderr) == (1, "")
    result = json.loads(done.stdout)
    assert (result["config"], result["within_budget"]) == ("mine.py", False)
    assert sum(layer["macs"] for layer in result["layers"]) == result["macs"] > 50_000


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "which network? Either --config or --workdir, for example"),
        (("--config", "splits/5pct.py", "--workdir", "x"), "Either --config or --workdir"),
        (("--workdir", "no/such/run"), "no run in no/such/run: config.json is missing"),
    ],
)
def test_wrong_command_line_ends_with_2(args, message):
    done = start(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_the_excess_is_named(capsys):
    config = small_config(**OVER)
    assert show(config) is False
    excess = budget.examine(config)[1]["macs"] - 50_000
    assert capsys.readouterr().out.endswith(f"verdict:   over budget: {excess:,} MACs too many\n")


def test_teacher_over_budget_is_said_to_train(capsys):
    assert not show(small_config(budget__role="teacher", **OVER))
    assert " MACs too many. It trains all the same: config.budget.role" in capsys.readouterr().out


def test_columns_are_aligned(capsys):
    assert show(small_config(model__grn=True))
    lines = capsys.readouterr().out.splitlines()
    rows = lines[lines.index(next(line for line in lines if "─" in line)) + 1 :]
    ends = {len(line) for line in rows if line.endswith("%")}
    assert ends == {len(rows[0])}


@pytest.mark.parametrize("json_only", [False, True])
def test_solve_says_how_far_and_where_it_stands(capsys, monkeypatch, json_only):
    solved = {"n_frames": 68, "hop_lengths": (471, 477), "width": None, "expansion": 2.12}
    solved["at_least"] = ["expansion"]
    monkeypatch.setattr(budget, "solve", lambda config: solved)
    show(small_config(), solve=True, json_only=json_only)
    out = capsys.readouterr().out
    if json_only:
        assert json.loads(out)["solve"] == solved | {"hop_lengths": [471, 477]}
        return
    assert "frames     68 (hop_length 471–477); now 17 (2000)" in out
    assert "width      none; now 8" in out
    assert "expansion  at least 2.12; now 2.1" in out


@pytest.mark.parametrize("overrides", [{}, OVER])
def test_picture_is_drawn_and_its_folder_made(tmp_path, capsys, overrides):
    path = tmp_path / "new" / "budget.png"
    show(small_config(**overrides), png=str(path))
    assert path.read_bytes().startswith(PNG)


def test_picture_that_cannot_be_written_is_an_error_of_one_line(tmp_path, capsys):
    with pytest.raises(UserError, match="cannot write .*: Is a directory"):
        show(small_config(), png=str(tmp_path))
