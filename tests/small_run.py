"""A run with a small network, as training leaves it, without the training."""

import jax
import numpy as np
from small import small_config

from asc_jax import experiment
from asc_jax.evaluation import evaluate
from asc_jax.machine import version
from asc_jax.training.workdir import checkpoints, run_config


def write_run(workdir, *, step=7, seed=0, config=None, **overrides):
    """Config and checkpoint of a network with random kernels; other sounds get other scenes."""
    config = config or small_config(**overrides)
    parts = experiment.make(config)
    run_config.save(workdir, "small.py", config, over_budget=not parts.within_budget)
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), parts.abstract_state())
    rng = np.random.default_rng(seed)
    state = state.replace(
        step=np.asarray(step, np.int32),
        params=jax.tree_util.tree_map_with_path(lambda *leaf: fill(rng, *leaf), state.params),
        batch_stats=jax.tree_util.tree_map_with_path(
            lambda path, x: x + (path[-1].key == "var"), state.batch_stats
        ),
    )
    manager = checkpoints.Checkpoints(workdir)
    manager.save(step, state, {"epoch": 3, "code_version": version.code_version()})
    manager.close()
    return parts


def fill(rng, path, leaf):
    """Kernels, scales and biases; an untrained network's answers hardly depend on the sound."""
    noise = rng.standard_normal(leaf.shape, np.float32)
    if path[-1].key == "kernel":
        fan_out = np.prod(leaf.shape[:-2]) * leaf.shape[-1]
        return noise * np.float32(np.hypot(np.sqrt(2 / fan_out), 0.15))
    return (path[-1].key == "scale") + np.float32(0.15) * noise


def restored(parts, workdir):
    """`{"params", "batch_stats"}` of the run."""
    state, _, _ = evaluate.restore(parts, workdir)
    return {"params": state.params, "batch_stats": state.batch_stats}
