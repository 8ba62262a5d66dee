"""Wav files of one second → waveforms at 32 kHz.

The real data set has 230,350 clips: files are decoded by threads, a few batches ahead and no
further. Those that are just as expected are decoded here, into memory that is used again; what
libsndfile spends most of its time on is memory that is new. All others are left to libsndfile.
"""

import functools
import os
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from asc_jax.errors import UserError
from asc_jax.machine.resources import n_cores

WAV_RATE = 44_100  # Hz
WAV_SAMPLES = 44_100  # one second
SAMPLE_RATE = 32_000  # Hz, of what is stored
N_SAMPLES = 32_000
RESAMPLER = 1  # goes up when the same file gives other numbers: data sets are then built again
BATCH = 8  # clips resampled by one call: more would not fit the cache
PCM, EXTENSIBLE = 1, 0xFFFE  # format tags; of an extensible format, the tag stands in its tail
EXTENSIBLE_TAIL = bytes.fromhex("000000001000800000aa00389b71")  # of the identifier, after the tag
SKIPPED = (b"LIST", b"JUNK", b"bext", b"iXML", b"fact")  # chunks that may stand before the samples
ROOM = 3 * WAV_SAMPLES + 4096  # bytes of a 24-bit clip and of all that may stand before it

_scratch = threading.local()


def read_wav(path: str | os.PathLike, out: np.ndarray | None = None) -> np.ndarray:
    """Read a clip as TAU publishes it: mono PCM of any depth, one second at 44.1 kHz.

    Args:
      path: a wav file.
      out: where to, `[44100]` float32; None: a new array.

    Returns:
      `[44100]` float32 in [-1, 1).

    Raises:
      UserError: the file cannot be read or is of another kind; says what was found.
    """
    out = np.empty(WAV_SAMPLES, np.float32) if out is None else out
    if not _read_plain(path, out):
        out[:] = _read_any(path)
    return out


def _read_plain(path, out: np.ndarray) -> bool:
    """Read a file of 16 or 24 bits, if it is in all just as expected."""
    if not hasattr(_scratch, "data"):
        _scratch.data, _scratch.integers = bytearray(ROOM), np.empty(WAV_SAMPLES, np.int32)
    data, integers = _scratch.data, _scratch.integers
    try:
        with open(path, "rb", buffering=0) as file:
            n_bytes = file.readinto(data)
    except (OSError, TypeError, ValueError):
        return False
    width, start = _find_samples(memoryview(data)[:n_bytes])
    if width == 2:
        out[:] = np.frombuffer(data, "<i2", WAV_SAMPLES, start)
        out *= np.float32(2.0**-15)
    elif width == 3:  # four bytes from one before each sample on, of which the lowest is cleared
        shape, strides = (WAV_SAMPLES,), (3,)
        np.bitwise_and(np.ndarray(shape, "<i4", data, start - 1, strides), -256, out=integers)
        out[:] = integers
        out *= np.float32(2.0**-31)
    return width > 0


def _find_samples(data: memoryview) -> tuple[int, int]:
    """Bytes of a sample, and where the first one is, in a file like TAU's; `(0, 0)` in others."""
    other, width, at = (0, 0), 0, 12
    if len(data) < at or data[:4] != b"RIFF" or data[8:at] != b"WAVE":
        return other
    if struct.unpack_from("<I", data, 4)[0] != len(data) - 8:
        return other  # cut off, or longer than the buffer
    while at + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        at += 8
        if name == b"fmt " and not width:
            width = _sample_width(data[at : at + size])
        elif name == b"data":
            whole = width and size == width * WAV_SAMPLES and at + size == len(data)
            return (width, at) if whole else other
        elif name not in SKIPPED or size < 4:
            return other
        at += size + size % 2
    return other


def _sample_width(fmt: memoryview) -> int:
    """2 or 3 if that is what a format chunk says of a file like TAU's, else 0."""
    if len(fmt) not in (16, 18, 40):
        return 0
    tag, n_channels, rate, byte_rate, frame, bits = struct.unpack_from("<HHIIHH", fmt)
    if tag == EXTENSIBLE and len(fmt) == 40:
        extra, valid, _, tag = struct.unpack_from("<HHIH", fmt, 16)
        if extra != 22 or valid != bits or fmt[26:] != EXTENSIBLE_TAIL:
            return 0
    width = bits // 8
    found = (tag, n_channels, rate, byte_rate, frame, bits)
    expected = (PCM, 1, WAV_RATE, WAV_RATE * width, width, 8 * width)
    return width if width in (2, 3) and found == expected else 0


def _read_any(path) -> np.ndarray:
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            found = {
                "format": file.subtype.partition("_")[0],
                "channels": file.channels,
                "sample rate": file.samplerate,
            }
            # A header may promise more than memory holds; one sample more shows a long file.
            waveform = file.read(WAV_SAMPLES + 1, dtype="float32", always_2d=True)[:, 0]
            found["samples"] = max(len(waveform), file.frames)
    except (soundfile.SoundFileError, OSError, TypeError, ValueError) as error:
        reason = getattr(error, "error_string", error)  # libsndfile's own words, if any
        raise UserError(f"{path}: not a readable wav file: {reason}") from error
    expected = {
        "format": "PCM", "channels": 1, "sample rate": WAV_RATE, "samples": WAV_SAMPLES,
    }  # fmt: skip
    for what, value in found.items():
        if value != expected[what]:
            raise UserError(
                f"{path}: {what} {value}, expected {expected[what]} (TAU's clips are mono "
                f"PCM, exactly one second at {WAV_RATE} Hz)"
            )
    return waveform


def read_resampled(
    paths: Sequence[Path],
    n_threads: int | None = None,
    each: Callable[[int, np.ndarray], object] = lambda number, waveform: waveform,
) -> Iterator:
    """Read clips and resample each once, in order and with bounded memory.

    Args:
      paths: wav files as `read_wav` takes them.
      n_threads: None: one per core; 1: the one that asks.
      each: `(number of the path, [32000] float32)` → what is wanted of a clip; called by the
        threads.

    Yields:
      What `each` returns, one per path.

    Raises:
      UserError: as `read_wav`.
    """
    n_threads = n_threads or n_cores()

    def read(start: int) -> list:
        waveforms = _read_batch(paths[start : start + BATCH])
        return [each(number, waveform) for number, waveform in enumerate(waveforms, start)]

    if n_threads == 1:
        for start in range(0, len(paths), BATCH):
            yield from read(start)
        return
    with ThreadPoolExecutor(n_threads) as pool:
        running = deque()
        try:
            for start in range(0, len(paths), BATCH):
                running.append(pool.submit(read, start))
                if len(running) > 2 * n_threads:
                    yield from running.popleft().result()
            while running:
                yield from running.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _read_batch(paths: Sequence[Path]) -> np.ndarray:
    """Clips of at most BATCH files, `[len(paths), 32000]`."""
    # Always BATCH rows, so that one program serves the last batch too.
    if not hasattr(_scratch, "batch"):
        _scratch.batch = np.zeros((BATCH, WAV_SAMPLES), np.float32)
    for row, path in zip(_scratch.batch, paths, strict=False):
        read_wav(path, out=row)
    return np.asarray(_resampler()(_scratch.batch))[: len(paths)]


@functools.cache
def _resampler() -> Callable:
    """`[BATCH, 44100]` → `[BATCH, 32000]`, on the CPU so that no GPU changes the bits."""
    import jax

    from asc_jax import features

    resample = jax.jit(
        lambda waveform: features.resample(waveform, WAV_RATE, SAMPLE_RATE, banded=True)
    )
    cpu = jax.devices("cpu")[0]
    return lambda waveform: resample(jax.device_put(waveform, cpu))
