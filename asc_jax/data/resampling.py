"""The rates that clips are stored at, and the resampling that every clip goes through.

A clip of a data set and a window of a recording that is predicted are resampled by the same
program, each by itself, so that a network hears the same of both.
"""

import functools
import math
from collections.abc import Callable

SAMPLE_RATE = 32_000  # Hz, of what is stored unless asked otherwise
# Hz; 44,100 is the rate of TAU's recordings, of which nothing is resampled then.
STORED_RATES = (8000, 11_025, 12_000, 16_000, 22_050, 24_000, SAMPLE_RATE, 44_100, 48_000)
RESAMPLER = 1  # goes up when the same file gives other numbers: data sets are then built again
MAX_KERNEL = 2**21  # values: a larger resampling kernel is nearly all zeros, see `sparse_resample`


@functools.lru_cache(maxsize=16)
def resampler(rate: int, new_rate: int) -> Callable:
    """Return `[b, n]` float32 → `[b, ceil(n · new_rate / rate)]`, on the CPU.

    No GPU changes the bits of a data set, and a recording gets the same ones. Rates with hardly a
    common divisor take `sparse_resample`.

    Args:
      rate: Hz.
      new_rate: Hz.
    """
    import jax

    from asc_jax import features
    from asc_jax.features.front_end import sparse_resample

    divisor = math.gcd(rate, new_rate)
    orig, new = rate // divisor, new_rate // divisor
    if new * (orig + new) <= MAX_KERNEL:
        resample = functools.partial(features.resample, banded=True)
    else:
        resample = sparse_resample
    jitted = jax.jit(lambda waveform: resample(waveform, rate, new_rate))
    cpu = jax.devices("cpu")[0]
    return lambda waveform: jitted(jax.device_put(waveform, cpu))
