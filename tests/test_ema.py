"""The average of the parameters: its definition, its checkpoints, and runs without one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loop_runs import Stopping, assert_same_end, compiled_once, fit, fit_two_seeds
from ml_collections import ConfigDict
from small import small_clips
from tiny import tiny_config

from asc_jax import experiment
from asc_jax.errors import Interrupted, UserError
from asc_jax.evaluation import evaluate
from asc_jax.training import optim, state
from asc_jax.training.workdir import run_config

N = 20
DECAY = 0.75
BEST = {"test_clips": small_clips(8, seed=1), "eval_every_epochs": 1, "keep_best": True}


def make(**overrides):
    return experiment.make(tiny_config(data__batch_size=8, **overrides))


@pytest.fixture(scope="module")
def programs():
    """Return the programs of the run `whole`, for those that end as it does."""
    return {}


@pytest.fixture(scope="module")
def whole(programs, tmp_path_factory):
    """Experiment, workdir and final state of a run with an average, a clipped gradient and a
    schedule in epochs.
    """
    config = tiny_config(data__batch_size=8, train__ema=DECAY, train__clip_norm=0.05).unlock()
    config.optim = ConfigDict({"name": "adam", "weight_decay": 0.001})
    config.schedule = ConfigDict(
        {"name": "cosine_restarts", "peak_lr": 0.01, "first_epochs": 1, "factor": 2}
    )
    parts = experiment.make(config.lock())
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    workdir = tmp_path_factory.mktemp("whole")
    run_config.save(workdir, "tiny.py", parts.config)
    with compiled_once(parts, programs):
        state = fit(parts, workdir, small_clips(N), **BEST)
    yield parts, workdir, state
    jax.config.update("jax_disable_most_optimizations", before)


def test_average_is_the_weighted_mean_of_the_parameters_after_each_step():
    tx = optim.make_tx(4, peak_lr=0.1, warmup_steps=1, weight_decay=0.0)
    rows = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    now = state.create({"params": {"w": rows[0]}, "batch_stats": {"n": np.int32(0)}}, tx, ema=True)
    for step, row in enumerate(rows[1:], 1):
        new = {"w": jnp.asarray(row)}, {"n": jnp.asarray(step)}
        now = now.replace(step=jnp.int32(step), params=new[0], batch_stats=new[1])
        now = now.averaged(0.9)
        weights = 0.9 ** np.arange(step)[::-1]
        expected = weights @ rows[1 : step + 1] / weights.sum()
        np.testing.assert_allclose(now.variables["params"]["w"], expected, rtol=1e-5, atol=1e-6)
        assert now.variables["batch_stats"]["n"] == step


def test_what_is_evaluated_is_the_average(whole):
    parts, workdir, trained = whole
    run = evaluate.open_run(workdir)
    average = trained.further[state.EMA]
    jax.tree.map(np.testing.assert_array_equal, run.variables, average)
    assert np.any(average["params"]["Dense_0"]["kernel"] != trained.params["Dense_0"]["kernel"])


def test_resumed_run_has_the_same_bits(whole, programs, tmp_path):
    parts, workdir, trained = whole
    with compiled_once(parts, programs):
        with pytest.raises(Interrupted):
            fit(parts, tmp_path, Stopping(small_clips(N), at=5), **BEST)
        state = fit(parts, tmp_path, small_clips(N), **BEST)
    assert_same_end(state, tmp_path, (workdir, trained))
    run_config.save(tmp_path, "tiny.py", parts.config)
    ours, theirs = (evaluate.open_run(each, checkpoint="best") for each in (tmp_path, workdir))
    jax.tree.map(np.testing.assert_array_equal, ours.variables, theirs.variables)
    assert (tmp_path / "best.json").read_text() == (workdir / "best.json").read_text()


def test_rate_follows_the_epochs_of_the_run(whole):
    """The second cycle, of two epochs, ends with the run: 3 epochs of 3 steps."""
    _, _, trained = whole
    assert float(trained.opt_state.rate) == pytest.approx(0.005 * (1 + np.cos(np.pi * 5 / 6)))


@pytest.mark.nightly
@pytest.mark.slow
def test_average_does_not_change_the_training(whole, tmp_path, compiled_fast):
    """And a run without one keeps the state of earlier versions."""
    plain = fit(make(), tmp_path / "a", small_clips(N))
    averaged = fit(make(train__ema=DECAY), tmp_path / "b", small_clips(N))
    assert plain.further is None
    for ours, theirs in zip(*map(jax.tree.leaves, (plain.params, averaged.params)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "expected"),
    [({"train__ema": 1.0}, "config.train.ema is 1.0"), ({"train__clip_norm": -1.0}, "clip_norm")],
)
def test_bad_value_is_rejected(values, expected):
    with pytest.raises(UserError, match=expected):
        make(**values)


@pytest.mark.nightly
@pytest.mark.slow
def test_seeds_in_one_program_keep_an_average_each(whole, tmp_path):
    parts, _, _ = whole
    together, _ = fit_two_seeds(parts, tmp_path / "both", together=True)
    apart, _ = fit_two_seeds(parts, tmp_path / "each", together=False)
    for ours, theirs in zip(*(jax.tree.leaves(s) for s in (together, apart)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
    kernels = [each.variables["params"]["Dense_0"]["kernel"] for each in together]
    assert np.any(kernels[0] != kernels[1])


@pytest.mark.nightly
@pytest.mark.slow
def test_average_of_a_run_in_float16_stays_finite(tmp_path, compiled_fast):
    """Its first steps overflow and are skipped."""
    parts = make(precision__compute="float16", train__ema=DECAY)
    trained = fit(parts, tmp_path, small_clips(N))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trained.variables))
