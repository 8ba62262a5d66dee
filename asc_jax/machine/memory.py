"""Memory of a CPU's programs that is reused, or not taken before it is needed."""

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from asc_jax.types import Scratch

ALIGNMENT = 64  # bytes, of XLA's arrays on a CPU


def aligned_zeros(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Return zeros aligned as XLA's memory is: a CPU's program takes others only as a copy.

    Memory that nothing is written to is not taken from the system.
    """
    size = math.prod(shape) * dtype.itemsize
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


class ScratchMemory:
    """Memory for the results of a training step's layers: see `models.scratch_shapes_of`.

    A call takes it, and leaves it for the next one on clips of the same sizes, which waits for
    it. That need not find and clear it again, nor fill results before they are written.
    """

    def __init__(self, shapes: Callable, place: Callable):
        """`shapes(audio [b, …])`: a replica's. `place(shapes)`: zeros of all replicas."""
        self._shapes, self._place = shapes, place
        self._audio, self._arrays = None, None

    def take(self, batches: Mapping, clips: Mapping | None) -> Scratch:
        """Return the memory for a call of `pmap_train` on these arguments, which then owns it."""
        audio, arrays, self._arrays = _audio_of(batches, clips), self._arrays, None
        if arrays is None or audio != self._audio or not _is_sound(arrays):
            self._audio, arrays = audio, None  # gone before the new one comes
            shapes = self._shapes(audio)
            return self._place(shapes) if shapes else {}
        return arrays

    def leave(self, arrays: Scratch) -> None:
        """Give back what a call has returned of it."""
        self._arrays = arrays


def _audio_of(batches: Mapping, clips: Mapping | None) -> jax.ShapeDtypeStruct:
    """`[b, …]` of a replica's batch, as a step computes with it."""
    if clips is None:
        audio = batches["audio"]
        return jax.ShapeDtypeStruct(audio.shape[2:], audio.dtype)
    audio = clips["audio"]  # in int16, each clip has its scale
    shape = batches["mask"].shape[-1], *audio.shape[2:]
    return jax.ShapeDtypeStruct(shape, clips.get("audio_scale", audio).dtype)


def _is_sound(arrays: Scratch) -> bool:
    """Wait for it: a call that fails late leaves arrays that would have all later ones fail."""
    try:
        jax.block_until_ready(arrays)
    except jax.errors.JaxRuntimeError:
        return False
    return True
