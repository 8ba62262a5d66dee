"""Waveform → log-mel spectrogram, with torchaudio's meaning and nothing learned.

Everything is a pure function of arrays, follows its input's floating dtype (float32, or
float64 under `jax_enable_x64`) and runs inside jit, vmap and scan. The constant matrices
(resampling kernel, window, mel filterbank) are made by numpy when a function is traced.

Source: the official baseline's front end, i.e. torchaudio's `Resample` and `MelSpectrogram`
followed by log(x + 1e-5).
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from asc_jax.per_clip import clip_by_clip
from asc_jax.types import Array

LOG_OFFSET = 1e-5  # added to mel power before the logarithm
LOWPASS_WIDTH = 6  # zero crossings of the resampling sinc, one side
ROLLOFF = 0.99  # cut-off as a share of the lower Nyquist rate
GROUPS = {"cpu": 32, "gpu": 64}  # columns of a constant matrix multiplied together


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
    orig, new = _reduced(orig_rate, new_rate)
    base = min(orig, new) * ROLLOFF
    width = math.ceil(LOWPASS_WIDTH * orig / base)
    taps = np.arange(-width, width + orig, dtype=np.float64) / orig
    phase = (np.arange(0, -new, -1, dtype=dtype) / np.asarray(new, dtype)).astype(dtype)
    t = (phase[:, None].astype(np.float64) + taps) * base
    t = np.clip(t, -LOWPASS_WIDTH, LOWPASS_WIDTH)
    window = np.cos(t * np.pi / LOWPASS_WIDTH / 2) ** 2
    return (np.sinc(t) * window * (base / orig)).astype(dtype)


def resample(
    waveform: Array, orig_rate: int, new_rate: int, *, banded: bool | None = None
) -> Array:
    """Change the sample rate.

    Args:
      waveform: `[b, n_samples]` floating, amplitude in [-1, 1).
      orig_rate: its rate, Hz.
      new_rate: the wanted rate, Hz.
      banded: multiply with the nonzero bands of the kernel only; None: not on a TPU, and in
        groups as suits the machine. The last bits depend on it.

    Returns:
      `[b, ceil(n_samples · new_rate / orig_rate)]` of the same dtype. Samples beyond either
      end count as zero.

    Raises:
      ValueError: a rate is not a positive integer.

    Source: torchaudio.transforms.Resample with its defaults.

    Example:
      >>> resample(jnp.zeros((1, 44_100)), 44_100, 32_000).shape
      (1, 32000)
    """
    if min(orig_rate, new_rate) <= 0 or orig_rate != int(orig_rate) or new_rate != int(new_rate):
        raise ValueError(f"rates must be positive integers, got {orig_rate} and {new_rate}")
    orig, new = _reduced(orig_rate, new_rate)
    if orig == new:
        return waveform
    kernel = resample_kernel(orig_rate, new_rate, waveform.dtype)
    n_taps = kernel.shape[1]
    n_out = -(-waveform.shape[1] * new // orig)
    n_frames = -(-n_out // new)
    width = (n_taps - orig) // 2
    # Row i of `frames` holds the n_taps samples around input sample i · orig.
    n_rows = n_frames + -(-n_taps // orig)
    end = n_rows * orig - width - waveform.shape[1]
    rows = jnp.pad(waveform, ((0, 0), (width, max(end, 0))))[:, : n_rows * orig]
    rows = rows.reshape(-1, n_rows, orig)  # [b, row, sample]
    parts = [rows[:, i : i + n_frames, : n_taps - i * orig] for i in range(-(-n_taps // orig))]
    frames = jnp.concatenate(parts, axis=-1)  # [b, frame, tap]
    return _banded_dot(frames, kernel.T, banded).reshape(-1, n_frames * new)[:, :n_out]


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


def hann_window(n_samples: int) -> np.ndarray:
    """Periodic Hann window, `[n_samples]` float32, its phase rounded to float32 as PyTorch's."""
    phase = np.arange(n_samples, dtype=np.float32) * np.float32(2 * np.pi / n_samples)
    cosine = np.cos(phase.astype(np.float64)).astype(np.float32)
    return np.float32(0.5) - np.float32(0.5) * cosine


def mel_power(
    waveform: Array,
    *,
    sample_rate: int,
    n_fft: int,
    win_length: int,
    hop_length: int,
    n_mels: int,
    f_min: float,
    f_max: float,
    banded: bool | None = None,
) -> Array:
    """Power in mel bands, before the logarithm.

    Frames are centred by reflection; the periodic Hann window is centred in `n_fft`. Only
    the `win_length` samples under the window are transformed: the zeros beside them would
    turn the phase and leave the power as it is.

    Args:
      waveform: `[b, n_samples]` floating, amplitude in [-1, 1).
      sample_rate: Hz.
      n_fft: samples of the Fourier transform.
      win_length: samples of the window, ≤ n_fft.
      hop_length: samples between frames.
      n_mels: number of mel bands.
      f_min: lower edge of the lowest band, Hz.
      f_max: upper edge of the highest band, Hz.
      banded: see `resample`.

    Returns:
      `[b, n_mels, n_frames]` ≥ 0, same dtype, n_frames = n_samples // hop_length + 1.

    Raises:
      ValueError: the window is longer than n_fft, or the waveform shorter than half of it.

    Source: torchaudio.transforms.MelSpectrogram(power=2, center=True, pad_mode="reflect").
    """
    n_samples = waveform.shape[-1]
    if win_length > n_fft:
        raise ValueError(f"win_length {win_length} is longer than n_fft {n_fft}")
    left = n_fft // 2 - (n_fft - win_length) // 2  # reflected samples under the first window
    right = win_length - left
    if n_samples <= max(left, right):
        raise ValueError(f"{n_samples} samples are too few for a window of {win_length}")
    dtype = waveform.dtype
    n_frames = n_samples // hop_length + 1
    # Window and filterbank hold float32 values also where the rest is float64, as
    # torchaudio's do.
    window = hann_window(win_length).astype(dtype)
    filterbank = mel_filterbank(n_fft, n_mels, sample_rate, f_min, f_max).astype(dtype)

    def clip_mel_power(clip: Array) -> Array:  # [n_samples] -> [n_mels, t]
        # Written out: a GPU would roll and reflect again for each of the frames of a sample.
        padded = jax.lax.optimization_barrier(jnp.pad(clip, (left, right), mode="reflect"))
        starts = range(0, n_frames * hop_length, hop_length)
        frames = jnp.stack([padded[s : s + win_length] for s in starts])  # [t, sample]
        spectrum = jnp.fft.rfft(frames * window[None], n=n_fft)
        power = jnp.real(spectrum) ** 2 + jnp.imag(spectrum) ** 2
        return _banded_dot(power, filterbank, banded).T

    return clip_by_clip(clip_mel_power, waveform)


def log_compress(power: Array) -> Array:
    """`[b, n_mels, n_frames]` power → `[b, n_mels, n_frames, 1]`, natural log of x + 1e-5."""
    return jnp.log(power + jnp.asarray(LOG_OFFSET, power.dtype))[..., None]


def log_mel(waveform: Array, **features) -> Array:
    """Log-mel spectrogram, the input of the network.

    Args:
      waveform: `[b, n_samples]` floating, amplitude in [-1, 1).
      **features: the keywords of `mel_power`.

    Returns:
      `[b, n_mels, n_frames, 1]`, natural logarithm, same dtype.

    Example:
      >>> log_mel(jnp.zeros((2, 32_000)), sample_rate=32_000, n_fft=4096, win_length=3072,
      ...         hop_length=472, n_mels=256, f_min=0.0, f_max=16_000.0).shape
      (2, 256, 68, 1)
    """
    return log_compress(mel_power(waveform, **features))


def n_frames(n_samples: int, hop_length: int) -> int:
    """Frames that `log_mel` makes of `n_samples` samples."""
    return n_samples // hop_length + 1


def _reduced(orig_rate: int, new_rate: int) -> tuple[int, int]:
    gcd = math.gcd(int(orig_rate), int(new_rate))
    return int(orig_rate) // gcd, int(new_rate) // gcd


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


def _banded_dot(x: Array, matrix: np.ndarray, banded: bool | None = None) -> Array:
    """`x @ matrix` for a constant matrix whose columns are nonzero in a narrow band.

    Columns are taken in groups, each multiplied with just the rows that it touches: both the
    resampling kernel and the mel filterbank are nearly empty.
    """
    backend = jax.default_backend()
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    if not (backend in GROUPS if banded is None else banded):
        return product(x, jnp.asarray(matrix))
    # Asked for, it is the same everywhere: a data set's bits must not depend on the machine.
    group, parts = GROUPS["cpu" if banded else backend], []
    for band in np.split(matrix, range(group, matrix.shape[1], group), axis=1):
        rows = np.flatnonzero(np.any(band != 0, axis=1))
        low, high = (rows[0], rows[-1] + 1) if rows.size else (0, 1)
        parts.append(product(x[..., low:high], jnp.asarray(band[low:high])))
    return jnp.concatenate(parts, axis=-1)
