"""Four fake replicas on a CPU; a rank that is promoted in silence is an error.

Tests compile much and compute little, so XLA leaves its expensive passes out, in this process and
in those that tests start; `make nightly` runs every test as shipped, with
JAX_DISABLE_MOST_OPTIMIZATIONS=0. What is compiled is kept for as long as the tests run.
"""

import atexit
import gc
import importlib.metadata
import os
import pathlib
import shutil
import signal
import tempfile

ROOT = pathlib.Path(__file__).parent.parent
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
quick = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1"
if quick and importlib.metadata.version("jaxlib").startswith("0.10."):
    # The older code generator is faster, too, and a program in one piece; later versions end at a
    # flag that they do not know.
    flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ.setdefault("XLA_FLAGS", flags)
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # as it is in the processes of pytest-xdist
    compiled = tempfile.mkdtemp(prefix="asc_jax_tests_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled
    atexit.register(shutil.rmtree, compiled, ignore_errors=True)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's job in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or what tests start ignores it too

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")

GOLDEN = pathlib.Path(__file__).parents[1] / "asc_jax/pytorch/parity/golden"


def pytest_collection_finish():
    """Leave what is imported by now, some millions of objects, to no further garbage collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def golden():
    """`golden("d_loss")` → the arrays of that reference file, by name."""
    return lambda name: dict(np.load(GOLDEN / f"{name}.npz"))


@pytest.fixture
def x64():
    """float64 throughout one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def compiled_fast():
    """For a test that compiles for long: without them although all else is as shipped."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def few_clips(monkeypatch):
    """Exported files are compared on 32 clips instead of 256, where a test is of something else."""
    from asc_jax.export import check

    monkeypatch.setattr(check, "MIN_CLIPS", 32)
