"""Wav files of one second → waveforms at 32 kHz.

The real data set has 230,350 clips: files are decoded by threads (libsndfile leaves
Python's lock alone), a few batches ahead and no further.
"""

import functools
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from asc_jax.errors import UserError

WAV_RATE = 44_100  # Hz
WAV_SAMPLES = 44_100  # one second
SAMPLE_RATE = 32_000  # Hz, of what is stored
N_SAMPLES = 32_000
RESAMPLER = 1  # goes up when the same file gives other numbers: data sets are then built again
BATCH = 32  # clips resampled by one call: more would not fit the cache


def read_wav(path: str | os.PathLike) -> np.ndarray:
    """Read a clip as TAU publishes it: mono PCM of any depth, one second at 44.1 kHz.

    Args:
      path: a wav file.

    Returns:
      `[44100]` float32 in [-1, 1).

    Raises:
      UserError: the file cannot be read or is of another kind; says what was found.
    """
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


def read_resampled(paths: Sequence[Path], n_threads: int | None = None) -> Iterator[np.ndarray]:
    """Read clips and resample each once, in order and with bounded memory.

    Args:
      paths: wav files as `read_wav` takes them.
      n_threads: None: one per CPU.

    Yields:
      `[32000]` float32, one per path.

    Raises:
      UserError: as `read_wav`.
    """
    n_threads = n_threads or os.cpu_count() or 1
    batches = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
    with ThreadPoolExecutor(n_threads) as pool:
        running = deque()
        try:
            for batch in batches:
                running.append(pool.submit(_read_batch, batch))
                if len(running) > 2 * n_threads:
                    yield from running.popleft().result()
            while running:
                yield from running.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _read_batch(paths: Sequence[Path]) -> np.ndarray:
    """Clips of at most BATCH files, `[len(paths), 32000]`."""
    # Always BATCH rows, so that one program serves the last batch too.
    waveform = np.zeros((BATCH, WAV_SAMPLES), np.float32)
    for row, path in zip(waveform, paths, strict=False):
        row[:] = read_wav(path)
    return np.asarray(_resampler()(waveform))[: len(paths)]


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
