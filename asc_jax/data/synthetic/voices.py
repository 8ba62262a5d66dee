"""People in made-up scenes: speech-like sounds that say nothing.

Sources like those of `synthetic_sources`: `place` settles the talkers of a location,
`moment` what they do in these ten seconds; the result is `[441000]` float32, unit level.
"""

import numpy as np

from asc_jax.data.synthetic.signals import (
    N_LOW,
    N_SAMPLES,
    SEGMENT_S,
    gate,
    hump,
    pulses,
    scatter,
    tone,
    unit,
    wander,
    widen,
)

Generator = np.random.Generator
# First three resonances of three vowels: a, e, o, roughly.
FORMANTS_HZ = ((700, 1200, 2600), (400, 2000, 2600), (350, 900, 2400))


def announcement(place: Generator, moment: Generator) -> np.ndarray:
    """A chime, then one loudspeaker voice for part of the time."""
    chime_hz = place.uniform(450, 900) * np.array([1.0, place.choice([0.75, 0.8, 1.25])])
    start_s = moment.uniform(0, SEGMENT_S)
    chime = scatter([(start_s + 0.5 * i, tone(hz, hz, 0.9)) for i, hz in enumerate(chime_hz)])
    voice = _voices(place, moment, n_talkers=1)
    spoken = gate(moment, 0.3, moment.uniform(0.4, 0.9), N_SAMPLES)
    return unit(voice * spoken + 0.4 * chime)


def babble(place: Generator, moment: Generator) -> np.ndarray:
    """Several people talking at once."""
    return _voices(place, moment, n_talkers=int(place.integers(2, 6)))


def _voices(place: Generator, moment: Generator, n_talkers: int) -> np.ndarray:
    """A location's talkers: buzz through three vowels that alternate by syllable."""
    vowels = np.zeros((len(FORMANTS_HZ), N_LOW), np.float32)
    for _ in range(n_talkers):
        pitch = place.choice([115, 205]) * 2 ** (0.15 * wander(moment, 3.0, N_LOW))
        hiss = 0.15 * moment.standard_normal(N_LOW, np.float32)
        voice = (pulses(pitch, 12.0) + hiss) * gate(moment, 0.5, 0.6, N_LOW)
        voice *= np.float32(10 ** moment.uniform(-0.6, 0))
        for vowel in vowels:
            vowel += voice * gate(moment, 9.0, 0.3, N_LOW)
    shift = 2 ** place.uniform(-0.2, 0.2)
    spoken = np.zeros(N_SAMPLES, np.float32)
    for vowel, formants in zip(vowels, FORMANTS_HZ, strict=True):
        peaks = [hump(shift * hz, 0.9) - 8 * i for i, hz in enumerate(formants)]
        spoken += widen(vowel, np.max(peaks, axis=0))
    return unit(spoken)
