"""Number formats: what a cast refuses, what it reports, and training in each of them."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import noise, small_clips, small_config
from tiny import tiny_config

from asc_jax import experiment
from asc_jax.data.clips import from_arrays
from asc_jax.errors import UserError
from asc_jax.evaluation import evaluate as evaluation
from asc_jax.machine import replicas
from asc_jax.models import precision
from asc_jax.training import loop, not_finite, optim, state
from asc_jax.training.config_checks import COMPUTE_DTYPES
from asc_jax.training.workdir import checkpoints

BATCH, N_STEPS = 32, 120


def test_cast_makes_a_new_tree_and_refuses_overflow_by_name():
    tree = {"norm": {"scale": jnp.array([1.0, 2.0]), "count": jnp.array([3])}}
    half = precision.cast(tree, "float16")
    assert half["norm"]["scale"].dtype == jnp.float16
    assert half["norm"]["count"].dtype == tree["norm"]["count"].dtype
    assert tree["norm"]["scale"].dtype == jnp.float32
    with pytest.raises(UserError, match=r"norm.*scale.*70000"):
        precision.cast({"norm": {"scale": jnp.array([70_000.0])}}, "float16")
    with pytest.raises(UserError, match="float8.*known: float32, bfloat16, float16"):
        precision.cast(tree, "float8")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_cast_sees_a_float64_overflow_before_it_is_rounded(dtype):
    with pytest.raises(UserError, match=r"w holds 1e\+300, more than"):
        precision.cast({"w": np.array([np.inf, 1e300])}, dtype)


def test_rounding_leaves_out_what_was_subnormal_before():
    (leaf,) = precision.rounding({"x": np.float32([1e-40])}, {"x": np.float32([1e-40])})
    assert (leaf.n_subnormal, leaf.max_relative) == (0, 0)


def test_rounding_reports_each_leaf():
    tree = {
        "params": {"kernel": jnp.array([1.0, 1 + 2**-12, 0.0]), "count": jnp.array([3])},
        "batch_stats": {"var": jnp.array([3e-6, 1e-9, jnp.inf])},
    }
    var, kernel = precision.rounding(tree, precision.cast(tree, "float16"))
    assert kernel.leaf == "params/kernel"
    assert kernel.max_relative == pytest.approx(2**-12, rel=1e-3)
    assert (kernel.n_subnormal, kernel.n_zero) == (0, 0)
    assert (var.leaf, var.max_relative, var.n_subnormal, var.n_zero) == ("batch_stats/var", 1, 1, 1)


@pytest.mark.parametrize(("dtype", "digits"), [("float16", 11), ("bfloat16", 8), ("float32", 24)])
def test_rounding_of_normal_values_is_at_most_half_a_unit(dtype, digits):
    values = jax.random.uniform(jax.random.key(0), (1000,), minval=0.1, maxval=10)
    (leaf,) = precision.rounding({"x": values}, precision.cast({"x": values}, dtype))
    assert leaf.max_relative <= 2.0**-digits
    assert (leaf.max_relative == 0) == (dtype == "float32")


@pytest.fixture(scope="module")
def trained_nothing():
    """Parts of a small run, its first variables, and a few clips."""
    parts = experiment.make(small_config())
    audio, label = noise(12)
    return parts, parts.variables(), from_arrays(audio, label, np.arange(12) % 9)


def test_evaluation_gives_every_format_side_by_side(trained_nothing):
    parts, variables, clips = trained_nothing
    results, predictions = evaluation.evaluate_precisions(parts, variables, clips)
    formats = results["formats"]
    assert list(formats) == ["float32", "bfloat16", "float16"]
    assert (len(predictions.filenames), predictions.logits.shape) == (12, (12, 10))
    n_params = precision.n_params(variables["params"])
    assert [formats[name]["bytes"] for name in formats] == [
        4 * n_params,
        2 * n_params,
        2 * n_params,
    ]
    worst = {name: max(r["max_relative"] for r in formats[name]["rounding"]) for name in formats}
    assert worst["float32"] == 0 < worst["float16"] < worst["bfloat16"] < 2**-8
    assert formats["float32"]["changed_top_scene"] == 0
    assert all(results[name]["n_clips"] == 12 for name in formats)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_evaluation_refuses_logits_that_are_no_numbers(trained_nothing, value):
    parts, variables, clips = trained_nothing
    head = jax.tree.map(lambda x: x.at[..., 0].set(value), variables["params"]["head"])
    damaged = variables | {"params": variables["params"] | {"head": head}}
    with pytest.raises(
        UserError, match="float32, it gives NaN or inf for 12 of 12 clips: its trai"
    ):
        evaluation.evaluate_precisions(parts, damaged, clips)


def test_evaluation_names_a_format_that_overflows_and_refuses_it_if_it_is_the_stored(
    trained_nothing,
):
    parts, variables, clips = trained_nothing
    head = variables["params"]["head"] | {"kernel": variables["params"]["head"]["kernel"] + 1e5}
    large = variables | {"params": variables["params"] | {"head": head}}
    with pytest.raises(
        UserError, match=r"params/head/kernel holds 1000\d\d, more than float16 can"
    ):
        evaluation.evaluate_precisions(parts, large, clips)
    with pytest.raises(UserError, match="asc-jax eval --stored bfloat16"):
        evaluation.evaluate_precisions(parts, large, clips)
    parts = experiment.make(small_config(precision__stored="bfloat16"))
    results, _ = evaluation.evaluate_precisions(parts, large, clips)
    assert "params/head/kernel holds" in results["formats"]["float16"]["refused"]
    assert "float16" not in results


def loud_noise(n_clips, seed):
    """`audio`, `label`: five classes, each 12 dB below the one before."""
    audio, label = noise(n_clips, seed)
    audio *= (
        np.float32(0.3) ** (-1 - label[:, None]) * 0.3 * np.float32(0.25) ** (label[:, None] % 5)
    )
    return audio, label % 5


@functools.cache
def compiled(compute, n_replicas=1, make_config=small_config):
    """Parts, optimiser and training function, compiled once for all tests of this file."""
    parts = experiment.make(
        make_config(
            precision__compute=compute,
            data__batch_size=BATCH,
            schedule__warmup_steps=10,
            augment__freq_mixstyle__p=0.0,
        )
    )
    tx = parts.tx(N_STEPS)
    steps_of_replica = parts.train_steps(tx, replicas.AXIS)
    return (
        parts,
        tx,
        replicas.pmap_train(steps_of_replica, n_replicas),
    )


def train(compute, n_steps, *of, scale=None):
    """Train on clips whose loudness is their label: `(final state, losses, skipped)`.

    `of` is what `compiled` takes beside `compute`.
    """
    parts, tx, step = compiled(compute, *of)
    n_replicas = of[0] if of else 1
    current = parts.new_state(parts.variables(), tx)
    if scale:
        loss_scale = current.loss_scale.replace(scale=jnp.full((), scale, jnp.float32))
        current = current.replace(loss_scale=loss_scale)
    audio, label = loud_noise(BATCH * n_steps, seed=2)
    batches = [
        {"audio": a, "label": b, "mask": np.ones(BATCH, bool)}
        for a, b in zip(np.split(audio, n_steps), np.split(label, n_steps), strict=True)
    ]
    stacked = replicas.stack_and_shard(batches, N_STEPS, n_replicas)
    current = replicas.replicate(current, n_replicas)
    current, metrics = step(current, stacked, n_steps, parts.root_key())
    final = jax.tree.map(np.asarray, replicas.unreplicate(current))
    return final, *(np.asarray(metrics[name][0, :n_steps]) for name in ("loss", "skipped"))


@pytest.mark.nightly
@pytest.mark.slow
def test_every_compute_format_converges_to_within_one_point_of_float32():
    accuracy = {}
    clips = from_arrays(*loud_noise(600, seed=1), np.arange(600) % 9)
    evaluate = evaluation.make_evaluator(compiled("float32")[0])  # whatever training used
    for compute in COMPUTE_DTYPES:
        final, losses, _ = train(compute, N_STEPS)
        variables = {"params": final.params, "batch_stats": final.batch_stats}
        accuracy[compute] = evaluate(variables, clips).summary["accuracy"]
        assert {x.dtype.name for x in jax.tree.leaves(variables)} == {"float32"}
        assert np.all(np.isfinite(losses))
    assert accuracy["float32"] > 0.98
    assert accuracy["bfloat16"] > accuracy["float32"] - 0.01
    assert accuracy["float16"] > accuracy["float32"] - 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    "of",
    [
        (2, tiny_config),
        pytest.param((1,), marks=pytest.mark.nightly),
        pytest.param((2,), marks=pytest.mark.nightly),
    ],
)
def test_gradient_that_overflows_float16_lowers_the_loss_scale_and_nothing_else(of):
    parts, tx, _ = compiled("float16", *of)
    fresh = parts.new_state(parts.variables(), tx)
    after, losses, skipped = train("float16", 2, *of, scale=2.0**60)
    assert after.loss_scale.scale == 2.0**58
    assert after.step == 2
    assert np.all(np.isfinite(losses))
    assert list(skipped) == [1, 1]
    expected = fresh.replace(opt_state=optim.skip_step(optim.skip_step(fresh.opt_state)))
    for name in ("params", "batch_stats", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(expected, name))


def test_loss_scale_that_does_not_help_is_found_after_the_steps_of_a_short_run():
    check = not_finite.StepCheck(12, half=True)
    finite, skipped = np.zeros(4), np.ones(4, int)
    assert check.find(finite, skipped, 0) is check.find(finite, skipped, 4) is None
    expected = "gradients overflowed in 12 steps in a row, to 12", 12
    assert check.find(finite, skipped, 8) == expected
    check = not_finite.StepCheck(12, half=True)
    assert not any(check.find(finite, np.array([1, 1, 1, 0]), step) for step in (0, 4, 8))


@pytest.mark.nightly  # the same in a run
@pytest.mark.slow
def test_run_that_learns_nothing_in_float16_ends_with_an_error(
    tmp_path, monkeypatch, capsys, compiled_fast
):
    monkeypatch.setattr(state, "FIRST_LOSS_SCALE", 2.0**60)
    parts = experiment.make(small_config(data__batch_size=8, precision__compute="float16"))
    options = {"eval_every_epochs": 0, "checkpoint_every_epochs": 1, "keep_checkpoints": 2}
    options |= {"n_epochs": 3, "keep_best": False, "steps_per_call": 3}
    with pytest.raises(UserError, match="overflowed in 12 steps in a row, to 12; .*bfloat16"):
        loop.fit(
            parts,
            small_clips(28),
            None,
            tmp_path,
            make_evaluator=evaluation.make_evaluator,
            **options,
        )
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["n_skipped"] for line in lines] == [4, 4]
    assert "4 steps skipped" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["4", "8"]


def test_schedule_goes_on_through_a_skipped_step_and_the_moments_stand_still():
    params = {"x": jnp.ones(3)}
    tx = optim.make_tx(10, peak_lr=1.0, warmup_steps=4, weight_decay=0.0)
    before = tx.update(params, tx.init(params), params)[1]
    after = optim.skip_step(before)
    assert (int(after.count), int(before.count)) == (2, 1)
    jax.tree.map(np.testing.assert_array_equal, after.inner, before.inner)
    updates, _ = tx.update(params, after, params)
    np.testing.assert_allclose(updates["x"], -0.5, rtol=1e-4)  # step 2 of 4 to a rate of 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "of", [(2, tiny_config), pytest.param((2, small_config), marks=pytest.mark.nightly)]
)
def test_loss_scale_does_not_move_the_result(of):
    """A power of two is exact, so long as nothing over- or underflows."""
    small, small_losses, _ = train("float16", 3, *of, scale=2.0**8)
    large, large_losses, _ = train("float16", 3, *of, scale=2.0**9)
    np.testing.assert_allclose(small_losses, large_losses, rtol=1e-3)
    assert (small.loss_scale.scale, large.loss_scale.scale) == (2.0**8, 2.0**9)
    assert small.loss_scale.fin_steps == 3


def test_loss_scale_is_saved_and_comes_back(tmp_path):
    parts = experiment.make(small_config(precision__compute="float16"))
    first = parts.new_state(parts.variables(), parts.tx(1))
    moved = first.replace(
        loss_scale=first.loss_scale.replace(scale=np.float32(8), fin_steps=np.int32(5))
    )
    manager = checkpoints.Checkpoints(tmp_path)
    manager.save(1, moved)
    restored, _, _ = manager.restore(parts.abstract_state())
    manager.close()
    assert (restored.loss_scale.scale, restored.loss_scale.fin_steps) == (8, 5)
    assert jax.tree.structure(restored) == jax.tree.structure(first)


def test_only_float16_has_a_loss_scale():
    for compute in COMPUTE_DTYPES:
        parts = experiment.make(small_config(precision__compute=compute))
        first = parts.abstract_state()
        assert isinstance(first, state.TrainState)
        assert (first.loss_scale is None) == (compute != "float16")
