"""Cross-validation from one command: what is planned, what is refused, and the whole of it."""

import json
import os
import pathlib
import subprocess
import sys
import types
import wave

import numpy as np
import pytest
from crossval_runs import finish

from asc_jax.cli import crossval
from asc_jax.data.store import reader as stored
from asc_jax.errors import UserError
from asc_jax.evaluation.campaign import processes

ROOT = pathlib.Path(__file__).parent.parent
SIZES = {"fold1": 10, "fold2": 20, "fold10": 30, "other": 5}
# ml_collections loads config files that way.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.fixture
def dataset(monkeypatch):
    """A data set of these splits, without a clip; `change` makes it another."""
    splits = dict(SIZES)
    monkeypatch.setattr(stored, "sizes", lambda folder: splits)
    return splits


@pytest.fixture
def command(monkeypatch, tmp_path):
    """`command(overrides, of_second, **flags)` calls the command in this process."""

    def call(overrides=(), of_second=(), words=(), **given):
        values = {
            "config": "base.py",
            "against": None,
            "out": str(tmp_path / "out"),
            "folds": [],
            "seeds": ["0"],
            "labels": [],
            "seeds_together": False,
            "cluster": None,
            "collect_only": False,
        }
        found = types.SimpleNamespace(FLAGS=types.SimpleNamespace(**values | given))
        monkeypatch.setattr(crossval, "flags", found)
        monkeypatch.setattr(crossval, "keep_accelerator_free", lambda: None)
        monkeypatch.setattr(crossval, "check_configs", lambda runs: None)
        crossval.main(["crossval", *words], overrides, of_second)

    return call


def systems_of(*of_second, against=None, overrides=()):
    return crossval.make_systems("base.py", against, overrides, of_second)


def test_run_is_tested_on_a_fold_and_trained_on_the_others(dataset):
    (system,) = systems_of(overrides=("--config.train.n_epochs=3",))
    n_clips = crossval.sizes([system], [])
    assert n_clips == {"fold1": 10, "fold2": 20, "fold10": 30}  # by their numbers
    run = crossval.plan(pathlib.Path("out"), system, "fold2", 1, n_clips)
    assert (run.config.data.train_split, run.config.data.test_split) == ("fold1+fold10", "fold2")
    assert (run.config.seed, run.config.train.n_epochs) == (1, 3)
    assert run.workdir == pathlib.Path("out/first/fold2/seed1")
    assert run.work == 3 * 40
    assert run.title == "first, fold2, seed 1"
    assert "--config.data.train_split=fold1+fold10" in run.overrides


def test_config_of_a_run_has_the_labels_of_its_data_set(dataset, monkeypatch):
    from asc_jax import experiment
    from asc_jax.data.labels import Labels

    monkeypatch.setattr(experiment, "labels_of", lambda data_dir: Labels(("cat", "dog")))
    (system,) = systems_of()
    run = crossval.plan(pathlib.Path("out"), system, "fold1", 0, SIZES)
    assert run.config.labels.classes == ("cat", "dog")


def test_second_system_is_the_first_with_more_values():
    first, second = systems_of("--against.loss.gamma=2", overrides=("--config.model.width=16",))
    assert first.read().loss.gamma == 0
    assert (second.config, second.read().loss.gamma) == (first.config, 2)
    assert first.read().model.width == second.read().model.width == 16


def test_second_system_may_be_another_file_and_takes_both_kinds_of_values():
    first, second = systems_of(
        "--against.train.n_epochs=7",
        against="splits/5pct.py",
        overrides=("--config.schedule.peak_lr=0.01", "--config.train.n_epochs=5"),
    )
    assert (first.read().train.n_epochs, second.read().train.n_epochs) == (5, 7)
    assert first.read().schedule.peak_lr == second.read().schedule.peak_lr == 0.01
    assert second.read().features.hop_length != first.read().features.hop_length


@pytest.mark.parametrize(
    ("of_second", "against", "expected"),
    [
        (("--against.loss.gamma=0.0",), None, "both systems are the same: change a value of the"),
        ((), "base.py", "both systems are the same"),
        (("--against.los.gamma=2",), None, "unknown config key config.los.gamma: did you mean"),
        ((), "bas.py", "no config 'bas.py'"),
    ],
)
def test_second_system_that_is_none_is_refused(of_second, against, expected):
    with pytest.raises(UserError, match=expected):
        systems_of(*of_second, against=against)


def test_labels_are_the_configs_names_made_unique():
    def labels(given=(), *of_second, against=None):
        return list(
            crossval.make_labels(given, systems_of(*of_second, against=against), of_second).values()
        )

    assert labels() == ["base"]
    assert labels((), against="splits/5pct.py") == ["base", "splits/5pct"]
    assert labels((), "--against.loss.gamma=2") == ["base", "base loss.gamma=2"]
    assert labels(("a", "b"), "--against.loss.gamma=2") == ["a", "b"]
    for wrong in (("a",), ("a", "a"), ("a", " "), ("a", "b", "c")):
        with pytest.raises(UserError, match="--labels=.*: expected 2 different names"):
            labels(wrong, "--against.loss.gamma=2")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"words": ["stray"]}, "unexpected words on the command line: stray"),
        ({"config": None}, "which config\\? For example: asc-jax crossval --config demo.py"),
        ({"folds": ["fold1"]}, "--folds=fold1: expected at least 2 folds"),
        ({"folds": ["fold1", "fold7"]}, "--folds=fold1,fold7: expected some of fold1,fold10,fold2"),
        ({"folds": ["fold1", "fold1"]}, "each once"),
        ({"seeds": ["x"]}, "--seeds=x: expected whole numbers from 0"),
        ({"overrides": ["--config.seed=3"]}, "--config.seed differs .*: choose with --seeds"),
        ({"overrides": ["--config.data.train_split=a"]}, "choose with --folds"),
        ({"of_second": ["--against.data.test_split=a"]}, "--against.data.test_split differs"),
        ({"overrides": ["--config.train.n_seeds=2"]}, "choose with --seeds; --seeds_together"),
        ({"of_second": ["--against.loss.gamma"]}, "expected --against.loss.gamma=value, in one wo"),
        ({"collect_only": True}, "none of the 3 runs is done: first, fold1, seed 0: not begun"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_runs(
    dataset, command, tmp_path, given, expected
):
    with pytest.raises(UserError, match=expected):
        command(**given)
    assert list(tmp_path.iterdir()) == []


def test_data_set_without_folds_says_how_to_build_some(dataset, command):
    for fold in ("fold1", "fold2", "fold10"):
        del dataset[fold]
    with pytest.raises(UserError, match=r"has other: expected at least 2 folds.*--folds 5"):
        command()


def test_no_data_set_is_told(command, tmp_path):
    with pytest.raises(UserError, match="no data set in"):
        command(overrides=[f"--config.data.dir={tmp_path}"])


def test_data_sets_of_other_folds_are_refused(monkeypatch, command):
    there = {"a": {"fold1": 3, "fold2": 4}, "b": {"fold1": 3, "fold2": 5}}
    monkeypatch.setattr(stored, "sizes", lambda folder: there[folder.parent.name])
    with pytest.raises(UserError, match="fold2 has 4 clips in a and 5 in b: both systems are to"):
        command(overrides=["--config.data.dir=a"], of_second=["--against.data.dir=b"])


def finished(out, system, skill, folds=("fold1", "fold2", "fold10")):
    """Runs of a system as the command plans them, done."""
    n_recordings = dict.fromkeys(SIZES, (2, 2, 2))
    sizes = {fold: SIZES[fold] for fold in ("fold1", "fold2", "fold10")}
    return [
        finish(crossval.plan(out, system, fold, 0, sizes), skill, n_recordings) for fold in folds
    ]


def test_done_runs_are_skipped_and_the_tables_written(dataset, command, tmp_path, capsys):
    of_second = ("--against.loss.gamma=2",)
    for system, skill in zip(systems_of(*of_second), (0.5, 0.8), strict=True):
        finished(tmp_path / "out", system, skill)
    command(of_second=of_second)
    said = capsys.readouterr().out
    assert "all 6 runs are done" in said
    assert "base minus base loss.gamma=2: macro average accuracy" in said
    assert "written to" in said
    table = json.loads((tmp_path / "out" / "crossval.json").read_text())
    assert (table["missing"], len(table["runs"])) == ({}, 6)
    command(of_second=of_second, collect_only=True)


def test_failed_runs_are_named_and_end_with_status_1(
    dataset, command, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(processes, "COMMAND", [sys.executable, str(tmp_path / "none.py")])
    (system,) = systems_of()
    finished(tmp_path / "out", system, 0.5, ["fold1"])
    with pytest.raises(SystemExit) as ended:
        command()
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert "failed: first, fold2, seed 0: train ended with status 2" in said.err
    assert "Missing: first, fold2, seed 0 (not begun)" in said.out
    with pytest.raises(SystemExit) as ended:
        command(out=str(tmp_path / "elsewhere"))
    assert ended.value.code == 1
    assert not (tmp_path / "elsewhere" / "crossval.json").exists()


def test_workdir_of_another_config_is_refused(dataset, command, tmp_path):
    (system,) = systems_of()
    finished(tmp_path / "out", system, 0.5, ["fold1"])
    with pytest.raises(UserError, match="was 'fold2.fold10', now 'fold2'. Choose another --out"):
        command(folds=["fold1", "fold2"])


NETWORK = '''
"""A dense layer on the mean levels of the bands: it compiles at once."""

import flax.linen as nn
import jax.numpy as jnp


class Dense(nn.Module):
    axis_name: str | None = None
    dtype: str | None = None

    @nn.compact
    def __call__(self, log_mel, train, mask=None):
        mean = self.variable("batch_stats", "mean", jnp.zeros, (1,))
        x = log_mel[..., 0].mean(axis=-1) + mean.value
        return nn.Dense(3, dtype=self.dtype)(x).astype(log_mel.dtype)
'''
CONFIG = '''
"""A small front end at 8 kHz and a network of one layer."""

from configs import base
from ml_collections import ConfigDict


def get_config():
    config = base.get_config().unlock()
    config.data.dir = "data"
    config.data.batch_size = 8
    config.features.update(
        sample_rate=8000, n_fft=1024, win_length=768, hop_length=500, n_mels=16, f_max=4000.0
    )
    config.augment = ConfigDict()
    config.model = ConfigDict({"name": "network:Dense"})
    config.schedule.warmup_steps = 1
    config.train.update(n_epochs=1, eval_every_epochs=0, steps_per_call=1)
    return config.lock()
'''


def write_sounds(folder):
    """Three classes, four recordings of two seconds each: a tone in noise."""
    rng = np.random.default_rng(0)
    time = np.arange(16_000) / 8000
    for number, name in enumerate(("bird", "car", "dog")):
        (folder / name).mkdir(parents=True)
        for i in range(4):
            sound = 0.3 * np.sin(2 * np.pi * 300 * 3**number * (1 + 0.02 * i) * time)
            sound += 0.05 * rng.standard_normal(len(time))
            with wave.open(str(folder / name / f"{i}.wav"), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(8000)
                file.writeframes((sound * 32767).astype("<i2").tobytes())


@pytest.mark.nightly
@pytest.mark.slow
def test_own_recordings_are_cross_validated_by_two_commands(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    write_sounds(tmp_path / "sounds")
    (tmp_path / "network.py").write_text(NETWORK)
    (tmp_path / "small.py").write_text(CONFIG)

    def asc_jax(*words):
        command = [sys.executable, "-m", "asc_jax", *words]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        options = {"capture_output": True, "text": True, "cwd": tmp_path, "env": environment}
        done = subprocess.run(command, check=False, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    folders = ("--layout", "folders", "--input_dir", "sounds", "--data_dir", "data")
    asc_jax("prepare-data", *folders, "--folds", "2", "--sample_rate", "8000")
    crossval = ("crossval", "--config", "small.py", "--out", "out")
    said = asc_jax(*crossval)
    assert "1/2  first, fold1, seed 0 → out/first/fold1/seed0" in said
    table = json.loads((tmp_path / "out" / "crossval.json").read_text())
    assert (table["missing"], table["classes"]) == ({}, ["bird", "car", "dog"])
    pooled = table["results"]["first"]["pooled"]
    assert (pooled["n_clips"], pooled["n_recordings"]) == (24, 12)
    runs = tmp_path / "out" / "first"
    results = [
        json.loads((runs / f / "seed0/results.json").read_text()) for f in ("fold1", "fold2")
    ]
    assert [each["split"] for each in results] == ["fold2", "fold1"]
    assert pooled["macro_accuracy"] == pytest.approx(
        np.mean([each["float16"]["macro_accuracy"] for each in results])  # folds of equal classes
    )
    page = (tmp_path / "out" / "crossval.html").read_text()
    assert "Cross-validation of small" in page
    assert page.count("<svg") == 1
    before = [path.read_bytes() for path in sorted((tmp_path / "out").glob("crossval.*"))]
    assert "all 2 runs are done" in asc_jax(*crossval)
    assert before == [path.read_bytes() for path in sorted((tmp_path / "out").glob("crossval.*"))]
