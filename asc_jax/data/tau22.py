"""tensorflow-datasets builder: a folder in TAU's layout → clips at 32 kHz, in any order.

    recordings = read_recordings("TAU-urban-acoustic-scenes-2022-mobile-development")
    build(recordings, "data/tau22")

Only `asc_jax.cli.prepare_data` needs this module; training and evaluation read the result
through `data.pipeline`. Because of the size of the set (230,350 clips, 38 GB over all splits),
shards are written here one after the other in place of tfds' way, which collects a split in
memory first; and records are not compressed, which is three times quicker to write and, on
noise, takes 8 % more room.

Source: the data set's documentation (Zenodo record 6337421) and the task's rules.
"""

import array
import contextlib
import functools
import hashlib
import io
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds  # imports TensorFlow only when it needs it
from array_record.python import array_record_module
from tensorflow_datasets.core import dataset_builder

from asc_jax import json_object
from asc_jax.data import integrity
from asc_jax.data.staging import replacing
from asc_jax.data.tau_folder import Recording, read_recordings
from asc_jax.data.tf_stream import import_tensorflow
from asc_jax.data.wav import N_SAMPLES, read_resampled
from asc_jax.errors import UserError
from asc_jax.taxonomy import SCENES

SHARD_CLIPS = 8192  # 1 GiB
N_HASHED_CLIPS = 16  # of every split, for its fingerprint
CLIP_BYTES = 128_600  # a stored clip with its names, rounded up


class Tau22(dataset_builder.FileReaderBuilder):
    """TAU Urban Acoustic Scenes 2022 Mobile with the splits of DCASE 2024 Task 1.

    Args:
      tau_dir: folder in TAU's layout, all of whose splits are to be built.
      recordings: in place of `tau_dir`: split name → what `read_recordings` returned.
      official: names of the splits whose lists are the published ones.
      on_clips: called with the number of clips written since its last call.
      **kwargs: tfds' own, e.g. `data_dir`.

    An example holds `audio` float32 [32000] in [-1, 1), `label`, `device_id` and `city_id`
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
        **kwargs,
    ):
        import_tensorflow()  # before tfds does, who would take the GPU
        self._tau_dir, self._recordings, self._on_clips = tau_dir, recordings, on_clips
        self._official = list(official)
        self._checksums = array.array("L")
        # Clip → its shard, its place there and among all; shard → what reads it.
        self._stored: dict[Recording, tuple[str, int, int]] = {}
        self._readers: dict[str, array_record_module.ArrayRecordReader] = {}
        super().__init__(**{"file_format": "array_record", **kwargs})

    @functools.cached_property
    def recordings(self) -> dict[str, list[Recording]]:
        """The checked lists of `tau_dir`; a UserError says what is wrong with them."""
        if self._recordings is not None:
            return self._recordings
        if self._tau_dir is None:
            raise UserError("Tau22: tau_dir, the folder with TAU's meta.csv, is needed")
        return read_recordings(self._tau_dir)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="One-second scenes at 32 kHz.",
            features=tfds.features.FeaturesDict(
                {
                    # Raw bytes: the form that is read fastest.
                    "audio": tfds.features.Tensor(
                        shape=(N_SAMPLES,), dtype=np.float32, encoding="bytes"
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

    def checksums(self) -> dict[str, Sequence[int]]:
        """Split name → the checksums of its clips, of the build just done."""
        sizes = {split: len(clips) for split, clips in self.recordings.items()}
        starts = itertools.accumulate(sizes.values(), initial=0)
        return {
            split: self._checksums[start : start + size]
            for start, (split, size) in zip(starts, sizes.items(), strict=False)
        }

    def _download_and_prepare(self, dl_manager, download_config=None) -> None:
        """Write all splits. tfds' own way takes three times as long over encoding a clip."""
        self.info.metadata["inputs"] = {
            split: fingerprint(clips) for split, clips in self.recordings.items()
        }
        self.info.metadata["official"] = self._official
        try:
            written = [self._write(split, clips) for split, clips in self.recordings.items()]
        finally:
            for reader in self._readers.values():
                with contextlib.suppress(RuntimeError):  # of a damaged shard, told by `_copy`
                    reader.close()
        self.info.set_splits(tfds.core.splits.SplitDict(written))

    def _write(self, split: str, clips: list[Recording]) -> tfds.core.SplitInfo:
        template = self._get_filename_template(split_name=split)
        shards = [clips[at : at + SHARD_CLIPS] for at in range(0, len(clips), SHARD_CLIPS)]
        n_bytes = 0
        for number, shard in enumerate(shards):
            path = template.sharded_filepath(shard_index=number, num_shards=len(shards))
            self._write_shard(path, shard)
            n_bytes += os.stat(path).st_size
        return tfds.core.SplitInfo(
            name=split,
            shard_lengths=[len(shard) for shard in shards],
            num_bytes=n_bytes,
            filename_template=template,
        )

    def _write_shard(self, path, clips: list[Recording]) -> None:
        """Array records, each to be found on its own, without compression.

        The splits lie one within the other: a clip of an earlier one is copied.
        """
        new = [clip for clip in clips if clip not in self._stored]

        def with_checksum(number: int, waveform: np.ndarray) -> tuple[bytes, int]:
            record = serialise(new[number], waveform)
            return record, integrity.checksum(record)

        made = read_resampled([clip.path for clip in new], each=with_checksum)
        out = array_record_module.ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")
        for clip in clips:
            stored = self._stored.get(clip)
            record, checksum = next(made) if stored is None else self._copy(*stored)
            out.write(record)
            self._checksums.append(checksum)
            self._on_clips(1)
        out.close()
        number = len(self._checksums) - len(clips)
        for index, clip in enumerate(clips):
            self._stored.setdefault(clip, (os.fspath(path), index, number + index))

    def _copy(self, path: str, index: int, number: int) -> tuple[bytes, int]:
        """A clip stored before, held against its checksum."""
        try:
            if path not in self._readers:
                self._readers[path] = array_record_module.ArrayRecordReader(
                    path, "readahead_buffer_size:0"
                )
            record = self._readers[path].read([index])[0]
            if integrity.checksum(record) != self._checksums[number]:
                raise ValueError("a clip is not the one that was stored")
        except Exception as error:  # array_record raises all sorts
            raise UserError(
                f"{path}, written just now, is damaged: is the disk sound? ({error})"
            ) from error
        return record, self._checksums[number]


def serialise(clip: Recording, waveform: np.ndarray) -> bytes:
    """A clip as `Tau22` stores it; the same clip is the same bytes, which tfds leaves to chance.

    Args:
      clip: its names and ids.
      waveform: `[32000]` float32.
    """
    from tensorflow_datasets.proto import tf_example_pb2  # with TensorFlow, which is there now

    example = tf_example_pb2.Example()
    feature = example.features.feature
    feature["audio"].bytes_list.value.append(waveform.astype("<f4", copy=False).tobytes())
    for name in ("label", "device_id", "city_id"):
        feature[name].int64_list.value.append(getattr(clip, name))
    for name in ("location", "segment", "filename"):
        feature[name].bytes_list.value.append(getattr(clip, name).encode())
    return example.SerializeToString(deterministic=True)


def fingerprint(clips: Sequence[Recording]) -> str:
    """Hash of what a split is made from: names, labels, file sizes, the bytes of some files.

    Some, evenly spread, since reading all would take as long as building; they tell a folder
    that was made or processed again, where all sizes stay the same.
    """
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(repr(clip[1:]).encode())
    for clip in clips[:: max(1, len(clips) // N_HASHED_CLIPS)]:
        digest.update(Path(clip.path).read_bytes())
    return digest.hexdigest()


def built_inputs(data_dir: str | os.PathLike) -> dict[str, str] | None:
    """Split name → fingerprint of the data set in `data_dir`; None if it is not as it was built."""
    folder = dataset_folder(data_dir)
    try:
        integrity.check(folder)
        return json_object.parse((folder / "metadata.json").read_bytes())["inputs"]
    except (OSError, ValueError, KeyError):
        return None


def dataset_folder(data_dir: str | os.PathLike) -> Path:
    """Where in `data_dir` the files of this version of the data set lie."""
    return Path(data_dir) / Tau22.name / str(Tau22.VERSION)


def build(
    recordings: dict[str, list[Recording]],
    data_dir: str | os.PathLike,
    on_clips: Callable[[int], object] = lambda n_clips: None,
    official: Sequence[str] = (),
) -> Path:
    """Build the data set beside the one that may be there, then put it in its place.

    A build that fails or is stopped leaves what was there before.

    Args:
      recordings: split name → what `read_recordings` made of its list.
      data_dir: folder that is to hold the data set; made if needed.
      on_clips: called with the number of clips written since its last call.
      official: names of the splits whose lists are the published ones.

    Returns:
      The folder of the data set's files.

    Raises:
      UserError: a wav file is not as expected or changed meanwhile, `data_dir` cannot be
        written, has too little room, or is being built by another process.
    """
    n_clips = sum(map(len, recordings.values()))
    before = _stamps(recordings)
    with replacing(data_dir, Tau22.name, n_clips * CLIP_BYTES) as staging:
        builder = Tau22(
            recordings=recordings, official=official, on_clips=on_clips, data_dir=staging
        )
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        tfds.disable_progress_bar()  # it counts shards; on_clips counts clips
        with contextlib.redirect_stdout(io.StringIO()):  # tfds announces itself by print
            builder.download_and_prepare(download_config=config)
        integrity.record(dataset_folder(staging), builder.checksums())
        _refuse_changed(before, _stamps(recordings))
    return dataset_folder(data_dir)


def _stamps(recordings: dict[str, list[Recording]]) -> dict[Path, tuple[int, int, int]]:
    """What changes when a file is replaced or written to."""
    stamps = {}
    for clip in itertools.chain(*recordings.values()):
        with contextlib.suppress(OSError):
            found = os.stat(clip.path)
            stamps[clip.path] = (found.st_size, found.st_mtime_ns, found.st_ino)
    return stamps


def _refuse_changed(before: dict, after: dict) -> None:
    changed = [str(path) for path in before if before[path] != after.get(path)]
    if changed:
        raise UserError(
            f"{len(changed)} of the files were replaced or changed while they were read, first "
            f"{changed[0]}: run it again once they stay as they are"
        )
