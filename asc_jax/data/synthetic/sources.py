"""The things that sound in synthetic scenes: engines, voices, footsteps, birds, rails, …

Every source is a function of two generators and returns ten seconds of unit level
(`[441000]` float32): `place` draws what stays the same at a location (which engine, which
birds), `moment` what happens in these ten seconds. The same source appears in
several scenes; the scenes differ in how loud it is (`mixtures.MIX_DB`).
"""

import numpy as np

from asc_jax.data.synthetic.signals import (
    N_KNOTS,
    N_LOW,
    N_SAMPLES,
    SEGMENT_S,
    burst,
    gate,
    hump,
    noise,
    pulses,
    scatter,
    slow,
    stretch,
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


def beeps(place: Generator, moment: Generator) -> np.ndarray:
    """Door or till signals: one or two rows of equal beeps."""
    hz, period_s = place.uniform(900, 3200), place.uniform(0.12, 0.5)
    beep = tone(hz, hz, 0.6 * period_s)
    starts = moment.uniform(0, SEGMENT_S, moment.integers(1, 3))
    return scatter([(s + i * period_s, beep) for s in starts for i in range(6)])


def birds(place: Generator, moment: Generator) -> np.ndarray:
    """Trills of a few species, each with its own pitch, glide and rhythm."""
    events = []
    for _ in range(place.integers(2, 5)):
        hz, glide = place.uniform(2000, 6500), 2 ** place.uniform(-0.5, 0.5)
        note_s, n_notes = place.uniform(0.04, 0.18), place.integers(2, 9)
        for start_s in moment.uniform(0, SEGMENT_S, moment.integers(2, 7)):
            loudness = np.float32(10 ** moment.uniform(-0.8, 0))
            note = loudness * tone(hz, hz * glide, note_s)
            events += [(start_s + 1.4 * i * note_s, note) for i in range(n_notes)]
    return scatter(events)


def cars(place: Generator, moment: Generator) -> np.ndarray:
    """Vehicles passing: tyre and air noise that swells and fades, one after the other."""
    times = np.linspace(0, SEGMENT_S, N_KNOTS)
    envelope = np.full(N_KNOTS, 0.12)
    for at_s in moment.uniform(-1, SEGMENT_S + 1, place.integers(1, 7)):
        width_s = moment.uniform(0.5, 1.8)
        envelope += moment.uniform(0.3, 1.0) * np.exp(-(((times - at_s) / width_s) ** 2))
    tyres = noise(moment, hump(place.uniform(600, 1300), place.uniform(2.5, 4)))
    return unit(stretch(envelope, N_SAMPLES) * tyres)


def clatter(place: Generator, moment: Generator) -> np.ndarray:
    """Dishes, keys, doors: short bright impacts in clusters."""
    centre_hz, decay_s = place.uniform(1500, 6000), place.uniform(0.01, 0.05)
    starts = moment.uniform(0, SEGMENT_S, moment.integers(4, 15))
    return scatter([(s, burst(moment, centre_hz, 0.7, decay_s)) for s in starts])


def engine(place: Generator, moment: Generator) -> np.ndarray:
    """A combustion engine: firing pulses with drifting revolutions, and its noise."""
    idle_hz = place.uniform(22, 42)
    drift = 1 + 0.18 * wander(moment, 0.4, N_LOW)
    firing = pulses(idle_hz * moment.uniform(0.9, 1.6) * drift, place.uniform(6, 40))
    rush = moment.standard_normal(N_LOW, np.float32) * (0.3 + firing)
    return widen(firing + place.uniform(0.1, 0.5) * rush, hump(place.uniform(60, 160), 3.0))


def footsteps(place: Generator, moment: Generator) -> np.ndarray:
    """People walking past, on one kind of floor."""
    centre_hz, decay_s = place.uniform(250, 2500), place.uniform(0.008, 0.03)
    events = []
    for _ in range(moment.integers(1, 6)):
        period_s, start_s = moment.uniform(0.42, 0.65), moment.uniform(0, SEGMENT_S)
        steps = [burst(moment, centre_hz, 1.0, decay_s) for _ in range(3)]
        for i in range(moment.integers(5, 16)):
            loudness = np.float32(moment.uniform(0.3, 1))
            events.append((start_s + i * period_s, loudness * steps[i % 3]))
    return scatter(events)


def fountain(place: Generator, moment: Generator) -> np.ndarray:
    """Falling water: steady bright noise."""
    return noise(moment, hump(place.uniform(1500, 5000), place.uniform(2, 4)))


def music(place: Generator, moment: Generator) -> np.ndarray:
    """Background music: chords that change with the beat."""
    root_hz, beat_s = place.uniform(110, 220), 60 / place.uniform(80, 130)
    scale_hz = root_hz * 2 ** (np.array([0, 3, 5, 7, 10, 12, 15, 17, 19]) / 12)
    notes = [
        sum(tone(k * hz, k * hz, 1.1 * beat_s) / np.float32(k) for k in (1, 2, 3))
        for hz in moment.choice(scale_hz, 5, replace=False)
    ]
    return scatter(
        [
            (beat * beat_s, notes[i])
            for beat in range(int(SEGMENT_S / beat_s))
            for i in moment.choice(len(notes), 3, replace=False)
        ]
    )


def rails(place: Generator, moment: Generator) -> np.ndarray:
    """Wheels on rails: rumble, and pairs of clacks at the joints."""
    period_s, centre_hz = place.uniform(0.4, 1.2), place.uniform(300, 1500)
    clacks = [burst(moment, centre_hz, 1.2, 0.03) for _ in range(4)]
    speed = moment.uniform(0.7, 1.3)
    events = []
    for start_s in np.arange(0, SEGMENT_S, period_s / speed):
        clack = clacks[moment.integers(len(clacks))] * np.float32(moment.uniform(0.4, 1))
        events += [(start_s, clack), (start_s + 0.11 / speed, clack)]
    rumble = noise(moment, hump(place.uniform(60, 250), place.uniform(2, 3.5)))
    roughness = stretch(np.exp(0.35 * slow(moment, 6.0)), N_SAMPLES)
    return unit(rumble * roughness + place.uniform(0.1, 0.6) * scatter(events))


def squeal(place: Generator, moment: Generator) -> np.ndarray:
    """Brakes or wheels in a curve: a few high partials that come and go."""
    tones = np.zeros(N_LOW, np.float32)
    for _ in range(place.integers(1, 4)):
        hz = place.uniform(1500, 5500) * (1 + 0.01 * wander(moment, 5.0, N_LOW))
        tones += pulses(hz, 1.0) * gate(moment, 0.6, 0.35, N_LOW)
    return widen(tones)


def trolleys(place: Generator, moment: Generator) -> np.ndarray:
    """Suitcases or carts rolling by: rough noise that swells."""
    bumps = 0.5 + pulses(place.uniform(9, 30) * (1 + 0.1 * wander(moment, 2, N_LOW)), 2.0)
    near = stretch(np.exp(0.9 * slow(moment, 0.4)), N_LOW)
    rolling = moment.standard_normal(N_LOW, np.float32) * bumps * near
    return widen(rolling, hump(place.uniform(500, 2500), place.uniform(1.2, 2.5)))


def ventilation(place: Generator, moment: Generator) -> np.ndarray:
    """Air conditioning or a fan: falling noise and a faint constant hum."""
    slope_db = -place.uniform(2, 7) * np.arange(10)
    hum = widen(pulses(place.choice([49, 98, 147]) * place.uniform(0.96, 1.0), 4.0))
    return unit(noise(moment, slope_db) + place.uniform(0.05, 0.4) * hum)


def whine(place: Generator, moment: Generator) -> np.ndarray:
    """An electric drive that speeds up or slows down."""
    ramp = np.linspace(moment.uniform(0.5, 1.5), moment.uniform(0.5, 1.5), N_LOW)
    hz = place.uniform(150, 700) * ramp * (1 + 0.005 * wander(moment, 10.0, N_LOW))
    loudness = stretch(np.exp(0.4 * slow(moment, 1.0)), N_LOW)
    return widen(pulses(hz, place.uniform(1, 8)) * loudness)


def wind(place: Generator, moment: Generator) -> np.ndarray:
    """Gusts in leaves and at the microphone."""
    gusts = stretch(np.exp(place.uniform(0.3, 0.8) * slow(moment, 0.7)), N_SAMPLES)
    leaves = noise(moment, hump(place.uniform(2000, 5000), 3.0))
    low = noise(moment, hump(45, place.uniform(1.5, 2.5)))
    return unit(gusts * (low + place.uniform(0.1, 0.6) * leaves))


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


_ALL = (
    *(announcement, babble, beeps, birds, cars, clatter, engine, footsteps, fountain),
    *(music, rails, squeal, trolleys, ventilation, whine, wind),
)
SOURCES = {source.__name__: source for source in _ALL}
