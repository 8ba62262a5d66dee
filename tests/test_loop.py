"""`fit`: stopped anywhere and started again it ends in the same bits; damage is survived."""

import contextlib
import dataclasses
import json
import logging
import shutil
import signal
import types

import jax
import numpy as np
import pytest
from long_run import Watched, growth
from loop_runs import (
    DAMAGES,
    N_CLIPS,
    N_STEPS,
    Stopping,
    assert_same_end,
    assert_seeds_differ,
    compiled_once,
    fit,
    fit_two_seeds,
    flip,
    saved_steps,
    spoil,
    train_lines,
)
from short import short_config
from small import noise, small_clips

from asc_jax import experiment
from asc_jax.errors import Interrupted, UserError
from asc_jax.machine import replicas
from asc_jax.models.kernels import by_chunks
from asc_jax.training import loop, run
from asc_jax.training.resident import to_int16
from asc_jax.training.workdir import journal


@pytest.fixture(scope="module")
def parts():
    """The one experiment of this file, its programs compiled once for all runs.

    Their few clips are in several chunks, as those of a whole batch are.
    """
    short = experiment.make(short_config(data__batch_size=8))
    with compiled_once(short) as parts, pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_chunks, "clips_in_cache", lambda *_: 1)
        yield parts


@pytest.fixture(scope="module")
def whole(parts, tmp_path_factory):
    """`(workdir, final state)` of a run that nothing stopped."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, fit(parts, workdir)


@pytest.fixture(scope="module")
def stopped_at_8(parts, tmp_path_factory):
    """A workdir with the checkpoints of steps 4 and 8."""
    workdir = tmp_path_factory.mktemp("stopped")
    with pytest.raises(Interrupted):
        fit(parts, workdir, Stopping(small_clips(N_CLIPS), 8))
    assert saved_steps(workdir) == [4, 8]
    return workdir


@pytest.fixture
def half_way(stopped_at_8, tmp_path):
    """A copy of `stopped_at_8` to spoil."""
    return shutil.copytree(stopped_at_8, tmp_path / "run")


LATER = (5, 7, 1), (8, 8, 1), (9, 11, 2)


@pytest.mark.parametrize(
    ("at", "step", "every"),
    [
        (2, 3, 1),
        (4, 4, 3),
        *(pytest.param(*moments, marks=pytest.mark.nightly) for moments in LATER),
    ],
)
def test_stopped_run_goes_on_to_the_same_bits(parts, whole, tmp_path, at, step, every):
    """Within an epoch, at its end, before the first regular checkpoint and after it."""
    with pytest.raises(Interrupted, match=f"after step {step} of {N_STEPS}") as stop:
        fit(parts, tmp_path, Stopping(small_clips(N_CLIPS), at), checkpoint_every_epochs=every)
    assert stop.value.signal_number == signal.SIGTERM
    assert saved_steps(tmp_path)[-1] == step
    state = fit(parts, tmp_path, checkpoint_every_epochs=every)
    assert_same_end(state, tmp_path, whole)


@pytest.mark.nightly
def test_run_stopped_in_every_call_goes_on_to_the_same_bits(parts, whole, tmp_path):
    for _ in range(5):
        with pytest.raises(Interrupted) as stop:
            fit(parts, tmp_path, Stopping(small_clips(N_CLIPS), 1, signal.SIGINT))
        assert stop.value.signal_number == signal.SIGINT
    assert saved_steps(tmp_path) == [8, 11]
    assert_same_end(fit(parts, tmp_path), tmp_path, whole)


def test_signal_in_the_last_call_lets_the_run_finish(parts, whole, tmp_path):
    state = fit(parts, tmp_path, Stopping(small_clips(N_CLIPS), N_STEPS))
    assert_same_end(state, tmp_path, whole)


def test_signal_that_comes_after_it_was_looked_for_waits_a_call(
    parts, whole, tmp_path, monkeypatch
):
    """A step in flight has no figures yet: it must not be saved under an older number."""

    class Late(list):
        looked = 0

        def __bool__(self):
            self.looked += 1
            return self.looked > 1

    monkeypatch.setattr(
        loop, "stop_signals", lambda: contextlib.nullcontext(Late([signal.SIGTERM]))
    )
    with pytest.raises(Interrupted):
        fit(parts, tmp_path)
    monkeypatch.undo()
    assert saved_steps(tmp_path) == [4]
    assert_same_end(fit(parts, tmp_path), tmp_path, whole)


def test_signal_during_evaluation_saves_and_stops(parts, whole, tmp_path):
    test_clips = Stopping(small_clips(5, seed=1), 1)
    with pytest.raises(Interrupted, match="after step 4"):
        fit(parts, tmp_path, None, test_clips, eval_every_epochs=1, checkpoint_every_epochs=3)
    assert saved_steps(tmp_path) == [4]
    assert_same_end(fit(parts, tmp_path, checkpoint_every_epochs=3), tmp_path, whole)


def test_finished_run_has_nothing_to_do(parts, whole, capsys):
    before = {path: path.stat().st_mtime_ns for path in whole[0].rglob("*")}
    state = fit(parts, whole[0])
    assert "nothing to do" in capsys.readouterr().out
    assert_same_end(state, whole[0], whole)
    assert {path: path.stat().st_mtime_ns for path in whole[0].rglob("*")} == before


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint_is_put_aside_for_the_one_before(
    parts, whole, half_way, damage, caplog, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("asc_jax"), "propagate", True)
    damage(half_way / "checkpoints" / "8")
    state = fit(parts, half_way)
    assert "step 8 is damaged" in caplog.text
    assert "going back to the checkpoint of step 4" in caplog.text
    assert (half_way / "damaged" / "checkpoints-8").is_dir()
    assert_same_end(state, half_way, whole)


def test_only_damaged_checkpoints_are_an_error_and_stay(parts, half_way):
    for step in (4, 8):
        flip(half_way / "checkpoints" / str(step))
    for _ in range(2):  # not a fresh start the second time
        with pytest.raises(UserError, match="none of the 2 checkpoints"):
            fit(parts, half_way)
    assert saved_steps(half_way) == [4, 8]
    assert len(train_lines(half_way)) == 2


def test_half_written_checkpoint_of_a_killed_run_does_not_matter(parts, whole, half_way):
    left = half_way / "checkpoints" / "11.orbax-checkpoint-tmp"
    (left / "state").mkdir(parents=True)
    assert_same_end(fit(parts, half_way), half_way, whole)


def test_log_line_that_was_cut_off_is_dropped(parts, whole, half_way):
    with (half_way / "metrics.jsonl").open("a") as log:
        log.write('{"kind": "train", "epo')
    assert_same_end(fit(parts, half_way), half_way, whole)


def test_nan_loss_names_the_step_and_its_clips_and_saves_nothing(parts, tmp_path):
    expected = r"loss became nan at step \d; no checkpoint yet .* Its clips: \d+, .* and \d more"
    with pytest.raises(UserError, match=expected):
        fit(parts, tmp_path, small_clips(N_CLIPS, change=spoil))
    assert saved_steps(tmp_path) == []
    what, *names = (tmp_path / "not_finite.txt").read_text().splitlines()
    assert "step" in what
    assert "5" in names, "the clip that `spoil` spoils"
    assert len(names) <= 8


def test_gradient_that_is_not_finite_names_its_own_step(parts, tmp_path, monkeypatch):
    """The loss of a step is finite although its gradient is not: the next one's would be nan."""
    make = replicas.pmap_train

    def make_broken(*args, **options):
        train = make(*args, **options)

        def broken(*args):
            state, metrics = train(*args)
            return state, metrics | {"skipped": metrics["skipped"].at[:, 1].set(1)}

        return broken

    monkeypatch.setattr(replicas, "pmap_train", make_broken)
    with pytest.raises(UserError, match="gradient became infinite or nan at step 2; no check"):
        fit(parts, tmp_path)


def test_nan_loss_names_the_last_good_checkpoint(parts, whole, half_way):
    with pytest.raises(UserError, match=r"nan at step (9|1\d); the last good checkpoint .* step 8"):
        fit(parts, half_way, small_clips(N_CLIPS, change=spoil))
    assert saved_steps(half_way) == [4, 8]
    assert_same_end(fit(parts, half_way), half_way, whole)


def test_parameters_that_are_not_finite_are_not_saved(parts, tmp_path, monkeypatch):
    """The last step's gradient can go wrong although its loss was finite."""
    make = replicas.pmap_train

    def make_broken(*args, **options):
        train = make(*args, **options)

        def broken(*args):
            state, metrics = train(*args)
            return state.replace(params=jax.tree.map(lambda x: x / 0, state.params)), metrics

        return broken

    monkeypatch.setattr(replicas, "pmap_train", make_broken)
    with pytest.raises(UserError, match="not finite after step 3"):
        fit(parts, tmp_path, Stopping(small_clips(N_CLIPS), 1))
    assert saved_steps(tmp_path) == []


def test_evaluation_is_logged_and_the_best_is_labelled(parts, tmp_path):
    fit(parts, tmp_path, None, small_clips(5, seed=1), eval_every_epochs=2, keep_best=True)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if line["kind"] == "test"] == [2, 3]
    best = json.loads((tmp_path / "best.json").read_text())
    assert "selected on the test split" in best["note"]
    accuracies = {x["epoch"]: x["macro_accuracy"] for x in lines if x["kind"] == "test"}
    assert best["macro_accuracy"] == accuracies[best["epoch"]] == max(accuracies.values())
    (saved,) = (tmp_path / "best").iterdir()
    assert int(saved.name) == 4 * best["epoch"]
    assert saved_steps(tmp_path) == [8, 12]


def test_selection_uses_the_clips_held_out_and_never_the_test_list(parts, tmp_path):
    class Untouchable:
        """Test clips that may not be read."""

    options = {"eval_every_epochs": 1, "keep_best": True, "n_epochs": 2}
    validation = small_clips(5, seed=1)
    fit(parts, tmp_path, None, Untouchable(), validation_clips=validation, **options)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    found = {x["epoch"]: x["macro_accuracy"] for x in lines if x["kind"] == "validation"}
    assert {x["kind"] for x in lines} == {"train", "validation"}
    best = json.loads((tmp_path / "best.json").read_text())
    assert best["selected_on"] == "validation"
    assert best["note"] == "selected on training locations held out"
    assert best["macro_accuracy"] == max(found.values())


@pytest.mark.nightly
@pytest.mark.slow
def test_many_epochs_leak_no_thread_and_no_file(parts, tmp_path, whole):
    """`test_long_run.py` looks at memory too, which takes longer to settle."""
    clips = Watched(small_clips(N_CLIPS))
    fit(parts, tmp_path, clips, small_clips(5, seed=1), n_epochs=20, eval_every_epochs=2)
    _, threads, files = growth(clips.noted)
    assert len(clips.noted) == 80
    assert threads <= 0
    assert files <= 0


def test_tensorboard_files_are_written(whole):
    files = list((whole[0] / "tensorboard").glob("events.out.tfevents.*"))
    assert files
    assert b"train/loss" in b"".join(path.read_bytes() for path in files)


def test_no_clips_are_an_error(parts, tmp_path):
    with pytest.raises(UserError, match="train_5pct holds no clips"):
        fit(parts, tmp_path, small_clips(0))


def test_other_clips_than_before_are_an_error(parts, half_way):
    with pytest.raises(UserError, match="trained on 28 clips, the split now holds 20"):
        fit(parts, half_way, small_clips(20))


def test_other_clips_of_the_same_number_are_an_error(parts, tmp_path):
    clips = small_clips(N_CLIPS)
    clips.identity = "one"
    with pytest.raises(Interrupted):
        fit(parts, tmp_path, Stopping(clips, 4))
    clips.identity = "another"
    with pytest.raises(UserError, match="trained on other clips .* though as many"):
        fit(parts, tmp_path, clips)


def test_config_of_another_run_is_an_error_though_the_file_is_lost(parts, half_way):
    config = parts.config.copy_and_resolve_references().unlock()
    config.seed = 7
    other = dataclasses.replace(parts, config=config.lock())
    with pytest.raises(UserError, match="config.seed was 0, now 7"):
        fit(other, half_way)


def test_evaluation_that_a_kill_prevented_is_made_up_for(parts, tmp_path, monkeypatch):
    """Killed between the checkpoint of an epoch and its evaluation."""
    options = {"test_clips": small_clips(5, seed=1), "eval_every_epochs": 1, "keep_best": True}
    fit(parts, tmp_path / "whole", **options, n_epochs=2)

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(run.Run, "evaluate", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(parts, tmp_path / "run", **options, n_epochs=2)
    monkeypatch.undo()
    fit(parts, tmp_path / "run", **options, n_epochs=2)
    logs = [
        [{**json.loads(line), "clips_per_s": 0} for line in path.read_text().splitlines()]
        for path in (tmp_path / "whole/metrics.jsonl", tmp_path / "run/metrics.jsonl")
    ]
    assert logs[0] == logs[1]
    assert (tmp_path / "whole/best.json").read_text() == (tmp_path / "run/best.json").read_text()


@pytest.mark.parametrize("at_once", [True, False])
def test_speed_counts_neither_compiling_nor_saving(parts, tmp_path, monkeypatch, at_once):
    """The first call takes 100 s, each other 2 s: before it returns, or until one waits for it."""
    clock, waiting = [0.0], []
    dispatch, record, save = loop.Program.__call__, loop.Program.record, loop.Program.save

    def take(name, function, seconds):
        def timed(self, *args):
            clock[0] += seconds(*args)
            return function(self, *args)

        monkeypatch.setattr(loop.Program, name, timed)

    def dispatched(calls):
        seconds = 100.0 if calls[0].first_step == 0 else 2.0
        waiting.append(0.0 if at_once else seconds)
        return seconds if at_once else 0.0

    take("__call__", dispatch, dispatched)
    take("record", record, lambda pending: waiting.pop(0) if pending else 0.0)
    take("save", save, lambda n_epochs: 50.0)
    fake = types.SimpleNamespace(perf_counter=lambda: clock[0])
    monkeypatch.setattr(journal, "time", fake)
    fit(parts, tmp_path)
    lines = (tmp_path / journal.NAME).read_text().splitlines()
    speeds = [json.loads(line)["clips_per_s"] for line in lines]
    # Calls of 24 and of 4 clips, the first of all left out.
    assert speeds == [4 / 2, round((4 + 28) / 6, 1), round((4 + 28 + 28) / 10, 1)]


@pytest.mark.parametrize("line", [b"\xff\xfe", b"[1]", b"3", b'{"step": "a"}', b"{" * 100_000])
def test_damaged_log_lines_are_dropped_and_lost_epochs_named(
    parts, whole, half_way, line, caplog, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("asc_jax"), "propagate", True)
    log = half_way / "metrics.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(line + b"\n" + b"".join(lines[1:]))
    fit(parts, half_way)
    assert "lacks epoch 1: its lines were lost" in caplog.text
    assert train_lines(half_way) == train_lines(whole[0])[1:]


def test_log_that_is_no_file_is_an_error(parts, tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be read: Is a directory"):
        fit(parts, tmp_path)


@pytest.mark.parametrize(
    "storage", ["float32", pytest.param("int16", marks=[pytest.mark.slow, pytest.mark.nightly])]
)
@pytest.mark.nightly
def test_resident_clips_train_as_streamed_ones(parts, tmp_path, whole, storage):
    """Bit for bit in float32, also where a batch is filled up; in int16 the clips are rounded."""
    state = fit(parts, tmp_path, resident=storage)
    if storage == "float32":
        assert_same_end(state, tmp_path, whole)
    losses = [line[2] for line in train_lines(tmp_path)]
    np.testing.assert_allclose(losses[0], train_lines(whole[0])[0][2], rtol=1e-3)
    assert losses[-1] < losses[0]


@pytest.mark.nightly
def test_run_that_streamed_goes_on_with_resident_clips_to_the_same_bits(parts, whole, tmp_path):
    """Whether a split fits can change from one start to the next."""
    with pytest.raises(Interrupted, match=f"after step 7 of {N_STEPS}"):
        fit(parts, tmp_path, Stopping(small_clips(N_CLIPS), 5))
    assert_same_end(fit(parts, tmp_path, resident="float32"), tmp_path, whole)


def test_seeds_one_after_the_other_train_as_each_alone(parts, tmp_path, whole):
    states, workdirs = fit_two_seeds(parts, tmp_path, together=False)
    assert_same_end(states[0], workdirs[0], whole)
    assert_seeds_differ(workdirs, whole[0])


@pytest.mark.nightly
@pytest.mark.slow
def test_seeds_in_one_program_train_as_each_alone(parts, tmp_path, whole):
    """To rounding, which training amplifies."""
    assert_seeds_differ(fit_two_seeds(parts, tmp_path, together=True)[1], whole[0])


def test_int16_storage_rounds_by_half_a_step_of_the_clips_peak():
    audio, _ = noise(4)
    audio[3] = 0
    steps, scale = to_int16(audio)
    error = np.abs(steps * scale[:, None] - audio).max(axis=1)
    assert np.all(error <= np.abs(audio).max(axis=1) * 2**-16 * 1.005)  # float32's own rounding
