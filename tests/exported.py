"""Networks to export, and their results in JAX, for tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import small_config

from asc_jax import experiment, features
from asc_jax.export import run as exporting
from asc_jax.export.graph import ARTEFACTS
from asc_jax.models import CPMobile
from asc_jax.training.workdir import checkpoints, run_config

PACKAGES = {
    "stablehlo": (),
    "onnx": ("onnx", "onnxruntime"),
    "litert": ("tensorflow", "ai_edge_litert.interpreter"),
    "c": (),
}


def kinds(names=tuple(PACKAGES)):
    """Kinds as parameters of a test; TensorFlow alone takes seconds to import."""
    slow = {"litert": [pytest.mark.slow]}
    return [pytest.param(kind, marks=slow.get(kind, ())) for kind in names]


def builder_of(kind):
    """`(build, load)` of a kind; skips where its packages are not installed."""
    for package in PACKAGES[kind]:
        pytest.importorskip(package)
    return exporting.KINDS[kind][:2]


def moved_variables(parts):
    """Random variables with every scale, bias and statistic off its start; numpy, in no time."""
    rng = np.random.default_rng(7)

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            return rng.normal(0, (2 / np.prod(leaf.shape[:3])) ** 0.5, leaf.shape).astype("f4")
        start = 1.0 if name in ("scale", "var") else 0.0
        return (start + rng.uniform(0, 0.3, leaf.shape)).astype("f4")

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(parts.variables))


def results_in_jax(deployment, waveform):
    """What the artefacts take and give, by their names: `(given, expected)`."""

    @jax.jit
    def compute(params, waveform):
        log_mel = features.log_mel(waveform, **deployment.features)
        logits = CPMobile(**deployment.model, folded=True).apply({"params": params}, log_mel)
        return log_mel, jax.nn.softmax(logits), logits

    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), deployment.params)
    log_mel, *expected = map(np.asarray, compute(params, waveform))
    given = dict(zip(ARTEFACTS, (waveform, log_mel), strict=True))
    return given, dict(zip(ARTEFACTS, expected, strict=True))


def save_run(workdir, config, variables):
    """A workdir as training leaves it; the network must be that of the small config."""
    parts = experiment.make(small_config())
    manager = checkpoints.Checkpoints(workdir)
    manager.save(3, parts.new_state(variables, parts.tx(1)))
    manager.close()
    run_config.save(workdir, "small.py", config)
    return workdir
