"""A run that goes on for long holds no more memory, threads and files than at first."""

import json
import pathlib
import subprocess
import sys

import long_run
import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets")
TESTS = pathlib.Path(__file__).parent
CODE = """
import json, pathlib, sys
sys.path[:0] = [{root!r}, {tests!r}]
import long_run
noted = long_run.watch(pathlib.Path({folder!r}), {n_steps}, {n_evaluations})
print(json.dumps([len(noted), *long_run.growth(noted), noted[len(noted) // 2], noted[-1]]))
"""


@pytest.mark.parametrize("column", [1, 2])
def test_a_leak_at_every_evaluation_is_seen_and_a_pool_that_varies_is_not(column):
    rng = np.random.default_rng(0)
    noted = np.array([10**9, 40, 20]) + rng.integers(0, 4, (2000, 3)) * [10**6, 1, 1]
    assert max(long_run.growth(noted)[1:]) <= 0
    noted[:, column] += np.arange(2000) // 100  # one at each of 20
    assert long_run.growth(noted)[column] > 0


def grown(folder, n_steps, n_evaluations):
    """`long_run.growth` of a run in a process of its own."""
    code = CODE.format(
        root=str(TESTS.parent),
        tests=str(TESTS),
        folder=str(folder),
        n_steps=n_steps,
        n_evaluations=n_evaluations,
    )
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    n, *grown, half_way, end = json.loads(done.stdout.strip().split("\n")[-1])
    assert n == n_steps
    print(f"{n_steps} steps: {grown}, {half_way} → {end}")
    return grown


@pytest.mark.slow
@pytest.mark.nightly
def test_2000_steps_and_20_evaluations_grow_less_than_a_percent(tmp_path):
    memory, threads, files = grown(tmp_path, 2000, 20)
    assert memory < 0.01
    assert threads <= 0
    assert files <= 0
