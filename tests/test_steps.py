"""The training step: PyTorch's trajectory, and what the result must not depend on."""

import functools
import json

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from small import small_config
from tiny import tiny_config

from asc_jax import experiment, features
from asc_jax.data.clips import from_arrays
from asc_jax.evaluation import evaluate
from asc_jax.features.augmentation import training_input
from asc_jax.machine import replicas
from asc_jax.models import CPMobile, training
from asc_jax.models.kernels import by_chunks
from asc_jax.pytorch.parity.training_stages import losses_by_order
from asc_jax.pytorch.weights import from_torch
from asc_jax.training import losses, optim, state, steps
from asc_jax.training.placement import place_state


def forward(variables, batch, key):
    """The network alone: the reference trajectory starts at log-mels, without augmentation."""
    return training(CPMobile())(variables, batch["audio"], batch["mask"])


def run_reference(golden, dtype):
    """The 20 reference steps: losses, final state, held-out logits, gradients of step 0."""
    arrays = golden("g_trajectory")
    variables = jax.tree.map(lambda x: jnp.asarray(x, dtype), from_torch(golden("c_init_state")))
    tx = optim.make_tx(40, peak_lr=0.005, warmup_steps=10, weight_decay=1e-4)
    current = state.create(variables, tx)
    step = jax.jit(
        functools.partial(
            steps.train_step,
            augment=lambda key, batch, arrays: batch,
            forward=forward,
            loss_fn=functools.partial(losses.focal, gamma=2.0),
            tx=tx,
        )
    )
    out, first_moment = [], None
    for x, labels in zip(arrays["x_q"], arrays["labels"], strict=True):
        batch = {
            "audio": jnp.asarray(x, dtype)[..., None] / 16,
            "label": jnp.asarray(labels),
            "mask": jnp.ones(len(labels), bool),
        }
        current, metrics = step(current, batch, jax.random.key(0))
        out.append(float(metrics["loss"]))
        if first_moment is None:
            first_moment = current.opt_state.inner[0].mu
    held = jnp.asarray(arrays["held_x_q"], dtype)[..., None] / 16
    logits = CPMobile().apply({"params": current.params, "batch_stats": current.batch_stats}, held)
    gradients = jax.tree.map(lambda m: m / 0.1, first_moment)  # mu = (1 − 0.9) · gradient
    return np.array(out), current, logits, gradients


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


@pytest.mark.nightly  # `asc-jax parity` checks it too, in every run of the tests
@pytest.mark.slow
def test_trajectory_in_float64_equals_pytorch(golden, x64):
    """Gradients, 20 losses, final parameters and held-out logits."""
    arrays = golden("g_trajectory")
    out, final, logits, gradients = run_reference(golden, jnp.float64)
    np.testing.assert_allclose(out, arrays["loss64"], rtol=1e-7)
    reference = golden("g_final_state64")
    for ours, theirs in (
        (final.params, from_torch(reference)["params"]),
        (final.batch_stats, from_torch(reference)["batch_stats"]),
    ):
        assert np.linalg.norm(flat(ours) - flat(theirs)) <= 1e-7 * np.linalg.norm(flat(theirs))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), ours, theirs)
    np.testing.assert_allclose(
        logits, arrays["held_logits64"], atol=1e-7 * np.abs(arrays["held_logits64"]).max()
    )
    buffers = {k: v for k, v in reference.items() if "running" in k}
    expected = flat(from_torch(golden("g_grads_step0_64") | buffers)["params"])
    assert np.linalg.norm(flat(gradients) - expected) <= 1e-9 * np.linalg.norm(expected)


@pytest.mark.nightly  # the longest stage of `asc-jax parity`
@pytest.mark.slow
def test_trajectory_in_float32_stays_within_the_spread_of_pytorch(golden):
    """PyTorch's float32 runs (threads, layout, kernels changed) part from its float64 one, and so
    may ours: while the steps are still orderly no further than those runs part from each other,
    and over all steps, for most orders of the clips, no further than the furthest of them."""
    arrays = golden("g_trajectory")
    exact = arrays["loss64"]
    names = ("loss", "loss_threads2", "loss_channels_last", "loss_no_mkldnn")
    theirs = np.stack([arrays[name] for name in names])
    ours = losses_by_order(golden, np.float32)
    spread = np.ptp(np.vstack([theirs, exact]), axis=0)
    assert np.all(np.abs(ours - exact)[:, :3] <= np.maximum.accumulate(spread)[:3] + 1e-6)
    ours, theirs = (np.sqrt(np.mean((runs - exact) ** 2, axis=1)) for runs in (ours, theirs))
    assert np.median(ours) <= theirs.max()


def make_batches(n_batches, batch_size, n_last, dtype=np.float32, seed=0):
    """Noise clips whose loudness gives the label; the last batch is padded after `n_last`."""
    rng = np.random.default_rng(seed)
    batches = []
    for index in range(n_batches):
        n_valid = n_last if index == n_batches - 1 else batch_size
        label = rng.integers(0, 10, batch_size)
        audio = rng.standard_normal((batch_size, 32_000)) * 0.3 ** label[:, None]
        mask = np.arange(batch_size) < n_valid
        batches.append(
            {
                "audio": (audio * mask[:, None]).astype(dtype),
                "label": (label * mask).astype(np.int32),
                "mask": mask,
            }
        )
    return batches


@functools.cache
def compiled(config_json, n_steps, n_replicas):
    """Parts, optimiser and training function of a config, compiled once per shape."""
    parts = experiment.make(ml_collections.ConfigDict(json.loads(config_json)))
    tx = parts.tx(n_steps)
    steps_of_replica = parts.train_steps(tx, replicas.AXIS)
    return (
        parts,
        tx,
        replicas.pmap_train(steps_of_replica, n_replicas),
    )


def run_steps(config, batches, n_replicas, calls=None, n_slots=None, pad_to=None):
    """Train over `batches` on `n_replicas`, cut into calls of the given numbers of steps."""
    parts, tx, train = compiled(config.to_json(), len(batches), n_replicas)
    variables = jax.tree.map(lambda x: jnp.asarray(x, batches[0]["audio"].dtype), parts.variables())
    current = replicas.replicate(state.create(variables, tx), n_replicas)
    calls = calls or [len(batches)]
    out, start = [], 0
    if pad_to:
        batches = [
            {
                k: np.concatenate([v, np.zeros((pad_to, *v.shape[1:]), v.dtype)])
                for k, v in b.items()
            }
            for b in batches
        ]
    for n in calls:
        stacked = replicas.stack_and_shard(
            batches[start : start + n], n_slots or max(calls), n_replicas
        )
        current, metrics = train(current, stacked, n, parts.root_key())
        out += list(np.asarray(metrics["loss"][0, :n]))
        start += n
    return np.array(out), jax.tree.map(np.asarray, replicas.unreplicate(current))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make_config", "n_replicas", "sizes"),  # numbers of batches, clips in one, and in the last
    [
        (tiny_config, 4, (3, 10, 7)),  # test_models has batch normalisation over replicas
        pytest.param(small_config, 2, (10, 78, 31), marks=pytest.mark.nightly),
        pytest.param(small_config, 4, (10, 78, 31), marks=pytest.mark.nightly),
    ],
)
def test_result_in_float64_does_not_depend_on_the_replicas(
    x64, compiled_fast, make_config, n_replicas, sizes
):
    """Augmentation on; 4 does not divide a batch; the last batch is padded."""
    batches, config = make_batches(*sizes, np.float64), make_config()
    loss, final = run_steps(config, batches, 1)
    loss_n, final_n = run_steps(config, batches, n_replicas)
    np.testing.assert_allclose(loss_n, loss, rtol=1e-9)
    for a, b in ((final.params, final_n.params), (final.batch_stats, final_n.batch_stats)):
        assert np.linalg.norm(flat(a) - flat(b)) <= 1e-9 * np.linalg.norm(flat(a))


@pytest.mark.nightly
@pytest.mark.slow
def test_first_losses_in_float32_do_not_depend_on_the_replicas():
    batches = make_batches(3, 78, 31)
    config = small_config()
    one, two, four = (run_steps(config, batches, n)[0] for n in (1, 2, 4))
    np.testing.assert_allclose(two, one, rtol=1e-5)
    np.testing.assert_allclose(four, one, rtol=1e-5)


@pytest.mark.nightly  # 4 replicas, above, pad every batch to 12 clips
@pytest.mark.slow
def test_result_does_not_depend_on_padding(x64, compiled_fast):
    batches = make_batches(3, 10, 7, np.float64)
    loss, final = run_steps(small_config(), batches, 1)
    padded_loss, padded = run_steps(small_config(), batches, 1, pad_to=5)
    np.testing.assert_allclose(padded_loss, loss, rtol=1e-9)
    np.testing.assert_allclose(flat(padded.params), flat(final.params), atol=1e-9)


@pytest.mark.nightly  # test_loop stops runs at every place and asks for the same bits
@pytest.mark.slow
def test_result_does_not_depend_on_how_steps_are_grouped_into_calls():
    """Bit for bit: it is the same compiled program, whatever the number of steps it runs."""
    batches = make_batches(5, 8, 8)
    loss, final = run_steps(small_config(), batches, 1, calls=[4, 1])
    other_loss, other = run_steps(small_config(), batches, 1, calls=[2, 2, 1], n_slots=4)
    np.testing.assert_array_equal(other_loss, loss)
    np.testing.assert_array_equal(flat(other), flat(final))


ON_A_CPU = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="only CPUs write over what they hold"
)


@pytest.mark.nightly  # test_by_chunks has a small network; test_loop trains with such memory
@pytest.mark.slow
@ON_A_CPU
def test_what_scratch_memory_holds_changes_no_bit(compiled_fast, monkeypatch):
    monkeypatch.setattr(by_chunks, "clips_in_cache", lambda jaxpr, n_clips: 5)
    config, n_clips, n_steps = small_config(), 10, 3
    parts = experiment.make(config)
    tx = parts.tx(n_steps)
    batches = replicas.stack_and_shard(make_batches(n_steps, n_clips, n_clips), n_steps, 1)
    train = replicas.pmap_train(parts.train_steps(tx, replicas.AXIS), 1)

    def run(value=None):
        first = parts.new_state(parts.variables(), tx)
        placed = replicas.replicate(first, 1)
        if value is not None:
            placed = place_state(first, config, n_clips, 1)
            placed = placed.replace(
                scratch=jax.tree.map(lambda x: jnp.full_like(x, value), placed.scratch)
            )
        final, metrics = train(placed, batches, n_steps, parts.root_key())
        if value is not None:
            assert len(final.scratch) == 25
            assert all(np.std(x) > 0 for x in final.scratch)  # nan is not
        return flat(final.params), flat(final.batch_stats), np.asarray(metrics["loss"])

    without = run()
    assert all(np.all(np.isfinite(x)) for x in without)
    for value in (0, np.nan, np.inf):
        for ours, theirs in zip(run(value), without, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@ON_A_CPU
def test_memory_that_is_written_over_is_no_part_of_what_is_saved(monkeypatch):
    monkeypatch.setattr(by_chunks, "clips_in_cache", lambda jaxpr, n_clips: 2)
    config = small_config()
    parts = experiment.make(config)
    first = parts.new_state(parts.variables(), parts.tx(1))
    placed = place_state(first, config, 8, 2)
    assert {x.shape[:2] for x in placed.scratch} == {(2, 4)}
    saved = replicas.unreplicate(placed.saved())
    assert jax.tree.structure(saved) == jax.tree.structure(first)
    jax.tree.map(np.testing.assert_array_equal, saved, first)


def draw(config, key, n_clips=4):
    batch = make_batches(1, n_clips, n_clips)[0]
    made = experiment.make_augmentations(config)
    return training_input(key, batch, augmentations=made, features_config=config.features)


def test_same_key_gives_the_same_augmentation_and_another_step_another():
    config, key = small_config(), jax.random.key(0)
    first, again, next_step = (
        draw(config, k)["log_mel"] for k in (key, key, jax.random.fold_in(key, 1))
    )
    np.testing.assert_array_equal(first, again)
    assert np.any(first != next_step)


def test_augmentation_switched_off_is_the_plain_log_mel():
    off = {"time_roll__max_s": 0, "freq_mask__max_width": 0, "freq_mixstyle__p": 0}
    config = small_config(**{f"augment__{name}": value for name, value in off.items()})
    augmented = draw(config, jax.random.key(0), 3)
    plain = features.log_mel(augmented["audio"], **config.features)
    np.testing.assert_array_equal(augmented["log_mel"], plain)


def test_a_further_augmentation_leaves_the_draws_of_the_others_alone():
    config = small_config().unlock()
    before = draw(config, jax.random.key(0))
    config.augment.second_roll = {"name": "time_roll", "max_s": 0.1, "order": 1}
    after = draw(config, jax.random.key(0))
    assert np.any(np.asarray(after["audio"]) != np.asarray(before["audio"]))
    config.augment.second_roll.max_s = 0.0
    np.testing.assert_array_equal(draw(config, jax.random.key(0))["log_mel"], before["log_mel"])


@pytest.mark.parametrize("compute", ["bfloat16", "float16"])
def test_lower_precision_keeps_float32_state(compute):
    parts = experiment.make(small_config(precision__compute=compute))
    tx = parts.tx(1)
    first = jax.eval_shape(lambda: parts.new_state(parts.variables(), tx))
    batches = jax.tree.map(lambda x: x[None], make_batches(1, 4, 4)[0])
    final, _ = jax.eval_shape(parts.train_steps(tx), first, batches, 1, parts.root_key())
    assert {x.dtype.name for x in jax.tree.leaves((final.params, final.batch_stats))} == {"float32"}


@pytest.mark.nightly  # test_precision trains in float16, test_models computes in bfloat16
@pytest.mark.slow
def test_bfloat16_compute_trains_and_keeps_float32_state(compiled_fast):
    batches = make_batches(4, 16, 16)
    loss, final = run_steps(small_config(precision__compute="bfloat16"), batches, 1)
    assert np.all(np.isfinite(loss))
    assert {x.dtype.name for x in jax.tree.leaves((final.params, final.batch_stats))} == {"float32"}


def test_evaluator_counts_each_clip_once_however_the_last_batch_is_filled(monkeypatch):
    monkeypatch.setattr(evaluate, "BATCH_SIZE", 4)
    parts = experiment.make(small_config())
    batch = make_batches(1, 6, 6)[0]
    clips = from_arrays(batch["audio"], batch["label"])
    found = evaluate.make_evaluator(parts)(parts.variables(), clips)
    assert found.logits.shape == (6, 10)
    assert sum(map(sum, found.summary["confusion"])) == found.summary["n_clips"] == 6
    assert found.summary["groups"]["device"]["values"]["unknown"]["n_clips"] == 6
