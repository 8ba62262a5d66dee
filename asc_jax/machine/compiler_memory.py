"""What XLA's compiler leaves in the heap goes back to the system before the program runs.

The training step leaves half a gigabyte on a CPU: as much as the step itself needs, on top of
which it would come. glibc keeps what is freed below something that is not.
"""

import ctypes
import functools
import sys

import jax

COMPILED = "/jax/core/compile/backend_compile_duration"
AT_LEAST_S = 0.2  # a shorter compilation leaves little


@functools.cache
def give_back() -> None:
    """From now on, whenever something has been compiled; does nothing where glibc is not."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is None:
        return

    def compiled(event: str, seconds: float, **_) -> None:
        if event == COMPILED and seconds >= AT_LEAST_S:
            trim(0)

    jax.monitoring.register_event_duration_secs_listener(compiled)
