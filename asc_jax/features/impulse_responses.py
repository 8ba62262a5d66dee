"""Device impulse response augmentation: clips as another microphone would have recorded them."""

import hashlib
import pathlib
import warnings
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from asc_jax.errors import BadValue, UserError, expect
from asc_jax.features import filters
from asc_jax.features.front_end import resample, sparse_resample
from asc_jax.features.per_clip import clip_by_clip
from asc_jax.types import Array

MAX_S = 10.0  # of an impulse response
MAX_KERNEL = 2**21  # values of a dense resampling kernel
FULL_SCALE = {"uint8": 2**7, "int16": 2**15, "int32": 2**31}  # 24 bits are read as the upper of 32


def load_bank(folder: str, sample_rate: int) -> dict[str, np.ndarray]:
    """Read every wav file of a folder, resampled to one rate and filled up to one length.

    Levels stay as they are.

    Args:
      folder: with files `*.wav`; several channels are averaged. ~ is the home.
      sample_rate: Hz.

    Returns:
      `bank [n, n_taps]` float32, in the order of the file names, and `identity [32]` uint8, a hash
      of the files and the rate.

    Raises:
      BadValue: there is no such folder, or no wav file in it.
      UserError: a file is not a sound.
    """
    place = pathlib.Path(folder).expanduser()
    paths = sorted(p for p in place.glob("*") if p.suffix.lower() == ".wav") if folder else []
    if not paths:
        what = "holds no wav file" if place.is_dir() and folder else "is no folder"
        raise BadValue(
            "dir",
            folder,
            "a folder of impulse responses as wav files, such as those of micirp.blogspot.com: it "
            f"{what}",
        )
    identity = hashlib.sha256(f"{sample_rate}".encode())
    by_rate: dict[int, list[tuple[int, np.ndarray]]] = {}
    for number, path in enumerate(paths):
        rate, response = _read(path)
        identity.update(path.read_bytes())
        by_rate.setdefault(rate, []).append((number, response))
    responses: list[np.ndarray] = [np.zeros(0)] * len(paths)
    for rate, numbered in by_rate.items():  # together, since each length is another program
        resampled = _resampled(_filled([response for _, response in numbered]), rate, sample_rate)
        for (number, response), row in zip(numbered, resampled, strict=True):
            responses[number] = row[: -(-len(response) * sample_rate // rate)]
    return {
        "bank": _filled(responses),
        "identity": np.frombuffer(identity.digest(), np.uint8),
    }


def chosen_values(
    column: str, column_values: str, groups: Mapping[str, Sequence[str]]
) -> dict[str, np.ndarray]:
    """Return `chosen [n_values]` bool, which values of a group column are meant.

    Args:
      column: of `groups`.
      column_values: names, commas between; "" for clips of any value, which gives no array.
      groups: column → the names of its values.

    Raises:
      BadValue: there is no such column or value.
    """
    if not column_values:
        return {}
    known = groups.get(column)
    expect("column", column, known is not None, " or ".join(groups) or "'', without groups")
    names = [name.strip() for name in column_values.split(",")]
    expected = f"some of {', '.join(known)}, commas between"
    for name in names:
        expect("column_values", name or column_values, name in known, expected)
    return {"chosen": np.isin(np.array(known, dtype=str), names)}


def draw(keys: Array, n_responses: int, p: float) -> tuple[Array, Array]:
    """Return whether to convolve each clip, with probability `p`, and with which: `[b]` each."""

    def of_clip(key):
        coin, which = jax.random.split(key)
        apply = jax.random.uniform(coin, (), jnp.float32) < p
        return apply, jax.random.randint(which, (), 0, n_responses)

    return jax.vmap(of_clip)(keys)


def convolve(waveform: Array, bank: Array, apply: Array, which: Array) -> Array:
    """Convolve clips with impulse responses, cut to the length of a clip.

    By a Fourier transform as long as the whole convolution, so that nothing wraps around. On a CPU
    a clip that stays as it is costs nothing.

    Args:
      waveform: `[b, n_samples]` floating.
      bank: `[n, n_taps]`, same dtype.
      apply: `[b]` bool.
      which: `[b]` int, rows of the bank.

    Returns:
      `[b, n_samples]`; the clip itself where `apply` is False.

    Source: the DIR augmentation of Morocutti et al., "Device-robust acoustic scene classification
      via impulse response augmentation" (EUSIPCO 2023).
    """
    n_samples = waveform.shape[-1]
    bank = jnp.asarray(bank)[:, :n_samples]
    n_fft = fast_length(n_samples + bank.shape[1] - 1)

    def of_clip(clip: Array, apply: Array, which: Array) -> Array:
        def convolved():
            product = jnp.fft.rfft(clip, n_fft) * jnp.fft.rfft(bank[which], n_fft)
            return jnp.fft.irfft(product, n_fft)[:n_samples]

        return jax.lax.cond(apply, convolved, lambda: clip)

    return clip_by_clip(of_clip, waveform, apply, which)


def fast_length(at_least: int) -> int:
    """Return the smallest even length that has no prime factor but 2, 3 and 5.

    Example:
      >>> fast_length(47_999)
      48000
    """
    for n in range(at_least + at_least % 2, 2 * at_least + 2, 2):
        rest = n
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return n
    raise ValueError(f"no length from {at_least} on")  # a power of 2 is always there


def _read(path: pathlib.Path) -> tuple[int, np.ndarray]:
    """Return the rate in Hz and the samples `[n]` of a wav file."""
    from scipy.io import wavfile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # of chunks it does not know
            rate, samples = wavfile.read(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # whatever a damaged header leads to
        raise UserError(f"{path} is no wav file that can be read: {error}") from error
    name = samples.dtype.name
    response = samples.astype(np.float64)
    if name in FULL_SCALE:
        response = (response - (128 if name == "uint8" else 0)) / FULL_SCALE[name]
    response = response.reshape(len(response), -1).mean(axis=1) if response.size else response
    if not 0 < len(response) <= MAX_S * rate:
        raise UserError(
            f"{path} has {len(response) / max(rate, 1):g} s, expected an impulse response of at "
            f"most {MAX_S:g} s"
        )
    if not np.isfinite(response).all() or not response.any():
        raise UserError(f"{path} is silent or has values that are no numbers")
    return rate, response


def _filled(responses: list[np.ndarray]) -> np.ndarray:
    """Return `[n, longest]` float32, zeros behind the shorter ones."""
    filled = np.zeros((len(responses), max(map(len, responses))), np.float32)
    for row, response in zip(filled, responses, strict=True):
        row[: len(response)] = response
    return filled


def _resampled(responses: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """`[n, n_taps]` at one rate → at another, on the CPU."""
    orig, new = filters.reduced_rates(rate, new_rate)
    dense = new * (orig + new) <= MAX_KERNEL
    with jax.default_device(jax.devices("cpu")[0]):
        if dense:
            return np.asarray(resample(jnp.asarray(responses), rate, new_rate, banded=True))
        return np.asarray(sparse_resample(jnp.asarray(responses), rate, new_rate))
