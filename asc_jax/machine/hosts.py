"""Agreement between the processes of a run. With one process these functions do nothing.

Process 0 alone reads and writes the workdir: the others compute the same state, and keep what
they would write in a folder that is thrown away.
"""

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from asc_jax.errors import Interrupted, UserError


@contextlib.contextmanager
def own_workdir(workdir) -> Iterator:
    """The workdir in process 0, a folder of its own in every other."""
    if jax.process_index() == 0:
        yield workdir
        return
    with tempfile.TemporaryDirectory(prefix="asc_jax-") as folder:
        try:
            yield folder
        except Interrupted as stop:
            raise Interrupted("stopped with process 0, which saved", stop.signal_number) from stop
        except UserError as error:
            if folder not in str(error):
                raise
            raise UserError("stopped with process 0, which says why") from error


def any_process(flag) -> bool:
    """Return whether a value is true in any process; every process must call this."""
    if jax.process_count() == 1:
        return bool(flag)
    return bool(np.any(multihost_utils.process_allgather(np.asarray(bool(flag)))))


def first_says(flag: bool) -> bool:
    """Return the value of process 0 in every process; every process must call this."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(flag)))


def from_first(restored, like):
    """Return what process 0 restored, `(state, extra, step)` or None, bit for bit, everywhere.

    Args:
      restored: in process 0; what the others give does not matter.
      like: a state of the same structure, shapes and dtypes.
    """
    if jax.process_count() == 1:
        return restored
    state, extra, step = restored or (None, None, None)
    head = _broadcast(json.dumps([extra, step]).encode())
    extra, step = json.loads(head)
    if step is None:
        return None
    leaves, structure = jax.tree.flatten(like)
    if jax.process_index() == 0:
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
    else:
        leaves = [np.zeros(leaf.shape, leaf.dtype) for leaf in leaves]
    data, out, start = _broadcast(b"".join(leaf.tobytes() for leaf in leaves)), [], 0
    for leaf in leaves:
        flat = np.frombuffer(data, leaf.dtype, leaf.size, start)
        out.append(flat.reshape(leaf.shape).copy())
        start += leaf.nbytes
    return jax.tree.unflatten(structure, out), extra, step


def require_same(**values) -> None:
    """Every process must have the same values, or the run would be none of theirs.

    Raises:
      UserError: in all processes; it names those that differ.
    """
    if jax.process_count() == 1:
        return
    own = [hashlib.sha256(str(value).encode()).digest() for value in values.values()]
    own = np.array([np.frombuffer(digest, np.uint8) for digest in own])
    everywhere = np.asarray(multihost_utils.process_allgather(own))  # [process, value, byte]
    differs = (everywhere != everywhere[:1]).any(axis=(0, 2))
    if differs.any():
        names = [name for name, wrong in zip(values, differs, strict=True) if wrong]
        raise UserError(
            f"the processes of this run differ in {' and '.join(names)}: start all of them with "
            "the same command, on copies of the same data set"
        )


def _broadcast(data: bytes) -> bytes:
    """Process 0's bytes, in every process."""
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    content = np.zeros(length, np.uint8)
    if jax.process_index() == 0:
        content[:] = np.frombuffer(data, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(content)).tobytes()
