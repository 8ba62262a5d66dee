"""Many replicas: the only module that names `jax.pmap`.

A *replica* is an accelerator with a copy of the state. A global batch is cut in order of
position, padded at its end so that the replicas get equally many clips.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from asc_jax.types import Array

AXIS = "replica"
NUMERIC = ("audio", "label", "device_id", "mask")  # what of a batch goes to the replicas


def n_replicas() -> int:
    """Accelerators of this process."""
    return jax.local_device_count()


def replicate(tree, n: int | None = None):
    """A copy of every leaf per replica: `[…]` → `[replica, …]`.

    Through `pmap` itself, so that the copies lie as a step's results do: a step that met two
    layouts of its state would be compiled twice.
    """
    n = n or n_replicas()
    devices = jax.local_devices()[:n]
    copy = jax.pmap(lambda _, tree: tree, axis_name=AXIS, in_axes=(0, None), devices=devices)
    return copy(np.arange(n), tree)


def unreplicate(tree):
    """The first replica's copy; they are all equal."""
    return jax.tree.map(lambda x: x[0], tree)


def shard(batch: Mapping, n: int | None = None) -> dict[str, np.ndarray]:
    """`[b, …]` → `[replica, ceil(b / replica), …]`, padded with zeros (mask False)."""
    n = n or n_replicas()
    return {name: _split(np.asarray(batch[name]), n) for name in NUMERIC if name in batch}


def stack_and_shard(
    batches: Sequence[Mapping], n_slots: int, n: int | None = None
) -> dict[str, np.ndarray]:
    """Up to `n_slots` batches → `[replica, n_slots, b / replica, …]`; unused slots are zero."""
    n = n or n_replicas()
    sharded = [shard(batch, n) for batch in batches]
    out = {}
    for name, first in sharded[0].items():
        stacked = np.zeros((n, n_slots, *first.shape[1:]), first.dtype)
        for slot, batch in enumerate(sharded):
            stacked[:, slot] = batch[name]
        out[name] = stacked
    return out


def gather_rows(rows: Array, n_rows: int) -> np.ndarray:
    """`[replica, b / replica, …]` → the first `n_rows` of `[b, …]`: the inverse of `shard`."""
    rows = np.asarray(rows)
    return rows.reshape(-1, *rows.shape[2:])[:n_rows]


def pmap_train(train_steps: Callable, n: int | None = None) -> Callable:
    """`train_steps(state, batches, n_steps, key)` over replicas; the state is donated."""
    devices = jax.local_devices()[: n or n_replicas()]
    return jax.pmap(
        train_steps,
        axis_name=AXIS,
        in_axes=(0, 0, None, None),
        donate_argnums=0,
        devices=devices,
    )


def pmap_eval(eval_step: Callable, n: int | None = None) -> Callable:
    """`eval_step(variables, batch)` over replicas; the variables are the same on all."""
    devices = jax.local_devices()[: n or n_replicas()]
    return jax.pmap(eval_step, axis_name=AXIS, in_axes=(None, 0), devices=devices)


def _split(rows: np.ndarray, n: int) -> np.ndarray:
    per_replica = -(-rows.shape[0] // n)
    padding = [(0, per_replica * n - rows.shape[0])] + [(0, 0)] * (rows.ndim - 1)
    return np.pad(rows, padding).reshape(n, per_replica, *rows.shape[1:])
