"""The cost of a front end on a chip: products, tables and memory, from its config alone.

The task counts none of it. One rule, for a front end that takes a clip frame by frame in float32,
as the C library does: a multiplication of two real numbers counts one MAC, with the addition that
follows it or without one, and a complex product four. So for a frame

- the window costs `win_length`;
- the Fourier transform of `n_fft` real samples costs what the split-radix algorithm multiplies
  (`fft_macs`), and n · log2(n) where n is no power of two, which is an estimate;
- the powers cost `n_fft`: two for each frequency but the first and the last;
- the mel bands cost one for each weight that is stored.

Pre-emphasis costs one for each sample of the clip but the first. Logarithms are counted apart. A
microphone of another sample rate needs resampling, which is not counted.
"""

import functools
import math
from collections.abc import Mapping

import numpy as np

from asc_jax import features
from asc_jax.features import filters

FLOAT_BYTES = 4
INDEX_BYTES = 2  # of a band's first frequency and of its number of weights
N_COUNTERS = 7  # of 4 bytes, that a stream needs beside its samples


def examine(n_samples: int, front_end: Mapping) -> dict:
    """Return what a front end costs for a clip.

    Args:
      n_samples: of the clip.
      front_end: the keywords of `features.log_mel`.

    Returns:
      `macs`: by part; `n_macs`: their sum; `n_logarithms`; `tables`: bytes in flash by name: the
      window, the sines of a quarter turn, and the mel weights with the first frequency and the
      number of weights of every band; `table_bytes`: their sum; `ram`: bytes of the last
      `win_length` + 1 samples and of the frame, which is transformed in place.

    Example:
      >>> cost = examine(16_000, dict(sample_rate=16_000, n_fft=1024, win_length=1024, n_mels=64,
      ...                             hop_length=320, f_min=0.0, f_max=8_000.0))
      >>> cost["macs"]["window"], cost["tables"]["window"], cost["ram"]
      (52224, 4096, 8224)
    """
    n_frames = features.n_frames(n_samples, **front_end)
    n_fft, win_length, n_mels = (front_end[key] for key in ("n_fft", "win_length", "n_mels"))
    n_weights = n_mel_weights(**front_end)
    macs = {
        "pre-emphasis": n_samples - 1 if front_end.get("pre_emphasis") else 0,
        "window": n_frames * win_length,
        "FFT": n_frames * fft_macs(n_fft),
        "power": n_frames * n_fft,
        "mel": n_frames * n_weights,
    }
    tables = {
        "window": FLOAT_BYTES * win_length,
        "sines": FLOAT_BYTES * (n_fft // 4 + 1),
        "mel weights": FLOAT_BYTES * n_weights + 2 * INDEX_BYTES * n_mels,
    }
    return {
        "macs": macs,
        "n_macs": sum(macs.values()),
        "n_logarithms": n_frames * n_mels,
        "tables": tables,
        "table_bytes": sum(tables.values()),
        "ram": FLOAT_BYTES * (win_length + 1 + n_fft + N_COUNTERS),
    }


@functools.cache
def fft_macs(n: int) -> int:
    """Return the real multiplications of a Fourier transform of n real numbers.

    A transform of n has one of n / 2 and two of n / 4 in it, which n / 4 - 2 complex products and
    two real ones join.

    Source: H. V. Sorensen et al., "Real-valued fast Fourier transform algorithms", IEEE
      Transactions on Acoustics, Speech, and Signal Processing 1987, with four multiplications to
      a complex product.

    Example:
      >>> fft_macs(4), fft_macs(8), fft_macs(16)
      (0, 2, 12)
    """
    if n & (n - 1):
        return math.ceil(n * math.log2(n))
    if n < 8:
        return 0
    return fft_macs(n // 2) + 2 * fft_macs(n // 4) + 4 * (n // 4 - 2) + 2


def n_mel_weights(
    *,
    n_fft: int,
    n_mels: int,
    sample_rate: int,
    f_min: float,
    f_max: float,
    mel_scale: str = "htk",
    **others,
) -> int:
    """Return how many weights of the mel filterbank are stored: from a band's first to its last.

    The keywords are those of `log_mel`.
    """
    bank = filters.filterbank(mel_scale, n_fft, n_mels, sample_rate, f_min, f_max)
    bands = [np.flatnonzero(band) for band in bank.T]
    return sum(int(band[-1] - band[0]) + 1 for band in bands if band.size)
