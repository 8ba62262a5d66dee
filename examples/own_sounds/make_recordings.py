"""Generate a miniature data set for trying the example: four kinds of sounds, 10 recordings each.

    python make_recordings.py recordings

writes `recordings/<class>/<number>.flac`, 2 to 6 seconds long, at 44.1 or 48 kHz, one of three in
stereo, with pauses, as recordings of one's own are. Nothing in them is recorded.
"""

import sys
from pathlib import Path

import numpy as np
import soundfile

N_RECORDINGS = 10  # of each class
Generator = np.random.Generator


def fan(t: np.ndarray, rng: Generator) -> np.ndarray:
    """Return broadband noise whose level sways a few times a second."""
    noise = np.convolve(rng.standard_normal(len(t)), np.ones(24) / 24, "same")
    return noise * (1 + 0.4 * np.sin(2 * np.pi * rng.uniform(3, 6) * t))


def pump(t: np.ndarray, rng: Generator) -> np.ndarray:
    """Return dull thumps, two or three a second."""
    phase = t * rng.uniform(2, 3) % 1
    return np.sin(2 * np.pi * rng.uniform(50, 90) * t) * np.exp(-8 * phase)


def drill(t: np.ndarray, rng: Generator) -> np.ndarray:
    """Return a buzz with many harmonics that rises and falls a little."""
    pitch = rng.uniform(110, 160) * (1 + 0.03 * np.sin(2 * np.pi * 0.5 * t))
    phase = 2 * np.pi * np.cumsum(pitch) * (t[1] - t[0])
    return sum(np.sin(n * phase) / n for n in range(1, 20))


def bell(t: np.ndarray, rng: Generator) -> np.ndarray:
    """Return one stroke a second of a few partials that fade at different rates."""
    phase, low = t % 1, rng.uniform(500, 800)
    partials = (1.0, 2.76, 5.4)
    return sum(np.sin(2 * np.pi * low * p * t) * np.exp(-3 * p * phase) for p in partials)


CLASSES = {"bell": bell, "drill": drill, "fan": fan, "pump": pump}


def make(folder: Path) -> None:
    """Write the recordings; the same at every call."""
    for number, (name, sound) in enumerate(CLASSES.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for recording in range(N_RECORDINGS):
            rng = np.random.default_rng((number, recording))
            rate = (44_100, 48_000)[recording % 2]
            t = np.arange(int(rng.uniform(2, 6) * rate)) / rate
            waveform = sound(t, rng)
            waveform *= rng.uniform(0.05, 0.5) / np.abs(waveform).max()
            waveform += 0.003 * rng.standard_normal(len(t))
            waveform[: rng.integers(0, 2) * rate] = 0  # some begin with a second of silence
            channels = np.stack([waveform] * (2 if recording % 3 == 0 else 1), axis=-1)
            soundfile.write(folder / name / f"{recording:02}.flac", channels, rate)
    print(f"{len(CLASSES) * N_RECORDINGS} recordings of {len(CLASSES)} classes in {folder}")


if __name__ == "__main__":
    make(Path(sys.argv[1] if len(sys.argv) > 1 else "recordings"))
