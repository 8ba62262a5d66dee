"""`asc-jax logits`: what is stored of trained runs, and a student that is trained on it."""

import json
import pathlib
import re
import types

import jax
import numpy as np
import pytest
import soundfile
from commands import call
from small import noise
from tiny import tiny_config

from asc_jax import experiment, features
from asc_jax.cli import logits as command
from asc_jax.cli.config_flag import make_configs_importable
from asc_jax.data.clips import from_arrays
from asc_jax.data.teacher_logits import read_teacher_logits
from asc_jax.errors import UserError
from asc_jax.evaluation import evaluate, teachers
from asc_jax.training.workdir import checkpoints, run_config

NAMES = [f"audio/{number}.wav" for number in range(6)]


def write_teacher(workdir, seed):
    """A run of a tiny network, as training leaves it."""
    parts = experiment.make(tiny_config(seed=seed))
    run_config.save(workdir, "tiny.py", parts.config)
    manager = checkpoints.Checkpoints(workdir)
    manager.save(5, parts.new_state(parts.variables(), parts.tx(1)), {"epoch": 1})
    manager.close()
    return parts


def clips_named(names):
    audio, label = noise(len(NAMES))
    rows = [NAMES.index(name) for name in names]
    return from_arrays(audio[rows], label[rows], filenames=names)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Two teachers, whose clips lie in memory; `home.clips[workdir]` changes their names."""
    for seed in (0, 1):
        write_teacher(tmp_path / f"t{seed}", seed)
    names = {0: NAMES, 1: NAMES[::-1]}
    monkeypatch.setattr(teachers, "open_for", lambda config, *_: clips_named(names[config.seed]))
    monkeypatch.setattr(evaluate, "BATCH_SIZE", 4)
    return tmp_path, names


def test_logits_of_every_teacher_are_stored_with_where_they_come_from(home):
    folder, _ = home
    workdirs, lines = [folder / "t0", folder / "t1"], []
    assert teachers.store(workdirs, "train_5pct", folder / "t.npz", say=lines.append) == (2, 6)
    assert len(lines) == 2
    read = read_teacher_logits(folder / "t.npz")
    assert read.filenames == NAMES
    for workdir, logits in zip(workdirs, read.logits, strict=True):
        run = evaluate.open_run(workdir)
        log_mel = features.log_mel(noise(6)[0], **run.experiment.config.features)[..., 0].mean(-1)
        head = run.variables["params"]["Dense_0"]
        expected = np.asarray(log_mel) @ head["kernel"] + head["bias"]
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    sources = json.loads(str(np.load(folder / "t.npz")["sources"]))
    assert [each["workdir"] for each in sources] == list(map(str, workdirs))
    assert [each["config"]["seed"] for each in sources] == [0, 1]
    digests = [
        checkpoints.digest(jax.tree.map(np.asarray, evaluate.open_run(workdir).variables))
        for workdir in workdirs
    ]
    assert [each["sha256"] for each in sources] == digests
    assert digests[0] != digests[1]


def test_teachers_of_other_clips_are_rejected_and_nothing_is_written(home):
    folder, names = home
    names[1] = NAMES[:5]
    with pytest.raises(UserError, match="differ in 1 clips: teachers need the same ones"):
        teachers.store([folder / "t0", folder / "t1"], "train_5pct", folder / "t.npz")
    assert not list(folder.glob("t.npz*"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "which runs, which split, and where to"),
        (("--workdir=a", "--split=test"), "which runs, which split, and where to"),
        (("--workdir=a", "--split=test", "--out=a.npy"), "--out a.npy does not end in .npz"),
        (("--workdir=a", "--split=test", "--out=a.npz"), "no run in a"),
        (("--workdir=a", "--split=test", "--out=a.npz", "b"), "unexpected words"),
    ],
)
def test_wrong_flags_are_told(words, expected, tmp_path):
    done = call("logits", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr


def test_run_that_is_given_twice_is_rejected(tmp_path):
    (tmp_path / "t0").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "t0")
    with pytest.raises(UserError, match="t0 is given more than once: name each teacher once"):
        teachers.store([tmp_path / "t0", tmp_path / "link"], "train_5pct", tmp_path / "t.npz")


def test_place_is_tried_and_what_is_there_named_before_the_teachers_are_asked(
    tmp_path, monkeypatch, capsys
):
    def main(out):
        values = {"workdir": ["t0"], "split": "train", "out": str(out)}
        values |= {"checkpoint": "last", "data_dir": None}
        found = types.SimpleNamespace(FLAGS=types.SimpleNamespace(**values))
        monkeypatch.setattr(command, "flags", found)
        command.main(["logits"])

    def never(*args, **options):
        raise AssertionError("asked")

    monkeypatch.setattr(command, "start_replicas", lambda: None)
    monkeypatch.setattr(command, "prepare_jax", lambda workdir: None)
    monkeypatch.setattr(teachers, "store", never)
    with pytest.raises(UserError, match="cannot write /sys/t.npz: .*choose another --out"):
        main("/sys/t.npz")
    monkeypatch.setattr(teachers, "store", lambda *args, **options: (1, 6))
    main(tmp_path / "t.npz")
    said = capsys.readouterr().out
    assert said.startswith(f"1 teacher, 6 clips → {tmp_path / 't.npz'}; train with")
    assert not list(tmp_path.iterdir())
    (tmp_path / "t.npz").write_text("old")
    main(tmp_path / "t.npz")
    assert "t.npz is there already and will be replaced: a student" in capsys.readouterr().out
    assert (tmp_path / "t.npz").read_text() == "old"


def test_recipe_of_the_page_is_made_of_known_parts():
    page = (pathlib.Path(__file__).parents[1] / "docs" / "distillation.md").read_text()
    (code,) = re.findall(r"```python\n(from configs.*?)```", page, re.DOTALL)
    names = {}
    make_configs_importable()
    exec(code, names)
    config = names["get_config"]()
    schedule = experiment.make_optimiser(config, 450).init({"w": np.zeros(1)}).rate
    assert float(schedule) == pytest.approx(9e-4 * np.exp(-5 * (1 - 0.5 / 14) ** 2))
    assert experiment.make_loss(config).__qualname__.startswith("distilled")


RATE = 8000
SMALL = (  # a network and features that compile at once
    "--config=base.py", "--config.data.dir=data", "--config.data.train_split=train",
    "--config.data.batch_size=8", "--config.data.clip_s=0.5",
    "--config.features.sample_rate=8000", "--config.features.n_fft=256",
    "--config.features.win_length=256", "--config.features.hop_length=400",
    "--config.features.n_mels=16", "--config.features.f_max=4000.",
    "--config.augment.freq_mask.max_width=3", "--config.model.width=8",
    "--config.train.n_epochs=1", "--config.train.eval_every_epochs=0",
)  # fmt: skip


@pytest.mark.nightly
@pytest.mark.slow
def test_two_teachers_and_a_student_through_the_commands(tmp_path):
    """Prepare, train two, store, distil one, evaluate; without a clip's logits nothing starts."""
    pytest.importorskip("tensorflow_datasets")

    def run(*words, fails=None):
        done = call(*words, cwd=tmp_path)
        assert done.returncode == (2 if fails else 0), done.stderr
        assert (fails or "") in done.stderr
        return done.stdout

    rng = np.random.default_rng(0)
    for number, name in enumerate(("hum", "rain", "wind")):
        for recording in range(6):
            path = tmp_path / "sounds" / name / f"{recording}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            tone = np.sin(np.arange(RATE) * (number + 1) * 0.3) * rng.uniform(0.1, 0.5)
            soundfile.write(path, tone + 0.01 * rng.standard_normal(RATE), RATE)
    run("prepare-data", "--layout=folders", "--input_dir=sounds", "--data_dir=data",
        "--clip_s=0.5", "--sample_rate=8000")  # fmt: skip
    for seed in (0, 1):
        run("train", *SMALL, f"--config.seed={seed}", f"--workdir=t{seed}")
    store = "logits", "--workdir=t0", "--workdir=t1", "--out=teachers.npz"
    said = run(*store, "--split=train")
    n_clips = len(read_teacher_logits(tmp_path / "teachers.npz").filenames)
    assert f"2 teachers, {n_clips} clips → teachers.npz" in said
    student = *SMALL, "--config.distill.logits=teachers.npz", "--workdir=student"
    run("train", *student, "--config.train.ema=0.9", "--config.train.clip_norm=1.0")
    assert "macro" in run("eval", "--workdir=student")
    (tmp_path / "moved").mkdir()
    (tmp_path / "teachers.npz").rename(tmp_path / "moved/teachers.npz")
    moved = *SMALL, "--config.distill.logits=moved/teachers.npz", "--workdir=student"
    more = "--config.train.ema=0.9", "--config.train.clip_norm=1.0"
    assert "nothing to do" in run("train", *moved, *more)
    run("train", *SMALL, *more, "--workdir=student", fails="config.distill.logits was 'given'")
    run(*store, "--split=test")
    run("train", *student[:-1], "--workdir=other", fails="training clips: ")
