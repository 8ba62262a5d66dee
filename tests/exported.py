"""Networks to export, and their results in JAX, for tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import small_config

from asc_jax import experiment, features
from asc_jax.export.graph import ARTEFACTS
from asc_jax.export.run import KINDS
from asc_jax.models import CPMobile
from asc_jax.training.workdir import checkpoints, run_config

PACKAGES = {
    "stablehlo": (),
    "onnx": ("onnx", "onnxruntime"),
    "litert": ("tensorflow", "ai_edge_litert.interpreter"),
    "c": (),
}


def kinds(names=tuple(PACKAGES)):
    """Return kinds as parameters of a test; TensorFlow alone takes seconds to import."""
    slow = {"litert": [pytest.mark.slow]}
    return [pytest.param(kind, marks=slow.get(kind, ())) for kind in names]


def kind_of(kind):
    """Return the module of a kind; skip the test where its packages are not installed."""
    for package in PACKAGES[kind]:
        pytest.importorskip(package)
    return KINDS[kind]


def moved_variables(experiment):
    """Return random variables (numpy) with every scale, bias and statistic off its start."""
    rng = np.random.default_rng(7)

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            return rng.normal(0, (2 / np.prod(leaf.shape[:3])) ** 0.5, leaf.shape).astype("f4")
        start = 1.0 if name in ("scale", "var") else 0.0
        return (start + rng.uniform(0, 0.3, leaf.shape)).astype("f4")

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(experiment.variables))


def results_in_jax(deployment, waveform):
    """Return the inputs and the outputs of the artefacts, by name."""

    @jax.jit
    def compute(params, waveform):
        log_mel = features.log_mel(waveform, **deployment.features)
        logits = CPMobile(**deployment.model, folded=True).apply({"params": params}, log_mel)
        return log_mel, jax.nn.softmax(logits), logits

    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), deployment.params)
    log_mel, *expected = map(np.asarray, compute(params, waveform))
    inputs = dict(zip(ARTEFACTS, (waveform, log_mel), strict=True))
    return inputs, dict(zip(ARTEFACTS, expected, strict=True))


def save_run(workdir, config, variables):
    """Write a workdir as training leaves it, of the small config's network."""
    small = experiment.make(small_config())
    manager = checkpoints.Checkpoints(workdir)
    manager.save(3, small.new_state(variables, small.tx(1)))
    manager.close()
    run_config.save(workdir, "small.py", config)
    return workdir
