"""Recordings of any kind → mono waveforms at their own rate, a block at a time.

Reads what libsndfile reads, of any length, rate and channel count; or raw samples from a stream.
At no time is more than a block in memory.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from asc_jax.errors import UserError
from asc_jax.machine.optional_packages import require

BLOCK_VALUES = 2**19  # samples of all channels read at once: 2 MiB
RATES = (1_000, 1_000_000)  # Hz, what is taken for a sound: a second has to fit the memory
MAX_CHANNELS = 1024  # libsndfile's own limit
SUFFIXES = (
    *(".wav", ".wave", ".bwf", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".mp3"),
    *(".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".voc", ".sph", ".nist", ".sf", ".ircam"),
)
# Name, as ffmpeg and sox spell it → bytes of a sample; all little-endian.
SAMPLE_FORMATS = {"s16le": 2, "s24le": 3, "s32le": 4, "f32le": 4}


@dataclasses.dataclass(frozen=True)
class OpenRecording:
    """A recording that is being read.

    name: for messages. rate: Hz. n_channels: before mixing down. n_samples: per channel, as the
    file's header says; None where it does not. blocks: `[n]` float32 each, channels averaged;
    raises a `UserError` where the recording turns out to be empty, damaged or not finite.
    """

    name: str
    rate: int
    n_channels: int
    n_samples: int | None
    blocks: Iterator[np.ndarray]


def find_recordings(paths: Sequence[str | os.PathLike]) -> list[Path]:
    """Return files as they are, and of folders every file below with one of `SUFFIXES`, sorted.

    Raises:
      UserError: there is no such file or folder, or no recording in a folder.
    """
    recordings = []
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
        if not path.is_dir():
            recordings.append(path)
            continue
        inside = [file for file in sorted(path.rglob("*")) if _looks_like_a_recording(file)]
        if not inside:
            raise UserError(
                f"{path}: no recording in this folder; looked for {' '.join(SUFFIXES)}. "
                "A file of another name can be given by itself"
            )
        recordings += inside
    return recordings


def _looks_like_a_recording(path: Path) -> bool:
    hidden = path.name.startswith(".")  # as other systems' "._name.wav", which holds no sound
    return path.suffix.lower() in SUFFIXES and not hidden and path.is_file()


@contextlib.contextmanager
def open_recording(path: str | os.PathLike) -> Iterator[OpenRecording]:
    """Open a file that libsndfile reads; it is closed when the context ends.

    Raises:
      UserError: it cannot be read, is no recording, or has an impossible sample rate.
    """
    soundfile = require("soundfile")
    try:
        with open(path, "rb"):
            pass  # the system's own words for what libsndfile only calls a system error
        file = soundfile.SoundFile(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        reason = str(getattr(error, "error_string", error)).rstrip(".")
        raise UserError(
            f"{path}: not a recording that libsndfile reads: {reason}. Convert it to wav or flac; "
            "raw samples can be piped in as '-'"
        ) from error
    with file:
        n_samples = file.frames if 0 <= file.frames < 2**62 else None  # more: not known
        check_rate(path, file.samplerate)
        blocks = _checked(_file_blocks(path, file, soundfile), path, file.samplerate)
        yield OpenRecording(str(path), file.samplerate, file.channels, n_samples, blocks)


def read_stream(
    stream: BinaryIO, *, rate: int, n_channels: int, sample_format: str, name: str = "stdin"
) -> OpenRecording:
    """Read raw interleaved samples, little-endian, as they come.

    Args:
      stream: of bytes.
      rate: Hz.
      n_channels: of every frame.
      sample_format: one of `SAMPLE_FORMATS`.
      name: for messages.

    Raises:
      UserError: an argument is out of range; from `blocks`, the stream ends within a frame, or
        as `OpenRecording` says.
    """
    check_rate(name, rate)
    if not 1 <= n_channels <= MAX_CHANNELS:
        raise UserError(f"{name}: {n_channels} channels, expected 1 … {MAX_CHANNELS}")
    if sample_format not in SAMPLE_FORMATS:
        known = ", ".join(SAMPLE_FORMATS)
        raise UserError(f"{name}: unknown sample format {sample_format!r}; known: {known}")
    blocks = _stream_blocks(stream, rate, n_channels, sample_format, name)
    return OpenRecording(name, rate, n_channels, None, _checked(blocks, name, rate))


def read_array(waveform: np.ndarray, rate: int, name: str = "waveform") -> OpenRecording:
    """Read a recording from memory.

    Args:
      waveform: `[n]` or `[n, n_channels]` floats in [-1, 1].
      rate: Hz.
      name: for messages.

    Raises:
      UserError: it has another shape or dtype, or `rate` is out of range; from `blocks`, as
        `OpenRecording` says.
    """
    check_rate(name, rate)
    waveform = np.asarray(waveform)
    block = waveform[:, None] if waveform.ndim == 1 else waveform  # [n, channel]
    fits = block.ndim == 2 and 1 <= block.shape[1] <= MAX_CHANNELS
    if not fits or not np.issubdtype(block.dtype, np.floating):
        raise UserError(
            f"{name}: shape {waveform.shape} of {waveform.dtype}, expected [n] or [n, n_channels] "
            "floats in [-1, 1]"
        )
    blocks = _checked([block.astype(np.float32)] if len(block) else [], name, rate)
    return OpenRecording(name, rate, block.shape[1], len(block), blocks)


def check_rate(name: str | os.PathLike, rate: int) -> None:
    """Raise a `UserError` if `rate` is not in `RATES`."""
    low, high = RATES
    if not low <= rate <= high:
        raise UserError(f"{name}: sample rate {rate:,} Hz, expected {low:,} … {high:,} Hz")


def _file_blocks(path, file, soundfile) -> Iterator[np.ndarray]:
    """Yield `[n, channel]` float32, from where the file stands to its end."""
    n_frames = max(1, BLOCK_VALUES // file.channels)
    n_read = 0
    while True:
        try:
            block = file.read(n_frames, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, OSError) as error:
            reason = getattr(error, "error_string", error)
            at = f"{n_read / file.samplerate:.2f} s"
            raise UserError(f"{path}: damaged after {at}: {reason}") from error
        if not len(block):
            return
        n_read += len(block)
        yield block


def _stream_blocks(stream, rate, n_channels, sample_format, name) -> Iterator[np.ndarray]:
    """Yield `[n, channel]` float32, a tenth of a second at most: a listener should not wait."""
    frame_bytes = n_channels * SAMPLE_FORMATS[sample_format]
    while data := stream.read(frame_bytes * (rate // 10)):
        if len(data) % frame_bytes:
            raise UserError(
                f"{name}: the stream ends within a frame: {len(data) % frame_bytes} bytes are left "
                f"over, and a frame of {n_channels} × {sample_format} has {frame_bytes}; check "
                "--channels and --sample_format"
            )
        yield _decode(data, sample_format).reshape(-1, n_channels)


def _decode(data: bytes, sample_format: str) -> np.ndarray:
    """Return little-endian samples as `[n]` float32, integers in [-1, 1)."""
    if sample_format == "f32le":
        return np.frombuffer(data, "<f4").astype(np.float32)
    width = SAMPLE_FORMATS[sample_format]
    padded = np.zeros((len(data) // width, 4), np.uint8)  # the value's bytes on top, zeros below
    padded[:, 4 - width :] = np.frombuffer(data, np.uint8).reshape(-1, width)
    return padded.view("<i4")[:, 0].astype(np.float32) / np.float32(2**31)


def _checked(blocks: Iterable[np.ndarray], name, rate: int) -> Iterator[np.ndarray]:
    """Average the channels; reject what is empty or not finite."""
    n_read = 0
    for block in blocks:
        with np.errstate(over="ignore", invalid="ignore"):  # told below, by its place
            mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
        bad = np.flatnonzero(~np.isfinite(mono))
        if bad.size:
            number = n_read + int(bad[0])
            raise UserError(
                f"{name}: sample {number:,} ({number / rate:.2f} s) is {mono[bad[0]]}, expected a "
                "finite number; export the recording again"
            )
        n_read += len(mono)
        yield mono
    if not n_read:
        raise UserError(f"{name}: holds no samples")
