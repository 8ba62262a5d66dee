"""Read the files of a built data set at random, as arrays; no batching, no order."""

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from asc_jax.data.labels import Labels, from_dict
from asc_jax.data.resampling import SAMPLE_RATE, STORED_RATES
from asc_jax.data.store import integrity
from asc_jax.data.tau import taxonomy
from asc_jax.errors import UserError
from asc_jax.machine import files
from asc_jax.machine.optional_packages import require, require_tensorflow

HOW_TO_BUILD = (
    "build one with `asc-jax prepare-data --tau_dir DIR --data_dir "
    "{data_dir}` (add --download if DIR does not hold TAU 2022 yet), of recordings of your own "
    "with `--layout folders --input_dir DIR`, or try `make demo`, which synthesises scenes. "
    "One that lies elsewhere is named by --config.data.dir or --data_dir"
)


OWN_NAME = "clips"  # folder of a data set that is not TAU's, as `clips.OWN_DATASET`


def open_reader(folder: Path, split: str) -> "Reader":
    """Open splits of the newest version of a data set, one after the other.

    Args:
      folder: `data_dir / name`, which holds one folder per version.
      split: name of the split, or names with "+" between.

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
        names = split.split("+")
        if {*names} <= {*splits}:
            raw = tfds.decode.DeserializeMethod.RAW_BYTES
            parts = [builder.as_data_source(name, deserialize_method=raw) for name in names]
            checksums = [integrity.read_checksums(version, name) for name in names]
    except Exception as error:  # tfds and json raise all sorts for damaged files
        raise _unreadable(folder, error) from error
    if missing := [name for name in names if name not in splits]:
        raise UserError(
            f"{folder.parent} has no split {missing[0]!r}; it has {', '.join(sorted(splits))}. "
            "`asc-jax prepare-data` says which it builds"
        )
    if len({*names}) < len(names):
        raise UserError(f"the split {split!r} names one twice: expected each once")
    for name, records, sums in zip(names, parts, checksums, strict=True):
        if not len(records) == len(sums) == n_clips[name]:
            raise _damaged(folder, f"{name} has {len(records)} clips, it had {n_clips[name]}")
    return Reader(parts, np.concatenate(checksums), folder)


def sizes(folder: Path) -> dict[str, int]:
    """Split name → number of clips of the data set in a folder.

    Raises:
      UserError: there is none, or it is not as it was built.
    """
    try:
        return integrity.check(_newest_version(folder))["n_clips"]
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from error


def identity(folder: Path, split: str) -> str:
    """Return `Reader.identity` of one or several splits, without opening them.

    Raises:
      UserError: there is no such split, or as `sizes`.
    """
    try:
        version = _newest_version(folder)
        sums = [integrity.read_checksums(version, name) for name in split.split("+")]
    except FileNotFoundError as error:
        raise UserError(f"{folder.parent} has no split {split!r}") from error
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from error
    return _identity(np.concatenate(sums))


def rate_and_length(folder: Path) -> tuple[int, int]:
    """Return the sample rate, Hz, and the number of samples of the clips of a data set.

    Raises:
      UserError: as `sizes`.
    """
    try:
        clips_are = integrity.check(_newest_version(folder))["clips_are"]
        return clips_are["sample_rate"], clips_are["n_samples"]
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from error


def labels(folder: Path) -> Labels:
    """Return the names of classes and groups of the data set in a folder.

    Raises:
      UserError: as `sizes`.
    """
    try:
        version = _newest_version(folder)
        integrity.check(version)
        content = files.parse_json(files.read_text(version / "metadata.json"))
        # Those of TAU that an earlier version built have none.
        return from_dict(content["labels"]) if "labels" in content else taxonomy.LABELS
    except (OSError, ValueError, TypeError) as error:
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
      parts: sequences of serialised examples, one after the other, each with a batched
        `__getitems__`.
      checksums: `integrity.checksum` of all of them as they were written.
      folder: named in messages.
    """

    def __init__(self, parts: Sequence, checksums: np.ndarray, folder: Path):
        self._parts, self._checksums, self._folder = parts, checksums, folder
        self._ends = np.cumsum([len(part) for part in parts])

    @property
    def checksums(self) -> np.ndarray:
        """One of each clip's sound, label and names, `[n_clips]` uint32."""
        return self._checksums

    @property
    def identity(self) -> str:
        """Hash of all that is stored of these clips, in order."""
        return _identity(self._checksums)

    def __len__(self) -> int:
        return len(self._checksums)

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return the columns of clips `[n]`, n ≥ 1, as `clips.Clips` takes them."""
        clips = []
        try:
            for index, record in zip(indices, self._records(indices), strict=True):
                if integrity.checksum(record) != self._checksums[index]:
                    raise ValueError(f"clip {index} is not the one that was stored")
                clips.append(_parse(record))
        except Exception as error:  # array_record and protobuf raise all sorts
            raise _unreadable(self._folder, error) from error
        return {name: np.stack([clip[name] for clip in clips]) for name in clips[0]}

    def _records(self, indices: np.ndarray) -> list[bytes]:
        """Return the serialised examples of these numbers, each part read at once."""
        if len(self._parts) == 1:
            return self._parts[0].__getitems__(indices.tolist())
        records: list = [b""] * len(indices)
        part_of = np.searchsorted(self._ends, indices, side="right")
        for number in np.unique(part_of):
            rows = np.flatnonzero(part_of == number)
            first = self._ends[number] - len(self._parts[number])
            found = self._parts[number].__getitems__((indices[rows] - first).tolist())
            for row, record in zip(rows, found, strict=True):
                records[row] = record
        return records


def _identity(checksums: np.ndarray) -> str:
    return hashlib.sha256(checksums.tobytes()).hexdigest()


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
    if "recording" in feature:  # what the clip was cut from; TAU's names say it
        columns["recording"] = np.array(feature["recording"].bytes_list.value[0].decode())
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
    layout = "--tau_dir DIR"
    more = ""
    if folder.name == OWN_NAME:
        layout = "--layout folders --input_dir DIR (or --layout table --input_table FILE)"
        more = " and the other flags, which metadata.json in it lists as settings"
    return UserError(
        f"the data set in {folder} is damaged or incomplete ({reason}); rebuild it with "
        f"`asc-jax prepare-data {layout} --data_dir {folder.parent} "
        f"{_rate_flag(folder)}--overwrite`{more}"
    )


def _rate_flag(folder: Path) -> str:
    """Return the flag for the rate that a damaged data set was built at, as far as it says so."""
    for path in sorted(folder.glob(f"[0-9]*.[0-9]*.[0-9]*/{integrity.NAME}"))[-1:]:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            rate = files.parse_json(files.read_text(path)).get("clips_are").get("sample_rate")
            if rate in STORED_RATES and rate != SAMPLE_RATE:
                return f"--sample_rate {rate} "
    return ""
