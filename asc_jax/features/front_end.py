"""Waveform → log-mel spectrogram, with torchaudio's meaning and nothing learned.

Everything is a pure function of arrays, follows its input's floating dtype (float32, or
float64 under `jax_enable_x64`) and runs inside jit, vmap and scan. The constant matrices of
`filters` are made by numpy when a function is traced.

Source: the official baseline's front end, i.e. torchaudio's `Resample` and `MelSpectrogram`
followed by log(x + 1e-5). The values of `log_mel` beyond it make those of CP-Mobile 2023 and of
TF-SepNet: docs/front_ends.md.
"""

import functools
import math
from collections.abc import Callable

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
    pre_emphasis: float = 0.0,
    window: str = "hann",
    mel_scale: str = "htk",
    banded: bool | None = None,
    bands_of: Callable | None = None,
) -> Array:
    """Power in mel bands, before the logarithm.

    Frames are centred by reflection; the Hann window is centred in `n_fft`. Only the `win_length`
    samples under the window are transformed: the zeros beside them would turn the phase and leave
    the power as it is.

    Args:
      waveform: `[b, n_samples]` floating, amplitude in [-1, 1).
      sample_rate: Hz.
      n_fft: samples of the Fourier transform.
      win_length: samples of the window, ≤ n_fft.
      hop_length: samples between frames.
      n_mels: number of mel bands.
      f_min: lower edge of the lowest band, Hz.
      f_max: upper edge of the highest band, Hz.
      pre_emphasis: the part of each sample that is subtracted from the next one, in [0, 1). Unless
        it is 0 this takes one sample off the start of the clip, and often a frame with it.
      window: a value of `filters.WINDOWS`.
      mel_scale: a value of `filters.FILTERBANKS`.
      banded: see `resample`.
      bands_of: what multiplies power spectra `[t, n_fft // 2 + 1]` with another filterbank, as
        `jittered_bands` returns it; None: with that of the other values.

    Returns:
      `[b, n_mels, n_frames]` ≥ 0, same dtype; `n_frames` says how many.

    Raises:
      ValueError: the window is longer than n_fft, or the waveform shorter than half of it.

    Source: torchaudio.transforms.MelSpectrogram(power=2, center=True, pad_mode="reflect").
    """
    n_samples = _n_framed(waveform.shape[-1], pre_emphasis)
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
    weights = filters.window(window, win_length).astype(dtype)
    bank = mel_scale, n_fft, n_mels, sample_rate, f_min, f_max
    filterbank = filters.filterbank(*bank).astype(dtype)

    def clip_mel_power(clip: Array) -> Array:  # [n_samples] -> [n_mels, t]
        if pre_emphasis:
            clip = clip[1:] - jnp.asarray(pre_emphasis, dtype) * clip[:-1]
        # Written out: a GPU would roll and reflect again for each of the frames of a sample.
        padded = jax.lax.optimization_barrier(jnp.pad(clip, (left, right), mode="reflect"))
        starts = range(0, n_frames * hop_length, hop_length)
        frames = jnp.stack([padded[s : s + win_length] for s in starts])  # [t, sample]
        spectrum = jnp.fft.rfft(frames * weights[None], n=n_fft)
        power = jnp.real(spectrum) ** 2 + jnp.imag(spectrum) ** 2
        if bands_of is not None:
            return bands_of(power).T
        return _banded_dot(power, filterbank, banded).T

    return clip_by_clip(clip_mel_power, waveform)


def log_compress(power: Array) -> Array:
    """`[b, n_mels, n_frames]` power → `[b, n_mels, n_frames, 1]`, natural log of x + 1e-5."""
    return jnp.log(power + jnp.asarray(LOG_OFFSET, power.dtype))[..., None]


def jittered_bands(
    key: Array,
    *,
    f_min_jitter: float,
    f_max_jitter: float,
    f_min: float,
    f_max: float,
    n_fft: int,
    n_mels: int,
    sample_rate: int,
    mel_scale: str = "htk",
    dtype=jnp.float32,
    **others,
) -> Callable[[Array], Array]:
    """Draw the edges of a mel filterbank, and return what multiplies power spectra with it.

    Args:
      key: of the draw.
      f_min_jitter: the lower edge is drawn evenly from `f_min` to `f_min + f_min_jitter`, Hz.
      f_max_jitter: the upper edge from `f_max - f_max_jitter / 2` to `f_max + f_max_jitter / 2`.
      dtype: of the filterbank.
      **others: of the keywords of `log_mel`, the rest.

    Returns:
      `[t, n_fft // 2 + 1]` → `[t, n_mels]`.

    Source: the training of CP-Mobile 2023, where the ranges are 0 and 1,000 Hz.
    """
    lowest = f_min, f_max - f_max_jitter / 2
    highest = f_min + f_min_jitter, f_max + f_max_jitter / 2
    draw = jax.random.uniform(key, (2,), dtype)
    low, high = (a + u * (b - a) for a, b, u in zip(lowest, highest, draw, strict=True))
    # Both scales are multiples of ln(1 + f / 700), and their triangles do not depend on which.
    mels = [jnp.log1p(f / 700.0) for f in (low, high)]
    share = jnp.arange(n_mels + 2, dtype=dtype) / (n_mels + 1)
    edges = mels[0] + share * (mels[1] - mels[0])
    if mel_scale == "kaldi":
        freqs = np.arange(n_fft // 2 + 1) * (sample_rate / n_fft)
        places = np.log1p(freqs / 700.0)
        places[n_fft // 2 :] = np.inf
    else:
        places = freqs = np.linspace(0, sample_rate // 2, n_fft // 2 + 1)
        edges = 700.0 * jnp.expm1(edges)
    group = GROUPS.get(jax.default_backend(), n_mels)
    reach = _reach(lowest, highest, n_mels, freqs[1], len(freqs))
    blocks = []
    for first in range(0, n_mels, group):
        last = min(first + group, n_mels)
        rows = slice(reach[first][0], reach[last - 1][1])
        place = jnp.asarray(places[rows], dtype)[:, None]
        left, top, right = (edges[None, first + k : last + k] for k in range(3))
        up, down = (place - left) / (top - left), (right - place) / (right - top)
        blocks.append((rows, jnp.maximum(jnp.minimum(up, down), 0)))

    def bands_of(power: Array) -> Array:
        product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
        parts = [product(power[:, rows], block.astype(power.dtype)) for rows, block in blocks]
        return jnp.concatenate(parts, axis=-1)

    return bands_of


def _reach(lowest, highest, n_mels: int, hz_per_bin: float, n_bins: int) -> list[tuple[int, int]]:
    """Return the first bin of each band with the lowest edges, and the last with the highest.

    An edge moves up with either end of the range, so no other edges reach further. A bin more on
    either side is for rounding.
    """
    ends = []
    for f_min, f_max in (lowest, highest):
        mels = np.linspace(math.log1p(f_min / 700), math.log1p(f_max / 700), n_mels + 2)
        ends.append(700 * np.expm1(mels) / hz_per_bin)
    first = np.maximum(np.floor(ends[0][:-2]).astype(int) - 1, 0)
    last = np.minimum(np.ceil(ends[1][2:]).astype(int) + 2, n_bins)
    return list(zip(first.tolist(), last.tolist(), strict=True))


def normalise(log_mel: Array, *, norm_mean: float = 0.0, norm_std: float = 1.0) -> Array:
    """Return (log_mel − norm_mean) / norm_std; with 0 and 1 the input itself.

    Example:
      >>> float(normalise(jnp.float32(0.5), norm_mean=-4.5, norm_std=5.0))
      1.0
    """
    if (norm_mean, norm_std) == (0, 1):
        return log_mel
    dtype = log_mel.dtype
    return (log_mel - jnp.asarray(norm_mean, dtype)) / jnp.asarray(norm_std, dtype)


def log_mel(
    waveform: Array,
    *,
    norm_mean: float = 0.0,
    norm_std: float = 1.0,
    f_min_jitter: float = 0.0,
    f_max_jitter: float = 0.0,
    **power,
) -> Array:
    """Log-mel spectrogram, the input of the network.

    Args:
      waveform: `[b, n_samples]` floating, amplitude in [-1, 1).
      norm_mean: what is subtracted from the logarithm.
      norm_std: what the difference is divided by, > 0.
      f_min_jitter, f_max_jitter: of the edges of the bands in training, Hz; not used here: see
        `jittered_bands`.
      **power: the keywords of `mel_power`.

    Returns:
      `[b, n_mels, n_frames, 1]`, natural logarithm, same dtype.

    Example:
      >>> log_mel(jnp.zeros((2, 32_000)), sample_rate=32_000, n_fft=4096, win_length=3072,
      ...         hop_length=472, n_mels=256, f_min=0.0, f_max=16_000.0).shape
      (2, 256, 68, 1)
    """
    log = log_compress(mel_power(waveform, **power))
    return normalise(log, norm_mean=norm_mean, norm_std=norm_std)


def n_frames(n_samples: int, *, hop_length: int, pre_emphasis: float = 0.0, **others) -> int:
    """Return the number of frames that `log_mel` makes of `n_samples` samples.

    Args:
      n_samples: of a clip.
      hop_length, pre_emphasis, **others: the keywords of `log_mel`, of which these two matter.

    Example:
      >>> n_frames(32_000, hop_length=500), n_frames(32_000, hop_length=500, pre_emphasis=0.97)
      (65, 64)
    """
    return _n_framed(n_samples, pre_emphasis) // hop_length + 1


def _n_framed(n_samples: int, pre_emphasis: float) -> int:
    """Return the number of samples that are left to be cut into frames."""
    return n_samples - bool(pre_emphasis)


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
