"""Recordings of any length and rate → windows, and windows → clips at one rate.

A window is cut at the recording's own rate and then resampled by itself, as `predict` does with
the windows of a recording. A file is read block by block, so that one of many hours needs no more
memory than a short one, and files are read by several threads.
"""

import contextlib
import dataclasses
import hashlib
import math
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from asc_jax.data.recordings import open_recording
from asc_jax.data.resampling import resampler
from asc_jax.errors import UserError, expect
from asc_jax.machine.resources import n_cores

BATCH = 8  # windows resampled by one call, as many as of TAU's clips
BATCH_VALUES = 2**19  # samples of these windows: fewer of longer ones
AHEAD = 4  # batches that a file's thread may be ahead of what is written
END_S = 0.1  # a stretch may end so much later than its file: decoders disagree about the length
READINGS = 4  # of a file whose header says another length than it has
CLIP_S = (0.1, 30.0)  # seconds
HOP_S = (0.1, 3600.0)
SHORT = ("reject", "pad", "drop")


@dataclasses.dataclass(frozen=True)
class Cut:
    """Say how recordings are cut.

    clip_s: length of a clip, seconds. hop_s: from the start of a window to that of the next.
    min_peak_dbfs: windows whose highest sample lies below are left out, dB of full scale.
    short: what becomes of a stretch shorter than a clip, one of `SHORT`. sample_rate: Hz, of the
    clips.

    Raises:
      UserError: a value is out of range.
    """

    clip_s: float
    hop_s: float
    min_peak_dbfs: float
    short: str
    sample_rate: int

    def __post_init__(self):
        for name, (low, high) in (("clip_s", CLIP_S), ("hop_s", HOP_S)):
            value = getattr(self, name)
            expect(f"--{name}", value, low <= value <= high, f"{low:g} … {high:g} seconds")
        peak = self.min_peak_dbfs
        expect("--min_peak_dbfs", peak, peak <= 0, "at most 0 dB, or -inf to keep all windows")

    @property
    def n_samples(self) -> int:
        """Return the samples of a clip."""
        return round(self.clip_s * self.sample_rate)

    @property
    def min_peak(self) -> float:
        """Return the lowest peak of a window, a full scale being 1."""
        return 10 ** (self.min_peak_dbfs / 20)


class Span(NamedTuple):
    """Samples [start, stop) of a recording, all that a window has of it."""

    start: int
    stop: int


class Found(NamedTuple):
    """Hold what the first pass finds in a file.

    rate: Hz. n_samples: per channel. digest: of the mono samples and the rate. spans: windows to
    keep of each stretch. n_quiet: windows left out of each. short: stretches shorter than a clip.
    outside: stretches that begin or end after the end of the file. notes: what is odd about it.
    """

    rate: int
    n_samples: int
    digest: str
    spans: list[list[Span]]
    n_quiet: list[int]
    short: list[bool]
    outside: list[bool]
    notes: list[str]


class Window(NamedTuple):
    """One window of a file that is to become a clip."""

    path: Path
    rate: int
    span: Span


def probe(path: Path, stretches: Sequence[tuple[float, float]], cut: Cut) -> Found:
    """Read a file once and say which windows it has.

    Args:
      path: of a recording.
      stretches: start and end of each, seconds; the end may be infinite.
      cut: how it is cut.

    Raises:
      UserError: it cannot be read to its end.
    """
    n_samples = None
    for _ in range(READINGS):
        with open_recording(path) as recording:
            if n_samples is None:
                n_samples = recording.n_samples
            if n_samples is None:  # the header does not say: count them first
                n_samples = sum(map(len, recording.blocks))
                continue
            measured = _Measured(recording.blocks, recording.rate)
            laid = [_lay(stretch, recording.rate, n_samples, cut) for stretch in stretches]
            whole = sorted((span, i) for i, spans in enumerate(laid) for span in spans)
            spans, n_quiet = [[] for _ in stretches], [0] * len(stretches)
            waveforms = cut_out(measured.blocks(), [span for span, _ in whole])
            for (span, i), waveform in zip(whole, waveforms, strict=True):
                if max(waveform.max(initial=0), -waveform.min(initial=0)) < cut.min_peak:
                    n_quiet[i] += 1
                else:
                    spans[i].append(span)
            measured.finish()
            rate, notes = recording.rate, list(recording.notes)
        if measured.n_samples == n_samples:
            break
        n_samples = measured.n_samples  # the header was wrong
    else:
        raise UserError(f"{path}: its length changes while it is read: run it again later")
    bounds = [_bounds(stretch, rate, n_samples) for stretch in stretches]
    latest = n_samples / rate + END_S
    return Found(
        rate,
        n_samples,
        measured.digest(),
        spans,
        n_quiet,
        [stop - start < round(cut.clip_s * rate) for start, stop in bounds],
        [
            start_s >= n_samples / rate or (math.isfinite(end_s) and end_s > latest)
            for start_s, end_s in stretches
        ],
        notes,
    )


def probe_all(
    jobs: Iterable[tuple[Path, Sequence[tuple[float, float]]]],
    cut: Cut,
    on_file: Callable[[int], object] = lambda n_files: None,
    n_threads: int | None = None,
) -> list[Found | UserError]:
    """Read many files, several at once; what cannot be read gives its error.

    Args:
      jobs: path and stretches of each, as `probe` takes them.
      cut: how they are cut.
      on_file: called with 1 after each file.
      n_threads: None: one per core.
    """

    def one(job) -> Found | UserError:
        try:
            return probe(*job, cut)
        except UserError as error:
            return error

    results = []
    pool = ThreadPoolExecutor(n_threads or n_cores())
    try:
        for found in pool.map(one, jobs):
            results.append(found)
            on_file(1)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return results


def waveforms(
    windows: Sequence[Window], cut: Cut, n_threads: int | None = None
) -> Iterator[np.ndarray]:
    """Yield the clip of each window, in order and with bounded memory.

    Args:
      windows: those of one file one after the other, by their starts.
      cut: how they were cut.
      n_threads: None: one per core.

    Yields:
      `[cut.n_samples]` float32.

    Raises:
      UserError: a file cannot be read any more.
    """
    by_file, last = [], None
    for window in windows:
        if window.path != last:
            by_file.append([])
            last = window.path
        by_file[-1].append(window)
    for batch in in_order((_clips_of(group, cut) for group in by_file), n_threads or n_cores()):
        yield from batch


def _clips_of(windows: Sequence[Window], cut: Cut) -> Iterator[np.ndarray]:
    """Yield the clips of a file, a batch `[b, cut.n_samples]` at a time."""
    rate = windows[0].rate
    n = round(cut.clip_s * rate)
    size = max(1, min(BATCH, BATCH_VALUES // n))
    resample = resampler(rate, cut.sample_rate)
    with open_recording(windows[0].path) as recording:
        if recording.rate != rate:
            raise UserError(f"{recording.name}: it was replaced while it was read: run it again")
        parts = cut_out(recording.blocks, [window.span for window in windows])
        for at in range(0, len(windows), size):
            n_rows = min(size, len(windows) - at)
            # A power of two, so that few programs serve files of all lengths, with the same bits.
            rows = np.zeros((1 << (n_rows - 1).bit_length(), n), np.float32)
            for row, part in zip(rows[:n_rows], parts, strict=False):
                row[: len(part)] = part
            resampled = np.asarray(resample(rows))[:n_rows, : cut.n_samples]
            missing = cut.n_samples - resampled.shape[1]  # a sample, by rounding
            yield np.pad(resampled, ((0, 0), (0, missing))) if missing else resampled


def _bounds(stretch: tuple[float, float], rate: int, n_samples: int) -> Span:
    """Return the samples of a stretch that are there."""
    start_s, end_s = stretch
    stop = n_samples if math.isinf(end_s) else min(n_samples, round(end_s * rate))
    return Span(min(round(start_s * rate), stop), stop)


def _lay(stretch: tuple[float, float], rate: int, n_samples: int, cut: Cut) -> list[Span]:
    """Return the windows of a stretch of a recording of `n_samples`, loud or not."""
    first, stop = _bounds(stretch, rate, n_samples)
    length = round(cut.clip_s * rate)
    if stop - first < length:
        return [Span(first, stop)] if cut.short == "pad" and stop > first else []
    last = int((stop - first - length) / (cut.hop_s * rate)) + 1  # one more than there can be
    starts = [first + round(k * cut.hop_s * rate) for k in range(last + 1)]
    return [Span(start, start + length) for start in starts if start + length <= stop]


def cut_out(blocks: Iterable[np.ndarray], spans: Iterable[Span]) -> Iterator[np.ndarray]:
    """Yield the samples of each span, with no more than a block and a window in memory.

    Args:
      blocks: `[n]` float32 each, one after the other the recording.
      spans: sorted by their starts; one that goes on after the end is cut there.

    Yields:
      `[n]` float32, views of the blocks.

    Example:
      >>> blocks = [np.arange(3), np.arange(3, 6)]
      >>> [part.tolist() for part in cut_out(blocks, [Span(1, 4), Span(2, 5)])]
      [[1, 2, 3], [2, 3, 4]]
    """
    blocks = iter(blocks)
    buffer, first = np.zeros(0, np.float32), 0  # buffer[0] is sample `first`
    for start, stop in spans:
        while first + len(buffer) < stop and (block := next(blocks, None)) is not None:
            drop = min(max(start - first, 0), len(buffer))
            buffer = np.concatenate([buffer[drop:], block]) if drop < len(buffer) else block
            first += drop
        yield buffer[max(start - first, 0) : stop - first]


class _Measured:
    """The blocks of a recording; those taken are counted and hashed."""

    def __init__(self, blocks: Iterable[np.ndarray], rate: int):
        self._blocks, self._hash = iter(blocks), hashlib.blake2b(str(rate).encode(), digest_size=16)
        self.n_samples = 0

    def blocks(self) -> Iterator[np.ndarray]:
        for block in self._blocks:
            self.n_samples += len(block)
            self._hash.update(np.ascontiguousarray(block))
            yield block

    def finish(self) -> None:
        """Take the blocks that are left."""
        for _ in self.blocks():
            pass

    def digest(self) -> str:
        return self._hash.hexdigest()


def in_order(
    generators: Iterable[Iterator[Any]], n_threads: int, ahead: int = AHEAD
) -> Iterator[Any]:
    """Yield what the generators yield, one generator after the other, which run in threads.

    Args:
      generators: each is run by one thread.
      n_threads: how many run at once.
      ahead: values that a thread may have ready before it waits.
    """
    stopped, pool = threading.Event(), ThreadPoolExecutor(n_threads)
    running: deque[queue.Queue] = deque()
    generators = iter(generators)

    def start() -> None:
        generator = next(generators, None)
        if generator is not None:
            ready: queue.Queue = queue.Queue(ahead)
            running.append(ready)
            pool.submit(_run, generator, ready, stopped)

    try:
        for _ in range(2 * n_threads):
            start()
        while running:
            kind, value = running[0].get()
            if kind == "value":
                yield value
            else:
                running.popleft()
                start()
                if kind == "error":
                    raise value
    finally:
        stopped.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _run(generator: Iterator[Any], ready: queue.Queue, stopped: threading.Event) -> None:
    """Put what a generator yields into a queue, and how it ends."""
    with contextlib.closing(generator):
        try:
            for value in generator:
                if not _put(ready, ("value", value), stopped):
                    return
            _put(ready, ("end", None), stopped)
        except BaseException as error:
            _put(ready, ("error", error), stopped)


def _put(ready: queue.Queue, item: tuple[str, Any], stopped: threading.Event) -> bool:
    """Put an item as soon as there is room; return False once nobody wants it any more."""
    while not stopped.is_set():
        with contextlib.suppress(queue.Full):
            ready.put(item, timeout=0.1)
            return True
    return False
