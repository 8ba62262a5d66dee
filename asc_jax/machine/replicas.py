"""Many replicas: the only module that calls `jax.pmap`.

A *replica* is an accelerator with a copy of the state. A global batch is cut in order of
position, padded at its end so that the replicas get equally many clips. Where a function takes
`n`, it is over the first n replicas of this process; without it, over all replicas of all
processes, of which a process feeds its own.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from asc_jax.machine.memory import aligned_zeros
from asc_jax.types import Array

AXIS = "replica"


def n_replicas() -> int:
    """Return the number of accelerators of this process."""
    return jax.local_device_count()


def replicate(tree, n: int | None = None):
    """Return a copy of every leaf per replica: `[…]` → `[replica, …]`.

    Through `pmap` itself, so that the copies lie as a step's results do: a step that met two
    layouts of its state would be compiled twice.
    """
    copy = jax.pmap(lambda _, tree: tree, axis_name=AXIS, in_axes=(0, None), devices=_devices(n))
    return copy(np.arange(n or n_replicas()), tree)


def share(arrays: Mapping[str, np.ndarray]) -> dict:
    """Place arrays that a whole run reads: `[…]` → `[replica, …]`.

    As `replicate`, but the replicas of a CPU all read them where they lie, if they begin as
    `aligned_zeros` do. They must not be written to any more.
    """
    if jax.default_backend() != "cpu" or jax.process_count() > 1:
        return replicate(arrays)
    n, sharding = n_replicas(), replicate(np.zeros(())).sharding
    return {
        name: jax.device_put(np.broadcast_to(array, (n, *array.shape)), sharding, may_alias=True)
        for name, array in arrays.items()
    }


def unreplicate(tree):
    """Return the copy of this process's first replica; they are all equal.

    Without asking the other replicas: `x[0]` of an array that lies on several would.
    """
    return jax.tree.map(
        lambda x: x.addressable_shards[0].data[0] if isinstance(x, jax.Array) else x[0], tree
    )


def own_share(order: np.ndarray, batch_size: int, fill: int) -> tuple[np.ndarray, int]:
    """Return the rows of an epoch that this process reads: those of its replicas.

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
    return {name: stacked[:, 0] for name, stacked in stack_and_shard([batch], 1, n).items()}


def stack_and_shard(
    batches: Sequence[Mapping], n_slots: int, n: int | None = None
) -> dict[str, np.ndarray]:
    """Up to `n_slots` batches → `[replica, n_slots, b / replica, …]`, every numeric column.

    Unused slots are zero. The memory begins such that a CPU's program reads it where it lies (a
    replica's rows of it too, if their size is a multiple of `memory.ALIGNMENT`).

    Raises:
      ValueError: the batches differ in columns, sizes or dtypes.
    """
    n = n or n_replicas()
    out: dict[str, np.ndarray] = {}
    for slot, batch in enumerate(batches):
        columns = {name: np.asarray(rows) for name, rows in batch.items()}
        columns = {name: rows for name, rows in columns.items() if rows.dtype.kind in "biuf"}
        if out and columns.keys() != out.keys():
            raise ValueError(f"a batch has {sorted(columns)}, those before it {sorted(out)}")
        for name, rows in columns.items():
            n_rows = -(-len(rows) // n)
            shape = (n, n_slots, n_rows, *rows.shape[1:])
            if name not in out:
                out[name] = aligned_zeros(shape, rows.dtype)
            if (out[name].shape, out[name].dtype) != (shape, rows.dtype):
                raise ValueError(
                    f"{name} of a batch is {rows.dtype}, shared out as {shape}; of those before "
                    f"it {out[name].dtype} {out[name].shape}"
                )
            for replica, stacked in enumerate(out[name]):
                own = rows[replica * n_rows :][:n_rows]
                stacked[slot, : len(own)] = own
    return out


def gather_rows(rows: Array, n_rows: int) -> np.ndarray:
    """`[replica, b / replica, …]` → the first `n_rows` of `[b, …]`: the inverse of `shard`."""
    rows = np.asarray(rows)
    return rows.reshape(-1, *rows.shape[2:])[:n_rows]


def pmap_train(
    train_steps: Callable,
    n: int | None = None,
    *,
    seeds: bool = False,
) -> Callable:
    """`steps.train_steps`, its step bound, over replicas.

    Args:
      seeds: runs are trained at once: state and batches have one more axis (after the
        replicas'), and key one.

    Returns:
      `(state, batches, n_steps, key, clips=None, arrays=None) -> (state, metrics)`, of which the
      state is donated, and `clips` and `arrays` are as `share` places them.
    """
    if seeds:
        train_steps = jax.vmap(train_steps, in_axes=(0, 0, None, 0, None, None))

    def call(state, batches, n_steps, key, shared):
        return train_steps(state, batches, n_steps, key, *shared)

    compiled = jax.pmap(
        call,
        axis_name=AXIS,
        # A nested entry: jax 0.10 takes flat ones for those of the leaves where, by chance, there
        # are as many leaves as arguments.
        in_axes=(0, 0, None, None, (0, 0)),
        donate_argnums=0,
        devices=_devices(n),
    )

    def train(state, batches, n_steps, key, clips=None, arrays=None):
        return compiled(state, batches, n_steps, key, (clips, arrays or {}))

    return train


def zeros(shapes, n: int | None = None):
    """Return zeros `[replica, …]` of a pytree of shapes; before a program takes them they are free.

    They lie in NumPy's memory, which no program writes to: the first one given them takes a copy.
    """
    if jax.process_count() > 1:
        return replicate(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes), n)
    shape = (n or n_replicas(),)
    zeros = jax.tree.map(lambda x: aligned_zeros((*shape, *x.shape), x.dtype), shapes)
    return jax.device_put(zeros, replicate(np.zeros(()), n).sharding, may_alias=True)


def pmap_eval(eval_step: Callable, n: int | None = None) -> Callable:
    """`eval_step(variables, batch)` over replicas; the variables are the same on all."""
    return jax.pmap(eval_step, axis_name=AXIS, in_axes=(None, 0), devices=_devices(n))


def _devices(n: int | None) -> list:
    """Return devices in order of process, so that replicas hold a batch's rows in order."""
    if n is None and jax.process_count() > 1:
        return sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return jax.local_devices()[: n or n_replicas()]
