"""Write a small folder in TAU's layout, for tests."""

import numpy as np
import soundfile

from asc_jax.data.tau.taxonomy import CITIES, DEVICES, SCENES

RATE = 44_100
EVALUATION = "TAU-urban-acoustic-scenes-2024-mobile-evaluation"


def clip_name(number):
    """A clip of scene, city and device `number`, modulo how many there are."""
    scene, city = SCENES[number % len(SCENES)], CITIES[number % len(CITIES)]
    return f"audio/{scene}-{city}-{1000 + number}-{number}-0-{DEVICES[number % 9]}.wav"


def write_list(path, rows, header=("filename", "scene_label")):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(row) + "\n" for row in [header, *rows]))


def write_wav(path, *, seed=0, n=RATE, rate=RATE, channels=1, subtype="PCM_24"):
    path.parent.mkdir(parents=True, exist_ok=True)
    waveform = np.random.default_rng(seed).uniform(-0.5, 0.5, (n, channels))
    soundfile.write(path, waveform, rate, subtype=subtype)
    return waveform[:, 0].astype(np.float32)


def write_tau(folder, n_train=20, n_test=7, percents=(5, 100)):
    """Training clips are numbers 0 …, test clips follow; split5 holds every fourth."""
    names = [clip_name(number) for number in range(n_train + n_test)]
    for number, name in enumerate(names):
        write_wav(folder / name, seed=number)
    meta = []
    for name in names:
        scene, city, location, _, _, device = name[len("audio/") : -len(".wav")].split("-")
        meta.append((name, scene, f"{city}-{location}", device))
    header = ("filename", "scene_label", "identifier", "source_label")
    write_list(folder / "meta.csv", meta, header)
    train = [row[:2] for row in meta[:n_train]]
    lists = {5: train[::4], 10: train[::2], 25: train[:8], 50: train[:10], 100: train}
    for percent in percents:
        write_list(folder / "split_setup" / f"split{percent}.csv", lists[percent])
    write_list(folder / "split_setup" / "test.csv", [row[:2] for row in meta[n_train:]])
    write_list(folder / "evaluation_setup" / "fold1_train.csv", train)
    return folder


def write_evaluation(parent, n=3):
    """The unlabelled folder that may lie beside a TAU folder."""
    names = [f"audio/{number}.wav" for number in range(n)]
    for number, name in enumerate(names):
        write_wav(parent / EVALUATION / name, seed=100 + number)
    rows = [(name,) for name in names]
    write_list(parent / EVALUATION / "evaluation_setup" / "fold1_test.csv", rows, ("filename",))
