"""Compute the parity table's front end and augmentation, one function for each stage.

A stage takes the reference arrays by file name, runs our own code on the reference's *input* of
that stage, and returns checks. So a fault shows in the row where it is, not in all that follow.
Tolerances are those that the tests of the same modules pin.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from asc_jax import features
from asc_jax.features import augment, filters
from asc_jax.features.augmentation import Augmentation, freq_mask, training_input
from asc_jax.pytorch.parity.checks import Check, Reference, Tolerance, joined

RATES = (44_100, 32_000)  # Hz, of a recording and of the network
HOPS = (500, 472)  # samples: the official baseline's, the report's
MEL = {
    "sample_rate": RATES[1],
    "n_fft": 4096,
    "win_length": 3072,
    "n_mels": 256,
    "f_min": 0.0,
    "f_max": 16_000.0,
}
MAX_FREQ_MASK = 48  # mel bins
# Of the four golden clips. Their reference is stored in float32, and the quiet bins of the
# chirp, the second clip, amplify the last bit of the window.
LOG_MEL64_LIMITS = (1e-6, 2e-4, 1e-6, 1e-6)
EQUAL_BITS = Tolerance("equal bits: rounded where torchaudio rounds")


def resample_kernel(reference: Reference) -> list[Check]:
    """Compute it in both precisions: in one of them the phase is rounded to float32."""
    arrays = reference("b_frontend")
    size = "320 phases × 459 taps"
    ours = filters.resample_kernel(*RATES)
    ours64 = filters.resample_kernel(*RATES, np.float64)
    rounding = Tolerance("float64 rounding", absolute=1e-15)
    return [
        Check("resample kernel", size, ours, arrays["resample_kernel"], EQUAL_BITS),
        Check("resample kernel, float64", size, ours64, arrays["resample_kernel64"], rounding),
    ]


def resampled_waveform(reference: Reference) -> list[Check]:
    """Resample from 44.1 to 32 kHz."""
    arrays = reference("b_frontend")
    ours = features.resample(jnp.asarray(arrays["wave"]), *RATES)
    tolerance = Tolerance("float32 sums of 459 products", absolute=1e-6)
    return [Check("resampled waveform", "44.1 → 32 kHz", ours, arrays["resampled"], tolerance)]


def hann_window(reference: Reference) -> list[Check]:
    """Compute the periodic window."""
    ours = filters.hann_window(MEL["win_length"])
    tolerance = Tolerance("last bit of a float32", absolute=6e-8)
    expected = reference("b_frontend")["hann_window"]
    return [Check("Hann window", "3,072 samples", ours, expected, tolerance)]


def mel_filterbank(reference: Reference) -> list[Check]:
    """Compute it on the HTK mel scale, without norm."""
    names = ("n_fft", "n_mels", "sample_rate", "f_min", "f_max")
    ours = filters.mel_filterbank(*(MEL[name] for name in names))
    expected = reference("b_frontend")["mel_fb"]
    return [Check("mel filterbank", "2,049 bins × 256 bands", ours, expected, EQUAL_BITS)]


def log_mel(reference: Reference) -> list[Check]:
    """Measure our and torchaudio's distance from float64, clip by clip."""
    arrays = reference("b_frontend")
    checks = []
    for hop in HOPS:
        exact = arrays[f"logmel64_hop{hop}"]
        theirs = np.abs(arrays[f"logmel_hop{hop}"] - exact).max(axis=(1, 2))
        limits = np.maximum(2e-4, 2 * theirs)[:, None, None]
        ours = _log_mel(jnp.asarray(arrays["resampled"]), hop)
        tolerance = Tolerance("twice torchaudio's own distance from float64", limits)
        checks.append(Check(f"log-mel, hop {hop}", _size(exact), ours, exact, tolerance))
    return checks


def log_mel_float64(reference: Reference, limits=LOG_MEL64_LIMITS) -> list[Check]:
    """Compute it from 44.1 kHz on in float64; `limits`: per clip, natural logarithm."""
    arrays = reference("b_frontend")
    limits = np.broadcast_to(limits, len(arrays["wave"]))[:, None, None]
    tolerance = Tolerance("storage in float32; last bit of the window", limits)
    checks = []
    with jax.enable_x64(True):
        waveform = features.resample(jnp.asarray(arrays["wave"], jnp.float64), *RATES)
        for hop in HOPS:
            exact = arrays[f"logmel64_hop{hop}"]
            ours = _log_mel(waveform, hop)
            name = f"log-mel, hop {hop}, float64"
            checks.append(Check(name, _size(exact), ours, exact, tolerance))
    return checks


def frequency_mask(reference: Reference) -> list[Check]:
    """Compute both ends of a band from the same uniform draws, and what the mask leaves."""
    arrays = reference("b_freqmask")
    uniform = np.stack([np.ravel(arrays["u1"]), np.ravel(arrays["u2"])], axis=1)
    start, width = augment.band_from_uniform(jnp.asarray(uniform), MEL["n_mels"], MAX_FREQ_MASK)
    ours = np.stack([start, start + width])
    expected = np.stack([np.ravel(arrays["start"]), np.ravel(arrays["end"])])
    ones = np.ones((len(start), MEL["n_mels"], 4), np.float32)
    first, end = expected.astype(np.int32)
    left = augment.mask_band(*map(jnp.asarray, (ones, first, end - first)), axis=1)
    mel_bin = np.arange(MEL["n_mels"])[:, None]
    inside = (mel_bin >= first[:, None, None]) & (mel_bin < end[:, None, None])
    size = "ones, 6 × 256 × 4"
    return [
        Check("frequency mask", "start and end of 6 bands", ours, expected, Tolerance("integers")),
        Check("frequency mask, applied", size, left, ones * ~inside, Tolerance("zeros and ones")),
    ]


def masked_log_mel(reference: Reference) -> list[Check]:
    """Check that a mask sets one band of mel bins, over all frames, to log 1e-5 in our step.

    The clips are of faint noise, which is far from log 1e-5, and from 0, everywhere.
    """
    waveform = 1e-3 * jax.random.normal(jax.random.key(1), (4, RATES[1]))
    batch = {"audio": waveform, "mask": jnp.ones(len(waveform), bool)}

    def masked_by(max_width: int) -> np.ndarray:
        masking = functools.partial(freq_mask, max_width=max_width)
        result = training_input(
            jax.random.key(0),
            batch,
            augmentations=[Augmentation("freq_mask", "mel_power", masking)],
            features_config={**MEL, "hop_length": HOPS[1]},
        )
        return np.asarray(result["log_mel"])

    plain, masked = masked_by(0), masked_by(MAX_FREQ_MASK)
    changed = np.abs(masked - plain)[..., 0] > 1e-3  # [b, f, t]
    ours = masked[changed]
    expected = np.full_like(ours, np.log(1e-5))
    bins = changed.any(axis=2)
    band = np.logical_or.accumulate(bins, 1) & np.logical_or.accumulate(bins[:, ::-1], 1)[:, ::-1]
    whole_bands = changed, np.broadcast_to(band[..., None], changed.shape)
    n_different = len(np.unique(bins, axis=0)), len(bins)
    rounding = Tolerance("float32 rounding of log 1e-5", relative=1e-6)
    bands = joined([whole_bands, n_different])
    return [
        Check("masked log-mel", "masked values", ours, expected, rounding),
        Check("masked log-mel, bands", "all frames; by clip", *bands, Tolerance("one to a clip")),
    ]


def mixstyle(reference: Reference) -> list[Check]:
    """Mix with the reference's fractions and partners; its variance is the unbiased one."""
    arrays = reference("e_mixstyle")
    log_mel = jnp.moveaxis(jnp.asarray(arrays["x"]), 1, -1)  # [b, c, f, t] -> [b, f, t, c]
    statistics = augment.band_statistics(log_mel)
    mixed = augment.freq_mixstyle(
        log_mel,
        apply=jnp.array(True),
        lam=jnp.ravel(arrays["lmda"]),
        partners=jnp.asarray(arrays["perm"]),
        statistics=statistics,
    )
    ours = np.stack([np.asarray(value)[..., 0, 0] for value in statistics])
    std = np.sqrt(np.asarray(arrays["var_unbiased"], np.float64) + augment.VARIANCE_OFFSET)
    expected = np.stack([arrays["mu"], std])
    rounding = Tolerance("float32 rounding", absolute=1e-6, relative=1e-7)
    magnified = Tolerance("float32 rounding over a band's deviation", absolute=1e-5)
    return [
        Check("MixStyle", "6 clips", mixed[..., 0], arrays["y64"][:, 0], magnified),
        Check("MixStyle statistics", "mean and deviation by band", ours, expected, rounding),
    ]


def _log_mel(waveform, hop: int) -> np.ndarray:
    return np.asarray(features.log_mel(waveform, hop_length=hop, **MEL))[..., 0]


def _size(x: np.ndarray) -> str:
    return " × ".join(map(str, x.shape))


STAGES = (
    resample_kernel,
    resampled_waveform,
    hann_window,
    mel_filterbank,
    log_mel,
    log_mel_float64,
    frequency_mask,
    masked_log_mel,
    mixstyle,
)
