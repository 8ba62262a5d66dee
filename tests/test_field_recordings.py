"""Recordings as people give them to `predict`: pipes, phones, old recorders, odd folders."""

import contextlib
import csv
import io
import json
import os
import pathlib
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading

import numpy as np
import pytest
from commands import call
from short import NAME
from small_run import write_run

import asc_jax
from asc_jax.cli import predict
from asc_jax.data import recordings
from asc_jax.data.recordings import find_recordings, native_output, open_recording, read_stream
from asc_jax.data.tau import wav as wav_files
from asc_jax.errors import UserError, printable
from asc_jax.evaluation import evaluate
from asc_jax.prediction import figure
from asc_jax.prediction.figure import Timeline
from asc_jax.prediction.predictor import Predictor

soundfile = pytest.importorskip("soundfile")
RATE = 8_000
FLAGS = ("--workdir=run", "--top_k=1", "--nowindows")
NOT_UTF8 = os.fsdecode(b"caf\xe9.wav")
COMMANDING = "ev\x1b[31mil\nname.wav"


def noise(seconds=1.0, n_channels=1):
    rng = np.random.default_rng(0)
    return rng.uniform(-0.5, 0.5, (round(seconds * RATE), n_channels))


def write(path, waveform=None, rate=RATE, **options):
    soundfile.write(os.fsencode(path), noise() if waveform is None else waveform, rate, **options)
    return path


def sound(kind, subtype=None, **options):
    """The bytes of a file."""
    file = io.BytesIO()
    soundfile.write(file, noise(**options), RATE, format=kind, subtype=subtype)
    return file.getvalue()


def corrupted_mp3(path):
    """An MP3 over whose middle libmpg123 grumbles."""
    data = sound("MP3", seconds=4)
    path.write_bytes(data[: len(data) // 2] + b"\0" * 3000 + data[len(data) // 2 :])
    return path


def read(path):
    """Samples and notes."""
    with open_recording(path) as recording:
        return np.concatenate(list(recording.blocks)), recording.notes


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run, which is opened and compiled once for all tests."""
    home = tmp_path_factory.mktemp("home")
    write_run(home / "run", model__name=NAME)
    opened = evaluate.open_run(home / "run")
    predictors = {
        size: Predictor(opened.experiment, opened.variables, size)
        for size in (1, predict.BATCH_SIZE)
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "open_run", lambda *args, **options: opened)
        patch.setattr(predict, "Predictor", lambda parts, variables, size: predictors[size])
        yield home


@pytest.fixture(scope="module")
def run(home):
    return asc_jax.load_run(home / "run")


def stream_of(data, **options):
    options = {"rate": 44_100, "n_channels": 2, "sample_format": "s16le"} | options
    return list(read_stream(io.BytesIO(data), **options).blocks)


ADTS_FRAME = bytes([0xFF, 0xF1, 0x50, 0x80, 0x0C, 0x9F]) + b"\x21" * 94  # 100 bytes long
MP3_FRAME = bytes([0xFF, 0xFB, 0x90, 0x00]) + b"\x55" * 413  # 128 kbit/s at 44.1 kHz: 417 bytes


@pytest.mark.parametrize(
    ("beginning", "kind"),
    [
        (sound("WAV"), "a wav file"),
        (sound("RF64"), "a wav file"),
        (sound("W64"), "a wav file"),
        (b"RIFX" + sound("WAV")[4:], "a wav file"),
        (b"BW64" + sound("RF64")[4:], "a wav file"),
        (sound("FLAC"), "a FLAC file"),
        (sound("OGG"), "an Ogg file"),
        (sound("OGG", "OPUS"), "an Ogg file"),
        (sound("AIFF"), "an AIFF file"),
        (sound("CAF"), "a CAF file"),
        (sound("AU"), "an AU file"),
        (sound("NIST"), "a NIST file"),
        (sound("MP3"), "an MP3 or AAC file"),  # begins with a frame
        (MP3_FRAME * 3, "an MP3 or AAC file"),
        (ADTS_FRAME * 3, "an MP3 or AAC file"),
        (b"ID3\x04\0\0\0\0\0\x23TSSE", "an MP3 file"),
        (b"\x1aE\xdf\xa3\x9fB\x86", "a WebM or Matroska file"),
        (b"\0\0\0\x1cftypM4A ", "an MP4 or M4A file"),
        (b"0&\xb2u\x8ef\xcf\x11", "a WMA file"),
        (b"#!AMR\n<", "an AMR file"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value,
)
def test_b14_file_piped_into_stdin_is_named_with_the_way_out(beginning, kind):
    with pytest.raises(UserError) as caught:
        stream_of(beginning)
    assert str(caught.value) == (
        f"stdin: begins like {kind}, expected raw samples without a header: give the file by its "
        "name, or pipe in what ffmpeg makes of it (ffmpeg -i FILE -f s16le -ar 44100 -ac 2 -)"
    )


def test_b14_raw_samples_are_not_taken_for_a_file():
    """Near silence 0xFF is a frequent byte, and some samples are the first two of an MP3 frame."""
    rng = np.random.default_rng(0)
    for amplitude in (1, 3, 300, 30_000):
        for _ in range(200):
            samples = rng.integers(-amplitude, amplitude + 1, 1000).astype("<i2").tobytes()
            assert recordings.kind_of_file(samples) is None
            for sync in (b"\xff\xfb", b"\xff\xf3", b"\xff\xe3", b"\xff\xf1"):
                assert recordings.kind_of_file(sync + samples) is None
    assert recordings.kind_of_file(b"") is recordings.kind_of_file(b"\xff\xfb") is None


def test_b14_wav_piped_into_stdin(home):
    done = call("predict", "-", "--rate=8000", *FLAGS, cwd=home, stdin=sound("WAV"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: stdin: begins like a wav file, expected raw samples")


def test_b14_terminal_or_a_failing_pipe_is_no_stream(home, monkeypatch):
    class Terminal(io.TextIOWrapper):
        def isatty(self):
            return True

    with monkeypatch.context() as patch:
        patch.setattr(io, "TextIOWrapper", Terminal)
        done = call("predict", "-", "--rate=8000", *FLAGS, cwd=home)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: '-' is a stream of raw samples, but nothing is piped in\n"

    class Failing(io.BytesIO):
        def read(self, n_bytes):
            raise OSError(5, "Input/output error")

    with pytest.raises(UserError, match="stdin: cannot be read: Input/output error"):
        list(read_stream(Failing(), rate=RATE, n_channels=1, sample_format="s16le").blocks)


def test_b16_files_of_other_suffixes_are_counted_at_the_end(home, tmp_path):
    for name in ("b.m4a", "c.M4A", "d.webm", "x/notes.txt", "x/README", ".DS_Store", "._a.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    write(tmp_path / "a.wav")
    done = call("predict", tmp_path, *FLAGS, "--format=csv", cwd=home)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == (
        "Not looked at: 2 .m4a, 1 .txt, 1 .webm, 1 without a suffix. A file of another name can be "
        "given by itself; what libsndfile does not read can be converted (ffmpeg -i FILE "
        "FILE.wav)\n"
    )
    (tmp_path / "a.wav").write_text("no sound")
    done = call("predict", tmp_path, *FLAGS, cwd=home)
    first, last = done.stderr.splitlines()
    assert (done.returncode, first[:13]) == (2, "Not looked at")
    assert last.startswith(f"error: {tmp_path}/a.wav: not a recording that libsndfile reads")


def test_b16_many_other_suffixes_stay_one_short_line(tmp_path):
    write(tmp_path / "a.wav")
    for number in range(30):
        (tmp_path / f"a.{number}\x1b\n{'x' * 80}").touch()
    _, told = find_recordings([tmp_path])
    assert re.fullmatch(r"[^\n\x1b]{1,500}", told)
    assert ", 22 more. A file" in told


def test_b16_folder_of_phone_recordings_alone_says_what_lies_there(tmp_path):
    (tmp_path / "a.m4a").touch()
    message = r"no recording in this folder; looked for \.wav .*\. Not looked at: 1 \.m4a\. A file"
    with pytest.raises(UserError, match=message):
        find_recordings([tmp_path])


def names_below(folder, *given):
    found, _ = find_recordings(given or [folder])
    return [path.relative_to(folder).as_posix() for path in found]


def test_b16_links_to_folders_are_followed_and_none_is_searched_twice(tmp_path):
    inside, elsewhere = tmp_path / "inside", tmp_path / "elsewhere"
    (inside / "z").mkdir(parents=True)
    elsewhere.mkdir()
    write(inside / "z" / "a.wav")
    write(elsewhere / "b.wav")
    (inside / "a_link_to_z").symlink_to(inside / "z")
    (inside / "link").symlink_to(elsewhere)
    (inside / "z" / "round").symlink_to(inside)
    (inside / "z" / "self.wav").symlink_to("self.wav")
    assert names_below(inside) == ["link/b.wav", "z/a.wav", "z/self.wav"]
    with pytest.raises(UserError, match="self.wav: cannot be read: Too many levels of symbolic"):
        read(inside / "z" / "self.wav")


def test_b16_file_named_twice_is_predicted_once(tmp_path):
    a, b = write(tmp_path / "a.wav"), write(tmp_path / "b.wav")
    assert names_below(tmp_path, b, tmp_path, f"{tmp_path}/./a.wav", a) == ["b.wav", "a.wav"]


@contextlib.contextmanager
def as_nobody():
    """Root may read everything; the others lose nothing by this."""
    if os.geteuid():
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_b16_folders_and_files_that_may_not_be_read_are_named():
    folder = pathlib.Path(tempfile.mkdtemp())  # pytest's own folders are closed to others
    try:
        folder.chmod(0o755)
        for name in ("closed", "listed"):
            (folder / name).mkdir()
            write(folder / name / "b.wav")
        write(folder / "a.wav")
        write(folder / "c.wav").chmod(0)
        (folder / "closed").chmod(0)
        (folder / "listed").chmod(0o444)
        with as_nobody():
            assert names_below(folder) == ["a.wav", "c.wav", "closed", "listed/b.wav"]
            for name in ("c.wav", "closed", "listed/b.wav"):
                with pytest.raises(UserError, match=f"{name}: cannot be read: Permission denied"):
                    read(folder / name)
            with pytest.raises(UserError, match="b.wav: cannot be read: Permission denied"):
                find_recordings([folder / "closed" / "b.wav"])
    finally:
        for name in ("closed", "listed"):
            (folder / name).chmod(0o755)
        shutil.rmtree(folder)


def test_b16_pipes_devices_sockets_and_broken_links_are_named_and_nothing_hangs(home, tmp_path):
    write(tmp_path / "a.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "null.wav").symlink_to(os.devnull)
    (tmp_path / "broken.wav").symlink_to("nothing.wav")
    (tmp_path / "folder.wav").mkdir()
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(tmp_path):
        server.bind("socket.wav")  # the path may not be long
    done = call("predict", tmp_path, *FLAGS, "--format=json", cwd=home)
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 1
    hint = "expected a file; raw samples are piped in as '-'"
    assert done.stderr.replace(f"{tmp_path}/", "").splitlines() == [
        "error: broken.wav: cannot be read: No such file or directory: a link to nothing.wav",
        f"error: null.wav: is a device, {hint}",
        f"error: pipe.wav: is a pipe, {hint}",
        f"error: socket.wav: is a socket, {hint}",
        "error: 4 of 5 recordings could not be predicted, see above",
    ]
    with pytest.raises(UserError, match=r"broken\.wav: no such file or folder: a link to nothing"):
        find_recordings([tmp_path / "broken.wav"])
    with pytest.raises(UserError, match=r"a\.wav/b: cannot be read: Not a directory"):
        find_recordings([tmp_path / "a.wav" / "b"])
    with pytest.raises(UserError, match="cannot be read: File name too long"):
        find_recordings(["a" * 300])


def test_b21_any_name_is_heard_and_printed_without_commanding_the_terminal(home, tmp_path):
    names = [NOT_UTF8, COMMANDING, "日本😀\x9b.wav", "\u202etxt.wav"]
    for name in names:
        write(tmp_path / name)
    (tmp_path / "no\n\x1b.wav").write_text("no sound")
    told = {}
    for form in ("table", "csv", "json"):
        done = call("predict", tmp_path, *FLAGS, f"--format={form}", cwd=home)
        assert done.returncode == 2
        assert f"{tmp_path}/no \\x1b.wav: not a recording" in done.stderr.splitlines()[0]
        assert all(sign.isprintable() or sign == "\n" for sign in done.stdout)
        told[form] = done.stdout
    paths = {f"{tmp_path}/{name}" for name in names}
    spelt = {*map(printable, paths)}
    assert spelt <= {*told["table"].splitlines()}
    assert {row["recording"] for row in csv.DictReader(told["csv"].splitlines())} == spelt
    assert told["json"].isascii(), "whatever the encoding of the output"
    assert {json.loads(line)["recording"] for line in told["json"].splitlines()} == paths


def test_b21_output_that_cannot_encode_a_name_spells_it_out(home, tmp_path, monkeypatch):
    write(tmp_path / "ä€.wav")
    made = io.TextIOWrapper

    def ascii_only(raw, encoding):
        return made(raw, "ascii")

    monkeypatch.setattr(io, "TextIOWrapper", ascii_only)
    done = call("predict", "ä€.wav", f"--workdir={home}/run", "--format=table", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("\\xe4\\u20ac.wav\n")


def test_picture_does_not_overwrite_its_recording(home, tmp_path):
    data = write(tmp_path / "a.wav").read_bytes()
    done = call("predict", "a.wav", f"--workdir={home}/run", "--png=./a.wav", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: --png a.wav: there is a file already that is no PNG picture; give another name\n"
    )
    assert (tmp_path / "a.wav").read_bytes() == data


@pytest.mark.parametrize(
    ("name", "title"),
    [
        (COMMANDING, r"ev\x1b[31mil name.wav"),
        (NOT_UTF8, r"caf\udce9.wav"),
        ("日本😀.wav", "日本😀.wav"),
        (r"a$\b$c.wav", r"a\$\b\$c.wav"),
        ("x" * 200 + ".wav", "x" * 55 + "…" + "x" * 10 + ".wav"),
    ],
)
def test_b21_picture_is_headed_by_any_name(tmp_path, monkeypatch, name, title):
    features = {
        "hop_length": 2000, "sample_rate": 32_000, "n_mels": 8, "f_min": 0.0, "f_max": 16_000.0,
    }  # fmt: skip
    timeline = Timeline(1.0, features, ("a",) * 10)
    timeline.add(np.zeros(1), np.ones((1, 8, 17)), np.full((1, 10), 0.1))
    titles = []
    drawn = figure.write_png

    def write_png(path, size, draw, title, about, **options):
        titles.append(title)
        drawn(path, size, lambda figure: None, title, about, **options)

    monkeypatch.setattr(figure, "write_png", write_png)
    timeline.write(tmp_path / "a.png", name, np.eye(10)[0])
    assert titles == [title]
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_b21_data_set_in_a_folder_whose_name_is_no_utf8(tmp_path):
    folder = tmp_path / NOT_UTF8
    folder.mkdir()
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 44_100)
    for subtype in ("PCM_16", "PCM_32"):  # read by the standard library, and by libsndfile
        path = write(folder / f"{subtype}.wav", wave, 44_100, subtype=subtype)
        np.testing.assert_allclose(wav_files.read_wav(path), wave, atol=2**-15)


def same_file(descriptor, status):
    return os.path.samestat(os.fstat(descriptor), status)


def test_b38_native_libraries_speak_through_notes_alone(home, tmp_path, capfd):
    corrupted_mp3(tmp_path / "a.mp3")
    whole = sound("MP3", seconds=4)
    (tmp_path / "cut.mp3").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.mp3").write_text("hello world, " * 50)
    done = call("predict", tmp_path, *FLAGS, "--format=json", cwd=home)
    assert capfd.readouterr() == ("", ""), "what libmpg123 writes to descriptor 2"
    (line,) = map(json.loads, done.stdout.splitlines())
    assert any(re.search(r"samples read, its header says 32,000$", note) for note in line["notes"])
    corrupted, text, last = done.stderr.replace(f"{tmp_path}/", "").splitlines()
    assert re.match(
        r"error: a\.mp3: damaged after .* s: .*; its decoder says: Note: Ill", corrupted
    )
    assert re.match(r"error: text\.mp3: not a recording .*: Format not recognised; its dec", text)
    assert "regular file" not in done.stderr
    assert last == "error: 2 of 3 recordings could not be predicted, see above"


def test_b38_library_is_as_quiet(run, tmp_path, capfd):
    with pytest.raises(UserError, match="its decoder says: Note: Illegal Audio-MPEG-Header"):
        run.predict(corrupted_mp3(tmp_path / "a.mp3"))
    assert capfd.readouterr() == ("", "")


def test_b38_standard_error_is_itself_again_after_errors_and_in_threads(tmp_path, capfd):
    before = os.fstat(2)
    notes = []
    with pytest.raises(ZeroDivisionError), native_output(notes):
        1 / (os.write(2, b"ab") - 2)
    assert notes == ["its decoder says: ab"]
    assert same_file(2, before)
    path, together, seen = corrupted_mp3(tmp_path / "a.mp3"), threading.Barrier(4), []

    def hear():
        together.wait()
        for _ in range(10):
            try:
                read(path)
            except UserError as error:
                seen.append("its decoder says" in str(error))

    threads = [threading.Thread(target=hear) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 40
    assert same_file(2, before)
    os.write(2, b"still here\n")
    assert capfd.readouterr().err == "still here\n"


def test_b38_without_room_for_temporary_files_recordings_are_read(tmp_path, monkeypatch):
    path, before = write(tmp_path / "a.wav"), os.fstat(2)

    def no_room():
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", no_room)
    assert len(read(path)[0]) == RATE
    assert same_file(2, before)


def test_b38_closed_standard_error_is_left_alone(tmp_path):
    """Descriptor 2 is then the next file that is opened."""
    path = write(tmp_path / "a.wav")
    code = (
        "import os, sys\n"
        "from asc_jax.data.recordings import native_output, open_recording\n"
        "with open_recording(sys.argv[1]) as opened: print(sum(map(len, opened.blocks)))\n"
        "with open(sys.argv[1]) as file, native_output([]): \n"
        "    print(file.fileno(), os.path.samestat(os.fstat(2), os.stat(sys.argv[1])))"
    )
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" "$2" 2>&-', sys.executable, code, path],
        cwd=pathlib.Path(__file__).parent.parent, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, f"{RATE}\n2 True\n")


@pytest.mark.parametrize("suffix", ["wav", "mp3", "au", "snd", "raw", "flac"])
def test_b38_empty_file_is_called_empty(tmp_path, suffix):
    (tmp_path / f"a.{suffix}").touch()
    with pytest.raises(UserError, match=rf"a\.{suffix}: is empty \(0 bytes\), expected"):
        read(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("suffix", ["au", "snd", "gsm", "vox", "raw"])
def test_file_without_a_header_is_not_heard_for_its_name(tmp_path, suffix):
    """libsndfile takes any bytes named so for 8 kHz."""
    (tmp_path / f"a.{suffix}").write_text("<html>not found</html>" * 9)
    message = f"a.{suffix}: not a recording that libsndfile reads: no header says what it holds"
    with pytest.raises(UserError, match=message):
        read(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "AU", "W64", "RF64"])
def test_file_cut_short_is_heard_and_noted(tmp_path, kind):
    data = sound(kind, "PCM_16", seconds=2)
    (tmp_path / "a.wav").write_bytes(data[: len(data) // 2])
    waveform, (note,) = read(tmp_path / "a.wav")
    assert len(waveform) == pytest.approx(RATE, rel=0.02)
    assert re.fullmatch(
        r"cut short: its header promises (1.99|2.00) s, (0.99|1.00) s are there", note
    )
    (tmp_path / "a.wav").write_bytes(data + b"\0" * 48)
    assert read(tmp_path / "a.wav")[1] == []


def test_wav_of_unknown_length_is_heard_to_its_end_and_one_of_length_zero_is_explained(tmp_path):
    path = tmp_path / "a.wav"
    data = bytearray(sound("WAV", "PCM_16"))
    at = data.index(b"data") + 4
    for size in (0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0x7FFF0000):  # as programs write into a pipe
        data[at : at + 4] = struct.pack("<I", size)
        path.write_bytes(data)
        waveform, notes = read(path)
        assert (len(waveform), notes) == (RATE, [])
    data[at : at + 4] = bytes(4)  # as a recorder leaves it that lost its power
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"holds no samples, although it has 16,044 bytes: its hea"):
        read(path)


def test_flac_written_into_a_pipe_is_heard(home, tmp_path):
    """It does not say how long it is, and cannot be searched; ffmpeg and sox write such files."""
    data = bytearray(sound("FLAC", seconds=2.5))
    assert data[8 + 13] & 0x0F == 0
    data[8 + 14 : 8 + 18] = bytes(4)  # its number of samples
    (tmp_path / "a.flac").write_bytes(data)
    waveform, notes = read(tmp_path / "a.flac")
    np.testing.assert_allclose(waveform, noise(2.5)[:, 0], atol=2**-15)
    assert notes == []
    done = call("predict", tmp_path / "a.flac", *FLAGS, "--png=a.png", cwd=home)
    assert done.returncode == 2
    assert "a.flac: --png needs a file of known length; convert it" in done.stderr


@pytest.mark.parametrize(
    ("kind", "seconds", "message"),
    [
        ("FLAC", 4, r"a: damaged after 0\.00 s: Error : flac decoder lost sync"),
        ("OGG", 0.5, "a: not a recording that libsndfile reads: .* file is malformed"),
        ("MP3", 4, None),
    ],
)
def test_compressed_file_cut_short_is_named_or_noted(tmp_path, run, kind, seconds, message):
    data = sound(kind, seconds=seconds)
    (tmp_path / "a").write_bytes(data[: len(data) // 2])
    if message:
        with pytest.raises(UserError, match=message):
            run.predict(tmp_path / "a")
    else:
        notes = "\n".join(run.predict(tmp_path / "a").notes)
        assert "samples read, its header says 32,000" in notes


FORMATS = [
    *(("WAV", s) for s in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")),
    *(("WAV", s) for s in ("ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "GSM610")),
    *(("AIFF", s) for s in ("PCM_S8", "PCM_24", "FLOAT", "ULAW", "IMA_ADPCM")),
    *(("AU", s) for s in ("PCM_16", "ULAW", "FLOAT", "G721_32")),
    *(("CAF", s) for s in ("PCM_16", "ALAC_16", "ALAC_24")),
    *(("W64", "PCM_24"), ("RF64", "PCM_24"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24")),
    *(("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")),
    *(("VOC", "PCM_16"), ("NIST", "PCM_16"), ("IRCAM", "PCM_16"), ("WAVEX", "PCM_24")),
]


def test_every_format_rate_and_channel_count_is_predicted_or_named(home, tmp_path):
    for kind, subtype in FORMATS:
        suffix = {"IRCAM": "sf", "WAVEX": "wav"}.get(kind, kind.lower())
        write(tmp_path / f"{kind}_{subtype}.{suffix}", format=kind, subtype=subtype)
    for rate in (1, 999, 7_999, 768_000):
        write(tmp_path / f"hz_{rate}.wav", noise(), rate)
    write(tmp_path / "channels.wav", noise(n_channels=32))
    for name, value in (("silence", 0.0), ("dc", 0.5), ("nan", np.nan), ("inf", -np.inf)):
        write(tmp_path / f"{name}.wav", np.full(RATE, value), subtype="FLOAT")
    write(tmp_path / "no_samples.wav", noise()[:0])
    done = call("predict", tmp_path, *FLAGS, "--format=json", cwd=home)
    lines = {pathlib.Path(line["recording"]).name: line for line in
             map(json.loads, done.stdout.splitlines())}  # fmt: skip
    assert len(lines) == len(FORMATS) + 2 + 1 + 2
    assert all(0.1 <= line["top"][0]["p"] <= 1 for line in lines.values())
    assert "32 channels averaged to one" in lines["channels.wav"]["notes"]
    assert "silent: every sample is zero" in lines["silence.wav"]["notes"]
    assert done.stderr.replace(f"{tmp_path}/", "").splitlines() == [
        "error: hz_1.wav: sample rate 1 Hz, expected 1,000 … 1,000,000 Hz",
        "error: hz_999.wav: sample rate 999 Hz, expected 1,000 … 1,000,000 Hz",
        "error: inf.wav: sample 0 (0.00 s) is -inf, expected a finite number; export the "
        "recording again",
        "error: nan.wav: sample 0 (0.00 s) is nan, expected a finite number; export the "
        "recording again",
        "error: no_samples.wav: holds no samples",
        f"error: 5 of {len(lines) + 5} recordings could not be predicted, see above",
    ]


# Files as phones, browsers, recorders and converters write them: name → arguments of ffmpeg, or of
# sox. Those that libsndfile reads, and those that have to be named.
HEARD_OF_FFMPEG = {
    **{f"{c}.wav": f"-c:a pcm_{c}" for c in ("u8", "s16le", "s24le", "s32le", "f32le", "f64le")},
    **{f"{c}.wav": f"-c:a pcm_{c}" for c in ("mulaw", "alaw")},
    **{f"{c}.wav": f"-c:a {c}" for c in ("adpcm_ima_wav", "adpcm_ms", "libmp3lame")},
    "gsm.wav": "-c:a libgsm_ms -ar 8000 -ac 1",
    "always.rf64": "-rf64 always -f wav",
    **dict.fromkeys(("a.w64", "a.flac", "a.aiff", "a.au", "a.caf", "a.voc", "a.mp2"), ""),
    "24.flac": "-sample_fmt s32 -c:a flac",
    "vorbis.ogg": "-c:a libvorbis",
    **dict.fromkeys(("a.opus", "opus.ogg"), "-c:a libopus"),
    **{"a.mp3": "", "vbr.mp3": "-q:a 3", "bare.mp3": "-id3v2_version 0 -write_xing 0"},
    **{"8k.mp3": "-ar 8000 -ac 1", "id3v1.mp3": "-write_id3v1 1 -metadata title=x"},
    "sowt.aifc": "-f aiff -c:a pcm_s16le",
    "ima4.aifc": "-f aiff -c:a adpcm_ima_qt",
    **{"ulaw.au": "-c:a pcm_mulaw", "a.snd": "-f au", "f32.caf": "-c:a pcm_f32le"},
    "a.sf": "-f ircam",
    **{"caf_as.wav": "-f caf", "mp3_as.wav": "-f mp3", "wav_as.mp3": "-f wav"},
}
NAMED_OF_FFMPEG = {
    **{"aac.m4a": "-c:a aac", "alac.m4a": "-c:a alac", "a.mp4": "-c:a aac", "a.3gp": "-c:a aac"},
    **{
        "a.aac": "-c:a aac",
        "a.mov": "-c:a pcm_s16le",
        "a.wma": "-c:a wmav2",
        "a.asf": "-c:a wmav1",
    },
    **{"a.webm": "-c:a libopus", "a.weba": "-c:a libopus -f webm", "a.mkv": "-c:a libopus"},
    **{"a.mka": "-c:a flac", "a.avi": "-c:a pcm_s16le", "a.flv": "-c:a libmp3lame"},
    **{"a.ts": "-c:a aac -f mpegts", "a.ac3": "", "a.eac3": "", "a.tta": "", "a.wv": ""},
    **{"speex.ogg": "-c:a libspeex -ar 16000 -ac 1", "a.spx": "-c:a libspeex -ar 16000 -ac 1"},
    **{"alac.caf": "-c:a alac", "opus.caf": "-c:a libopus", "flac.oga": "-c:a flac"},
    **{f"{c}.wav": f"-c:a {c}" for c in ("aac", "ac3", "flac", "wmav2", "pcm_s64le")},
    **{"m4a_as.wav": "-f ipod -c:a aac", "webm_as.ogg": "-f webm -c:a libopus"},
    **{"aac_as.mp3": "-f adts -c:a aac", "raw_as.wav": "-f s16le", "a.raw": "-f s16le"},
    **{"raw_as.au": "-f s16le", "a.gsm": "-ar 8000 -ac 1 -c:a libgsm"},
}
HEARD_OF_SOX = {
    **{"big_endian.wav": "-B", "extensible.wav": "-b 24", "sox.flac": "", "sox.ogg": ""},
    **dict.fromkeys(("a.amb", "a.avr", "a.sph", "a.nist", "a.paf", "a.fap", "a.pvf"), ""),
    **dict.fromkeys(("a.sds", "a.htk"), "-c 1"),
    "a.8svx": "-c 1 -b 8",
}
NAMED_OF_SOX = {
    **dict.fromkeys(("a.sox", "a.maud"), ""),
    **{"nb.amr": "-c 1 -r 8000 -t amr-nb", "a.vox": "-c 1 -r 8000", "a.hcom": "-c 1 -r 22050 -b 8"},
}
PIPED = {  # by standard output, as their lengths are then not known
    **{"ffmpeg.wav": "-f wav", "ffmpeg.flac": "-f flac", "ffmpeg.mp3": "-f mp3"},
    **{"ffmpeg.ogg": "-f ogg -c:a libvorbis", "ffmpeg.au": "-f au"},
}


def convert(folder, source):
    """Write all of the above that the installed programs can, and return who is to be heard."""
    ffmpeg, sox = ["ffmpeg", "-nostdin", "-v", "error", "-i", source], ["sox", "-V1", source]
    heard = set()
    for start, formats in (
        (ffmpeg, HEARD_OF_FFMPEG), (ffmpeg, NAMED_OF_FFMPEG), (ffmpeg, PIPED),
        (sox, HEARD_OF_SOX), (sox, NAMED_OF_SOX),
    ):  # fmt: skip
        for name, args in formats.items():
            path = folder / (f"piped_{name}" if formats is PIPED else name)
            target = "-" if formats is PIPED else path
            done = subprocess.run([*start, *args.split(), target], capture_output=True)
            if formats is PIPED:
                path.write_bytes(done.stdout)
            if done.returncode or not path.exists() or not path.stat().st_size:
                path.unlink(missing_ok=True)  # this build of the program cannot write it
            elif formats not in (NAMED_OF_FFMPEG, NAMED_OF_SOX):
                heard.add(path.name)
    return heard


REASONS = (
    "not a recording that libsndfile reads: "
    "(Format not recognised|Supported file format but |File contains data in an unimplemented "
    "format|Error in WAV/W64/RF64 file. Malformed 'fmt ' chunk|no header says what it holds"
    "|Error : unknown error in flac decoder|Unspecified internal error)"
)


@pytest.mark.nightly
@pytest.mark.skipif(
    not (shutil.which("ffmpeg") and shutil.which("sox")), reason="ffmpeg and sox are not installed"
)
def test_files_of_phones_browsers_and_converters_are_heard_or_named(home, tmp_path, capfd):
    folder = tmp_path / "folder"
    folder.mkdir()
    write(tmp_path / "source.wav", np.repeat(noise(1.5, 2), 6, axis=0)[: 3 * 22_050], 44_100)
    heard = convert(folder, tmp_path / "source.wav")
    every = {path.name for path in folder.iterdir()}
    assert len(heard) > 45
    assert len(every - heard) > 30
    capfd.readouterr()
    done = call("predict", *sorted(folder.iterdir()), *FLAGS, "--format=json", cwd=home)
    assert capfd.readouterr() == ("", "")
    lines = {pathlib.Path(line["recording"]).name: line for line in
             map(json.loads, done.stdout.splitlines())}  # fmt: skip
    assert lines.keys() == heard
    for name, line in lines.items():
        assert 1.45 < line["end_s"] < 1.6, name
        assert not any(note.startswith("cut short") for note in line["notes"]), name
    *errors, last = done.stderr.replace(f"{folder}/", "").splitlines()
    assert (
        last == f"error: {len(errors)} of {len(every)} recordings could not be predicted, see above"
    )
    named = {}
    for error in errors:
        name, reason = re.fullmatch(r"error: ([^:]+): (.*)", error).groups()
        assert re.match(REASONS, reason), error
        named[name] = reason
    assert named.keys() == every - heard

    done = call("predict", folder, *FLAGS, "--format=csv", cwd=home)
    assert capfd.readouterr() == ("", "")
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert {pathlib.Path(row["recording"]).name for row in rows} == heard
    *errors, others, last = done.stderr.splitlines()
    told = sum(int(n) for n in re.findall(r"(\d+) (?:\.|more)", others))
    assert (others[:14], len(errors) + told) == ("Not looked at:", len(every - heard))
    assert all(error.startswith(f"error: {folder}/") for error in errors)


@pytest.mark.nightly
@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not installed")
def test_way_out_of_a_piped_file_works(home, tmp_path):
    """The command that the error says to type works on a file that libsndfile does not read."""
    write(tmp_path / "a.wav", noise(2, 2), 8_000)
    subprocess.run(
        ["ffmpeg", "-v", "error", "-i", "a.wav", "-c:a", "aac", "a.m4a"], cwd=tmp_path, check=True
    )
    flags = ("--rate=8000", "--channels=2", *FLAGS, "--format=json")
    given = (tmp_path / "a.m4a").read_bytes()
    done = call("predict", "-", *flags, cwd=home, stdin=given)
    assert "stdin: begins like an MP4 or M4A file" in done.stderr
    command = re.search(r"\((ffmpeg .*)\)", done.stderr)[1].replace("FILE", "a.m4a").split()
    raw = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True).stdout
    done = call("predict", "-", *flags, cwd=home, stdin=raw)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = map(json.loads, done.stdout.splitlines())
    assert 1.9 < line["end_s"] < 2.2
