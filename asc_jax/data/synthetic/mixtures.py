"""The sound of synthetic scenes: which sources over which bed of noise, and how loud.

Ten scenes share the same sources at different strengths, so they overlap. Each location
draws its own sources, spectrum, room and level; each segment draws what happens in it.
"""

from typing import NamedTuple

import numpy as np
from scipy import fft

from asc_jax.data.synthetic.signals import N_SAMPLES, SAMPLE_RATE, amplitude, decay, noise
from asc_jax.data.synthetic.sources import SOURCES
from asc_jax.data.tau.taxonomy import CITIES, SCENES

# How hard the task is. Larger separation: scenes more distinct, accuracy up. Larger
# spreads: locations or segments of a scene more different, accuracy down.
BED_SEPARATION = 1.5  # stretches what scenes' beds have of their own; 0: one bed for all
LOCATION_SPREAD_DB = 2.0  # deviation of each source's level between locations
SEGMENT_SPREAD_DB = 2.0  # the same between segments of one location
SPECTRUM_SPREAD_DB = 1.5  # deviation of the bed's octave levels between locations
CITY_SPREAD_DB = 1.5  # the same between cities
STRAY_P = 0.3  # chance that a location has one source that its scene does not call for
STRAY_DB = -8.0  # level of such a source
SILENT_P = 0.05  # chance that a source is silent in a segment
LEVEL_SPREAD_DB = 3.0  # deviation of the overall level between locations

# Decibels of the sources in each scene, the bed of noise being 0.
MIX_DB = {
    "airport": {"babble": -6, "announcement": -4, "trolleys": -6, "ventilation": -4},
    "bus": {"engine": 0, "babble": -9, "clatter": -12, "beeps": -16, "ventilation": -8},
    "metro": {"rails": 0, "whine": -6, "ventilation": -6, "squeal": -13, "babble": -12},
    "metro_station": {"announcement": -7, "babble": -8, "footsteps": -8, "rails": -7},
    "park": {"birds": -7, "wind": -2, "footsteps": -12, "cars": -10, "babble": -16},
    "public_square": {"babble": -7, "footsteps": -9, "cars": -9, "fountain": -7},
    "shopping_mall": {"babble": -4, "music": -8, "ventilation": -6, "clatter": -12},
    "street_pedestrian": {"footsteps": -2, "babble": -5, "cars": -9, "music": -15},
    "street_traffic": {"cars": 1, "engine": -7, "footsteps": -14, "wind": -10},
    "tram": {"rails": -3, "whine": -3, "squeal": -9, "babble": -9, "beeps": -15},
}
# The bed's octave levels, decibels at 31 Hz … 16 kHz.
BED_DB = {
    "airport": (-8, -4, 0, 1, 0, -3, -8, -14, -22, -32),
    "bus": (4, 6, 4, 0, -4, -9, -15, -21, -28, -38),
    "metro": (0, 3, 4, 3, 0, -5, -11, -18, -26, -36),
    "metro_station": (-4, 0, 2, 2, 0, -3, -7, -13, -21, -31),
    "park": (2, 0, -4, -7, -9, -10, -11, -13, -18, -26),
    "public_square": (0, 0, -2, -3, -4, -5, -8, -12, -19, -28),
    "shopping_mall": (-10, -5, -1, 1, 1, -2, -6, -11, -18, -28),
    "street_pedestrian": (-2, -1, -1, -1, -2, -4, -7, -12, -19, -29),
    "street_traffic": (3, 4, 2, 0, -1, -2, -6, -13, -21, -31),
    "tram": (2, 4, 5, 2, -2, -6, -11, -17, -24, -34),
}
# Level of a scene's segments (dBFS) and reverberation time of its rooms (s; 0: outdoors).
LEVEL_DBFS = dict(zip(SCENES, (-33, -29, -28, -30, -38, -34, -33, -33, -29, -29), strict=True))
REVERB_S = dict(zip(SCENES, (1.5, 0, 0, 1.3, 0, 0.3, 0.9, 0.3, 0.2, 0), strict=True))
# What a generator is for: the first number of its seed after the data set's.
CITY, PLACE, MOMENT, MICROPHONE = range(4)


class Segment(NamedTuple):
    """Ten seconds at one place."""

    scene: str
    city: str
    location: int  # unique in the data set
    number: int  # unique in the data set


def render(segment: Segment, seed: int) -> np.ndarray:
    """Return what is to be heard in a segment before any microphone.

    Args:
      segment: where and which; equal segments of a seed sound the same.
      seed: the data set's, at least 0.

    Returns:
      `[220501]` complex64, the Fourier transform of ten seconds at 44.1 kHz, full scale 1.
    """
    place = np.random.default_rng((seed, PLACE, segment.location))
    moment = np.random.default_rng((seed, MOMENT, segment.number))
    bed = noise(moment, _bed_curve(segment, seed, place))
    room = _room(segment.scene, place)
    level_dbfs = LEVEL_DBFS[segment.scene] + LEVEL_SPREAD_DB * place.standard_normal()
    level_dbfs += 0.5 * SEGMENT_SPREAD_DB * moment.standard_normal()
    spectrum = fft.rfft(bed) + room * fft.rfft(_sources(segment, seed, place, moment))
    power = 2 * np.mean(np.square(np.abs(spectrum))) / N_SAMPLES
    return spectrum * np.float32(10 ** (level_dbfs / 20) / np.sqrt(power / 2))


def _bed_curve(segment: Segment, seed: int, place: np.random.Generator) -> np.ndarray:
    """Return the octave levels `[10]` of the noise at a location, decibels."""
    city = np.random.default_rng((seed, CITY, CITIES.index(segment.city)))
    common = np.mean(list(BED_DB.values()), axis=0)
    curve = common + BED_SEPARATION * (np.asarray(BED_DB[segment.scene]) - common)
    curve = curve + CITY_SPREAD_DB * city.standard_normal(10)
    return curve + SPECTRUM_SPREAD_DB * place.standard_normal(10)


def _room(scene: str, place: np.random.Generator) -> np.ndarray | float:
    """Return the frequency response of a location's reverberation, or 1 outdoors."""
    decay_s, wet = REVERB_S[scene] * place.uniform(0.6, 1.4) / 6.9, place.uniform(0.4, 1.2)
    if decay_s == 0:
        return 1.0
    n = int(8 * decay_s * SAMPLE_RATE)
    tail = place.standard_normal(n, np.float32) * decay(n, decay_s)
    return 1 + np.float32(wet) * fft.rfft(tail / np.linalg.norm(tail), N_SAMPLES)


def _sources(
    segment: Segment, seed: int, place: np.random.Generator, moment: np.random.Generator
) -> np.ndarray:
    """Return the sum `[441000]` of the scene's sources, and perhaps of one that strays in."""
    levels = dict(MIX_DB[segment.scene])
    strays = [name for name in SOURCES if name not in levels]
    stray, strays_in = place.choice(strays), place.random() < STRAY_P
    if strays_in:
        levels[stray] = STRAY_DB
    total = np.zeros(N_SAMPLES, np.float32)
    for name, level_db in levels.items():
        character = np.random.default_rng(
            (seed, PLACE, segment.location, 1 + list(SOURCES).index(name))
        )
        level_db += LOCATION_SPREAD_DB * character.standard_normal()
        level_db += SEGMENT_SPREAD_DB * moment.standard_normal()
        if moment.random() >= SILENT_P:
            total += amplitude(level_db) * SOURCES[name](character, moment)
    return total
