"""Recordings as people have them: formats, channels, streams, and what is wrong with some."""

import io
import re

import numpy as np
import pytest

from asc_jax.data import recordings
from asc_jax.data.recordings import find_recordings, open_recording, read_stream
from asc_jax.errors import UserError

soundfile = pytest.importorskip("soundfile")


def sound(n_samples=9_000, n_channels=2, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (n_samples, n_channels))


def read(path):
    with open_recording(path) as recording:
        return recording, np.concatenate(list(recording.blocks))


@pytest.mark.parametrize(
    ("suffix", "subtype", "tolerance"),
    [
        ("wav", "PCM_16", 2**-15),
        ("wav", "PCM_24", 2**-23),
        ("wav", "FLOAT", 1e-7),
        ("wav", "DOUBLE", 1e-7),
        ("wav", "PCM_U8", 2**-7),
        ("aiff", "PCM_16", 2**-15),
        ("flac", "PCM_16", 2**-15),
        ("ogg", "VORBIS", None),  # lossy: of noise not much is left
        ("mp3", "MPEG_LAYER_III", None),
    ],
)
@pytest.mark.parametrize("n_channels", [1, 2])
def test_formats_are_read_and_channels_averaged(tmp_path, suffix, subtype, tolerance, n_channels):
    given, path = sound(n_channels=n_channels), tmp_path / f"sound.{suffix}"
    soundfile.write(path, given, 48_000, subtype=subtype)
    recording, waveform = read(path)
    assert (recording.rate, recording.n_channels) == (48_000, n_channels)
    assert recording.n_samples == len(waveform) == 9_000
    assert waveform.dtype == np.float32
    if tolerance is not None:
        np.testing.assert_allclose(waveform, given.mean(1), atol=tolerance)


@pytest.mark.parametrize("n_channels", [1, 6])
def test_file_of_many_blocks_is_the_file(tmp_path, monkeypatch, n_channels):
    monkeypatch.setattr(recordings, "BLOCK_VALUES", 1000)
    given, path = sound(n_channels=n_channels), tmp_path / "sound.wav"
    soundfile.write(path, given, 8_000, subtype="FLOAT")
    with open_recording(path) as recording:
        blocks = list(recording.blocks)
    assert max(map(len, blocks)) == 1000 // n_channels
    np.testing.assert_allclose(np.concatenate(blocks), given.mean(1), atol=1e-7)


@pytest.mark.parametrize(
    ("sample_format", "subtype"),
    [("s16le", "PCM_16"), ("s24le", "PCM_24"), ("s32le", "PCM_32"), ("f32le", "FLOAT")],
)
def test_stream_gives_what_the_file_gives(tmp_path, sample_format, subtype):
    options = {"subtype": subtype, "endian": "LITTLE"}
    soundfile.write(tmp_path / "sound.wav", sound(), 8_000, **options)
    soundfile.write(tmp_path / "sound.raw", sound(), 8_000, format="RAW", **options)
    with open(tmp_path / "sound.raw", "rb") as stream:
        recording = read_stream(stream, rate=8_000, n_channels=2, sample_format=sample_format)
        blocks = list(recording.blocks)
    assert max(map(len, blocks)) == 800, "a tenth of a second"
    np.testing.assert_array_equal(np.concatenate(blocks), read(tmp_path / "sound.wav")[1])


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (b"", {}, "stdin: holds no samples"),
        (
            b"\0" * 8001,
            {},
            "stdin: the stream ends in the middle of a sample frame: 1 bytes are left over, and a",
        ),
        (b"\0" * 4, {"n_channels": 4}, "a frame of 4 × s16le has 8; check --channels and"),
        (b"\0\0\xc0\x7f" * 2, {"sample_format": "f32le"}, r"stdin: sample 0 \(0.00 s\) is nan"),
        (b"\0", {"n_channels": 0}, "stdin: 0 channels, expected 1 … 1024"),
        (b"\0", {"rate": 0}, "stdin: sample rate 0 Hz, expected 1,000 … 1,000,000 Hz"),
        (b"\0", {"sample_format": "s16be"}, "unknown sample format 's16be'; known: s16le, s24le"),
    ],
)
def test_wrong_stream_is_named(data, options, message):
    options = {"rate": 8_000, "n_channels": 1, "sample_format": "s16le"} | options
    with pytest.raises(UserError, match=message):
        list(read_stream(io.BytesIO(data), **options).blocks)


def write_bad(folder, what):
    path, waveform = folder / "bad.wav", sound(n_channels=1)
    if what == "text":
        path.write_text("no sound at all")
    elif what == "nothing":
        path.touch()
    elif what == "no samples":
        soundfile.write(path, waveform[:0], 8_000)
    elif what in ("nan", "inf"):
        waveform[4_000] = float(what)
        soundfile.write(path, waveform, 8_000, subtype="FLOAT")
    elif what == "cut":
        soundfile.write(folder / "whole.flac", waveform, 8_000)
        path.write_bytes((folder / "whole.flac").read_bytes()[:6_000])
    elif what == "rate":
        soundfile.write(path, waveform, 10)
    return path


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", "bad.wav: cannot be read: No such file or directory"),
        ("text", "bad.wav: not a recording that libsndfile reads: .*Convert it to wav or flac"),
        ("nothing", r"bad.wav: is empty \(0 bytes\), expected a recording"),
        ("no samples", "bad.wav: holds no samples"),
        ("nan", r"bad.wav: sample 4,000 \(0.50 s\) is nan, expected a finite number"),
        ("inf", r"bad.wav: sample 4,000 \(0.50 s\) is inf"),
        ("cut", "bad.wav: damaged after 0.00 s: "),
        ("rate", "bad.wav: sample rate 10 Hz, expected 1,000"),
    ],
)
def test_bad_file_is_named_in_one_line(tmp_path, what, message):
    with pytest.raises(UserError, match=message) as caught:
        read(write_bad(tmp_path, what))
    assert "\n" not in str(caught.value)


def test_file_that_the_system_will_not_open_is_named_in_its_words(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path.name}: cannot be read: Is a directory"):
        read(tmp_path)


def test_raw_file_is_referred_to_the_stream(tmp_path):
    (tmp_path / "a.raw").write_bytes(b"\0" * 100)
    with pytest.raises(UserError, match=re.escape("raw samples can be piped in as '-'")):
        read(tmp_path / "a.raw")


def test_folders_are_searched_and_files_taken_by_any_name(tmp_path):
    for name in ("b/x.WAV", "b/a/y.flac", "b/notes.txt", "b/._x.wav", "odd.name"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found, others = find_recordings([tmp_path / "odd.name", tmp_path / "b"])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "odd.name", "b/a/y.flac", "b/x.WAV",
    ]  # fmt: skip
    assert others.startswith("Not looked at: 1 .txt. A file of another name can be given")
    assert find_recordings([tmp_path / "odd.name"]) == ([tmp_path / "odd.name"], None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no recording in this folder; looked for \.wav"):
        find_recordings([tmp_path / "empty"])
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        find_recordings([tmp_path / "nowhere"])
