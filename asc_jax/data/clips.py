"""Clips → batches of numpy, in an order that is a pure function of (seed, epoch).

    clips = open_split("data/tau22", "train_5pct")
    for batch in clips.batches(epoch_order(len(clips), seed=0, epoch=3), batch_size=78):
        ...

`from_arrays` gives the same batches from memory and needs no TensorFlow, which is imported
only when a stored split is opened or read.
"""

import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from asc_jax.data.labels import Labels
from asc_jax.errors import UserError, short

RESERVED = (
    "mask",
    "audio_scale",
    "batch_row",
    "mel_power",
    "log_mel",
    "mix_weight",
)  # columns of the program
NO_CLIP = np.iinfo(np.int64).min  # in an order: a row that is filled up
# Names of the folders of data sets: TAU's, and those of any other recordings.
DATASET, OWN_DATASET = "tau22", "clips"

ReadBatch = Callable[[np.ndarray], dict[str, np.ndarray]]


def epoch_order(n_clips: int, seed: int, epoch: int) -> np.ndarray:
    """Order in which an epoch visits the clips.

    Args:
      n_clips: number of clips, ≥ 0.
      seed: of the run, ≥ 0.
      epoch: ≥ 0.

    Returns:
      `[n_clips]` int64, a permutation of 0 … n_clips − 1.

    Example:
      >>> epoch_order(6, seed=0, epoch=1)
      array([2, 3, 1, 0, 4, 5])
    """
    return permutation(n_clips, seed, epoch)


def permutation(n: int, seed: int, *stream: int) -> np.ndarray:
    """Return a permutation of 0 … n − 1, `[n]` int64; other numbers of a stream give another.

    Made from the generator's raw bits, which numpy promises to keep; it does not promise
    that for `Generator.permutation`.
    """
    bits = np.random.Philox(np.random.SeedSequence(seed, spawn_key=stream))
    return np.argsort(bits.random_raw(n), kind="stable").astype(np.int64)


def n_batches(n_clips: int, batch_size: int) -> int:
    """Batches of an epoch, the last one perhaps padded.

    Example:
      >>> n_batches(6980, 78)
      90
    """
    return -(-n_clips // batch_size)


class Clips:
    """Clips that can be read in any order; `open_split` and `from_arrays` make one.

    Args:
      n_clips: number of clips.
      read: clip numbers `[n]` → columns: audio `[n, n_samples]` float32, label `[n]` int32,
        filename `[n]` str, and any others `[n, …]`, of which the numeric ones travel to the
        training step, such as `device_id` of the group column device.
      stream: `map`, or a function like it that works ahead.
      identity: hash of all the clips' content, in order; None where it is not known.
      labels: names of classes and groups; None where only a config has them.
    """

    def __init__(
        self,
        n_clips: int,
        read: ReadBatch,
        stream: Callable = map,
        identity: str | None = None,
        labels: Labels | None = None,
    ):
        self._n_clips, self._read, self._stream = n_clips, read, stream
        self.identity, self.labels = identity, labels

    def __len__(self) -> int:
        return self._n_clips

    def batches(
        self, order: Iterable[int], batch_size: int, *, first: int = 0
    ) -> Iterator[dict[str, np.ndarray]]:
        """Read clips in the given order.

        Args:
          order: clip numbers, each in [0, len(self)), or NO_CLIP.
          batch_size: rows of every batch, ≥ 1; the last batch is filled up.
          first: number of the first batch to yield; those before it are not read.

        Returns:
          Iterator of dicts: `audio` `[b, n_samples]` float32 in [-1, 1), `label` `[b]` int32
          (−1 where unknown), `mask` `[b]` bool, `filename` `[b]` str, and every other column.
          Rows that fill up have mask False, zeros and "".

        Raises:
          ValueError: an argument is out of range.
          UserError: while iterating, the stored clips turn out to be damaged.
        """
        rows = _index_rows(order, batch_size, first, len(self))
        return iter(self._stream(functools.partial(_padded_batch, self._read), rows))

    def in_order(self, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        """All clips in stored order; see `batches`."""
        return self.batches(range(len(self)), batch_size)

    def with_columns(self, **columns: np.ndarray) -> "Clips":
        """Return the clips with further columns, which every batch then has.

        Args:
          **columns: `[len(self), …]` each, in stored order, such as a teacher's logits.

        Raises:
          ValueError: a column has another number of rows, or its name is taken.
        """
        if not columns:
            return self
        taken = {*RESERVED, *(self._read(np.zeros(1, np.int64)) if len(self) else ())}
        arrays = {name: np.asarray(rows) for name, rows in columns.items()}
        for name, rows in arrays.items():
            if rows.dtype.name == "bfloat16":  # which numpy does not count among the numbers
                arrays[name] = rows = rows.astype(np.float32)
            if rows.dtype.kind not in "biufU":
                raise ValueError(f"column {name!r} is {rows.dtype}, expected numbers or text")
            if rows.ndim == 0 or len(rows) != len(self) or name in taken:
                raise ValueError(
                    f"column {name!r} has the shape {rows.shape}, and there are {len(self)} clips "
                    f"with the columns {', '.join(sorted(taken))}: expected a new name and a row "
                    "for each clip"
                )
        sha = hashlib.sha256(str(self.identity).encode())
        for name, rows in sorted(arrays.items()):
            sha.update(f" {name} {rows.dtype} {rows.shape} ".encode() + rows.tobytes())

        def read(numbers: np.ndarray) -> dict[str, np.ndarray]:
            return self._read(numbers) | {name: rows[numbers] for name, rows in arrays.items()}

        identity = self.identity and sha.hexdigest()
        return Clips(len(self), read, self._stream, identity, self.labels)

    def subset(self, numbers: np.ndarray) -> "Clips":
        """Only the clips of these numbers `[n]`, each in [0, len(self)), in this order."""
        of = f"{self.identity} {numbers.tolist()}".encode()
        identity = self.identity and hashlib.sha256(of).hexdigest()
        return Clips(
            len(numbers),
            lambda indices: self._read(numbers[indices]),
            self._stream,
            identity,
            self.labels,
        )


def from_arrays(
    audio: np.ndarray,
    label: np.ndarray,
    device_id: np.ndarray | None = None,
    filenames: Iterable[str] | None = None,
    **columns: np.ndarray,
) -> Clips:
    """Make clips of arrays in memory.

    Args:
      audio: `[n, n_samples]` float32 in [-1, 1).
      label: `[n]` int.
      device_id: `[n]` int, numbers of values of the group column device; None: no such column.
      filenames: n names; None numbers them.
      **columns: further columns, `[n, …]` each.

    Raises:
      ValueError: the shapes do not fit together.
    """
    audio = np.asarray(audio, np.float32)
    names = map(str, range(len(audio))) if filenames is None else filenames
    arrays = {
        "audio": audio,
        "label": np.asarray(label, np.int32),
        "filename": np.array(list(names), dtype=str),
    }
    if device_id is not None:
        arrays["device_id"] = np.asarray(device_id, np.int32)
    for name, array in arrays.items():
        if array.ndim != 1 + (name == "audio") or len(array) != len(audio):
            raise ValueError(f"{name} has shape {array.shape}, audio {audio.shape}")

    def read(indices: np.ndarray) -> dict[str, np.ndarray]:
        batch = {name: array[indices] for name, array in arrays.items()}
        # As wide as the batch's longest name: what `open_split` gives.
        return {**batch, "filename": np.array(batch["filename"].tolist(), dtype=str)}

    return Clips(len(audio), read).with_columns(**columns)


def dataset_folder(data_dir: str | os.PathLike) -> Path:
    """Return the folder of the data set in `data_dir`, which may begin with `~`."""
    parent = Path(data_dir).expanduser()
    return parent / (OWN_DATASET if (parent / OWN_DATASET).is_dir() else DATASET)


def open_split(data_dir: str | os.PathLike, split: str) -> Clips:
    """Open a split that `prepare_data` built, or several, one after the other.

    Args:
      data_dir: the folder given to `prepare_data`.
      split: such as "train_5pct" or "test", or several with "+" between: "fold1+fold2".

    Returns:
      Its clips, in stored order.

    Raises:
      UserError: there is no data set, no such split, files of it are missing, or TensorFlow is not
        installed.
    """
    from asc_jax.data.store import read_ahead
    from asc_jax.data.store import reader as stored

    folder = dataset_folder(data_dir)
    reader = stored.open_reader(folder, split)
    labels = stored.labels(folder)
    return Clips(len(reader), reader.read, read_ahead.map_ahead, reader.identity, labels)


def open_for(config, split: str, data_dir: str | os.PathLike | None = None) -> Clips:
    """Open a split for a run.

    Args:
      config: of the run.
      split: see `open_split`.
      data_dir: where the data set is now; None: `config.data.dir`.

    Raises:
      UserError: as `open_split`, or the clips are of another rate, length or classes than those
        of the run.
    """
    from asc_jax.data.store import reader as stored

    data_dir = data_dir or config.data.dir
    rate, length = stored.rate_and_length(dataset_folder(data_dir))
    wanted = config.features.sample_rate, round(config.data.clip_s * config.features.sample_rate)
    if rate != wanted[0]:
        raise UserError(
            f"the clips in {data_dir} are at {rate} Hz, and config.features.sample_rate is "
            f"{wanted[0]}: build them again with `asc-jax prepare-data --sample_rate "
            f"{wanted[0]}`, in another --data_dir, or set the section features for {rate} Hz"
        )
    if length != wanted[1]:
        raise UserError(
            f"the clips in {data_dir} have {length / rate:g} seconds, and config.data.clip_s is "
            f"{config.data.clip_s:g}: give --config.data.clip_s={length / rate:g} in training, or "
            f"build them again with `asc-jax prepare-data --clip_s {config.data.clip_s:g}`"
        )
    clips = open_split(data_dir, split)
    there, here = clips.labels.classes, tuple(config.labels.classes)
    if there != here:
        differing = [name for name in (*here, *there) if (name in here) != (name in there)]
        raise UserError(
            f"the data set in {data_dir} has the classes {short(list(there))}, and the run "
            f"{short(list(here))}: they differ in {short(differing or 'their order')}"
        )
    return clips


def labels_of(data_dir: str | os.PathLike) -> Labels:
    """Return the labels of the data set in a folder.

    Raises:
      UserError: there is none, or it is damaged.
    """
    from asc_jax.data.store import reader as stored

    return stored.labels(dataset_folder(data_dir))


def clips_in_both(data_dir: str | os.PathLike, split: str, other: str) -> list[str]:
    """Return the filenames of clips that two built splits share, in the order of the first.

    Almost no clip is read: clips of different checksums are different.

    Raises:
      UserError: as `open_split`.
    """
    from asc_jax.data.store import reader as stored

    readers = [stored.open_reader(dataset_folder(data_dir), name) for name in (split, other)]
    sums = [reader.checksums for reader in readers]
    numbers = [np.flatnonzero(np.isin(sums[i], sums[1 - i])) for i in (0, 1)]
    if not numbers[0].size:
        return []
    names, others = (
        [reader.read(chosen[at : at + 64])["filename"] for at in range(0, len(chosen), 64)]
        for reader, chosen in zip(readers, numbers, strict=True)
    )
    both = {*np.concatenate(others).tolist()}
    return [name for name in np.concatenate(names).tolist() if name in both]


def official_splits(data_dir: str | os.PathLike) -> set[str]:
    """Names of the built splits whose lists are the published ones.

    Only results on those can be compared with published results.
    """
    from asc_jax.data.store import reader as stored

    return stored.official_splits(dataset_folder(data_dir))


def _index_rows(order: Iterable[int], batch_size: int, first: int, n_clips: int) -> np.ndarray:
    """`[n_batches − first, batch_size]` int64; −1 fills up the last row."""
    order = np.asarray(order if isinstance(order, np.ndarray) else list(order))
    if order.size and (order.ndim != 1 or order.dtype.kind not in "iu"):
        raise ValueError(f"order must be a list of integers, got {order.dtype} {order.shape}")
    numbers = order[order != NO_CLIP]
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < n_clips:
        raise ValueError(f"order names clips outside 0 … {n_clips - 1}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    total = n_batches(len(order), batch_size)
    if not 0 <= first <= total:
        raise ValueError(f"first must be in 0 … {total}, got {first}")
    rows = np.full(total * batch_size, -1, np.int64)
    rows[: len(order)] = order
    return rows.reshape(total, batch_size)[first:]


def _padded_batch(read: ReadBatch, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Read the clips of one row of `_index_rows`."""
    mask = indices >= 0
    some = np.flatnonzero(mask) if mask.any() else np.zeros(1, int)  # a clip gives the shapes
    batch = read(np.maximum(indices[some], 0))
    if not mask.all():
        batch = {name: _spread(array[mask[some]], mask) for name, array in batch.items()}
    return {**batch, "mask": mask}


def _spread(rows: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`rows` where `mask` is True, zeros elsewhere."""
    out = np.zeros((len(mask), *rows.shape[1:]), rows.dtype)
    out[mask] = rows
    return out
