"""Four fake replicas on a CPU; a rank that is promoted in silence is an error."""

import os
import pathlib

ROOT = pathlib.Path(__file__).parent.parent
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")

GOLDEN = pathlib.Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden():
    """`golden("d_loss")` → the arrays of that reference file, by name."""
    return lambda name: dict(np.load(GOLDEN / f"{name}.npz"))


@pytest.fixture
def x64():
    """float64 throughout one test."""
    with jax.enable_x64(True):
        yield
