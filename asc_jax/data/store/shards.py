"""Shards of clips: array records, each to be found on its own, without compression.

A large data set is written by several processes, a shard at a time each: threads of one process
would wait for Python's lock, which array_record and protobuf hold while they work. Records are
not compressed, which is three times quicker to write and, on noise, takes 8 % more room.
"""

import contextlib
import functools
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

import numpy as np
from array_record.python import array_record_module

from asc_jax.data.store import integrity
from asc_jax.data.tau.folder import Recording
from asc_jax.data.tau.wav import read_resampled
from asc_jax.errors import UserError

OPTIONS = "group_size:1,uncompressed"  # every record is found on its own
MAX_PROCESSES = 8  # they write more than a gigabyte a second

_stop = None  # in a process of several: an event, once the others need not go on


class Stored(NamedTuple):
    """Where a clip was stored before, to be copied from."""

    path: str  # of the shard
    index: int  # in the shard
    checksum: int


class Shard(NamedTuple):
    """What is to be written into one file, in this order."""

    path: str
    clips: Sequence[Recording]
    stored: Sequence[Stored | None]  # of each clip; None: it is read from its wav file


def write(
    shard: Shard,
    on_clips: Callable[[int], object] = lambda n_clips: None,
    n_threads: int | None = None,
) -> list[int]:
    """Write one shard; its folder is there.

    Args:
      shard: what goes into it.
      on_clips: called with 1 after each clip.
      n_threads: that read wav files; None: one per core.

    Returns:
      The checksum of each clip.

    Raises:
      UserError: a wav file is not as expected, or a shard that is copied from is damaged.
      OSError: the shard cannot be written.
    """
    new = [clip for clip, stored in zip(shard.clips, shard.stored, strict=True) if stored is None]

    def with_checksum(number: int, waveform: np.ndarray) -> tuple[bytes, int]:
        record = serialise(new[number], waveform)
        return record, integrity.checksum(record)

    made = read_resampled([clip.path for clip in new], n_threads, with_checksum)
    checksums = []
    with contextlib.ExitStack() as stack, contextlib.closing(made):
        copy = functools.partial(_copy, {}, stack)
        with _writing():
            out = array_record_module.ArrayRecordWriter(shard.path, OPTIONS)
        for stored in shard.stored:
            record, checksum = next(made) if stored is None else copy(stored)
            with _writing():
                out.write(record)
            checksums.append(checksum)
            on_clips(1)
        with _writing():
            out.close()
    return checksums


def serialise(clip: Recording, waveform: np.ndarray) -> bytes:
    """A clip as `Tau22` stores it; the same clip is the same bytes, which tfds leaves to chance.

    Args:
      clip: its names and ids.
      waveform: `[32000]` float32.
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


@contextlib.contextmanager
def writers(n_processes: int) -> Iterator[Callable[..., Iterator[list[int]]]]:
    """What writes many shards: `write_all(shards, on_clips)` gives what `write` returns of each.

    Args:
      n_processes: that write; 1: this one.
    """
    if n_processes == 1:
        yield lambda shards, on_clips: (write(shard, on_clips) for shard in shards)
        return
    context = multiprocessing.get_context("spawn")  # a fork would share JAX's threads
    stop = context.Event()
    pool = ProcessPoolExecutor(n_processes, context, initializer=_begin, initargs=(stop,))
    try:
        yield functools.partial(_write_all, pool)
    except BrokenProcessPool as error:
        raise UserError(
            "a process that wrote a part of the data set has ended: by hand, for want of memory? "
            "Then run it again. A script that calls `build` must be a file, and call it below "
            "`if __name__ == '__main__':`, since each of these processes imports it"
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _write_all(pool, shards: Sequence[Shard], on_clips) -> Iterator[list[int]]:
    # What is started meanwhile does not get Ctrl-C, which is for this process to answer.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        running = [pool.submit(_write_here, shard) for shard in shards]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    for future in running:
        checksums = future.result()
        on_clips(len(checksums))
        yield checksums


def _begin(stop) -> None:
    """In a new process: one core, no GPU, and an end when the first process ends."""
    global _stop
    _stop = stop
    os.environ["NPROC"] = "1"  # the size of XLA's pool of threads
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _write_here(shard: Shard) -> list[int]:
    return write(shard, _go_on, n_threads=1)


def _go_on(n_clips: int) -> None:
    if _stop.is_set():
        raise KeyboardInterrupt


def _copy(readers: dict, stack: contextlib.ExitStack, stored: Stored) -> tuple[bytes, int]:
    """A clip stored before, held against its checksum."""
    try:
        if stored.path not in readers:
            reader = array_record_module.ArrayRecordReader(stored.path, "readahead_buffer_size:0")
            readers[stored.path] = stack.enter_context(_closing(reader))
        record = readers[stored.path].read([stored.index])[0]
        if integrity.checksum(record) != stored.checksum:
            raise ValueError("a clip is not the one that was stored")
    except Exception as error:  # array_record raises all sorts
        raise UserError(
            f"{stored.path}, written just now, is damaged: is the disk sound? ({error})"
        ) from error
    return record, stored.checksum


@contextlib.contextmanager
def _closing(reader) -> Iterator:
    try:
        yield reader
    finally:
        with contextlib.suppress(RuntimeError):  # of a damaged shard, told by `_copy`
            reader.close()


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    """What array_record says of a disk becomes the OSError that it would be of any other file."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error).partition(";")[0]) from error
