"""Compare the constants that a file stores of its front end with ours, and read settings off them.

The same setting gives constants that differ by their rounding from one version of PyTorch to the
next: in a mel filterbank the edge of a band moves by a few units of float32. Another setting moves
them by orders of magnitude more.
"""

import math
import re
from collections.abc import Iterable, Mapping

import jax.numpy as jnp
import ml_collections
import numpy as np

from asc_jax.errors import UserError
from asc_jax.features import filters
from asc_jax.pytorch.weights import FRONT_END_BUFFERS, front_end_part, of_teacher

ORIG_RATE = 44_100  # Hz, of the recordings the baseline reads
RATES = (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)  # Hz, to try
KERNEL, WINDOW, FILTERBANK = FRONT_END_BUFFERS
# The phase of a resampling kernel counts in float32, and so do the arguments of a window's cosine.
ROUNDING = {KERNEL: 1e-4, WINDOW: 1e-5}
EDGE_UNITS = 8  # of float32, of 1 + f / 700, that an edge of a band may be off
MEL_SCALES = {
    "HTK": lambda f: 2595 * np.log10(1 + f / 700),
    "Slaney": lambda f: np.where(
        f < 1000, f * 3 / 200, 15 + 27 * np.log(np.maximum(f, 1000) / 1000) / math.log(6.4)
    ),
}


def front_ends(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the front ends in a file: place → constant, of `FRONT_END_BUFFERS` → name in the file.

    A place is the module that holds window and filterbank. A resampling kernel goes with those
    that the module which holds the resampling holds as well, however deep.

    Args:
      names: of the tensors.

    Example:
      >>> front_ends(["mel.0.kernel", "mel.1.mel_scale.fb", "teacher.mel.1.mel_scale.fb"])["mel.1"]
      {'mel.0.kernel': 'mel.0.kernel', 'mel.1.mel_scale.fb': 'mel.1.mel_scale.fb'}
    """
    found, kernels = {}, {}
    for name in names:
        buffer = front_end_part(name)
        if buffer:
            place = _parts(name)[:-2]
            if buffer == KERNEL:
                kernels[name] = place
            else:
                found.setdefault(place, {})[buffer] = name
    unused = dict(kernels)
    for place, constants in found.items():
        above = [name for name, holder in kernels.items() if place[: len(holder)] == holder]
        if above:
            constants[KERNEL] = max(above, key=lambda name: len(kernels[name]))
            unused.pop(constants[KERNEL], None)
    found |= {_parts(name)[:-1]: {KERNEL: name} for name in unused}
    return {
        ".".join(place) or ".": {b: constants[b] for b in FRONT_END_BUFFERS if b in constants}
        for place, constants in found.items()
    }


def nearest(found: Mapping[str, dict[str, str]], network: str) -> dict[str, dict[str, str]]:
    """Return those of the front ends that may be the network's, by their places.

    These are the ones inside the network, or else beside the network or one of the modules around
    it, the innermost first. If others stand in the same module, only deeper, or if there are none
    such, it may be one of these as well.

    Args:
      found: as `front_ends` returns them.
      network: the network's prefix.
    """
    network = _parts(network)[:-1]
    beside, elsewhere = {}, {}
    for name in found:
        place = tuple(part for part in name.split(".") if part)
        while place and place[-1].isdigit():  # a module's number in a sequence
            place = place[:-1]
        holder = network if network and place[: len(network)] == network else place[:-1]
        common = next(n for n in range(len(holder), -1, -1) if holder[:n] == network[:n])
        where = beside if common == len(holder) else elsewhere
        where.setdefault(common, []).append(name)
    best = max(beside, default=-1)
    names = beside.get(best, [])
    names = names + [name for n in elsewhere for name in elsewhere[n] if n > best]
    return {name: found[name] for name in names}


def choose(
    near: Mapping[str, Mapping[str, np.ndarray]], network: str, f, overrides: Mapping[str, object]
) -> Mapping[str, np.ndarray]:
    """Return the constants of the one front end, by `FRONT_END_BUFFERS`; none if there is none.

    Several that tell the same are one, and so is the only one that agrees with `overrides`.

    Args:
      near: as `nearest` returns them, with arrays.
      network: the network's prefix.
      f: section `features` of a config.
      overrides: keys that were set explicitly, such as `"features.hop_length"`.

    Raises:
      UserError: there are several, or the only one is a teacher's; says in what they differ.
    """
    if near and not of_teacher(network) and all(map(of_teacher, near)):
        near = {**near, "one that is not stored": {}}
    told = {place: settings_of(constants, f) for place, constants in near.items()}
    agree = [
        place for place in near if all(overrides.get(k, v) == v for k, v in told[place].items())
    ]
    choices = {place: near[place] for place in agree or near}
    if len(choices) <= 1:
        return next(iter(choices.values()), {})
    settings = {
        place: f.to_dict() | {key.removeprefix("features."): v for key, v in told[place].items()}
        for place in choices
    }
    differ = [key for key in f if len({each[key] for each in settings.values()}) > 1]
    fit = {place: _fit(near[place], settings[place]) for place in choices}
    if not differ and len({*fit.values()}) == 1:
        return max(choices.values(), key=len)
    texts, advice = [], f"say it with --config base.py --config.features.{(differ or [''])[0]}=…"
    for place, each in settings.items():
        what = [f"{key} {each[key]}" for key in differ] or ["like ours" if fit[place] else "unlike"]
        texts.append(f"{place} ({', '.join(what)})")
    if not differ:
        advice = "save the file again without the constants of the others"
    raise UserError(
        f"it cannot be told which front end is that of the network {network[:-1] or '.'}: "
        f"{', '.join(texts)}; {advice}"
    )


@np.errstate(all="ignore")  # a damaged file may hold any number
def settings_of(constants: Mapping[str, np.ndarray], f) -> dict[str, int | float]:
    """Return the features that the constants tell for certain: lengths, rate and range.

    Args:
      constants: as stored, by `FRONT_END_BUFFERS`.
      f: section `features` of a config. An odd and an even `n_fft` have as many bins: its own is
        kept where it has the right number, and its rate and range where they fit the filterbank.
    """
    told = {}
    window, bank = (constants.get(name, np.zeros(())) for name in (WINDOW, FILTERBANK))
    if window.ndim == 1 and window.size:
        told["features.win_length"] = window.shape[0]
    if bank.ndim == 2 and bank.size:
        n_bins, n_mels = bank.shape
        n_fft = f.n_fft if f.n_fft // 2 + 1 == n_bins else 2 * (n_bins - 1)
        told |= {"features.n_fft": n_fft, "features.n_mels": n_mels}
        own = f.sample_rate, f.f_min, f.f_max
        if not _is_filterbank(bank, n_fft, *own, f.mel_scale):
            scale, rate, f_min, f_max = _range(bank)
            if scale == "HTK" and _is_filterbank(bank, n_fft, rate, f_min, f_max):
                told |= {"features.sample_rate": rate, "features.f_min": f_min}
                told["features.f_max"] = f_max
    elif KERNEL in constants:
        for rate in RATES:
            if _is_kernel(constants[KERNEL], ORIG_RATE, rate):
                told["features.sample_rate"] = rate
    return told


@np.errstate(all="ignore")
def check(constants: Mapping[str, np.ndarray], f) -> None:
    """Compare stored constants with ours for these features.

    Args:
      constants: as stored, by `FRONT_END_BUFFERS`.
      f: section `features` of a config that `experiment.make` accepts.

    Raises:
      UserError: they are those of another front end; says of which, where it can be told.
    """
    for name, stored in constants.items():
        problem = {KERNEL: _of_kernel, WINDOW: _of_window, FILTERBANK: _of_filterbank}[name](
            stored, f
        )
        if problem:
            raise UserError(
                f"the file was made with another front end: {name} {problem} for {f.sample_rate} "
                f"Hz, n_fft {f.n_fft}, win_length {f.win_length}, n_mels {f.n_mels}, {f.f_min:g} "
                f"to {f.f_max:g} Hz ({_described(f)}, resampled from {ORIG_RATE} Hz)"
            )


def _described(f) -> str:
    mel = {"htk": "HTK mel without norm", "kaldi": "Kaldi's mel bands"}[f.mel_scale]
    return f"{mel}, {'periodic' if f.window == 'hann' else 'symmetric'} Hann"


def _parts(name: str) -> tuple[str, ...]:
    return tuple(re.split(r"[./]", name))


def _fit(constants: Mapping[str, np.ndarray], features: Mapping[str, object]) -> bool:
    """Return whether constants are ours for these features."""
    try:
        check(constants, ml_collections.ConfigDict(features))
    except UserError:
        return False
    return True


def _of_kernel(stored: np.ndarray, f) -> str | None:
    if _is_kernel(stored, ORIG_RATE, f.sample_rate):
        return None
    pairs = [(a, b) for a in RATES for b in RATES if a != b and _is_kernel(stored, a, b)]
    if pairs:
        return f"resamples from {pairs[-1][0]} to {pairs[-1][1]} Hz, which differs from ours"
    if f.sample_rate == ORIG_RATE:
        return "resamples, and ours does not"
    ours = filters.resample_kernel(ORIG_RATE, f.sample_rate)
    return _difference(stored, ours)


def _of_window(stored: np.ndarray, f) -> str | None:
    stored, ours = stored.ravel(), filters.window(f.window, f.win_length)
    n = np.arange(f.win_length)

    def cosines(period, a, b, c=0.0):
        phase = 2 * np.pi * n / max(period, 1)
        return a - b * np.cos(phase) + c * np.cos(2 * phase)

    size = f.win_length
    others = {
        "a symmetric Hann window": cosines(size - 1, 0.5, 0.5),
        "a Hamming window": cosines(size, 0.54, 0.46),
        "a symmetric Hamming window": cosines(size - 1, 0.54, 0.46),
        "a Blackman window": cosines(size, 0.42, 0.5, 0.08),
        "a rectangular window": np.ones(size),
        "Kaldi's Povey window": cosines(size - 1, 0.5, 0.5) ** 0.85,
    }
    if stored.shape != ours.shape:
        return _difference(stored, ours)
    # Rounded to 16 bits, two windows may be as near as the rounding: the nearest one counts.
    distances = {name: _distance(stored, other) for name, other in others.items()}
    nearest = min(distances, key=distances.get)
    own = _distance(stored, ours)
    if own <= distances[nearest]:
        return None if _fits(stored, ours, ROUNDING[WINDOW]) else _difference(stored, ours)
    is_other = _fits(stored, others[nearest], ROUNDING[WINDOW])
    named = f"is {nearest} and " if is_other else ""
    return named + _difference(stored, ours)


def _of_filterbank(stored: np.ndarray, f) -> str | None:
    ours = filters.filterbank(f.mel_scale, f.n_fft, f.n_mels, f.sample_rate, f.f_min, f.f_max)
    if stored.shape != ours.shape:
        return _difference(stored, ours)
    if _is_filterbank(stored, f.n_fft, f.sample_rate, f.f_min, f.f_max, f.mel_scale):
        return None
    scale, rate, f_min, f_max = _range(stored)
    if scale is None:
        return _difference(stored, ours)
    # Triangles of one height are not normalised; those of one area are lower the wider they are.
    peaks = stored.astype(np.float64).max(axis=0)
    norm = ", each band of the same area (norm 'slaney')" if peaks[-8:].mean() < 0.3 else ""
    what = f"is like that of {f_min:g} to {f_max:g} Hz at {rate} Hz on the {scale} mel scale{norm}"
    return f"{what} and {_difference(stored, ours)}"


def _is_kernel(stored: np.ndarray, orig_rate: int, new_rate: int) -> bool:
    """Compare with a kernel, which is not made if it has another size: it can be gigabytes."""
    orig, new = filters.reduced_rates(orig_rate, new_rate)
    width = math.ceil(filters.LOWPASS_WIDTH * orig / (min(orig, new) * filters.ROLLOFF))
    if orig == new or stored.size != new * (2 * width + orig):
        return False
    ours = filters.resample_kernel(orig_rate, new_rate)
    return _fits(stored.reshape(ours.shape), ours, ROUNDING[KERNEL])


def _is_filterbank(
    stored, n_fft: int, rate: int, f_min: float, f_max: float, mel_scale: str = "htk"
) -> bool:
    if not 0 <= f_min < f_max or rate < 2:
        return False
    n_mels = stored.shape[1]
    edges = np.linspace(*(MEL_SCALES["HTK"](f) for f in (f_min, f_max)), n_mels + 2)
    edges = 700 * (10 ** (edges / 2595) - 1)
    widths = np.diff(edges)
    unit = np.finfo(np.float32).eps * (700 + edges[2:])
    tolerance = EDGE_UNITS * unit / np.minimum(widths[:-1], widths[1:])
    ours = filters.filterbank(mel_scale, n_fft, n_mels, rate, f_min, f_max)
    return _fits(stored, ours, tolerance)


def _fits(stored: np.ndarray, ours: np.ndarray, tolerance) -> bool:
    """Return whether arrays are equal within a tolerance and the rounding to the stored dtype."""
    if stored.shape != ours.shape or not jnp.issubdtype(stored.dtype, jnp.floating):
        return False
    ours = ours.astype(np.float64)
    rounding = float(jnp.finfo(stored.dtype).eps) / 2 * np.abs(ours)
    return bool(np.all(np.abs(stored.astype(np.float64) - ours) <= tolerance + rounding))


def _distance(stored: np.ndarray, ours: np.ndarray) -> float:
    return float(np.sum((stored.astype(np.float64) - ours) ** 2))


def _difference(stored: np.ndarray, ours: np.ndarray) -> str:
    if stored.size != ours.size or stored.ndim < ours.ndim:
        return f"has shape {stored.shape}, expected {ours.shape}"
    largest = np.max(np.abs(stored.astype(np.float64).ravel() - ours.ravel()))
    return f"differs from ours by up to {largest:.2g}"


def _range(bank: np.ndarray) -> tuple[str | None, int, float, float]:
    """Read mel scale, sample rate and range off a filterbank of triangles.

    The lines of a triangle's sides, drawn through two bins each, end at edges of the bank, which
    are equally spaced in mel: on one scale and for one width of a bin.

    Returns:
      A key of `MEL_SCALES`, sample rate in Hz, lowest and highest edge in Hz, rounded; the scale is
      None if there is none.
    """
    bank, numbers, places = bank.astype(np.float64), [], []
    for band, column in enumerate(bank.T):
        bins, top = np.flatnonzero(column), int(column.argmax())
        for number, side in ((band, bins[bins < top]), (band + 2, bins[bins > top])):
            if side.size >= 2 and column[side[0]] != column[side[-1]]:
                rise = (column[side[-1]] - column[side[0]]) / (side[-1] - side[0])
                numbers.append(number)
                places.append(side[0] - column[side[0]] / rise)
    best = (math.inf, None, 0, 0.0, 0.0)
    places = np.maximum(places, 0.0)
    if len({*numbers}) < 8 or not np.all(places < 2 * len(bank)):
        return best[1:]
    for scale, mel in MEL_SCALES.items():
        hertz = np.linspace(0, max(RATES), 100_001)
        for rate in RATES:
            per_bin = (rate // 2) / (len(bank) - 1)
            mels = mel(places * per_bin)
            slope, start = np.polyfit(numbers, mels, 1)
            error = np.sqrt(np.mean((mels - start - slope * np.array(numbers)) ** 2)) / abs(slope)
            ends = np.interp([start, start + slope * (bank.shape[1] + 1)], mel(hertz), hertz)
            low, high = (float(round(end)) for end in ends)
            best = min(best, (error, scale, rate, low, high))
    return best[1:] if best[0] < 0.05 else (None, 0, 0.0, 0.0)
