"""Many replicas: the only module that names `jax.pmap`.

A *replica* is an accelerator with a copy of the state. A global batch is cut in order of
position, padded at its end so that the replicas get equally many clips. Where a function takes
`n`, it is over the first n replicas of this process; without it, over all replicas of all
processes, of which a process feeds its own.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from asc_jax.types import Array

AXIS = "replica"
NUMERIC = ("audio", "label", "device_id", "row", "mask")  # what of a batch goes to the replicas


def n_replicas() -> int:
    """Accelerators of this process."""
    return jax.local_device_count()


def replicate(tree, n: int | None = None):
    """A copy of every leaf per replica: `[…]` → `[replica, …]`.

    Through `pmap` itself, so that the copies lie as a step's results do: a step that met two
    layouts of its state would be compiled twice.
    """
    copy = jax.pmap(lambda _, tree: tree, axis_name=AXIS, in_axes=(0, None), devices=_devices(n))
    return copy(np.arange(n or n_replicas()), tree)


def unreplicate(tree):
    """This process's first replica's copy; they are all equal.

    Without asking the other replicas: `x[0]` of an array that lies on several would.
    """
    return jax.tree.map(
        lambda x: x.addressable_shards[0].data[0] if isinstance(x, jax.Array) else x[0], tree
    )


def own_share(order: np.ndarray, batch_size: int, fill: int) -> tuple[np.ndarray, int]:
    """What of an epoch this process reads: its replicas' rows of every global batch.

    Args:
      order: `[n]` int, clip numbers, ≥ 0.
      batch_size: rows of a global batch.
      fill: what stands for a row without a clip.

    Returns:
      The order and the batch size of this process alone, filled up so that every process has as
      many batches.
    """
    n_processes = jax.process_count()
    if n_processes == 1:
        return order, batch_size
    n_batches = -(-len(order) // batch_size)
    own = -(-batch_size // jax.device_count()) * jax.local_device_count()
    padded = np.full(n_batches * batch_size, fill, order.dtype)
    padded[: len(order)] = order
    rows = np.full((n_batches, n_processes * own), fill, order.dtype)
    rows[:, :batch_size] = padded.reshape(n_batches, batch_size)
    start = jax.process_index() * own
    return rows[:, start : start + own].ravel(), own


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


def pmap_train(
    train_steps: Callable, n: int | None = None, *, resident: bool = False, seeds: bool = False
) -> Callable:
    """`train_steps(state, batches, n_steps, key)` over replicas; the state is donated.

    With `resident` there is a fifth argument, the clips that every replica holds. With `seeds`
    state, batches and key have one more axis (after the replicas'), for runs that are trained at
    once.
    """
    more = [None] if resident else []
    if seeds:
        train_steps = jax.vmap(train_steps, in_axes=(0, 0, None, 0, *more))
    return jax.pmap(
        train_steps,
        axis_name=AXIS,
        in_axes=(0, 0, None, None, *([0] if resident else [])),
        donate_argnums=0,
        devices=_devices(n),
    )


def pmap_eval(eval_step: Callable, n: int | None = None) -> Callable:
    """`eval_step(variables, batch)` over replicas; the variables are the same on all."""
    return jax.pmap(eval_step, axis_name=AXIS, in_axes=(None, 0), devices=_devices(n))


def _devices(n: int | None) -> list:
    """In order of process, so that replicas hold the rows of a batch in order of position."""
    if n is None and jax.process_count() > 1:
        return sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return jax.local_devices()[: n or n_replicas()]


def _split(rows: np.ndarray, n: int) -> np.ndarray:
    per_replica = -(-rows.shape[0] // n)
    padding = [(0, per_replica * n - rows.shape[0])] + [(0, 0)] * (rows.ndim - 1)
    return np.pad(rows, padding).reshape(n, per_replica, *rows.shape[1:])
