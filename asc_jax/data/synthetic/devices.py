"""Nine synthetic microphones: what each does to a sound before it is stored.

A device colours (an octave curve plus a finer ripple of its own), compresses, saturates
and hisses. `a` is nearly transparent, `b` and `c` are phone-like, `s1` to `s3` are
rougher, and `s4` to `s6`, which only the test split contains, compress, saturate and hiss
the most and have responses of their own.
"""

from typing import NamedTuple

import numpy as np
from scipy import fft

from asc_jax.data.synthetic.signals import N_KNOTS, N_SAMPLES, amplitude, gain, stretch
from asc_jax.data.tau.taxonomy import DEVICE_GROUPS, DEVICES

# To tune: these scale each group's curves and ripples in decibels. More for a group takes
# its accuracy down; for the unseen ones fastest.
STRENGTH = {"real": 1.0, "seen": 1.4, "unseen": 0.65}
# Loudness a compressor leaves alone; about the middle of what the scenes reach.
REFERENCE_RMS = 0.025


class Device(NamedTuple):
    curve_db: tuple[float, ...]  # [10] at 31 Hz … 16 kHz, decibels
    ripple_db: float  # deviation of the finer structure
    ratio: float  # compression: 1 none, 2 halves every decibel above or below the reference
    ceiling: float  # where saturation sets in, amplitude in (0, 1]
    hiss_dbfs: float  # level of its own noise


RESPONSES = {
    #             31   63  125  250  500   1k   2k   4k   8k  16k
    "a": Device((0, 0, 0, 0, 0, 0, 0, 0, 0, 0), 0.3, 1.0, 0.98, -84),
    "b": Device((-12, -6, -3, 0, 1, 0, 0, 2, 1, -6), 1.0, 1.1, 0.8, -76),
    "c": Device((-16, -9, -3, -1, 0, 1, 2, 0, -3, -8), 1.0, 1.15, 0.8, -74),
    "s1": Device((-14, -8, -5, 2, 3, 0, -2, 3, -4, -14), 2.0, 1.3, 0.6, -70),
    "s2": Device((-20, -14, -6, -4, 0, 3, 4, -2, -2, -10), 2.0, 1.4, 0.6, -68),
    "s3": Device((-8, -4, 2, 3, 0, -3, 1, 4, -6, -16), 2.0, 1.25, 0.6, -72),
    "s4": Device((-24, -18, -10, 2, 6, 2, -6, -2, -12, -26), 3.0, 1.5, 0.5, -66),
    "s5": Device((-22, -16, -9, -7, -2, 4, 8, 5, -4, -18), 3.0, 1.6, 0.5, -64),
    "s6": Device((-6, 2, 6, 4, -4, -8, -2, 6, 2, -20), 3.0, 1.6, 0.5, -66),
}


def response(device: str) -> np.ndarray:
    """Return the amplitude `[220501]` by which a device scales each Fourier bin of a segment.

    The ripple is drawn once per device and is no part of the data set's seed: a device is
    the same in every data set.
    """
    [strength] = [STRENGTH[group] for group in STRENGTH if device in DEVICE_GROUPS[group]]
    generator = np.random.default_rng(DEVICES.index(device))
    knots = generator.standard_normal(60)
    octaves = np.linspace(0, 9, len(knots))
    chosen = RESPONSES[device]
    curve_db = np.interp(octaves, np.arange(10), chosen.curve_db)
    return gain(strength * (curve_db + chosen.ripple_db * knots), octaves)


def record(spectrum: np.ndarray, device: str, generator: np.random.Generator) -> np.ndarray:
    """Return what a device stores of a sound.

    Args:
      spectrum: `[220501]` complex, Fourier transform of ten seconds at 44.1 kHz, amplitudes
        of full scale 1.
      device: one of `taxonomy.DEVICES`.
      generator: draws the device's own noise.

    Returns:
      `[441000]` float32, within (-1, 1).
    """
    chosen = RESPONSES[device]
    waveform = fft.irfft(spectrum * response(device), N_SAMPLES)
    waveform = _compress(waveform, chosen.ratio)
    hiss = generator.standard_normal(N_SAMPLES, np.float32)
    waveform += amplitude(chosen.hiss_dbfs) * hiss
    ceiling = np.float32(chosen.ceiling)
    return ceiling * np.tanh(waveform / ceiling)


def _compress(waveform: np.ndarray, ratio: float) -> np.ndarray:
    """Pull the loudness of every 10 ms, smoothed over 50, towards the reference."""
    if ratio == 1.0:
        return waveform
    power = np.mean(np.square(waveform).reshape(N_KNOTS, -1), axis=1)
    smooth = np.mean([np.roll(power, shift) for shift in range(-2, 3)], axis=0)
    factors = (np.sqrt(smooth + 1e-10) / REFERENCE_RMS) ** (1 / ratio - 1)
    return waveform * stretch(factors, N_SAMPLES)
