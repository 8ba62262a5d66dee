"""tensorflow-datasets builder: a folder in TAU's layout → clips at 32 kHz, in any order.

    recordings = read_recordings("TAU-urban-acoustic-scenes-2022-mobile-development")
    build(recordings, "data/tau22")

Only `asc_jax.cli.prepare_data` needs this module; training and evaluation read the result
through `data.clips`. Because of the size of the set (230,350 clips, 38 GB over all splits), shards
of array records are written here in place of tfds' way, which collects a split in memory first.

Source: the data set's documentation (Zenodo record 6337421) and the task's rules.
"""

import array
import contextlib
import functools
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds  # imports TensorFlow only when it needs it
from array_record.python import array_record_module
from tensorflow_datasets.core import dataset_builder

from asc_jax.data.store import integrity
from asc_jax.data.tau.folder import (
    Recording,
    file_stamps,
    fingerprint,
    read_recordings,
    require_unchanged,
)
from asc_jax.data.tau.taxonomy import SCENES
from asc_jax.data.tau.wav import SAMPLE_RATE, read_resampled
from asc_jax.errors import UserError
from asc_jax.machine import files
from asc_jax.machine.optional_packages import require_tensorflow
from asc_jax.machine.staging import replacing

SHARD_CLIPS = 2048  # 256 MiB
# Every record is found on its own. Uncompressed ones are written three times faster and, on noise,
# take 8 % more room.
RECORDS = "group_size:1,uncompressed"
NAMES_BYTES = 600  # of the names of a stored clip, rounded up


class Stored(NamedTuple):
    """Name the place where a clip is stored."""

    path: str  # of the shard
    index: int  # in the shard
    checksum: int


class Tau22(dataset_builder.FileReaderBuilder):
    """TAU Urban Acoustic Scenes 2022 Mobile with the splits of DCASE 2024 Task 1.

    Args:
      tau_dir: folder in TAU's layout, all of whose splits are to be built.
      recordings: in place of `tau_dir`: split name → what `read_recordings` returned.
      official: names of the splits whose lists are the published ones.
      on_clips: called with the number of clips written since its last call.
      sample_rate: that clips are stored at, one of `wav.STORED_RATES`, Hz.
      **kwargs: tfds' own, e.g. `data_dir`.

    An example holds `audio` float32 [sample_rate] in [-1, 1), `label`, `device_id` and `city_id`
    (ids of `taxonomy`, -1 where unknown), `location` ("lisbon-1000"), `segment` ("40000",
    the ten-second recording) and `filename`, in the order of the split's list.
    """

    VERSION = tfds.core.Version("1.0.0")
    # tfds would look for checksums beside this file, with a package it does not declare.
    code_path = None

    def __init__(
        self,
        *,
        tau_dir: str | os.PathLike | None = None,
        recordings: dict[str, list[Recording]] | None = None,
        official: Sequence[str] = (),
        on_clips: Callable[[int], object] = lambda n_clips: None,
        sample_rate: int = SAMPLE_RATE,
        **kwargs,
    ):
        require_tensorflow()  # or tfds imports it, which would take the GPU
        self._tau_dir, self._recordings, self._on_clips = tau_dir, recordings, on_clips
        self._official, self._sample_rate = list(official), sample_rate
        self.checksums: dict[str, array.array] = {}  # of the clips of each split written
        self._stored: dict[Recording, Stored] = {}
        super().__init__(**{"file_format": "array_record", **kwargs})

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
                    # Raw bytes: the form that is read fastest.
                    "audio": tfds.features.Tensor(
                        shape=(self._sample_rate,), dtype=np.float32, encoding="bytes"
                    ),
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

    def _download_and_prepare(self, dl_manager, download_config=None) -> None:
        """Write all splits. tfds' own way takes three times as long over encoding a clip."""
        inputs = {split: fingerprint(clips) for split, clips in self.recordings.items()}
        self.info.metadata.update(inputs=inputs, official=self._official)
        # The splits lie one within the other: a clip of an earlier one is copied.
        largest_first = sorted(self.recordings, key=lambda split: -len(self.recordings[split]))
        written = {split: self._write(split) for split in largest_first}
        self.info.set_splits(
            tfds.core.splits.SplitDict([written[split] for split in self.recordings])
        )

    def _write(self, split: str) -> tfds.core.SplitInfo:
        """Write the shards of a split."""
        template = self._get_filename_template(split_name=split)
        clips = self.recordings[split]
        parts = [clips[at : at + SHARD_CLIPS] for at in range(0, len(clips), SHARD_CLIPS)]
        sums, n_bytes = array.array("L"), 0
        for number, part in enumerate(parts):
            path = os.fspath(template.sharded_filepath(shard_index=number, num_shards=len(parts)))
            places = write_shard(path, part, self._stored, self._on_clips, self._sample_rate)
            sums.extend(place.checksum for place in places)
            n_bytes += os.stat(path).st_size
            for clip, place in zip(part, places, strict=True):
                self._stored.setdefault(clip, place)
        self.checksums[split] = sums
        return tfds.core.SplitInfo(
            name=split,
            shard_lengths=list(map(len, parts)),
            num_bytes=n_bytes,
            filename_template=template,
        )


def write_shard(
    path: str,
    clips: Sequence[Recording],
    stored: Mapping[Recording, Stored],
    on_clips: Callable[[int], object] = lambda n_clips: None,
    sample_rate: int = SAMPLE_RATE,
) -> list[Stored]:
    """Write one shard into an existing folder.

    Args:
      path: of the shard.
      clips: what goes into it, in this order.
      stored: clips of earlier shards, which are copied from there; all others are read from
        their wav files.
      on_clips: called with 1 after each clip.
      sample_rate: of what is written, Hz.

    Returns:
      Where each clip now is.

    Raises:
      UserError: a wav file is not as expected, or a shard that is copied from is damaged.
      OSError: the shard cannot be written.
    """
    new = [clip.path for clip in clips if clip not in stored]
    waveforms = read_resampled(new, rate=sample_rate)
    readers, written = {}, []
    with contextlib.closing(waveforms):
        with _disk_errors():
            out = array_record_module.ArrayRecordWriter(path, RECORDS)
        for index, clip in enumerate(clips):
            if clip in stored:
                record = _read_again(readers, stored[clip])
            else:
                record = serialise(clip, next(waveforms))
            with _disk_errors():
                out.write(record)
            written.append(Stored(path, index, integrity.checksum(record)))
            on_clips(1)
        with _disk_errors():
            out.close()
    return written


def serialise(clip: Recording, waveform: np.ndarray) -> bytes:
    """Return a clip as `Tau22` stores it: the same bytes each time, unlike tfds' own serialiser.

    Args:
      clip: its names and ids.
      waveform: `[sample_rate]` float32.
    """
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example()
    feature = example.features.feature
    feature["audio"].bytes_list.value.append(waveform.astype("<f4", copy=False).tobytes())
    for name in ("label", "device_id", "city_id"):
        feature[name].int64_list.value.append(getattr(clip, name))
    for name in ("location", "segment", "filename"):
        feature[name].bytes_list.value.append(getattr(clip, name).encode())
    return example.SerializeToString(deterministic=True)


def _read_again(readers: dict, stored: Stored) -> bytes:
    """Return the record of a stored clip, compared with its checksum."""
    try:
        if stored.path not in readers:
            readers[stored.path] = array_record_module.ArrayRecordReader(
                stored.path, "readahead_buffer_size:0"
            )
        record = readers[stored.path].read([stored.index])[0]
        if integrity.checksum(record) != stored.checksum:
            raise ValueError("a clip is not the one that was stored")
    except Exception as error:  # array_record raises all sorts
        if words := files.system_words(error):
            raise UserError(f"cannot read {stored.path}: {words}") from error
        raise UserError(
            f"{stored.path}, written just now, is damaged: is the disk sound? ({error})"
        ) from error
    return record


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """Raise what array_record says of a disk as the OSError that it would be of another file."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error).partition(";")[0]) from error


def built_inputs(data_dir: str | os.PathLike) -> dict[str, str] | None:
    """Return split name → fingerprint of a data set, or None if it is not as it was built.

    Raises:
      UserError: the system does not let it be read, so that it may be as it was.
    """
    folder = dataset_folder(data_dir)
    try:
        integrity.check(folder)
        return files.parse_json((folder / "metadata.json").read_bytes())["inputs"]
    except (OSError, ValueError, KeyError) as error:
        if words := files.system_words(error):
            raise UserError(f"cannot read the data set in {folder}: {words}") from error
        return None


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
      sample_rate: that clips are stored at, one of `wav.STORED_RATES`, Hz.

    Returns:
      The folder of the data set's files.

    Raises:
      UserError: a wav file is not as expected or changed meanwhile, `data_dir` cannot be
        written, has too little room, or is being built by another process.
    """
    n_clips = sum(map(len, recordings.values()))
    before = file_stamps(recordings)
    n_bytes = n_clips * (4 * sample_rate + NAMES_BYTES)
    with replacing(data_dir, Tau22.name, n_bytes) as staging:
        builder = Tau22(
            recordings=recordings,
            official=official,
            on_clips=on_clips,
            sample_rate=sample_rate,
            data_dir=staging,
        )
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        tfds.disable_progress_bar()  # it counts shards; on_clips counts clips
        with contextlib.redirect_stdout(io.StringIO()):  # tfds announces itself by print
            builder.download_and_prepare(download_config=config)
        integrity.record(dataset_folder(staging), builder.checksums, sample_rate)
        require_unchanged(before, file_stamps(recordings))
    return dataset_folder(data_dir)
