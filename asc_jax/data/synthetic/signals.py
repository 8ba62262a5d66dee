"""The raw material of synthetic sounds: noise, pulses, tones, bursts and slow curves.

Everything lasts one segment of ten seconds and is circular (its end continues at its
start), so that spectra can be multiplied without padding. Randomness comes only from the
`numpy.random.Generator` that is passed in.
"""

from functools import lru_cache

import numpy as np
from scipy import fft, special

SAMPLE_RATE = 44_100  # Hz, that of TAU 2022 Mobile
SEGMENT_S = 10
N_SAMPLES = SAMPLE_RATE * SEGMENT_S
# Voices, engines and other buzzes are built at a third of the rate, which costs a third.
LOW_RATE = SAMPLE_RATE // 3
N_LOW = LOW_RATE * SEGMENT_S
N_KNOTS = 1000  # points at which slow curves are computed: every 10 ms
# Where spectral curves are given: octaves from 31 Hz to 16 kHz.
OCTAVES_HZ = 1000.0 * 2.0 ** np.arange(-5, 5)


@lru_cache
def _bin_octaves() -> np.ndarray:
    """Return the position of each of the segment's Fourier bins among `OCTAVES_HZ`."""
    hz = fft.rfftfreq(N_SAMPLES, 1 / SAMPLE_RATE)
    return np.log2(np.maximum(hz, 1.0) / OCTAVES_HZ[0])


def amplitude(level_db: float) -> np.float32:
    """Return the factor of a level in decibels."""
    return np.float32(10 ** (level_db / 20))


def decay(n: int, decay_s: float) -> np.ndarray:
    """Return an exponential decay `[n]` float32 that is 1/e after `decay_s`."""
    return np.exp(-np.arange(n, dtype=np.float32) / np.float32(decay_s * SAMPLE_RATE))


def gain(curve_db: np.ndarray, octaves: np.ndarray | None = None) -> np.ndarray:
    """Return the amplitude of every Fourier bin from a curve over octaves.

    Args:
      curve_db: `[n]` decibels; flat beyond the ends.
      octaves: `[n]` where they apply, octaves above 31 Hz; default: the ten `OCTAVES_HZ`.

    Returns:
      `[N_SAMPLES // 2 + 1]` float32.
    """
    if octaves is None:
        octaves = np.arange(len(OCTAVES_HZ))
    decibels = np.interp(_bin_octaves(), octaves, curve_db).astype(np.float32)
    return np.float32(10) ** (decibels / 20)


def hump(centre_hz: float, width_octaves: float, depth_db: float = 60.0) -> np.ndarray:
    """Return a curve `[10]` in decibels: 0 at `centre_hz`, down to `-depth_db` on both sides."""
    distance = np.log2(OCTAVES_HZ / centre_hz) / width_octaves
    return -np.minimum(6.0 * distance**2, depth_db)


def unit(waveform: np.ndarray) -> np.ndarray:
    """Scale to a root mean square of 1."""
    return waveform / np.float32(np.sqrt(np.mean(np.square(waveform))) + 1e-12)


def noise(generator: np.random.Generator, curve_db: np.ndarray) -> np.ndarray:
    """Return Gaussian noise `[N_SAMPLES]` float32, unit level, with the given spectrum."""
    return unit(fft.irfft(_bins(generator, N_SAMPLES // 2 + 1) * gain(curve_db), N_SAMPLES))


def _bins(generator: np.random.Generator, n: int) -> np.ndarray:
    """Draw the Fourier bins `[n]` complex64 of white noise."""
    return generator.standard_normal(2 * n, np.float32).view(np.complex64)


def stretch(curve: np.ndarray, n: int) -> np.ndarray:
    """Interpolate a curve `[N_KNOTS]` over the segment linearly to `[n]` float32.

    `n` is a multiple of `N_KNOTS`: broadcasting is many times faster than `np.interp`.
    """
    curve = curve.astype(np.float32)[:, None]
    n_between = n // N_KNOTS
    at = np.arange(n_between, dtype=np.float32) / n_between
    return (curve + (np.roll(curve, -1) - curve) * at).reshape(n)


def slow(generator: np.random.Generator, rate_hz: float) -> np.ndarray:
    """Draw a slow curve `[N_KNOTS]` of about unit deviation, `rate_hz` turns a second."""
    n_turns = max(2, round(rate_hz * SEGMENT_S))
    at = np.arange(N_KNOTS) * (n_turns / N_KNOTS)
    turns = generator.standard_normal(n_turns + 1)
    turns[-1] = turns[0]
    return np.interp(at, np.arange(n_turns + 1), turns)


def wander(generator: np.random.Generator, rate_hz: float, n: int = N_SAMPLES) -> np.ndarray:
    """Draw a slow curve and stretch it to `[n]`."""
    return stretch(slow(generator, rate_hz), n)


def gate(generator: np.random.Generator, rate_hz: float, on: float, n: int) -> np.ndarray:
    """Draw a smooth on-and-off curve `[n]` in [0, 1], on for about that fraction of the time."""
    excess = slow(generator, rate_hz) - special.ndtri(1 - on)
    return stretch(special.expit(8 * excess), n)


def pulses(frequency_hz: np.ndarray | float, sharpness: float) -> np.ndarray:
    """Return a buzz `[N_LOW]` float32: one smooth pulse per period, more harmonics when sharper.

    The pulse is exp(k (cos φ - 1)), whose harmonics fall off gently and are never summed
    one by one.
    """
    steps = np.broadcast_to(np.asarray(frequency_hz, np.float64), N_LOW) / LOW_RATE
    phase = (2 * np.pi * (np.cumsum(steps) % 1.0)).astype(np.float32)
    train = np.exp(np.float32(sharpness) * (np.cos(phase) - 1))
    return train - train.mean()


def widen(waveform: np.ndarray, curve_db: np.ndarray | None = None) -> np.ndarray:
    """Resample from `LOW_RATE` to `SAMPLE_RATE`, unit level, optionally shaped by a curve."""
    spectrum = fft.rfft(waveform)
    if curve_db is not None:
        spectrum = spectrum * gain(curve_db)[: len(spectrum)]
    return unit(fft.irfft(spectrum, N_SAMPLES))


def burst(
    generator: np.random.Generator, centre_hz: float, width_octaves: float, decay_s: float
) -> np.ndarray:
    """Draw an impact `[n]` float32 of unit peak: band noise that dies away in `decay_s`."""
    n = fft.next_fast_len(int(5 * decay_s * SAMPLE_RATE) + 64, real=True)
    hz = fft.rfftfreq(n, 1 / SAMPLE_RATE).astype(np.float32)
    distance = np.log2(np.maximum(hz, 10) / np.float32(centre_hz)) / np.float32(width_octaves)
    bins = _bins(generator, len(hz)) * np.exp(-(distance**2))
    waveform = fft.irfft(bins, n) * decay(n, decay_s)
    return waveform / np.abs(waveform).max()


def tone(start_hz: float, end_hz: float, duration_s: float) -> np.ndarray:
    """Return a gliding tone `[n]` float32 of unit peak that fades in and out."""
    n = int(duration_s * SAMPLE_RATE)
    phase = np.cumsum(np.linspace(start_hz, end_hz, n)) * (2 * np.pi / SAMPLE_RATE)
    fade = np.sin(np.linspace(0, np.pi, n, dtype=np.float32))
    return np.sin((phase % (2 * np.pi)).astype(np.float32)) * fade


def scatter(events: list[tuple[float, np.ndarray]]) -> np.ndarray:
    """Return the sum `[N_SAMPLES]` of short waveforms, each at its second; unit level."""
    waveform = np.zeros(N_SAMPLES, np.float32)
    for start_s, event in events:
        start = int(start_s % SEGMENT_S * SAMPLE_RATE)
        head = min(len(event), N_SAMPLES - start)
        waveform[start : start + head] += event[:head]
        waveform[: len(event) - head] += event[head:]
    return unit(waveform)
