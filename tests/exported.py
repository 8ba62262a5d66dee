"""Networks to export, and their results in JAX, for tests."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import small_config

from asc_jax import experiment, features
from asc_jax.export.run import KINDS
from asc_jax.models.layers import InvertedResidual
from asc_jax.operations.graph import ARTEFACTS
from asc_jax.training.workdir import checkpoints, run_config

PACKAGES = {
    "stablehlo": (),
    "onnx": ("onnx", "onnxruntime"),
    "litert": ("tensorflow", "ai_edge_litert.interpreter"),
    "c": (),
}


class Mixed(nn.Module):
    """Flax's own layers beside ours, with an operation of every kind that a C header can hold."""

    @nn.compact
    def __call__(self, log_mel, train):
        x = nn.Conv(8, (5, 3), (3, 2))(log_mel)  # padded by 1 and 2, 0 and 1
        x = nn.relu6(nn.BatchNorm(not train)(x))
        x = nn.max_pool(x, (3, 2), (1, 1), ((1, 1), (1, 0)))
        x = InvertedResidual(8, 2.0, (2, 2), nn.hard_swish, grn=True)(x, train)
        gate = nn.Conv(8, (1, 3), feature_group_count=2, use_bias=False)(x)
        x = nn.avg_pool(x, (2, 2), (1, 1), "SAME") * nn.sigmoid(gate)
        x = nn.gelu(jnp.concatenate([x], axis=-1) + nn.silu(2.0 - nn.Conv(8, (3, 1))(x)))
        x = x.reshape(len(x), -1)
        return nn.Dense(10)(nn.relu(nn.Dense(12)(x)))


class Unknown(nn.Module):
    """Hold what has no rule, what mixes clips, and what a C header has no layer for."""

    what: str

    @nn.compact
    def __call__(self, log_mel, train):
        x = nn.Dense(10)(log_mel.max(axis=(1, 2)))
        if self.what == "sort":
            x = jnp.sort(x)
        if self.what == "mean":
            x = x - x.mean(axis=0, keepdims=True)
        return x


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
    def compute(variables, waveform):
        log_mel = features.log_mel(waveform, **deployment.features)
        logits = deployment.apply(variables, log_mel)
        return log_mel, jax.nn.softmax(logits), logits

    log_mel, *expected = map(np.asarray, compute(deployment.variables, waveform))
    inputs = dict(zip(ARTEFACTS, (waveform, log_mel), strict=True))
    return inputs, dict(zip(ARTEFACTS, expected, strict=True))


def save_run(workdir, config, variables, made=None):
    """Write a workdir as training leaves it; made: its experiment, if not the small config's."""
    small = made or experiment.make(small_config())
    manager = checkpoints.Checkpoints(workdir)
    manager.save(3, small.new_state(variables, small.tx(1)))
    manager.close()
    run_config.save(workdir, "small.py", config)
    return workdir
