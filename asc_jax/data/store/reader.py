"""Read the files of a built data set at random, as arrays; no batching, no order."""

import contextlib
import hashlib
import os
from pathlib import Path

import numpy as np

from asc_jax.data.store import integrity
from asc_jax.data.tau.wav import SAMPLE_RATE, STORED_RATES
from asc_jax.errors import UserError
from asc_jax.machine import files
from asc_jax.machine.optional_packages import require, require_tensorflow

HOW_TO_BUILD = (
    "build one with `asc-jax prepare-data --tau_dir DIR --data_dir "
    "{data_dir}` (add --download if DIR does not hold TAU 2022 yet), or try `make demo`, "
    "which makes up scenes of its own"
)


def open_reader(folder: Path, split: str) -> "Reader":
    """Open one split of the newest version of a data set.

    Args:
      folder: `data_dir / name`, which holds one folder per version.
      split: name of the split.

    Raises:
      UserError: as `clips.open_split`.
    """
    version = _newest_version(folder)
    try:
        require_tensorflow()  # before tfds imports it, which would take the GPU
        tfds = require("tensorflow_datasets")
    except UserError as error:
        raise UserError(
            f"{error}. Arrays in memory do not need it: asc_jax.data.clips.from_arrays"
        ) from error
    try:
        n_clips = integrity.check(version)["n_clips"]
        builder = tfds.builder_from_directory(version)
        splits = builder.info.splits
        if split in splits:
            raw = tfds.decode.DeserializeMethod.RAW_BYTES
            records = builder.as_data_source(split, deserialize_method=raw)
            checksums = integrity.read_checksums(version, split)
    except Exception as error:  # tfds and json raise all sorts for damaged files
        raise _unreadable(folder, error) from error
    if split not in splits:
        raise UserError(
            f"{folder.parent} has no split {split!r}; it has {', '.join(sorted(splits))}. "
            "`asc-jax prepare-data` builds the splits whose lists are in split_setup/"
        )
    if not len(records) == len(checksums) == n_clips[split]:
        raise _damaged(folder, f"{split} has {len(records)} clips, it had {n_clips[split]}")
    return Reader(records, checksums, folder)


def sizes(folder: Path) -> dict[str, int]:
    """Split name → number of clips of the data set in a folder.

    Raises:
      UserError: there is none, or it is not as it was built.
    """
    try:
        return integrity.check(_newest_version(folder))["n_clips"]
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from error


def sample_rate(folder: Path) -> int:
    """Return the rate of the clips of the data set in a folder, Hz.

    Raises:
      UserError: as `sizes`.
    """
    try:
        return integrity.check(_newest_version(folder))["clips_are"]["sample_rate"]
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from error


def official_splits(folder: Path) -> set[str]:
    """Names of the splits that were built from the published lists.

    Raises:
      UserError: the system does not let them be read.
    """
    try:
        for path in sorted(folder.glob("[0-9]*.[0-9]*.[0-9]*/metadata.json"))[-1:]:
            official = files.parse_json(files.read_text(path)).get("official")
            return {split for split in official if isinstance(split, str)}
    except (OSError, ValueError, TypeError) as error:
        if files.system_words(error):
            raise _unreadable(folder, error) from error
    return set()


class Reader:
    """Random access to the clips of a split, safe to call from several threads.

    Args:
      records: sequence of serialised examples with a batched `__getitems__`.
      checksums: `integrity.checksum` of each of them as it was written.
      folder: named in messages.
    """

    def __init__(self, records, checksums: np.ndarray, folder: Path):
        self._records, self._checksums, self._folder = records, checksums, folder

    @property
    def checksums(self) -> np.ndarray:
        """One of each clip's sound, label and names, `[n_clips]` uint32."""
        return self._checksums

    @property
    def identity(self) -> str:
        """Hash of all that is stored of these clips, in order."""
        return hashlib.sha256(self._checksums.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self._records)

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return the columns of clips `[n]`, n ≥ 1, as `clips.Clips` takes them."""
        try:
            records = self._records.__getitems__(indices.tolist())
            for index, record in zip(indices, records, strict=True):
                if integrity.checksum(record) != self._checksums[index]:
                    raise ValueError(f"clip {index} is not the one that was stored")
            clips = [_parse(record) for record in records]
        except Exception as error:  # array_record and protobuf raise all sorts
            raise _unreadable(self._folder, error) from error
        return {name: np.stack([clip[name] for clip in clips]) for name in clips[0]}


def _newest_version(folder: Path) -> Path:
    files.require_utf8(folder)
    try:
        os.scandir(folder).close()  # `glob` takes a folder that may not be read for an empty one
    except OSError as error:
        if files.system_words(error):
            raise _unreadable(folder, error) from error
    versions = sorted(folder.glob("[0-9]*.[0-9]*.[0-9]*/dataset_info.json"))
    if not versions:
        how = HOW_TO_BUILD.format(data_dir=folder.parent)
        raise UserError(f"no data set in {folder.parent.absolute()}: {how}")
    return versions[-1].parent


def _parse(record: bytes) -> dict[str, np.ndarray]:
    """Return every column of an example; the audio stays a view of the record."""
    from tensorflow_datasets.proto import tf_example_pb2

    feature = tf_example_pb2.Example.FromString(record).features.feature
    columns = {
        "audio": np.frombuffer(feature["audio"].bytes_list.value[0], np.float32),
        "filename": np.array(feature["filename"].bytes_list.value[0].decode()),
    }
    for name, value in feature.items():
        if value.HasField("int64_list"):
            columns[name] = _column(value.int64_list.value, np.int32)
        elif value.HasField("float_list"):
            columns[name] = _column(value.float_list.value, np.float32)
    return columns


def _column(values, dtype) -> np.ndarray:
    """Return one value as a scalar, several as a vector."""
    return np.array(values[0] if len(values) == 1 else values, dtype)


def _unreadable(folder: Path, error: Exception) -> UserError:
    """Return what to say of a data set; only its content tells that it must be built again."""
    words = files.system_words(error)
    if words is None:
        return _damaged(folder, error)
    return UserError(f"cannot read the data set in {folder}: {words}")


def _damaged(folder: Path, reason: object) -> UserError:
    return UserError(
        f"the data set in {folder} is damaged or incomplete ({reason}); rebuild it with "
        f"`asc-jax prepare-data --tau_dir DIR --data_dir {folder.parent} "
        f"{_rate_flag(folder)}--overwrite`"
    )


def _rate_flag(folder: Path) -> str:
    """Return the flag for the rate that a damaged data set was built at, as far as it says so."""
    for path in sorted(folder.glob(f"[0-9]*.[0-9]*.[0-9]*/{integrity.NAME}"))[-1:]:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            rate = files.parse_json(files.read_text(path)).get("clips_are").get("sample_rate")
            if rate in STORED_RATES and rate != SAMPLE_RATE:
                return f"--sample_rate {rate} "
    return ""
