"""Waveform → log-mel spectrogram, with torchaudio's meaning and nothing learned.

Everything is a pure function of arrays, follows its input's floating dtype (float32, or
float64 under `jax_enable_x64`) and runs inside jit, vmap and scan. The constant matrices of
`filters` are made by numpy when a function is traced.

Source: the official baseline's front end, i.e. torchaudio's `Resample` and `MelSpectrogram`
followed by log(x + 1e-5).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from asc_jax.features import filters
from asc_jax.features.per_clip import clip_by_clip
from asc_jax.types import Array

LOG_OFFSET = 1e-5  # added to mel power before the logarithm
GROUPS = {"cpu": 32, "gpu": 64}  # columns of a constant matrix multiplied together


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
    orig, new = filters.reduced_rates(orig_rate, new_rate)
    if orig == new:
        return waveform
    kernel = filters.resample_kernel(orig_rate, new_rate, waveform.dtype)
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


def sparse_resample(waveform: Array, orig_rate: int, new_rate: int) -> Array:
    """Change the sample rate as `resample` does, for rates with hardly a common divisor.

    For 44,101 → 32,000 Hz the dense kernel takes 5.6 GB, but only about 17 of the 44,119 taps of a
    phase lie under its window.

    Args, returns: as `resample`.
    """
    orig, new = filters.reduced_rates(orig_rate, new_rate)
    n_out = -(-waveform.shape[1] * new // orig)
    first, kernel = filters.sparse_resample_kernel(orig_rate, new_rate)  # [phase], [phase, tap]
    frame, phase = np.divmod(np.arange(n_out), new)
    taps = (frame * orig + first[phase])[:, None] + np.arange(kernel.shape[1])  # [out, tap]
    inside = (taps >= 0) & (taps < waveform.shape[1])
    weights = jnp.asarray(np.where(inside, kernel[phase], 0).astype(waveform.dtype))
    taps = jnp.asarray(np.clip(taps, 0, waveform.shape[1] - 1))
    return jax.lax.map(lambda clip: jnp.sum(clip[taps] * weights, axis=-1), waveform)


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
    window = filters.hann_window(win_length).astype(dtype)
    filterbank = filters.mel_filterbank(n_fft, n_mels, sample_rate, f_min, f_max).astype(dtype)

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
