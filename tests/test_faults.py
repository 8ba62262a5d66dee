"""Faults that no other test does, by night; one of them to a process of its own.

The long form is `make faults`; what each kind is, is in `docs/faults.md`.
"""

import pathlib
import subprocess
import sys

import pytest

from tests.faults.kinds import KINDS, REAL, a_round

FEW = (
    *("checkpoint bit-flipped", "disk full", "killed at a file operation"),
    *("building killed at a file operation", "SIGKILL while saving"),
)
ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.nightly
@pytest.mark.slow
def test_no_fault_changes_a_result_or_loses_a_checkpoint(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    command = [sys.executable, "-m", "tests.faults", f"--n={len(FEW)}", f"--state={tmp_path}"]
    done = subprocess.run(
        [*command, f"--only={','.join(FEW)}"], cwd=ROOT, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert all(f"| {kind} |" in done.stdout for kind in FEW)


def test_a_round_has_every_kind_first():
    assert a_round(KINDS)[: len(KINDS)] == list(KINDS)
    assert set(REAL) < set(KINDS)
