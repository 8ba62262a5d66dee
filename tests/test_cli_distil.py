"""Teachers to student in one command: what is planned, what is rejected, and the whole of it."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import types

import distil_runs
import numpy as np
import pytest
from commands import started
from distil_runs import TEST, TRAIN, finish, write_logits
from scipy.io import wavfile
from test_cli_crossval import CONFIG, NETWORK, write_sounds

from asc_jax import experiment
from asc_jax.cli import distil
from asc_jax.cli.config_flag import CONFIGS, read_config
from asc_jax.data.labels import Group, Labels
from asc_jax.data.store import reader as stored
from asc_jax.distil import report
from asc_jax.errors import Interrupted, UserError
from asc_jax.evaluation.campaign import processes
from asc_jax.evaluation.report import figures

ROOT = pathlib.Path(__file__).parent.parent
DATA = (f"--config.data.train_split={TRAIN}", f"--config.data.test_split={TEST}")
RESNET = "teachers/cp_resnet.py"
# ml_collections loads config files that way.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.fixture
def dataset(monkeypatch):
    """A data set of two splits, without a clip, whose devices are a and b."""
    labels = Labels(("bird", "car", "dog"), {"device": Group(("a", "b")), "site": Group(("x",))})
    monkeypatch.setattr(stored, "sizes", lambda folder: {TRAIN: 10, TEST: 20})
    monkeypatch.setattr(experiment, "labels_of", lambda data_dir: labels)


@pytest.fixture
def responses(tmp_path):
    """A folder with one impulse response."""
    folder = tmp_path / "irs"
    folder.mkdir()
    wavfile.write(folder / "1.wav", 32_000, np.array([16_000, 8_000], np.int16))
    return folder


@pytest.fixture
def command(monkeypatch, tmp_path):
    """`command(overrides, of_student, of_teachers, **flags)` calls the command in this process."""

    checks = distil.check_configs

    def call(overrides=DATA, of_student=(), of_teachers=(), words=(), checked=False, **given):
        values = {
            "student": "base.py",
            "teacher": [RESNET],
            "out": str(tmp_path / "out"),
            "teachers_dir": None,
            "teacher_seeds": ["0", "1"],
            "seeds": ["0"],
            "impulse_responses": None,
            "impulse_p": 0.6,
            "impulse_clips": None,
            "impulse_student": False,
            "compare": True,
            "leave_out_failed": False,
            "seeds_together": False,
            "cluster": None,
            "collect_only": False,
        }
        found = types.SimpleNamespace(FLAGS=types.SimpleNamespace(**values | given))
        monkeypatch.setattr(distil, "flags", found)
        monkeypatch.setattr(distil, "keep_accelerator_free", lambda: None)
        monkeypatch.setattr(distil, "open_for", lambda config, split: None)
        monkeypatch.setattr(distil, "check_configs", checks if checked else lambda *_: None)
        distil.main(["distil", *words], overrides, of_student, of_teachers)

    return call


@pytest.fixture
def carried_out(monkeypatch):
    """Hold what was to be trained: lists of runs, and the words that make the logits."""
    calls = types.SimpleNamespace(runs=[], made=[], failing=())

    def carry_out(runs, cache, *, together):
        calls.runs.append(list(runs))
        failed = {run.title: "it broke" for run in runs if run.title in calls.failing}
        for run in runs:
            if run.title not in failed and not (run.workdir / "config.json").exists():
                finish(run)
        return failed

    def make(target, words, cache, made):
        assert not made()
        calls.made.append(list(words))
        folders = [word.partition("=")[2] for word in words if word.startswith("--workdir=")]
        by_folder = {str(run.workdir): run for runs in calls.runs for run in runs}
        target.parent.mkdir(exist_ok=True)
        write_logits(target, [by_folder[folder] for folder in folders])
        assert made()

    monkeypatch.setattr(processes, "carry_out", carry_out)
    monkeypatch.setattr(processes, "make", make)
    return calls


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Networks of these names answer as others of `distil_runs` do; the page has no picture."""
    names = {"cp_resnet": 0.7, "cp_resnet_dir": 0.8, "tf_sepnet_64": 0.75}
    monkeypatch.setattr(distil_runs, "SKILL", distil_runs.SKILL | names)
    monkeypatch.setattr(report, "system_figure", lambda found: figures.Drawing("", "", ""))


def test_plan_has_teachers_then_logits_then_both_students(dataset, command, carried_out, tmp_path):
    command(
        (*DATA, "--config.train.n_epochs=9", "--config.data.dir=mine"),
        ("--student.train.n_epochs=7",),
        ("--teacher.train.n_epochs=5", "--teacher.schedule.peak_lr=0.01"),
        teacher=[RESNET, "teachers/tf_sepnet_64.py"],
        seeds=["0", "3"],
    )
    teachers, students = carried_out.runs
    out = tmp_path / "out"
    assert [run.title for run in teachers] == [
        "teacher cp_resnet, seed 0",
        "teacher tf_sepnet_64, seed 0",
        "teacher cp_resnet, seed 1",
        "teacher tf_sepnet_64, seed 1",
    ]
    assert teachers[0].workdir == out / "teachers/cp_resnet/seed0"
    for run in teachers:
        assert (run.config.train.n_epochs, run.config.schedule.peak_lr) == (5, 0.01)
        assert (run.config.data.train_split, run.config.data.test_split) == (TRAIN, TEST)
        assert run.config.data.dir == "mine"
        assert run.work == 5 * 10
    assert [run.title for run in students] == [
        f"{name} student, seed {seed}" for seed in (0, 3) for name in ("undistilled", "distilled")
    ]
    without, distilled = students[:2]
    assert (without.config.train.n_epochs, distilled.config.train.n_epochs) == (7, 7)
    assert without.config.distill.logits == ""
    assert distilled.config.distill.logits == str(out / "teacher_logits.npz")
    assert distilled.workdir == out / "distilled/seed0"
    ((verb, *words),) = carried_out.made
    assert (verb, words[-2:]) == ("logits", [f"--split={TRAIN}", f"--out={out / distil.LOGITS}"])
    assert len(words) == 6
    found = json.loads((out / "distil.json").read_text())
    assert (found["missing"], len(found["teachers_used"])) == ({}, 4)


def test_second_command_makes_nothing_twice_in_whatever_order(
    dataset, command, carried_out, tmp_path, capsys
):
    command()
    before = (tmp_path / "out/distil.html").read_bytes()
    command(teacher_seeds=["1", "0"])
    assert len(carried_out.made) == 1
    command(collect_only=True)
    assert (tmp_path / "out/distil.html").read_bytes() == before
    assert len(carried_out.runs) == 4
    assert "Distilled minus undistilled" in capsys.readouterr().out


def test_damaged_or_half_written_logits_are_made_again(dataset, command, carried_out, tmp_path):
    carried_out.failing = ("distilled student, seed 0",)
    with pytest.raises(SystemExit):
        command()
    path = tmp_path / "out" / distil.LOGITS
    path.write_bytes(path.read_bytes()[:99])
    carried_out.failing = ()
    command()
    assert len(carried_out.made) == 2


def test_other_teachers_than_those_of_the_students_are_rejected(
    dataset, command, carried_out, tmp_path
):
    command()
    before = (tmp_path / "out" / distil.LOGITS).read_bytes()
    with pytest.raises(UserError, match="out/distilled/seed0 was trained with the logits of other"):
        command(teacher_seeds=["0", "1", "2"])
    assert len(carried_out.runs) == 2  # nothing was trained for it
    assert (tmp_path / "out" / distil.LOGITS).read_bytes() == before
    elsewhere = {"out": str(tmp_path / "more"), "teachers_dir": str(tmp_path / "out/teachers")}
    command(teacher_seeds=["0", "1", "2"], **elsewhere)
    assert len(json.loads((tmp_path / "more/distil.json").read_text())["teachers_used"]) == 3
    assert not (tmp_path / "more/teachers").exists()


def test_failed_teacher_stops_the_distillation_unless_it_is_left_out(
    dataset, command, carried_out, tmp_path, capsys
):
    carried_out.failing = ("teacher cp_resnet, seed 1",)
    with pytest.raises(SystemExit) as ended:
        command()
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert "not distilled: 1 of 2 teachers failed" in said.out
    assert "failed: teacher cp_resnet, seed 1: it broke" in said.err
    assert [run.system for run in carried_out.runs[-1]] == ["undistilled"]
    assert carried_out.made == []
    with pytest.raises(SystemExit) as ended:
        command(leave_out_failed=True)
    assert ended.value.code == 1
    said = capsys.readouterr().out
    assert "do not learn from these teachers" in said
    found = json.loads((tmp_path / "out/distil.json").read_text())
    assert found["teachers_used"] == ["teacher cp_resnet, seed 0"]
    assert {*found["missing"]} == {"teacher cp_resnet, seed 1"}
    with pytest.raises(UserError, match="or leave out again those that failed, with --leave_out_"):
        command()


def test_when_everything_fails_there_is_no_page(dataset, command, carried_out, tmp_path):
    carried_out.failing = (
        "teacher cp_resnet, seed 0",
        "teacher cp_resnet, seed 1",
        "undistilled student, seed 0",
    )
    with pytest.raises(SystemExit) as ended:
        command()
    assert ended.value.code == 1
    assert not (tmp_path / "out/distil.json").exists()


def test_each_teacher_is_trained_without_and_with_impulse_responses(
    dataset, command, carried_out, tmp_path, responses
):
    command(impulse_responses=f"{responses}/", compare=False)
    teachers, students = carried_out.runs
    assert [run.system for run in teachers[:2]] == ["cp_resnet", "cp_resnet_dir"]
    assert "dir" not in teachers[0].config.augment
    section = teachers[1].config.augment.dir
    assert (section.dir, section.p) == (str(responses), 0.6)
    assert (section.column, section.column_values) == ("device", "a")
    assert [run.system for run in students] == ["distilled"]
    assert "dir" not in students[0].config.augment
    for run in teachers[:2]:  # what `asc-jax train` reads is what was planned
        read = read_config(run.config_name, run.overrides).unlock()
        read.labels = run.config.labels
        assert read.to_dict() == run.config.to_dict()
    assert "device a, with probability 0.6" in (tmp_path / "out/distil.txt").read_text()


@pytest.mark.parametrize(
    ("clips", "expected"),
    [(None, ("device", "a")), ("all", ("", "")), ("site=x", ("site", "x"))],
)
def test_impulse_responses_of_other_clips_and_of_students(
    dataset, command, carried_out, responses, clips, expected
):
    command(impulse_responses=str(responses), impulse_clips=clips, impulse_student=True)
    for run in carried_out.runs[1]:
        section = run.config.augment.dir
        assert (section.column, section.column_values) == expected


def test_without_a_device_a_all_clips_get_impulse_responses(
    dataset, command, carried_out, responses, monkeypatch
):
    labels = Labels(("bird", "car"), {"device": Group(("phone",))})
    monkeypatch.setattr(experiment, "labels_of", lambda data_dir: labels)
    command(impulse_responses=str(responses))
    assert carried_out.runs[0][1].config.augment.dir.column_values == ""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"words": ["stray"]}, "unexpected words on the command line: stray"),
        ({"student": None}, "which student, and which teachers\\? For example: asc-jax distil"),
        ({"teacher": []}, "which student, and which teachers"),
        ({"teacher": ["teachers/cp_resnt.py"]}, "no config .*did you mean teachers/cp_resnet.py"),
        ({"teacher": [RESNET, RESNET]}, "--teacher: cp_resnet would name two networks"),
        ({"seeds": ["x"]}, "--seeds=x: expected whole numbers"),
        ({"teacher_seeds": ["1", "1"]}, "--teacher_seeds=1,1: .*each once"),
        ({"out": "a,b"}, "--out a,b has a comma"),
        ({"overrides": ["--config.seed=3"]}, "choose with --seeds and --teacher_seeds"),
        ({"of_student": ["--student.distill.logits=a"]}, "is made by this command"),
        (
            {"of_student": ["--student.budget.role=teacher"]},
            "--student.budget.role is not for a st",
        ),
        (
            {"overrides": ["--config.budget.role=teacher"]},
            "--teacher.budget.role=teacher is for te",
        ),
        ({"of_teachers": ["--teacher.data.train_split=a"]}, "--teacher.data.train_split is the st"),
        ({"of_teachers": ["--teacher.model.widt=3"]}, "unknown config key config.model.widt"),
        ({"of_teachers": ["--teacher.features.sample_rate=44100"]}, "44100 Hz and the student 32"),
        ({"overrides": ["--config.data.test_split=fold1"]}, "fold1 is in data.train_split and in"),
        ({"overrides": ["--config.data.test_split=fold9"]}, "data/tau22 has no split 'fold9'"),
        ({"impulse_student": True}, "need --impulse_responses DIR"),
        ({"impulse_responses": "x", "impulse_p": 0.0}, "--impulse_p=0: expected above 0, to 1"),
        ({"impulse_responses": "x", "impulse_clips": "a"}, "expected all or COLUMN=VALUE"),
        ({"impulse_responses": "x", "impulse_clips": "device=z"}, "some of a, b"),
        (
            {"impulse_responses": "nowhere", "checked": True},
            "--impulse_responses: dir is 'nowhere'",
        ),
        (
            {"teacher": ["demo.py"], "of_teachers": ["--teacher.model.width=64"], "checked": True},
            "^teacher demo, seed 1: .*over the limit.*: pass --teacher.budget.role=teacher",
        ),
        (
            {"of_teachers": ["--teacher.features.n_fft=100"], "checked": True},
            "^teacher cp_resnet, seed 1: ",
        ),
        ({"collect_only": True}, "none of the 4 runs is done: teacher cp_resnet, seed 0: not beg"),
    ],
)
def test_what_cannot_be_done_is_rejected_before_anything_runs(
    dataset, command, tmp_path, given, expected
):
    if "overrides" in given:
        given["overrides"] = [f"--config.data.train_split={TRAIN}", *given["overrides"]]
    with pytest.raises(UserError, match=expected):
        command(**given)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "example", re.findall(r"^ +asc-jax (.*(?:\n {6}.*)?)", distil.__doc__, re.M)
)
def test_example_of_the_help_is_planned(dataset, command, monkeypatch, responses, example):
    def carry_out(out, teachers, students, **options):
        raise Interrupted("planned", 0)

    monkeypatch.setattr(distil, "carry_out", carry_out)
    given, of_teachers = {"teacher": []}, []
    words = iter(example.split()[1:])
    for word in words:
        if word.startswith("--teacher."):
            of_teachers.append(word)
        elif word == "--teacher":
            given["teacher"].append(next(words))
        elif word == "--seeds":
            given["seeds"] = next(words).split(",")
        elif word != "--out":
            given[word.removeprefix("--")] = next(words)
        else:
            next(words)
    if "impulse_responses" in given:
        given["impulse_responses"] = str(responses)
    with pytest.raises(Interrupted, match="planned"):
        # Whether the configs of the folders fit the limits is tested in test_students.py.
        command(of_teachers=of_teachers, checked="demo.py" in example, **given)


def test_config_with_impulse_responses_of_its_own_is_rejected(dataset, command, tmp_path):
    own = tmp_path / "own.py"
    text = (CONFIGS / "base.py").read_text()
    section = "config.augment.dir = ml_collections.ConfigDict({'name': 'device_impulse_response'})"
    own.write_text(text.replace("    return config.lock()", f"    {section}\n    return config"))
    with pytest.raises(UserError, match="own.py: config.augment.dir is there already"):
        command(teacher=[str(own)], impulse_responses=str(tmp_path))


def test_student_of_another_config_is_rejected_before_teachers_are_trained(
    dataset, command, carried_out
):
    command()
    with pytest.raises(UserError, match="distilled/seed0 .*loss.gamma was 0.0, now 2.0.*--out"):
        command(of_student=("--student.loss.gamma=2.0",))
    assert len(carried_out.runs) == 2


def test_process_that_does_not_make_the_file_is_told(tmp_path, monkeypatch):
    script = tmp_path / "script.py"
    script.write_text("import sys; print('no room'); sys.exit(int(sys.argv[2]))")
    monkeypatch.setattr(processes, "COMMAND", (sys.executable, str(script)))
    target = tmp_path / "a.npz"

    def make(status, made=lambda: False):
        return processes.make(target, ("logits", status), tmp_path, made)

    assert make("0", lambda: True) is None
    assert not target.exists()
    assert make("3").startswith("logits ended with status 3; its last line: no room (see ")
    assert "a.npz is not what was asked for" in make("0")


@pytest.mark.nightly
@pytest.mark.slow
def test_own_recordings_are_distilled_from_and_a_killed_command_is_resumed(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    write_sounds(tmp_path / "sounds")
    (tmp_path / "network.py").write_text(NETWORK)
    (tmp_path / "small.py").write_text(CONFIG)
    (tmp_path / "large.py").write_text(CONFIG)
    (tmp_path / "irs").mkdir()
    wavfile.write(tmp_path / "irs/1.wav", 8000, np.array([16_000, 8_000], np.int16))
    options = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}

    def asc_jax(*words):
        command = [sys.executable, "-m", "asc_jax", *words]
        done = subprocess.run(command, check=False, capture_output=True, text=True, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    folders = ("--layout", "folders", "--input_dir", "sounds", "--data_dir", "data")
    asc_jax("prepare-data", *folders, "--folds", "2", "--sample_rate", "8000")
    words = (
        *("distil", "--student", "small.py", "--teacher", "large.py", "--out", "out"),
        *("--teacher_seeds", "0", "--seeds", "0,1", "--impulse_responses", "irs"),
        *("--config.data.train_split=fold1", "--config.data.test_split=fold2"),
        *("--student.distill.weight=0.5", "--teacher.train.n_epochs=3"),
    )
    with started([sys.executable, "-m", "asc_jax", *words], **options) as process:
        for line in process.stdout:
            if line.startswith("the logits of 2 teachers"):
                process.send_signal(signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM
    assert not (tmp_path / "out/teacher_logits.npz").exists()
    said = asc_jax(*words)
    assert "the logits of 2 teachers for fold1 → out/teacher_logits.npz" in said
    found = json.loads((tmp_path / "out/distil.json").read_text())
    assert found["missing"] == {}
    assert found["teachers_used"] == ["teacher large, seed 0", "teacher large_dir, seed 0"]
    assert found["comparison"]["seeds"] == [0, 1]
    assert found["results"]["distilled"]["n_clips"] == found["ensemble"]["n_clips"] > 0
    assert "probability 0.6" in said
    files = sorted((tmp_path / "out").glob("distil.*"))
    before = [path.read_bytes() for path in files]
    stored_logits = (tmp_path / "out/teacher_logits.npz").stat().st_mtime_ns
    assert asc_jax(*words).count("runs are done") == 2
    assert before == [path.read_bytes() for path in files]
    assert stored_logits == (tmp_path / "out/teacher_logits.npz").stat().st_mtime_ns
