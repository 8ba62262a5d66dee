"""The benchmarks run at toy size, write what they promise, and refuse an unequal peer."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import inputs

ROOT = pathlib.Path(__file__).parent.parent


def start(*args):
    command = [sys.executable, "-m", "benchmarks", *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.slow
@pytest.mark.parametrize(
    "parts",
    [
        ("i",),
        pytest.param(("e", "i"), marks=pytest.mark.nightly),
        pytest.param(("a", "j", "k"), marks=pytest.mark.nightly),
    ],
)
def test_parts_run_and_are_written_down(tmp_path, parts):
    paths = {name: tmp_path / f"times.{name}" for name in ("json", "markdown", "png")}
    outputs = [f"--{name}={path}" for name, path in paths.items()]
    few = ("--toy", "--threads=1", "--contestants=torch", "--seeds=2")
    done = start(*parts, *few, *outputs)
    assert done.returncode == 0, done.stderr
    whole = json.loads(paths["json"].read_text())
    assert {row["part"] for row in whole["rows"]} == set(parts)
    for row in whole["rows"]:
        ours = row["results"]["ours"]
        assert 0 < ours["q1"] <= ours["median"] <= ours["q3"]
    assert whole["machine"]["threads"] == 1
    assert "× ours" in paths["markdown"].read_text()
    assert paths["png"].read_bytes().startswith(b"\x89PNG")


def test_wrong_command_line_is_named():
    done = start("z")
    assert done.returncode == 2
    assert "unknown part 'z'; known: a (" in done.stderr


@pytest.mark.parametrize("theirs", [[0.0, 2e-4], [0.0, np.nan]])
def test_contestant_that_computes_something_else_is_refused(theirs):
    with pytest.raises(inputs.Mismatch, match="its logits differ from ours by"):
        inputs.require_equal("logits", np.zeros(2), np.array(theirs))
    inputs.require_equal("logits", np.zeros(2), np.array([0.0, 5e-5]))
