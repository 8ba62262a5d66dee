"""The cost of a front end on a chip: products, tables and memory, from its config alone.

The task counts none of it. One rule, for a front end that takes a clip frame by frame in float32: a
real multiplication counts one MAC, with the addition that follows it or without one, and a complex
product four. So for a frame

- the window costs `win_length`;
- the Fourier transform of n real samples costs n · log2(n): a transform of n / 2 complex values by
  radix 2, which has n / 4 · log2(n / 2) products, and n / 4 products that part its result;
- the powers cost 2 for each of the n / 2 + 1 frequencies;
- the mel bands cost one for each weight that is not 0.

Pre-emphasis costs one for each sample of the clip. Logarithms are no products and are counted
apart. A sample rate other than that of the microphone costs more: resampling is not counted.
"""

import math
from collections.abc import Mapping

import numpy as np

from asc_jax import features
from asc_jax.features import filters

FLOAT_BYTES = 4
INDEX_BYTES = 2  # of a band's first frequency and of its number of weights


def examine(n_samples: int, front_end: Mapping) -> dict:
    """Return what a front end costs for a clip.

    Args:
      n_samples: of the clip.
      front_end: the keywords of `features.log_mel`.

    Returns:
      `macs`: by part; `n_macs`: their sum; `n_logarithms`; `tables`: bytes in flash by name, all
      float32; `table_bytes`: their sum; `ram`: bytes for the samples of a frame and its transform,
      which is done in place.

    Example:
      >>> cost = examine(16_000, dict(sample_rate=16_000, n_fft=1024, win_length=1024, n_mels=64,
      ...                             hop_length=320, f_min=0.0, f_max=8_000.0))
      >>> cost["macs"]["FFT"], cost["tables"]["window"], cost["ram"]
      (522240, 4096, 8192)
    """
    n_frames = features.n_frames(n_samples, **front_end)
    n_fft, win_length = front_end["n_fft"], front_end["win_length"]
    n_weights = n_mel_weights(**front_end)
    macs = {
        "pre-emphasis": n_samples - 1 if front_end.get("pre_emphasis") else 0,
        "window": n_frames * win_length,
        "FFT": n_frames * math.ceil(n_fft * math.log2(n_fft)),
        "power": n_frames * 2 * (n_fft // 2 + 1),
        "mel": n_frames * n_weights,
    }
    tables = {
        "window": FLOAT_BYTES * win_length,
        "FFT twiddles": FLOAT_BYTES * 2 * (n_fft // 2),  # cosine and sine of half a turn
        "mel weights": FLOAT_BYTES * n_weights + 2 * INDEX_BYTES * front_end["n_mels"],
    }
    return {
        "macs": macs,
        "n_macs": sum(macs.values()),
        "n_logarithms": n_frames * front_end["n_mels"],
        "tables": tables,
        "table_bytes": sum(tables.values()),
        "ram": FLOAT_BYTES * (win_length + n_fft),
    }


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
    """Return how many weights of the mel filterbank are not 0; the keywords of `log_mel`."""
    bank = filters.filterbank(mel_scale, n_fft, n_mels, sample_rate, f_min, f_max)
    return int(np.count_nonzero(bank))
