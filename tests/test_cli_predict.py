"""`asc-jax predict` as a person starts it."""

import csv
import json
import pathlib
import re

import numpy as np
import pytest
from commands import call
from short import NAME
from small_run import write_run

from asc_jax.cli import predict
from asc_jax.data.recordings import OpenRecording, open_recording
from asc_jax.data.tau.taxonomy import SCENES
from asc_jax.errors import UserError
from asc_jax.evaluation import evaluate
from asc_jax.prediction.figure import MAX_COLUMNS, Timeline
from asc_jax.prediction.lines import KINDS, make_notes
from asc_jax.prediction.predictor import Predictor
from asc_jax.prediction.predictor import predict as print_prediction

soundfile = pytest.importorskip("soundfile")
ROOT = pathlib.Path(__file__).parent.parent
PNG = b"\x89PNG\r\n\x1a\n"


def start(*args, cwd, stdin=None):
    return call("predict", *args, cwd=cwd, stdin=stdin or b"")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run, and three recordings of which one is none."""
    home = tmp_path_factory.mktemp("home")
    write_run(home / "run", model__name=NAME)
    rng = np.random.default_rng(0)
    loudness = np.repeat(10.0 ** -np.arange(3), 8_000)[:20_000, None]
    sound = rng.uniform(-0.5, 0.5, (20_000, 2)) * loudness
    (home / "sounds").mkdir()
    soundfile.write(home / "sounds" / "a.wav", sound, 8_000, subtype="PCM_16")
    soundfile.write(home / "sounds" / "c.flac", sound[:3_000], 8_000)
    (home / "sounds" / "b.wav").write_text("no sound")
    return home


@pytest.fixture(scope="module")
def loaded(home):
    opened = evaluate.open_run(home / "run")
    return Predictor(opened.experiment, opened.variables, predict.BATCH_SIZE)


@pytest.fixture(scope="module")
def of_folder(home):
    """The folder as JSON, all ten scenes, by a process of its own."""
    flags = ("--workdir=run", "--format=json", "--top_k=10")
    return start("sounds", *flags, cwd=home)


def test_bad_file_in_a_folder_is_named_and_the_others_go_on(of_folder):
    assert of_folder.returncode == 2
    first, last = of_folder.stderr.splitlines()
    assert first.startswith("error: sounds/b.wav: not a recording that libsndfile reads: ")
    assert last == "error: 1 of 3 recordings could not be predicted, see above"
    lines = [json.loads(line) for line in of_folder.stdout.splitlines()]
    keys = ("recording", "what", "start_s", "end_s")
    assert [tuple(line[key] for key in keys) for line in lines] == [
        ("sounds/a.wav", "window", 0.0, 1.0),
        ("sounds/a.wav", "window", 1.0, 2.0),
        ("sounds/a.wav", "window", 1.5, 2.5),
        ("sounds/a.wav", "recording", 0.0, 2.5),
        ("sounds/c.flac", "window", 0.0, 0.375),
        ("sounds/c.flac", "recording", 0.0, 0.375),
    ]  # fmt: skip
    for line in lines:
        assert sorted(entry["class"] for entry in line["top"]) == sorted(SCENES)
        assert [entry["p"] for entry in line["top"]] == sorted(
            (entry["p"] for entry in line["top"]), reverse=True
        )
        assert sum(entry["p"] for entry in line["top"]) == pytest.approx(1)
    assert lines[3]["notes"] == [
        "2 channels averaged to one",
        "resampled from 8,000 to 32,000 Hz",
        "holds nothing above 4,000 Hz, which the network was trained on",
    ]
    assert "only 0.38 s long: filled up to one second with silence" in lines[5]["notes"]


def test_recording_is_the_mean_of_its_windows(of_folder):
    lines = [json.loads(line) for line in of_folder.stdout.splitlines()]
    tables = [{entry["class"]: entry["p"] for entry in line["top"]} for line in lines[:4]]
    for scene in SCENES:
        assert tables[3][scene] == pytest.approx(np.mean([t[scene] for t in tables[:3]]), abs=1e-8)


def test_stream_is_predicted_as_its_file(home, of_folder):
    soundfile.write(home / "a.raw", soundfile.read(home / "sounds" / "a.wav")[0], 8_000,
                    format="RAW", subtype="PCM_16")  # fmt: skip
    flags = ("--workdir=run", "--rate=8000", "--channels=2", "--format=csv", "--top_k=2")
    done = start("-", *flags, cwd=home, stdin=(home / "a.raw").read_bytes())
    assert (done.returncode, done.stderr) == (0, "")
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert list(rows[0]) == [
        "recording", "what", "start_s", "end_s", "class_1", "p_1", "class_2", "p_2",
    ]  # fmt: skip
    lines = [json.loads(line) for line in of_folder.stdout.splitlines()]
    for row, line in zip(rows, lines[:4], strict=True):
        assert (row["recording"], row["what"]) == ("stdin", line["what"])
        assert [float(row[at]) for at in ("start_s", "end_s")] == [line["start_s"], line["end_s"]]
        for rank in (1, 2):
            assert row[f"class_{rank}"] == line["top"][rank - 1]["class"]
            assert float(row[f"p_{rank}"]) == pytest.approx(line["top"][rank - 1]["p"], abs=1e-5)


def test_table_is_aligned_and_has_a_picture(home):
    done = start("sounds/a.wav", "--workdir=run", "--hop_s=0.5", "--png=x/a.png", cwd=home)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line for line in done.stdout.splitlines() if " s  " in line]
    assert len(rows) == 4
    assert {line.index("–") for line in rows} == {10}
    assert {len(re.findall(r"\d+\.\d %", line)) for line in rows} == {3}
    assert "\n  mean of 4 " in done.stdout
    assert (home / "x" / "a.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "which recordings, and which run? For example: asc-jax predict clip.wav"),
        (("no.wav", "--workdir=run"), "error: no.wav: no such file or folder"),
        (("sounds/b.wav", "--workdir=run"), "error: sounds/b.wav: not a recording that libsnd"),
        (("sounds/a.wav", "--workdir=no"), "no run in no: config.json is missing"),
        (("sounds", "--workdir=run", "--png=a.png"), "--png draws one recording from a file"),
        (("-", "--workdir=run"), "--rate is needed, for example 48000"),
        (("sounds", "--workdir=run", "--top_k=11"), "--top_k is 11, and the run has 10 classes"),
    ],
)
def test_wrong_command_line_ends_with_2_and_one_line(home, args, message):
    done = start(*args, cwd=home)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: [^\n]+\n", done.stderr), done.stderr
    assert message in done.stderr


class Given(dict):
    """Flags as absl holds them: attributes, and whether each was given."""

    __getattr__ = dict.__getitem__

    def __getitem__(self, name):
        present = super().__getitem__(name) not in (None, 1, "s16le")
        return type("Flag", (), {"present": present})


@pytest.mark.parametrize(
    ("change", "paths", "message"),
    [
        ({"top_k": 0}, ["a"], "--top_k is 0, expected at least 1"),
        ({"hop_s": 0.0}, ["a"], "hop_s is 0, expected 0.01 … 3600 seconds"),
        ({"hop_s": float("nan")}, ["a"], "hop_s is nan, expected 0.01 … 3600 seconds"),
        ({"min_peak_dbfs": 3.0}, ["a"], "min_peak_dbfs is 3, expected at most 0 dB"),
        ({"rate": 48_000}, ["a"], "--rate is for a stream"),
        ({"channels": 2}, ["a"], "--channels is for a stream"),
        ({"rate": 8_000}, ["-", "a"], "'-' is a stream of its own"),
    ],
)
def test_flags_that_make_no_sense_are_named(change, paths, message):
    given = {"top_k": 3, "hop_s": 1.0, "rate": None, "channels": 1, "sample_format": "s16le"}
    given |= {"min_peak_dbfs": -np.inf}
    with pytest.raises(UserError, match=re.escape(message)):
        predict._check_values(Given(given | change), paths)


def recording_of(waveform, **changes):
    fields = {"name": "x", "rate": 8_000, "n_channels": 1, "n_samples": len(waveform)} | changes
    return OpenRecording(**fields, blocks=iter([waveform.astype(np.float32)]))


def test_silence_excess_and_a_wrong_header_are_noted():
    note = "\n".join(make_notes(recording_of(np.zeros(1)), 9_000, 0.0, 32_000))
    assert "silent: every sample is zero" in note
    assert "9,000 samples read, its header says 1" in note
    note = "\n".join(make_notes(recording_of(np.zeros(1)), 9_000, 32_767.0, 32_000))
    assert "loudest sample 3.28e+04, expected at most 1: is it scaled correctly?" in note


def test_network_over_the_budget_is_stamped_on_every_line(capsys, loaded):
    for kind, stamp in (("table", "over budget"), ("csv", "over budget"), ("json", "over_budget")):
        lines = KINDS[kind](SCENES, 2, over_budget=True)
        print(lines.start() or "")
        print_prediction(loaded, recording_of(np.ones(8_000)), lines, hop_s=1.0)
        out = capsys.readouterr().out.lower()
        assert stamp in out
        if kind != "table":
            assert all(stamp in line for line in out.splitlines()[1:])


def test_sound_too_loud_for_the_network_is_refused(capsys, loaded):
    loud = recording_of(np.full(8_000, 4e36, np.float32))
    with pytest.raises(UserError, match="too loud to be predicted: the loudest sample is 4e.36"):
        print_prediction(loaded, loud, KINDS["json"](SCENES, 1), hop_s=1.0)
    assert capsys.readouterr().out == ""


def test_without_windows_only_recordings_are_printed(capsys, home, loaded):
    with open_recording(home / "sounds" / "a.wav") as recording:
        mean = print_prediction(
            loaded, recording, KINDS["json"](SCENES, 1), hop_s=1.0, show_windows=False
        )
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["top"][0]["class"] == SCENES[mean.argmax()]


@pytest.mark.parametrize("show_windows", [True, False])
def test_only_window_is_no_mean(capsys, loaded, show_windows):
    quiet = recording_of(np.full(8_000, 1e-4, np.float32))
    print_prediction(loaded, quiet, KINDS["table"](SCENES, 1), show_windows=show_windows)
    *_, note, whole, empty = capsys.readouterr().out.split("\n")[:-1]
    assert whole.startswith("  the only window       ")
    assert (
        note == "  note: 1 window has no sample above -60 dBFS: --min_peak_dbfs=-60 leaves it out"
    )
    assert empty == ""


@pytest.mark.parametrize("duration_s", [0.4, 2.5, 86_400.0])
def test_picture_of_any_length_takes_the_same_room(tmp_path, duration_s):
    """A day is heard here at its start and end only: what is between stays empty."""
    features = {
        "hop_length": 2000, "sample_rate": 32_000, "n_mels": 32, "f_min": 0.0, "f_max": 16_000.0,
    }  # fmt: skip
    timeline = Timeline(duration_s, features, SCENES)
    starts = np.array([0.0, max(0, duration_s - 1)])
    timeline.add(starts, np.random.default_rng(0).normal(size=(2, 32, 17)), np.full((2, 10), 0.1))
    assert len(timeline._log_mel) <= MAX_COLUMNS
    timeline.write(tmp_path / "a.png", "a", np.eye(10)[3], over_budget=True)
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)
