"""Recordings of any kind → mono waveforms at their own rate, a block at a time.

Reads what libsndfile reads, of any length, rate and channel count; or raw samples from a stream.
At no time is more than a block in memory.
"""

import contextlib
import dataclasses
import os
import re
import stat
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from asc_jax.errors import UserError, printable
from asc_jax.machine.optional_packages import require

BLOCK_VALUES = 2**19  # samples of all channels read at once: 2 MiB
RATES = (1_000, 1_000_000)  # Hz, what counts as a sound: a second has to fit the memory
MAX_CHANNELS = 1024  # libsndfile's own limit
SUFFIXES = (
    *(".wav", ".wave", ".bwf", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".mp3"),
    *(".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".voc", ".sph", ".nist", ".sf", ".ircam"),
    *(".mp2", ".amb", ".avr", ".8svx", ".paf", ".fap", ".pvf", ".htk", ".sds"),
)
# Name, as ffmpeg and sox spell it → bytes of a sample; all little-endian.
SAMPLE_FORMATS = {"s16le": 2, "s24le": 3, "s32le": 4, "f32le": 4}
NO_HEADER = "no header says what it holds"
CONVERT = "ffmpeg -i FILE FILE.wav"
# First bytes of a file → what it is.
BEGINNINGS = {
    **dict.fromkeys((b"RIFF", b"RIFX", b"RF64", b"BW64", b"riff"), "a wav file"),
    **{b"fLaC": "a FLAC file", b"OggS": "an Ogg file", b"ID3": "an MP3 file"},
    **{b"FORM": "an AIFF file", b"caff": "a CAF file", b".snd": "an AU file"},
    **{b"\x1aE\xdf\xa3": "a WebM or Matroska file", b"0&\xb2u": "a WMA file"},
    **{b"#!AMR": "an AMR file", b"wvpk": "a WavPack file", b"NIST_1A": "a NIST file"},
}
MP3_KBITS = (  # of MPEG-1, and of MPEG-2 and 2.5 with half and a quarter of the rates
    (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
SPECIAL_FILES = {
    stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}  # fmt: skip
NOT_KNOWN = 2**31 - 2**16  # bytes: a header promises as many while the length is not known yet
_PROMISED = re.compile(
    r"(?:data|SSND|Data Size|riff|Riff size) *: (\d{1,18}) \(should be (\d{1,18})\)"
)
_one_at_a_time = threading.Lock()  # descriptor 2 belongs to the whole process


@dataclasses.dataclass(frozen=True)
class OpenRecording:
    """A recording that is being read.

    name: for messages. rate: Hz. n_channels: before mixing down. n_samples: per channel, as the
    file's header says; None where it does not. blocks: `[n]` float32 each, channels averaged;
    raises a `UserError` where the recording turns out to be empty, damaged or not finite.
    notes: what is odd about the file; more may be added while `blocks` is read.
    """

    name: str
    rate: int
    n_channels: int
    n_samples: int | None
    blocks: Iterator[np.ndarray]
    notes: list[str] = dataclasses.field(default_factory=list)


def find_recordings(paths: Sequence[str | os.PathLike]) -> tuple[list[Path], str | None]:
    """Return files as they are, and of folders every file below with one of `SUFFIXES`, sorted.

    Links to folders are followed, and no folder is searched twice. What cannot be read below a
    folder is returned too, so that opening it tells why.

    Returns:
      The files, each once, and a sentence on the other files of the folders; None without any.

    Raises:
      UserError: there is no such file or folder, or no recording in a folder.
    """
    recordings, others = [], Counter()
    for path in map(Path, paths):
        try:
            is_folder = stat.S_ISDIR(os.stat(path).st_mode)
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file or folder{_link_to_nothing(path)}") from error
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
        if not is_folder:
            recordings.append(path)
            continue
        inside, beside = _search(path)
        if not inside:
            raise UserError(
                f"{path}: no recording in this folder; looked for {' '.join(SUFFIXES)}. "
                + (_not_looked_at(beside) or "A file of another name can be given by itself")
            )
        recordings += inside
        others += beside
    once = {os.path.abspath(path): path for path in reversed(recordings)}
    return [*reversed(once.values())], _not_looked_at(others)


def _search(folder: Path) -> tuple[list[Path], Counter]:
    """Return the recordings of a folder and what cannot be read, and the other suffixes."""
    found, others, seen = [], Counter(), set()

    def not_readable(error: OSError) -> None:
        found.append(Path(error.filename))

    for root, folders, names in os.walk(folder, onerror=not_readable, followlinks=True):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort(key=lambda name: (os.path.islink(os.path.join(root, name)), name))
        for path in (Path(root, name) for name in names if not name.startswith(".")):
            # Hidden are, among others, the "._name.wav" of macOS, which hold no sound.
            if path.suffix.lower() in SUFFIXES:
                found.append(path)
            else:
                others[path.suffix.lower() or "without a suffix"] += 1
    return sorted(found), others


def _not_looked_at(others: Counter) -> str | None:
    """Return a sentence on the other files of folders, by their suffixes; None without any."""
    if not others:
        return None
    ordered = sorted(others.items(), key=lambda item: (-item[1], item[0]))
    kinds = [f"{n} {printable(suffix)[:20]}" for suffix, n in ordered[:8]]
    if rest := sum(n for _, n in ordered[8:]):
        kinds.append(f"{rest} more")
    return (
        f"Not looked at: {', '.join(kinds)}. A file of another name can be given by itself; what "
        f"libsndfile does not read can be converted ({CONVERT})"
    )


def _link_to_nothing(path: str | os.PathLike) -> str:
    """Return where a broken link points to, in words to append; nothing for what is no link."""
    return f": a link to {os.readlink(path)}" if os.path.islink(path) else ""


@contextlib.contextmanager
def open_recording(path: str | os.PathLike) -> Iterator[OpenRecording]:
    """Open a file that libsndfile reads; it is closed when the context ends.

    Raises:
      UserError: it cannot be read, is no recording, or has an impossible sample rate.
    """
    soundfile = require("soundfile")
    notes = []
    try:
        size = _size(path)
        with native_output(notes):
            file = soundfile.SoundFile(native_path(path))
    except OSError as error:
        link = _link_to_nothing(path) if isinstance(error, FileNotFoundError) else ""
        raise UserError(f"{path}: cannot be read: {error.strerror or error}{link}") from error
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        raise _not_read(path, _reason(error, notes)) from error
    with file:
        if file.format == "RAW":  # by its name alone, whatever is in it
            raise _not_read(path, NO_HEADER)
        check_rate(path, file.samplerate)
        n_samples = file.frames if 0 <= file.frames < 2**62 else None  # more: not known
        if n_samples is None:
            file.seekable = lambda: False  # seeking would fail in a FLAC that does not say its end
        if promised := _promised(file):
            notes.append(
                f"cut short: its header promises {promised / file.samplerate:,.2f} s, "
                f"{file.frames / file.samplerate:,.2f} s are there"
            )
        blocks = _file_blocks(path, file, soundfile, notes)
        unfinished = (
            f", although it has {size:,} bytes: its header was not finished, or it is cut short; "
            f"{CONVERT} may save the rest"
        )
        blocks = _checked(blocks, path, file.samplerate, unfinished * (size > 1000))
        name, rate, n_channels = str(path), file.samplerate, file.channels
        yield OpenRecording(name, rate, n_channels, n_samples, blocks, notes)


def _size(path: str | os.PathLike) -> int:
    """Return a file's bytes; raise an `OSError` or a `UserError` where it is no file with any."""
    status = os.stat(path)
    if special := SPECIAL_FILES.get(stat.S_IFMT(status.st_mode)):  # opening one may wait for ever
        raise UserError(f"{path}: is {special}, expected a file; raw samples are piped in as '-'")
    with open(path, "rb"):
        pass  # the system's own words for what libsndfile only calls a system error
    if not status.st_size:
        raise UserError(f"{path}: is empty (0 bytes), expected a recording; copy it again")
    return status.st_size


def _not_read(path: str | os.PathLike, reason: str) -> UserError:
    return UserError(
        f"{path}: not a recording that libsndfile reads: {reason}. Convert it to wav or flac "
        f"({CONVERT}); raw samples can be piped in as '-'"
    )


def _reason(error: Exception, notes: Sequence[str]) -> str:
    """Return libsndfile's words, where they are true, and what was noted before."""
    reason = str(getattr(error, "error_string", error)).rstrip(".")
    if isinstance(error, TypeError):  # asks for the rate of a file named .raw
        reason = NO_HEADER
    if "does not exist or is not a regular file" in reason:  # said of any corrupted MP3
        reason = "Format not recognised"
    return "; ".join([reason, *notes])


def _promised(file) -> int | None:
    """Return how many samples a file's header promises if they are not all there.

    libsndfile takes a file as long as it is, and only its log tells the difference.
    """
    if found := _PROMISED.search(file.extra_info):
        promised, there = map(int, found.groups())
        if 0 < there < promised < NOT_KNOWN:
            return file.frames * promised // there
    return None


def native_path(path: str | os.PathLike) -> str | bytes:
    """Return a path as soundfile opens it by any name: as text, it takes no name but UTF-8."""
    return os.fsencode(path) if os.name == "posix" else os.fspath(path)


@contextlib.contextmanager
def native_output(notes: list[str]) -> Iterator[None]:
    """Turn the first line that libraries write to descriptor 2 meanwhile into a note.

    libmpg123 talks there. What other threads of the process write in these moments is lost.
    """
    if sys.__stderr__ is None:  # closed at the start: by now 2 may be the recording itself
        yield
        return
    with _one_at_a_time, contextlib.ExitStack() as stack:
        try:
            said = stack.enter_context(tempfile.TemporaryFile())
            kept = os.dup(2)
        except OSError:  # no room for temporary files, or closed since
            yield
            return
        try:
            os.dup2(said.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            said.seek(0)
            words = printable(said.read(500).decode(errors="replace").strip())[:150]
            if words and len(notes) < 2:
                notes.append(f"its decoder says: {words}")


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
      UserError: an argument is out of range; from `blocks`, the stream begins like a file, cannot
        be read, ends within a frame, or as `OpenRecording` says.
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


def _file_blocks(path, file, soundfile, notes) -> Iterator[np.ndarray]:
    """Yield `[n, channel]` float32, from where the file stands to its end."""
    n_frames = max(1, BLOCK_VALUES // file.channels)
    n_read = 0
    while True:
        try:
            with native_output(notes):
                block = file.read(n_frames, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, OSError) as error:
            at = f"{n_read / file.samplerate:.2f} s"
            raise UserError(f"{path}: damaged after {at}: {_reason(error, notes)}") from error
        if not len(block):
            return
        n_read += len(block)
        yield block


def _stream_blocks(stream, rate, n_channels, sample_format, name) -> Iterator[np.ndarray]:
    """Yield `[n, channel]` float32, a tenth of a second at most: a listener should not wait."""
    frame_bytes = n_channels * SAMPLE_FORMATS[sample_format]
    first = True
    while data := _next(stream, frame_bytes * (rate // 10), name):
        if first and (kind := kind_of_file(data)):
            raise UserError(
                f"{name}: begins like {kind}, expected raw samples without a header: give the file "
                f"by its name, or pipe in what ffmpeg makes of it (ffmpeg -i FILE -f "
                f"{sample_format} -ar {rate} -ac {n_channels} -)"
            )
        first = False
        if len(data) % frame_bytes:
            raise UserError(
                f"{name}: the stream ends in the middle of a sample frame: "
                f"{len(data) % frame_bytes} bytes are left over, and a frame of {n_channels} × "
                f"{sample_format} has {frame_bytes}; check --channels and --sample_format"
            )
        yield _decode(data, sample_format).reshape(-1, n_channels)


def _next(stream: BinaryIO, n_bytes: int, name: str) -> bytes:
    try:
        return stream.read(n_bytes)
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror or error}") from error


def kind_of_file(data: bytes) -> str | None:
    """Return what kind of sound file begins like this, in words; None for any other bytes.

    MP3 and AAC have no magic number, and raw samples may begin with the two bytes of their frames:
    the next frame has to be there too.
    """
    for beginning, kind in BEGINNINGS.items():
        if data.startswith(beginning):
            return kind
    if data[4:8] == b"ftyp":
        return "an MP4 or M4A file"
    following = data[_frame_bytes(data) or len(data) :]
    same_rate = _frame_bytes(following) and not (following[2] ^ data[2]) & 0x0C
    return "an MP3 or AAC file" if same_rate and following[:2] == data[:2] else None


def _frame_bytes(data: bytes) -> int | None:
    """Return the length that the first frame of MP3 or of AAC in ADTS gives; None for others."""
    if len(data) < 6 or data[0] != 0xFF:
        return None
    if data[1] & 0xF6 == 0xF0:  # ADTS
        n_bytes = (data[3] & 3) << 11 | data[4] << 3 | data[5] >> 5
        return n_bytes if n_bytes > 7 else None  # of the header alone
    halvings = {0xFA: 0, 0xF2: 1, 0xE2: 2}.get(data[1] & 0xFE)  # layer III of MPEG-1, 2, 2.5
    kbits, rate = data[2] >> 4, data[2] >> 2 & 3
    if halvings is None or not 0 < kbits < 15 or rate == 3:
        return None
    half = min(halvings, 1)
    hz = (44_100, 48_000, 32_000)[rate] >> halvings
    return (144_000 >> half) * MP3_KBITS[half][kbits - 1] // hz + (data[2] >> 1 & 1)


def _decode(data: bytes, sample_format: str) -> np.ndarray:
    """Return little-endian samples as `[n]` float32, integers in [-1, 1)."""
    if sample_format == "f32le":
        return np.frombuffer(data, "<f4").astype(np.float32)
    width = SAMPLE_FORMATS[sample_format]
    padded = np.zeros((len(data) // width, 4), np.uint8)  # the value's bytes on top, zeros below
    padded[:, 4 - width :] = np.frombuffer(data, np.uint8).reshape(-1, width)
    return padded.view("<i4")[:, 0].astype(np.float32) / np.float32(2**31)


def _checked(
    blocks: Iterable[np.ndarray], name, rate: int, if_empty: str = ""
) -> Iterator[np.ndarray]:
    """Average the channels; reject what is empty, with more words to say so, or not finite."""
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
        raise UserError(f"{name}: holds no samples{if_empty}")
