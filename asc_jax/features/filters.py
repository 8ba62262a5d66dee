"""The front end's constant matrices: resampling kernel, Hann window, mel filterbank.

Made by numpy alone. In float32 the kernel and the filterbanks equal torchaudio's bit for bit.
"""

import math

import numpy as np

from asc_jax.errors import expect

LOWPASS_WIDTH = 6  # zero crossings of the resampling sinc, one side
ROLLOFF = 0.99  # cut-off as a share of the lower Nyquist rate


def resample_kernel(orig_rate: int, new_rate: int, dtype=np.float32) -> np.ndarray:
    """Polyphase windowed-sinc kernel from `orig_rate` to `new_rate`.

    In float32 only the phase −i / new is rounded to float32 and the rest is computed in
    float64, as torchaudio does: that reproduces its kernel bit for bit.

    Args:
      orig_rate: rate of the input, Hz, > 0.
      new_rate: rate of the output, Hz, > 0.
      dtype: float32 or float64.

    Returns:
      `[n_phases, n_taps]` of `dtype`: row i makes every output sample n with
      n mod n_phases = i, where n_phases = new_rate / gcd.

    Source: torchaudio.functional.resample, method sinc_interp_hann.

    Example:
      >>> resample_kernel(44_100, 32_000).shape
      (320, 459)
    """
    orig, new = reduced_rates(orig_rate, new_rate)
    base = min(orig, new) * ROLLOFF
    width = math.ceil(LOWPASS_WIDTH * orig / base)
    taps = np.arange(-width, width + orig, dtype=np.float64) / orig
    phase = (np.arange(0, -new, -1, dtype=dtype) / np.asarray(new, dtype)).astype(dtype)
    t = (phase[:, None].astype(np.float64) + taps) * base
    return (_windowed_sinc(t) * (base / orig)).astype(dtype)


def sparse_resample_kernel(orig_rate: int, new_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the nonzero taps of `resample_kernel`, for rates with hardly a common divisor.

    Returns:
      The position of the first tap, `[n_phases]` int64, relative to input sample 0 of a frame;
      and the values, `[n_phases, n_taps]` float64, of float32 phases as in the dense kernel.
    """
    orig, new = reduced_rates(orig_rate, new_rate)
    base = min(orig, new) * ROLLOFF
    phase = np.arange(0, -new, -1, dtype=np.float32) / np.float32(new)
    phase = phase.astype(np.float64)[:, None]
    reach = LOWPASS_WIDTH * orig / base
    first = np.ceil(-phase * orig - reach).astype(np.int64)  # [phase, 1]
    taps = first + np.arange(math.floor(2 * reach) + 1)
    return first[:, 0], _windowed_sinc((phase + taps / orig) * base) * (base / orig)


def _windowed_sinc(t: np.ndarray) -> np.ndarray:
    """Return sinc(t) under a cos² that ends at LOWPASS_WIDTH zero crossings."""
    t = np.clip(t, -LOWPASS_WIDTH, LOWPASS_WIDTH)
    return np.sinc(t) * np.cos(t * np.pi / LOWPASS_WIDTH / 2) ** 2


def reduced_rates(orig_rate: int, new_rate: int) -> tuple[int, int]:
    """Both rates without their greatest common divisor."""
    gcd = math.gcd(int(orig_rate), int(new_rate))
    return int(orig_rate) // gcd, int(new_rate) // gcd


def mel_filterbank(
    n_fft: int, n_mels: int, sample_rate: int, f_min: float, f_max: float, dtype=np.float32
) -> np.ndarray:
    """Triangular filters, equally spaced on the HTK mel scale, not normalised.

    Args:
      n_fft: samples of the Fourier transform.
      n_mels: number of filters.
      sample_rate: Hz.
      f_min: lower edge of the first filter, Hz.
      f_max: upper edge of the last filter, Hz.
      dtype: float32 (rounded where torchaudio rounds: equal bit for bit) or float64.

    Returns:
      `[n_fft // 2 + 1, n_mels]` of `dtype`, weights in [0, 1].

    Source: torchaudio.functional.melscale_fbanks, mel_scale="htk", norm=None.
    """
    dtype = np.dtype(dtype).type
    freqs = _linspace(0.0, float(sample_rate // 2), n_fft // 2 + 1, dtype)
    low, high = (2595.0 * math.log10(1.0 + f / 700.0) for f in (f_min, f_max))
    mels = _linspace(low, high, n_mels + 2, dtype)
    edges = dtype(700.0) * (_power_of_10(mels / dtype(2595.0)) - dtype(1.0))
    slopes = edges[None, :] - freqs[:, None]  # [f, n_mels + 2]
    widths = np.diff(edges)
    up = -slopes[:, :-2] / widths[:-1]
    down = slopes[:, 2:] / widths[1:]
    return np.maximum(np.minimum(up, down), dtype(0.0))


def kaldi_filterbank(
    n_fft: int, n_mels: int, sample_rate: int, f_min: float, f_max: float, dtype=np.float32
) -> np.ndarray:
    """Kaldi's filters: triangles over mel, where those of `mel_filterbank` are over frequency.

    The bin of half the sample rate counts in no band.

    Args, returns: as `mel_filterbank`.

    Source: torchaudio.compliance.kaldi.get_mel_banks without warping.
    """
    dtype = np.dtype(dtype).type
    low, high = (1127.0 * math.log(1.0 + f / 700.0) for f in (f_min, f_max))
    freqs = dtype(sample_rate / n_fft) * np.arange(n_fft // 2 + 1).astype(dtype)
    ratio = (dtype(1.0) + freqs / dtype(700.0)).astype(np.float64)
    mels = (dtype(1127.0) * np.log(ratio).astype(dtype))[:, None]  # [f, 1]
    steps = np.arange(n_mels + 2).astype(dtype) * dtype((high - low) / (n_mels + 1))
    edges = dtype(low) + steps
    up = (mels - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - mels) / (edges[2:] - edges[1:-1])
    weights = np.maximum(np.minimum(up, down), dtype(0.0))
    weights[n_fft // 2 :] = 0
    return weights


FILTERBANKS = ("htk", "kaldi")  # values of `mel_scale`
WINDOWS = ("hann", "hann_symmetric")


def filterbank(
    mel_scale: str,
    n_fft: int,
    n_mels: int,
    sample_rate: int,
    f_min: float,
    f_max: float,
    dtype=np.float32,
) -> np.ndarray:
    """Return `mel_filterbank` for the scale "htk" and `kaldi_filterbank` for "kaldi"."""
    expect("mel_scale", mel_scale, mel_scale in FILTERBANKS, " or ".join(FILTERBANKS))
    make = mel_filterbank if mel_scale == "htk" else kaldi_filterbank
    return make(n_fft, n_mels, sample_rate, f_min, f_max, dtype)


def n_empty_bands(mel_scale: str, n_fft: int, n_mels: int, *rate_and_edges: float) -> int:
    """Return how many mel bands lie between two frequencies of the FFT: they are always silent.

    Args: as of `filterbank`.
    """
    weights = filterbank(mel_scale, n_fft, n_mels, *rate_and_edges, np.float64)
    return int((weights.max(axis=0) <= 0).sum())


def window(name: str, n_samples: int) -> np.ndarray:
    """Return the window "hann", which is periodic, or "hann_symmetric": `[n_samples]` float32."""
    expect("window", name, name in WINDOWS, " or ".join(WINDOWS))
    return hann_window(n_samples) if name == "hann" else symmetric_hann_window(n_samples)


def hann_window(n_samples: int) -> np.ndarray:
    """Periodic Hann window, `[n_samples]` float32, its phase rounded to float32 as PyTorch's."""
    return _hann(n_samples, n_samples)


def symmetric_hann_window(n_samples: int) -> np.ndarray:
    """Hann window whose last sample equals its first, `[n_samples]` float32."""
    return _hann(n_samples, max(n_samples - 1, 1))


def _hann(n_samples: int, period: int) -> np.ndarray:
    phase = np.arange(n_samples, dtype=np.float32) * np.float32(2 * np.pi / period)
    cosine = np.cos(phase.astype(np.float64)).astype(np.float32)
    return np.float32(0.5) - np.float32(0.5) * cosine


def _linspace(start: float, stop: float, n: int, dtype) -> np.ndarray:
    """`n` points counted from both ends with fused multiply-adds, as torch.linspace does."""
    start, stop = dtype(start), dtype(stop)
    step = np.float64(dtype((stop - start) / dtype(n - 1)))
    index = np.arange(n)
    forward, backward = start + step * index, stop - step * (n - 1 - index)
    return np.where(index < n // 2, forward, backward).astype(dtype)


def _power_of_10(x: np.ndarray) -> np.ndarray:
    """10 ** x; in float32 to the bit what PyTorch's vectorised `pow` gives.

    There the last step, exp on [−ln 2 / 2, ln 2 / 2], is a polynomial evaluated in float32,
    which rounds four of 258 band edges the other way than an exact power would.
    Source of the coefficients: SLEEF's single-precision exponential.
    """
    if x.dtype == np.float64:
        return np.power(10.0, x)
    exponent = x.astype(np.float64) * math.log(10.0)
    octaves = np.rint(exponent / math.log(2.0))
    rest = exponent - octaves * math.log(2.0)
    rounded = rest.astype(np.float32).astype(np.float64)
    poly = np.full_like(rest, np.float32(0.001363246468))
    for c in (0.008365969174, 0.04167108238, 0.1666655242, 0.4999998510):
        poly = (poly * rounded + np.float32(c)).astype(np.float32).astype(np.float64)
    return ((1.0 + (rest + rest**2 * poly)) * np.exp2(octaves)).astype(np.float32)
