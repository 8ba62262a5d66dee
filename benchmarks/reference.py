"""What every peer must compute: our front end, network, gradient and statistics on a few clips."""

import functools
from collections.abc import Mapping

import jax
import numpy as np
from flax import traverse_util

from asc_jax import experiment, features
from asc_jax.models.from_config import model
from asc_jax.models.layers import BatchNorm
from asc_jax.pytorch.weights import to_torch
from asc_jax.training import losses
from asc_jax.types import Array, Params
from benchmarks import inputs
from benchmarks.inputs import Job


def write_reference(spec: Mapping) -> Job:
    """A job that writes `spec["reference"]`, an npz.

    It holds `waveform [b, n]`, `log_mel [b, f, t]`, `eval_logits`, `train_logits`, and under the
    twin's tensor names `weight|…`, the variables, and `after|…`, gradients of the mean loss, in
    float64, and updated statistics. (In float32 a ReLU falls on the other side of
    0 here and there, and takes its share of the gradient along.)
    """
    return Job(lambda: np.savez(spec["reference"], **_arrays(inputs.read_config(spec))), 1)


def _arrays(config) -> dict[str, np.ndarray]:
    waveform = _louder_and_quieter(inputs.waveforms(inputs.N_PROBE, config.features.sample_rate))
    variables = _uneven(experiment.make(config).variables(), waveform, config)
    log_mel, eval_logits, train_logits, updated = jax.jit(
        functools.partial(_compute, config=config)
    )(variables, waveform)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: np.asarray(x, np.float64), (variables, log_mel))
        grads = jax.jit(functools.partial(_gradients, config=config))(*wide)
    named = functools.partial(named_as_twin, config.model.name)
    return {
        "waveform": waveform,
        "log_mel": log_mel[..., 0],
        "eval_logits": eval_logits,
        "train_logits": train_logits,
        **{f"weight|{name}": value for name, value in named(variables).items()},
        **{f"after|{name}": value for name, value in named({"params": grads, **updated}).items()},
    }


def named_as_twin(name: str, variables: Params) -> dict[str, np.ndarray]:
    """Return the variables of the network `name` by the names of its twin's tensors."""
    return NAMED.get(name, to_torch_by_path)(variables)


def to_torch_by_path(variables: Params) -> dict[str, np.ndarray]:
    """Return variables by the names that they have in a twin whose modules are named as ours."""
    named = {}
    for collection in ("params", "batch_stats"):
        for path, value in traverse_util.flatten_dict(variables[collection]).items():
            *modules, leaf = path
            value = np.asarray(value)
            value = value.transpose(3, 2, 0, 1) if leaf == "kernel" else value
            named[".".join([*modules, TORCH_LEAVES.get(leaf, leaf)])] = value
            if leaf == "mean":
                named[".".join([*modules, "num_batches_tracked"])] = np.zeros((), np.int64)
    return named


# These twins have the names of `asc_jax.pytorch.networks`.
NAMED = dict.fromkeys(("cp_mobile", "cnn_gru", "cp_resnet"), to_torch)
TORCH_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
}


def _louder_and_quieter(waveform: np.ndarray) -> np.ndarray:
    """Return clips whose loudness changes: means over all mel bins of noise hardly vary.

    A batch normalisation of such means would be one of rounding errors.
    """
    n_clips, n_samples = waveform.shape
    rng = np.random.default_rng(3)
    gains = rng.uniform(0.05, 1, (n_clips, 20)).astype(np.float32)
    return waveform * np.repeat(gains, -(-n_samples // 20), axis=1)[:, :n_samples]


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


def _uneven(variables: Params, waveform: Array, config) -> Params:
    """Return variables whose normalisations do something, each channel its own.

    Running means lie within half a standard deviation of those of these clips, as they do in
    training. Far from them (a re-parameterised filter of a fresh network has standard deviations of
    0.001) one pass over float32 has no digits left, and contestants could not be compared.
    """
    rng = np.random.default_rng(2)

    def stir(path, leaf):
        if path[0].key == "batch_stats":
            return np.zeros_like(leaf)
        if path[-1].key.endswith("kernel"):
            return leaf if np.any(leaf) else 0.1 * rng.standard_normal(leaf.shape, np.float32)
        spread = rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        return leaf * spread if path[-1].key == "scale" else leaf + (spread - 1)

    variables = jax.tree_util.tree_map_with_path(stir, variables)
    # From 0, one step of the running statistics is a tenth of those of the batch.
    updated = jax.jit(functools.partial(_compute, config=config))(variables, waveform)[-1]
    stats = traverse_util.flatten_dict(updated["batch_stats"])
    for path in [path for path in stats if path[-1] == "mean"]:
        of_var = (*path[:-1], "var")
        mean, var = (np.asarray(stats[name]) / BatchNorm.momentum for name in (path, of_var))
        spread = rng.uniform(0.5, 1.5, (2, *mean.shape)).astype(np.float32)
        stats[path] = mean + (spread[0] - 1) * np.sqrt(var)
        stats[of_var] = var * spread[1]
    return {**variables, "batch_stats": traverse_util.unflatten_dict(stats)}
