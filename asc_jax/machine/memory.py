"""Memory that a CPU's programs read where it lies."""

import math
from collections.abc import Sequence

import numpy as np

ALIGNMENT = 64  # bytes, of XLA's arrays on a CPU


def aligned_zeros(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Return zeros aligned as XLA's memory is: a CPU's program takes others only as a copy.

    Memory that nothing is written to is not taken from the system.
    """
    size = math.prod(shape) * dtype.itemsize
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)
