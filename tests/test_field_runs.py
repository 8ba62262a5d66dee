"""Runs that are looked for in the wrong folder, moved, or opened under other settings."""

import contextlib
import errno
import json
import os
import re
import shutil

import jax
import numpy as np
import pytest
from commands import call
from loop_runs import N_CLIPS
from small import small_clips, small_config
from small_run import write_run

import asc_jax
from asc_jax.challenge.submission import author
from asc_jax.cli import eval
from asc_jax.data import clips, table
from asc_jax.errors import UserError
from asc_jax.evaluation.evaluate import make_evaluator
from asc_jax.evaluation.report import report
from asc_jax.machine import files, lock
from asc_jax.training import config_checks
from asc_jax.training.run import Run
from asc_jax.training.workdir import checkpoints, provenance, run_config

MOVED = {
    "data__dir": "/elsewhere/tau22",
    "train__resident": "off",
    "train__keep_checkpoints": 5,
    "train__checkpoint_every_epochs": 3,
    "train__eval_every_epochs": 0,
    "train__steps_per_call": 2,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of a run."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    write_run(workdir)
    return workdir


def test_b04_run_opens_in_a_process_of_64_bits(run, monkeypatch):
    """The notebook of somebody who has switched them on for all that they do."""
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, 32_000).astype(np.float32)
    expected = asc_jax.load_run(run).predict(waveform, 32_000)
    with jax.enable_x64(True):
        opened = asc_jax.load_run(run)
        given = opened.predict(waveform, 32_000)
        assert opened.apply(waveform[None]).dtype == np.float32
    np.testing.assert_array_equal(given.probs, expected.probs)


def test_b04_run_of_other_arrays_is_not_called_damaged(run):
    (run / "checkpoints").is_dir()
    parts = asc_jax.experiment.make(small_config(model__width=16))
    expected = (
        r"checkpoints/7 holds other arrays than this network: \S+ is float32 .* there, float32 .* "
        "here. Nothing of it is lost"
    )
    with pytest.raises(UserError, match=expected):
        asc_jax.evaluation.evaluate.restore(parts, run)
    assert (run / "checkpoints/7").is_dir()


def test_b18_run_goes_on_with_what_changes_no_result_and_keeps_it(tmp_path):
    write_run(tmp_path / "run")
    config = small_config(**MOVED)
    run_config.save(tmp_path / "run", "small.py", config)
    assert run_config.load(tmp_path / "run")[1].data.dir != "/elsewhere/tau22"
    parts = asc_jax.experiment.make(config)
    run = Run(parts, small_clips(N_CLIPS), None, tmp_path / "run", 3, 2, make_evaluator)
    run.restore()
    run.checkpoints.close()
    assert run_config.load(tmp_path / "run") == ("small.py", config)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"train__resident": "int16"}, "config.train.resident was 'float32', now 'int16'"),
        ({"data__batch_size": 8}, "config.data.batch_size was 256, now 8"),
        (
            {"train__keep_best": True, "train__eval_every_epochs": 1},
            "config.train.keep_best was False, now True",
        ),
    ],
)
def test_b18_what_changes_results_is_refused(run, change, named):
    with pytest.raises(UserError, match=re.escape(named)) as caught:
        run_config.check(run, small_config(**MOVED | change))
    assert "elsewhere" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("runs", "run"),
        ("runs/run/checkpoints", "run"),
        ("runs/run/checkpoints/7", "run"),
        ("runs/run/config.json", "run"),
    ],
)
def test_b19_run_that_lies_near_is_named(run, given, meant):
    parent = run.parent.parent
    path = str(parent / given.replace("runs", run.parent.name, 1))
    done = call("predict", "a.wav", "--workdir", path, cwd=parent)
    assert done.returncode == 2
    with pytest.raises(UserError, match=f"no run in {path}: did you mean {run}"):
        run_config.load(path)


def test_b19_seeds_are_counted(run, tmp_path):
    for seed in range(3):
        run_config.save(tmp_path / f"seed{seed}", "small.py", small_config(seed=seed))
    expected = f"no run in {tmp_path}: it holds 3, did you mean {tmp_path}/seed0"
    with pytest.raises(UserError, match=expected):
        run_config.load(tmp_path)


def test_b19_run_without_its_config_is_not_to_be_trained_anew(tmp_path):
    write_run(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match="though checkpoints/ is there: put it back, or start the"):
        run_config.load(tmp_path)
    with pytest.raises(UserError, match="config.json is missing. Train first"):
        run_config.load(tmp_path / "nowhere")


def test_b23_mel_bands_that_hear_nothing_are_counted(caplog, monkeypatch):
    monkeypatch.setattr(config_checks.log, "propagate", True)
    config = small_config(features__n_mels=256, features__n_fft=1024, features__win_length=1024)
    for _ in range(2):
        config_checks.check_values(config)
    (record,) = caplog.records
    assert record.getMessage().startswith("12 of the 256 mel bands are always silent")
    assert "--config.features.n_mels=144 has none" in record.getMessage()
    config_checks.check_values(small_config())
    assert len(caplog.records) == 1


def test_pipe_in_place_of_a_file_is_named_and_nothing_hangs(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(UserError, match="config.json cannot be read: not an ordinary file"):
        run_config.load(tmp_path)
    for read in (lambda path: table.read_table(path, ["filename"]), author.read_author):
        with pytest.raises(UserError, match="not an ordinary file"):
            read(tmp_path / "config.json")
    (tmp_path / "folder/config.json").mkdir(parents=True)
    with pytest.raises(UserError, match="config.json cannot be read: not an ordinary file"):
        run_config.load(tmp_path / "folder")


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space, or choose"),
        (errno.EFBIG, "raise the limit with `ulimit -f unlimited`, or choose"),
        (errno.EDQUOT, "free some space, or choose"),
        (errno.EROFS, "; choose another --workdir"),
    ],
)
def test_advice_fits_what_the_system_says(number, advice):
    with pytest.raises(UserError, match=advice), files.writing_to("run"):
        raise OSError(number, os.strerror(number), "run/output.csv")


def test_b08_results_on_training_clips_are_marked(monkeypatch, caplog):
    monkeypatch.setattr(eval.log, "propagate", True)
    monkeypatch.setattr(eval, "clips_in_both", lambda *_: ["a.wav", "b.wav"])
    found = eval._in_both(small_config(), "d1")
    assert found == {"n_clips": 2, "first": "a.wav"}
    assert "2 clips of test, such as a.wav, are in train_5pct too" in caplog.text
    words = report.trained_and_tested({"trained_and_tested": found})
    assert "2 of the test clips, such as a.wav, are training clips too" in words
    monkeypatch.setattr(eval, "clips_in_both", lambda *_: [])
    assert eval._in_both(small_config(), "d1") is None


@pytest.fixture
def of_today(tmp_path):
    """The workdir of a run; the newest of its two checkpoints holds its config, as today's do."""
    write_run(tmp_path / "run")
    name, config = run_config.load(tmp_path / "run")
    parts = asc_jax.experiment.make(config)
    state, _, _ = asc_jax.evaluation.evaluate.restore(parts, tmp_path / "run")
    with contextlib.closing(checkpoints.Checkpoints(tmp_path / "run")) as manager:
        manager.save(8, state, {"config": config.to_dict()})
    return tmp_path / "run"


def test_lost_config_is_not_replaced_by_another(of_today):
    content = (of_today / "config.json").read_text()
    (of_today / "config.json").unlink()
    with pytest.raises(UserError, match="config.features.f_max was 16000.0, now 8000.0"):
        run_config.save(of_today, "small.py", small_config(features__f_max=8000.0))
    assert not (of_today / "config.json").exists()
    run_config.save(of_today, "small.py", small_config())
    assert (
        json.loads((of_today / "config.json").read_text())["config"]
        == (json.loads(content)["config"])
    )


def test_config_that_is_not_its_checkpoints_is_noticed_when_a_run_is_opened(of_today):
    (of_today / "config.json").rename(of_today / "old")
    (of_today / "checkpoints").rename(of_today / "away")
    run_config.save(of_today, "small.py", small_config(features__f_max=8000.0))
    (of_today / "away").rename(of_today / "checkpoints")
    with pytest.raises(UserError, match="config.features.f_max was 16000.0, now 8000.0"):
        asc_jax.load_run(of_today)


def test_damaged_seal_goes_back_to_the_checkpoint_before(of_today, caplog, monkeypatch):
    monkeypatch.setattr(checkpoints.log, "propagate", True)
    path = of_today / "checkpoints/8/metadata"
    path = path if path.exists() else next((of_today / "checkpoints/8/meta").glob("metadata"))
    text = path.read_text()
    assert "state_layout" in text
    path.write_text(text.replace("state_layout", "state_layouT"))
    assert asc_jax.load_run(of_today).step == 7
    assert "the checkpoint of step 8 is damaged" in caplog.text


def test_best_epoch_is_chosen_on_the_same_clips_to_the_end(tmp_path):
    parts = asc_jax.experiment.make(small_config(train__keep_best=True))
    clips, watched, others = (small_clips(5, seed=seed) for seed in range(3))
    for number, each in enumerate((clips, watched, others)):
        each.identity = str(number)
    extra = provenance.of_run(parts, clips, watched, 1)
    provenance.refuse_another_run(extra, parts, clips, watched, tmp_path)
    with pytest.raises(UserError, match="was evaluated on other clips than test now holds"):
        provenance.refuse_another_run(extra, parts, clips, others, tmp_path)


def test_table_is_not_made_of_two_data_sets(run):
    run_config.check(run, small_config(), same_data=True)
    with pytest.raises(UserError, match="was trained on the data set in data/tau22, now config"):
        run_config.check(run, small_config(data__dir="d2"), same_data=True)


def test_waveform_of_another_length_is_no_clip(run):
    opened = asc_jax.load_run(run)
    for shape in ((1, 16_000), (32_000,)):
        with pytest.raises(UserError, match=r"expected \[b, 32000\]: 1 s at 32000 Hz"):
            opened.apply(np.zeros(shape, np.float32))


def test_folder_whose_name_is_no_utf8_is_told(run, tmp_path):
    folder = tmp_path / os.fsdecode(b"nu\xe9")
    shutil.copytree(run, folder / "run")
    expected = (
        r"nu\\udce9.*: this name is not UTF-8, and JAX, Orbax and TensorFlow cannot use files"
    )
    for open_it in (
        lambda: asc_jax.load_run(folder / "run"),
        lambda: lock.held(folder / "new").__enter__(),
        lambda: clips.open_split(folder, "test"),
    ):
        with pytest.raises(UserError, match=expected):
            open_it()
    assert (folder / "run/checkpoints/7").is_dir()
