"""What every peer must compute: our front end, network, gradient and statistics on a few clips."""

import functools
from collections.abc import Mapping

import jax
import numpy as np

from asc_jax import experiment, features
from asc_jax.models.from_config import model
from asc_jax.pytorch.weights import to_torch
from asc_jax.training import losses
from asc_jax.types import Array, Params
from benchmarks import inputs
from benchmarks.inputs import Job


def write_reference(spec: Mapping) -> Job:
    """A job that writes `spec["reference"]`, an npz.

    It holds `waveform [b, n]`, `log_mel [b, f, t]`, `eval_logits`, `train_logits`, and under the
    official baseline's tensor names `weight|…`, the variables, and `after|…`, gradients of the
    mean loss, in float64, and updated statistics. (In float32 a ReLU falls on the other side of
    0 here and there, and takes its share of the gradient along.)
    """
    return Job(lambda: np.savez(spec["reference"], **_arrays(inputs.read_config(spec))), 1)


def _arrays(config) -> dict[str, np.ndarray]:
    variables = _uneven(experiment.make(config).variables())
    waveform = inputs.waveforms(inputs.N_PROBE, config.features.sample_rate)
    log_mel, eval_logits, train_logits, updated = jax.jit(
        functools.partial(_compute, config=config)
    )(variables, waveform)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: np.asarray(x, np.float64), (variables, log_mel))
        grads = jax.jit(functools.partial(_gradients, config=config))(*wide)
    after = {"params": grads, **updated}
    return {
        "waveform": waveform,
        "log_mel": log_mel[..., 0],
        "eval_logits": eval_logits,
        "train_logits": train_logits,
        **{f"weight|{name}": value for name, value in to_torch(variables).items()},
        **{f"after|{name}": value for name, value in to_torch(after).items()},
    }


def _compute(variables: Params, waveform: Array, *, config):
    """Log-mels, logits of evaluation and of training, updated statistics."""
    log_mel, net = features.log_mel(waveform, **config.features), model(config)
    logits, updated = net.apply(variables, log_mel, train=True, mutable=["batch_stats"])
    return log_mel, net.apply(variables, log_mel), logits, updated


def _gradients(variables: Params, log_mel: Array, *, config) -> Params:
    """Of the mean loss, by the parameters."""
    net, label = model(config), inputs.labels(inputs.N_PROBE)

    def objective(params):
        given = {**variables, "params": params}
        logits, _ = net.apply(given, log_mel, train=True, mutable=["batch_stats"])
        return losses.focal_loss(logits, label, gamma=config.loss.gamma).mean()

    return jax.grad(objective)(variables["params"])


def _uneven(variables: Params) -> Params:
    """Fresh variables whose normalisations do something, each channel its own."""
    rng = np.random.default_rng(2)

    def stir(path, leaf):
        if path[-1].key == "kernel":
            return leaf
        spread = rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        return leaf * spread if path[-1].key in ("scale", "var") else leaf + (spread - 1)

    return jax.tree_util.tree_map_with_path(stir, variables)
