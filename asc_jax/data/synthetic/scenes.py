"""Synthetic acoustic scenes, written as a folder laid out like TAU 2022 Mobile.

For the demo, the tests and anyone without the 30.5 GB of recordings. Nothing here is
recorded, so an accuracy on it says nothing about real scenes. The test split has locations
and devices of its own: a network must generalise to both, as in the challenge. An evaluation set
without labels can be written beside the folder, as the challenge's is unpacked.

docs/results.md gives the accuracy of the demo (configs/demo.py) on the test split, by group of
devices.
`mixtures` and `devices` hold the constants that set how hard it is.

Everything is a pure function of the seed: a segment's generators are seeded with
(seed, purpose, number), so the number of threads does not show in the bytes.

Source: the layout is that of the data set's documentation (Zenodo record 6337421) and of
the task's split lists; the sounds are our own invention.
"""

import csv
import itertools
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from asc_jax.data.synthetic.devices import record
from asc_jax.data.synthetic.mixtures import MICROPHONE, Segment, render
from asc_jax.data.synthetic.signals import SAMPLE_RATE, SEGMENT_S
from asc_jax.data.tau.folder import EVALUATION_FOLDER
from asc_jax.data.tau.taxonomy import CITIES, DEVICES, SCENES, TRAIN_PERCENTS
from asc_jax.errors import UserError

TRAIN_SEGMENTS_PER_LOCATION, TEST_SEGMENTS_PER_LOCATION = 2, 1
FIRST_LOCATION, FIRST_SEGMENT = 1000, 40_000  # numbers as long as the data set's own
# Devices of a scene's successive training segments: 13 of 20 are a, and every prefix has
# about that fraction. Scenes start at different places among the others.
TRAIN_PATTERN = "a.aa.a.aa.aa.a.aa.aa"
OTHER_TRAIN_DEVICES = ("b", "s1", "c", "s2", "s3")
HEADER = ("filename", "scene_label", "identifier", "source_label")


class DeviceRecording(NamedTuple):
    """One device's recording of one segment; `rank` counts a scene's, from 0."""

    segment: Segment
    device: str
    rank: int


def write_dataset(
    out_dir: str | os.PathLike,
    *,
    seed: int = 0,
    n_train_segments: int = 20,
    n_test_segments: int = 3,
    n_evaluation_segments: int = 0,
    n_workers: int | None = None,
) -> Path:
    """Write one-second clips and their lists; `meta.csv` comes last, so it marks the end.

    Args:
      out_dir: folder to create; files of the same names are replaced.
      seed: at least 0. Equal seeds and sizes give equal bytes.
      n_train_segments: ten-second segments per scene in the 100 % training split, at least
        1. Each is recorded by one device (10 clips). The smaller splits hold the first 5,
        10, 25 and 50 % of every scene's segments, at least one.
      n_test_segments: the same for the test split. Each is recorded by all nine devices (90
        clips), so that devices are compared on the same sounds.
      n_evaluation_segments: the same for the evaluation set, at least 0. Each is recorded by one
        device (10 clips); names and order tell nothing. 0: there is none.
      n_workers: threads; None: one per CPU.

    Returns:
      `out_dir`.

    Raises:
      UserError: a size or the seed is too small.
    """
    if min(seed, n_evaluation_segments) < 0 or min(n_train_segments, n_test_segments) < 1:
        raise UserError(
            f"seed={seed}, n_train_segments={n_train_segments}, n_test_segments={n_test_segments} "
            f"and n_evaluation_segments={n_evaluation_segments}: expected a seed of at least 0, "
            "and sizes of at least 1, of the evaluation set at least 0"
        )
    out_dir = Path(out_dir)
    train = _plan_train(seed, n_train_segments)
    test = _plan_test(seed, n_train_segments, n_test_segments)
    (out_dir / "audio").mkdir(parents=True, exist_ok=True)
    by_segment: dict[Segment, list[str]] = {}
    for recording in train + test:
        by_segment.setdefault(recording.segment, []).append(recording.device)
    with ThreadPoolExecutor(n_workers or os.cpu_count()) as pool:
        list(pool.map(lambda item: _write_segment(out_dir, seed, *item), by_segment.items()))
        if n_evaluation_segments:
            first = n_train_segments + n_test_segments
            plan = _plan_evaluation(seed, first, n_evaluation_segments)
            _write_evaluation(out_dir.absolute().parent / EVALUATION_FOLDER, seed, plan, pool)
    _write_lists(out_dir, train, test, n_train_segments)
    return out_dir


def _locate(seed: int, scene: str, first: int, rank: int, n_locations: int) -> Segment:
    """Return a scene's segment number `first + rank`; the locations take turns.

    So a small split sees as many locations as it can. Locations, too, count from `first`,
    which keeps those of the two splits apart.
    """
    scene_id = SCENES.index(scene)
    place = first + rank % n_locations
    cities = np.random.default_rng((seed, scene_id)).permutation(len(CITIES))
    return Segment(
        scene,
        city=CITIES[cities[place % len(CITIES)]],
        location=FIRST_LOCATION + place * len(SCENES) + scene_id,
        number=FIRST_SEGMENT + (first + rank) * len(SCENES) + scene_id,
    )


def _plan_train(seed: int, n_segments: int) -> list[DeviceRecording]:
    """Return the training split, scene by scene in rising rank."""
    n_locations = -(-n_segments // TRAIN_SEGMENTS_PER_LOCATION)
    plan = []
    for scene_id, scene in enumerate(SCENES):
        others = itertools.islice(itertools.cycle(OTHER_TRAIN_DEVICES), scene_id, None)
        for rank in range(n_segments):
            device = TRAIN_PATTERN[(rank + scene_id) % len(TRAIN_PATTERN)]
            segment = _locate(seed, scene, 0, rank, n_locations)
            plan.append(DeviceRecording(segment, next(others) if device == "." else device, rank))
    return plan


def _plan_test(seed: int, first: int, n_segments: int) -> list[DeviceRecording]:
    """Return the test split: every segment by every device, as in the data set."""
    n_locations = -(-n_segments // TEST_SEGMENTS_PER_LOCATION)
    return [
        DeviceRecording(_locate(seed, scene, first, rank, n_locations), device, rank)
        for scene in SCENES
        for rank in range(n_segments)
        for device in DEVICES
    ]


def _plan_evaluation(seed: int, first: int, n_segments: int) -> list[DeviceRecording]:
    """Return the evaluation set: every segment by one device; the devices take turns."""
    return [
        DeviceRecording(
            _locate(seed, scene, first, rank, n_segments),
            DEVICES[(rank + scene_id) % len(DEVICES)],
            rank,
        )
        for scene_id, scene in enumerate(SCENES)
        for rank in range(n_segments)
    ]


def _filename(segment: Segment, cut: int, device: str) -> str:
    """Return the name of a clip as the data set has it, with the folder."""
    fields = (segment.scene, segment.city, segment.location, segment.number, cut, device)
    return f"audio/{'-'.join(map(str, fields))}.wav"


def _write_segment(out_dir: Path, seed: int, segment: Segment, devices: Sequence[str]) -> None:
    """Render a segment once and write each device's ten clips of it."""
    spectrum = render(segment, seed)
    for device in devices:
        names = [out_dir / _filename(segment, cut, device) for cut in range(SEGMENT_S)]
        _write_clips(names, spectrum, seed, segment, device)


def _write_clips(
    paths: Sequence[Path], spectrum: np.ndarray, seed: int, segment: Segment, device: str
) -> None:
    """Write the ten clips of a segment as a device records it."""
    own = np.random.default_rng((seed, MICROPHONE, segment.number, DEVICES.index(device)))
    waveform = record(spectrum, device, own)
    for path, clip in zip(paths, waveform.reshape(SEGMENT_S, SAMPLE_RATE), strict=True):
        soundfile.write(path, clip, SAMPLE_RATE, subtype="PCM_24")


def _write_evaluation(
    folder: Path, seed: int, plan: Sequence[DeviceRecording], pool: ThreadPoolExecutor
) -> None:
    """Write the clips under numbers in random order, and their list."""
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng((seed, len(plan))).permutation(len(plan) * SEGMENT_S)
    names = [f"audio/{number}.wav" for number in order]

    def write(item):
        i, (segment, device, _) = item
        paths = [folder / name for name in names[i * SEGMENT_S : (i + 1) * SEGMENT_S]]
        _write_clips(paths, render(segment, seed), seed, segment, device)

    list(pool.map(write, enumerate(plan)))
    rows = [(f"audio/{number}.wav",) for number in range(len(names))]
    _write_csv(folder / "evaluation_setup" / "fold1_test.csv", rows, 1)


def _rows(recordings: Iterable[DeviceRecording]) -> list[tuple[str, str, str, str]]:
    """Return the `meta.csv` rows of the recordings' clips."""
    return [
        (_filename(s, cut, device), s.scene, f"{s.city}-{s.location}", device)
        for s, device, _ in recordings
        for cut in range(SEGMENT_S)
    ]


def _write_lists(
    out_dir: Path, train: list[DeviceRecording], test: list[DeviceRecording], n_train_segments: int
) -> None:
    """Write the folds as the data set has them, the splits as the task publishes them."""
    setup, splits = out_dir / "evaluation_setup", out_dir / "split_setup"
    _write_csv(setup / "fold1_train.csv", _rows(train), 2)
    _write_csv(setup / "fold1_evaluate.csv", _rows(test), 2)
    _write_csv(setup / "fold1_test.csv", _rows(test), 1)
    _write_csv(splits / "test.csv", _rows(test), 2)
    for percent in TRAIN_PERCENTS:
        n_kept = max(1, n_train_segments * percent // 100)
        kept = [recording for recording in train if recording.rank < n_kept]
        _write_csv(splits / f"split{percent}.csv", _rows(kept), 2)
    _write_csv(out_dir / "meta.csv", _rows(train + test), 4)


def _write_csv(path: Path, rows: list[tuple[str, ...]], n_columns: int) -> None:
    """Write the first columns of the rows under their header, separated by tabs."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(HEADER[:n_columns])
        writer.writerows(row[:n_columns] for row in rows)
