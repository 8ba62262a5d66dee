"""tensorflow-datasets builder: a folder in TAU's layout → clips at 32 kHz, in any order.

    recordings = read_recordings("TAU-urban-acoustic-scenes-2022-mobile-development")
    build(recordings, "data/tau22")

Only `asc_jax.cli.prepare_data` needs this module; training and evaluation read the result
through `data.clips`.

Source: the data set's documentation (Zenodo record 6337421) and the task's rules.
"""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds  # imports TensorFlow only when it needs it

from asc_jax.data.resampling import SAMPLE_RATE
from asc_jax.data.stamps import file_stamps, require_unchanged
from asc_jax.data.store.shards import (
    ShardBuilder,
    audio_feature,
    build_in_place,
    built_facts,
    example,
)
from asc_jax.data.tau.folder import Recording, fingerprint, read_recordings
from asc_jax.data.tau.taxonomy import SCENES
from asc_jax.data.tau.wav import read_resampled
from asc_jax.errors import UserError

SHARD_CLIPS = 2048  # 256 MiB
NAMES_BYTES = 600  # of the names of a stored clip, rounded up
COLUMNS = ("label", "device_id", "city_id", "location", "segment", "filename")


class Tau22(ShardBuilder):
    """TAU Urban Acoustic Scenes 2022 Mobile with the splits of DCASE 2024 Task 1.

    Args:
      tau_dir: folder in TAU's layout, all of whose splits are to be built.
      recordings: in place of `tau_dir`: split name → what `read_recordings` returned.
      official: names of the splits whose lists are the published ones.
      sample_rate: that clips are stored at, one of `resampling.STORED_RATES`, Hz.
      **kwargs: `on_clips`, called with the number of clips written since its last call, and tfds'
        own, e.g. `data_dir`.

    An example holds `audio` float32 [sample_rate] in [-1, 1), `label`, `device_id` and `city_id`
    (ids of `taxonomy`, -1 where unknown), `location` ("lisbon-1000"), `segment` ("40000",
    the ten-second recording) and `filename`, in the order of the split's list.
    """

    def __init__(
        self,
        *,
        tau_dir: str | os.PathLike | None = None,
        recordings: dict[str, list[Recording]] | None = None,
        official: Sequence[str] = (),
        sample_rate: int = SAMPLE_RATE,
        **kwargs,
    ):
        self._tau_dir, self._recordings = tau_dir, recordings
        self._official, self._sample_rate = list(official), sample_rate
        super().__init__(**kwargs)

    @functools.cached_property
    def recordings(self) -> dict[str, list[Recording]]:
        """Return the checked lists of `tau_dir`; a UserError says what is wrong with them."""
        if self._recordings is not None:
            return self._recordings
        if self._tau_dir is None:
            raise UserError("Tau22: tau_dir, the folder with TAU's meta.csv, is needed")
        return read_recordings(self._tau_dir)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"One-second scenes at {self._sample_rate} Hz.",
            features=tfds.features.FeaturesDict(
                {
                    "audio": audio_feature(self._sample_rate),
                    "label": tfds.features.ClassLabel(names=SCENES),
                    "device_id": tfds.features.Scalar(np.int32),
                    "city_id": tfds.features.Scalar(np.int32),
                    "location": tfds.features.Text(),
                    "segment": tfds.features.Text(),
                    "filename": tfds.features.Text(),
                }
            ),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
            homepage="https://zenodo.org/records/6337421",
        )

    def splits(self) -> dict[str, list[Recording]]:
        """Return split name → its clips."""
        return self.recordings

    def facts(self) -> dict[str, Any]:
        """Return what the splits are made from."""
        inputs = {split: fingerprint(clips) for split, clips in self.recordings.items()}
        return {"inputs": inputs, "official": self._official}

    def shard_clips(self) -> int:
        """Return the number of clips of a whole shard."""
        return SHARD_CLIPS

    def waveforms(self, clips: Sequence[Recording]) -> Iterator[np.ndarray]:
        """Yield `[sample_rate]` float32 of each clip."""
        return read_resampled([clip.path for clip in clips], rate=self._sample_rate)

    def serialise(self, clip: Recording, waveform: np.ndarray) -> bytes:
        """Return the record of a clip."""
        return serialise(clip, waveform)


def serialise(clip: Recording, waveform: np.ndarray) -> bytes:
    """Return a clip as `Tau22` stores it.

    Args:
      clip: its names and ids.
      waveform: `[sample_rate]` float32.
    """
    return example(waveform, {name: getattr(clip, name) for name in COLUMNS})


def built_inputs(data_dir: str | os.PathLike) -> dict[str, str] | None:
    """Return split name → fingerprint of a data set, or None if it is not as it was built.

    Raises:
      UserError: the system does not let it be read, so that it may be as it was.
    """
    facts = built_facts(dataset_folder(data_dir))
    return facts and facts.get("inputs")


def dataset_folder(data_dir: str | os.PathLike) -> Path:
    """Return the folder in `data_dir` of the files of this version of the data set."""
    return Path(data_dir) / Tau22.name / str(Tau22.VERSION)


def build(
    recordings: dict[str, list[Recording]],
    data_dir: str | os.PathLike,
    on_clips: Callable[[int], object] = lambda n_clips: None,
    official: Sequence[str] = (),
    sample_rate: int = SAMPLE_RATE,
) -> Path:
    """Build the data set beside the one that may be there, then replace that.

    A build that fails or is stopped leaves what was there before.

    Args:
      recordings: split name → what `read_recordings` made of its list.
      data_dir: folder that is to hold the data set; made if needed.
      on_clips: called with the number of clips written since its last call.
      official: names of the splits whose lists are the published ones.
      sample_rate: that clips are stored at, one of `resampling.STORED_RATES`, Hz.

    Returns:
      The folder of the data set's files.

    Raises:
      UserError: a wav file is not as expected or changed meanwhile, `data_dir` cannot be
        written, has too little room, or is being built by another process.
    """
    n_clips = sum(map(len, recordings.values()))
    paths = [clip.path for clips in recordings.values() for clip in clips]
    before = file_stamps(paths)
    return build_in_place(
        functools.partial(
            Tau22,
            recordings=recordings,
            official=official,
            on_clips=on_clips,
            sample_rate=sample_rate,
        ),
        data_dir,
        Tau22.name,
        n_bytes=n_clips * (4 * sample_rate + NAMES_BYTES),
        sample_rate=sample_rate,
        n_samples=sample_rate,
        require_unchanged=lambda: require_unchanged(before, file_stamps(paths)),
    )
