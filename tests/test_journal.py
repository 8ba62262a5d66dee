"""What is read back of a run's log."""

import os
import pathlib
import subprocess
import sys

import pytest

from asc_jax.errors import UserError
from asc_jax.training.workdir import journal

ROOT = pathlib.Path(__file__).parents[1]


def test_log_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be read: Is a directory; put it"):
        journal.has(tmp_path, kind="test", step=3)


def test_pytorch_that_happens_to_be_installed_is_not_loaded(tmp_path):
    """It would take a second and 180 MB of every run."""
    (tmp_path / "torch.py").write_text("raise SystemExit('torch is being imported')")
    code = f"""
import pathlib, sys
from asc_jax import journal
with journal.Journal(pathlib.Path({str(tmp_path)!r}), 0, 1) as log:
    log.log({{"kind": "train", "step": 1, "loss": 0.5}})
assert "torch" not in sys.modules
import torch
"""
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 1  # ended by the last line
    assert done.stderr.endswith("torch is being imported\n")
    assert list((tmp_path / "tensorboard").iterdir())
