"""Write the splits of a data set as shards of array records, whatever the clips are.

`dataset` builds TAU with it, `own_dataset` any other recordings. Because of the size of the sets
(TAU's has 230,350 clips, 38 GB over all splits), shards are written here in place of tfds' way,
which collects a split in memory first.
"""

import abc
import array
import contextlib
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds  # imports TensorFlow only when it needs it
from array_record.python import array_record_module
from tensorflow_datasets.core import dataset_builder

from asc_jax.data.store import integrity
from asc_jax.errors import UserError
from asc_jax.machine import files
from asc_jax.machine.optional_packages import require_tensorflow
from asc_jax.machine.staging import replacing

# Every record is found on its own. Uncompressed ones are written three times faster and, on noise,
# take 8 % more room.
RECORDS = "group_size:1,uncompressed"


class Stored(NamedTuple):
    """Name the place where a clip is stored."""

    path: str  # of the shard
    index: int  # in the shard
    checksum: int


class ShardBuilder(dataset_builder.FileReaderBuilder, skip_registration=True):
    """Build a data set whose clips are written by `write_shard`.

    A subclass has `splits`, `facts`, `shard_clips`, `waveforms` and `serialise`.

    Args:
      on_clips: called with the number of clips written since its last call.
      **kwargs: tfds' own, e.g. `data_dir`.
    """

    VERSION = tfds.core.Version("1.0.0")
    # tfds would look for checksums beside this file, with a package it does not declare.
    code_path = None

    def __init__(self, *, on_clips: Callable[[int], object] = lambda n_clips: None, **kwargs):
        require_tensorflow()  # or tfds imports it, which would take the GPU
        self._on_clips = on_clips
        self.checksums: dict[str, array.array] = {}  # of the clips of each split written
        self._stored: dict[Any, Stored] = {}
        super().__init__(**{"file_format": "array_record", **kwargs})

    @abc.abstractmethod
    def splits(self) -> Mapping[str, Sequence]:
        """Return split name → its clips, which can be hashed and are of one split each or equal."""

    @abc.abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return what goes into `metadata.json`."""

    @abc.abstractmethod
    def shard_clips(self) -> int:
        """Return the number of clips of a whole shard."""

    @abc.abstractmethod
    def waveforms(self, clips: Sequence) -> Iterator[np.ndarray]:
        """Yield the waveform of each of these clips, float32."""

    @abc.abstractmethod
    def serialise(self, clip: Any, waveform: np.ndarray) -> bytes:
        """Return the record of a clip, as `example` makes one."""

    def _download_and_prepare(self, dl_manager, download_config=None) -> None:
        """Write all splits. tfds' own way takes three times as long over encoding a clip."""
        splits = self.splits()
        self.info.metadata.update(self.facts())
        # TAU's splits lie one within the other: a clip of an earlier one is copied.
        largest_first = sorted(splits, key=lambda split: -len(splits[split]))
        written = {split: self._write(split) for split in largest_first}
        self.info.set_splits(tfds.core.splits.SplitDict([written[split] for split in splits]))

    def _write(self, split: str) -> tfds.core.SplitInfo:
        """Write the shards of a split."""
        template = self._get_filename_template(split_name=split)
        clips, size = self.splits()[split], self.shard_clips()
        parts = [clips[at : at + size] for at in range(0, len(clips), size)]
        sums, n_bytes = array.array("L"), 0
        waveforms = self.waveforms([clip for clip in clips if clip not in self._stored])
        with contextlib.closing(waveforms):
            for number, part in enumerate(parts):
                path = template.sharded_filepath(shard_index=number, num_shards=len(parts))
                places = self._write_shard(os.fspath(path), part, waveforms)
                sums.extend(place.checksum for place in places)
                n_bytes += os.stat(path).st_size
        self.checksums[split] = sums
        return tfds.core.SplitInfo(
            name=split,
            shard_lengths=list(map(len, parts)),
            num_bytes=n_bytes,
            filename_template=template,
        )

    def _write_shard(
        self, path: str, clips: Sequence, waveforms: Iterator[np.ndarray]
    ) -> list[Stored]:
        """Write one shard into an existing folder.

        Args:
          path: of the shard.
          clips: what goes into it, in this order; those of earlier splits are copied from there.
          waveforms: of all others, in this order.

        Returns:
          Where each clip now is.

        Raises:
          UserError: a recording is not as expected, or a shard that is copied from is damaged.
          OSError: the shard cannot be written.
        """
        readers, written = {}, []
        with _disk_errors():
            out = array_record_module.ArrayRecordWriter(path, RECORDS)
        for index, clip in enumerate(clips):
            if clip in self._stored:
                record = _read_again(readers, self._stored[clip])
            else:
                record = self.serialise(clip, next(waveforms))
            with _disk_errors():
                out.write(record)
            written.append(Stored(path, index, integrity.checksum(record)))
            self._on_clips(1)
        with _disk_errors():
            out.close()
        for clip, place in zip(clips, written, strict=True):
            self._stored.setdefault(clip, place)
        return written


def example(waveform: np.ndarray, columns: Mapping[str, int | str]) -> bytes:
    """Return a clip as it is stored: the same bytes each time, unlike tfds' own serialiser.

    Args:
      waveform: `[n_samples]` float32.
      columns: its numbers and names.
    """
    from tensorflow_datasets.proto import tf_example_pb2

    message = tf_example_pb2.Example()
    feature = message.features.feature
    feature["audio"].bytes_list.value.append(waveform.astype("<f4", copy=False).tobytes())
    for name, value in columns.items():
        if isinstance(value, str):
            feature[name].bytes_list.value.append(value.encode())
        else:
            feature[name].int64_list.value.append(value)
    return message.SerializeToString(deterministic=True)


def audio_feature(n_samples: int) -> tfds.features.Tensor:
    """Return the feature of a clip's sound: raw bytes, the form that is read fastest."""
    return tfds.features.Tensor(shape=(n_samples,), dtype=np.float32, encoding="bytes")


def build_in_place(
    make_builder: Callable[..., ShardBuilder],
    data_dir: str | os.PathLike,
    name: str,
    *,
    n_bytes: int,
    sample_rate: int,
    n_samples: int,
    require_unchanged: Callable[[], None],
) -> Path:
    """Build a data set beside the one that may be there, then replace that.

    A build that fails or is stopped leaves what was there before.

    Args:
      make_builder: takes the keyword `data_dir`.
      data_dir: folder that is to hold the data set; made if needed.
      name: of the builder.
      n_bytes: room that the data set needs.
      sample_rate: of its clips, Hz.
      n_samples: of a clip.
      require_unchanged: raises a `UserError` if the recordings were changed meanwhile.

    Returns:
      The folder of the data set's files.

    Raises:
      UserError: as `_write_shard` and `require_unchanged`, or `data_dir` cannot be written, has
        too little room, or is being built by another process.
    """
    version = str(ShardBuilder.VERSION)
    with replacing(data_dir, name, n_bytes) as staging:
        builder = make_builder(data_dir=staging)
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        tfds.disable_progress_bar()  # it counts shards; on_clips counts clips
        with contextlib.redirect_stdout(io.StringIO()):  # tfds announces itself by print
            builder.download_and_prepare(download_config=config)
        integrity.record(staging / name / version, builder.checksums, sample_rate, n_samples)
        require_unchanged()
    return Path(data_dir) / name / version


def built_facts(folder: Path) -> dict[str, Any] | None:
    """Return `metadata.json` of the data set in a folder, or None if it is not as it was built.

    Raises:
      UserError: the system does not let it be read, so that it may be as it was.
    """
    try:
        integrity.check(folder)
        return files.parse_json((folder / "metadata.json").read_bytes())
    except (OSError, ValueError, KeyError) as error:
        if words := files.system_words(error):
            raise UserError(f"cannot read the data set in {folder}: {words}") from error
        return None


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
