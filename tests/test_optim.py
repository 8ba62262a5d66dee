"""The schedule and AdamW against PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from asc_jax.errors import UserError
from asc_jax.training import optim


@pytest.mark.parametrize("batch", [78, 256])
def test_learning_rate_equals_the_baseline_at_every_sampled_step(golden, batch):
    arrays = golden("f_lr")
    schedule = optim.warmup_cosine(
        int(arrays[f"bs{batch}_total"]), peak_lr=0.005, warmup_steps=2000
    )
    ours = jax.vmap(schedule)(jnp.asarray(arrays[f"bs{batch}_step"]))
    np.testing.assert_allclose(ours, arrays[f"bs{batch}_lr"], rtol=0, atol=1e-9)


def test_first_step_runs_at_rate_zero_but_moves_the_moments():
    tx = optim.make_tx(10, peak_lr=0.1, warmup_steps=2, weight_decay=1e-4)
    params = {"kernel": jnp.ones(3)}
    updates, opt_state = tx.update({"kernel": jnp.ones(3)}, tx.init(params), params)
    np.testing.assert_array_equal(updates["kernel"], jnp.zeros(3))
    moments = [x for x in jax.tree.leaves(opt_state) if x.shape == (3,)]
    assert all(np.all(m != 0) for m in moments)


def test_adamw_equals_its_definition(x64):
    """Decoupled decay and bias-corrected moments, as torch.optim.AdamW computes them."""
    rng = np.random.default_rng(0)
    grads = rng.standard_normal((6, 4))
    tx = optim.make_tx(6, peak_lr=0.005, warmup_steps=2, weight_decay=0.01)
    schedule = optim.warmup_cosine(6, peak_lr=0.005, warmup_steps=2)
    params = jnp.ones(4)
    opt_state = tx.init(params)
    p, m, v = np.ones(4), np.zeros(4), np.zeros(4)
    for t, g in enumerate(grads):
        updates, opt_state = tx.update(jnp.asarray(g), opt_state, params)
        params = optax.apply_updates(params, updates)
        lr = float(schedule(t))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        m_hat, v_hat = m / (1 - 0.9 ** (t + 1)), v / (1 - 0.999 ** (t + 1))
        p = p * (1 - lr * 0.01) - lr * m_hat / (np.sqrt(v_hat) + 1e-8)
    np.testing.assert_allclose(params, p, rtol=1e-9)


def test_warmup_longer_than_the_run_never_reaches_the_peak():
    schedule = optim.warmup_cosine(10, peak_lr=1.0, warmup_steps=100)
    assert float(schedule(9)) == pytest.approx(0.09)


def test_less_than_half_a_cycle_ends_above_zero():
    schedule = optim.warmup_cosine(1000, peak_lr=1.0, warmup_steps=20, n_cycles=0.4)
    assert float(schedule(20)) == 1.0
    assert float(schedule(1000)) == pytest.approx(0.5 * (1 + np.cos(0.8 * np.pi)))
    with pytest.raises(UserError, match="n_cycles"):
        optim.warmup_cosine(10, peak_lr=1.0, warmup_steps=1, n_cycles=0.6)


@pytest.mark.parametrize("name", ["peak_lr", "warmup_steps", "weight_decay"])
def test_negative_values_are_refused_by_name(name):
    values = {"peak_lr": 0.1, "warmup_steps": 1, "weight_decay": 0.1} | {name: -1}
    with pytest.raises(UserError, match=name):
        optim.make_tx(10, **values)


@pytest.mark.parametrize(
    "make", [lambda rate: optax.adam(rate), lambda rate: optax.sgd(rate, momentum=0.9)]
)
def test_rate_is_in_the_state_of_any_optimiser(make):
    """The log reads it there, and a step left out moves the schedule alone."""
    schedule = optim.warmup_cosine(10, peak_lr=1.0, warmup_steps=4)
    tx = optim.scheduled(schedule, make)
    params = {"kernel": jnp.ones(3)}
    state = tx.init(params)
    for step in range(3):
        _, state = tx.update(params, state, params)
        assert float(state.rate) == pytest.approx(float(schedule(step)))
    skipped = optim.skip_step(state)
    assert int(skipped.count) == 4
    jax.tree.map(np.testing.assert_array_equal, skipped.inner, state.inner)


def test_adam_equals_its_definition(x64):
    """Weight decay is part of the gradient, as in torch.optim.Adam."""
    grads = np.random.default_rng(0).standard_normal((6, 4))
    tx = optim.adam(0.005, weight_decay=0.01)
    params = jnp.ones(4)
    opt_state = tx.init(params)
    p, m, v = np.ones(4), np.zeros(4), np.zeros(4)
    for t, g in enumerate(grads):
        updates, opt_state = tx.update(jnp.asarray(g), opt_state, params)
        params = optax.apply_updates(params, updates)
        g = g + 0.01 * p
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        m_hat, v_hat = m / (1 - 0.9 ** (t + 1)), v / (1 - 0.999 ** (t + 1))
        p = p - 0.005 * m_hat / (np.sqrt(v_hat) + 1e-8)
    np.testing.assert_allclose(params, p, rtol=1e-9)


FLAT = {"warmup_epochs": 15, "down_from_epoch": 50, "down_epochs": 85, "last": 0.005}


@pytest.mark.parametrize("by_epoch", [False, True])
def test_warmup_flat_linear_is_its_formula(by_epoch):
    """150 epochs of 7 steps, as CP-JKU's recipe has it."""
    schedule = optim.warmup_flat_linear(
        1050, n_epochs=150, peak_lr=0.001, by_epoch=by_epoch, **FLAT
    )
    epoch = np.arange(1050) // 7 if by_epoch else np.arange(1050) / 7
    rise = np.where(epoch < 15, np.exp(-5 * (1 - np.maximum(epoch, 0.5) / 15) ** 2), 1)
    fall = np.where(epoch <= 50, 1, 0.005 + 0.995 * (85 - (epoch - 50)) / 85)
    expected = 0.001 * rise * np.where(epoch >= 135, 0.005, fall)
    np.testing.assert_allclose(jax.vmap(schedule)(jnp.arange(1050)), expected, rtol=2e-5)


@pytest.mark.parametrize("by_epoch", [False, True])
@pytest.mark.parametrize(("first", "factor"), [(10, 2), (1, 3), (7, 1)])
def test_cosine_restarts_is_its_formula(first, factor, by_epoch):
    schedule = optim.cosine_restarts(
        7 * 150,
        n_epochs=150,
        peak_lr=0.004,
        min_lr=1e-5,
        first_epochs=first,
        factor=factor,
        by_epoch=by_epoch,
    )
    expected, start, length = [], 0, first
    for step in range(1050):
        epoch = step // 7 if by_epoch else step / 7
        if epoch >= start + length:
            start, length = start + length, length * factor
        expected.append((1 + np.cos(np.pi * (epoch - start) / length)) / 2)
    expected = 1e-5 + (0.004 - 1e-5) * np.array(expected)
    got = jax.vmap(schedule)(jnp.arange(1050))
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-8)
    assert float(schedule(7 * first)) == pytest.approx(0.004)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("down_epochs", {"down_epochs": 0}),
        ("last", {"last": 2.0}),
        ("warmup_epochs", {"warmup_epochs": -1}),
        ("peak_lr", {"peak_lr": 0.0}),
    ],
)
def test_bad_lengths_are_rejected_by_name(name, changes):
    with pytest.raises(UserError, match=name):
        optim.warmup_flat_linear(10, n_epochs=10, **{"peak_lr": 0.1} | FLAT | changes)
    with pytest.raises(UserError, match="factor"):
        optim.cosine_restarts(10, n_epochs=10, peak_lr=0.1, first_epochs=2, factor=0)


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_clipping_limits_the_norm_over_all_parameters(scale):
    """The state is the optimiser's own, and a short gradient is left alone."""
    params = {"a": jnp.zeros(3), "b": jnp.zeros((2, 2))}
    grads = jax.tree.map(lambda x: scale * jnp.ones_like(x), params)
    sgd = optim.clipped(optax.sgd, 0.5)(1.0)
    updates, _ = sgd.update(grads, sgd.init(params), params)
    norm = scale * np.sqrt(7)
    expected = -scale * min(1, 0.5 / norm)
    for leaf in jax.tree.leaves(updates):
        np.testing.assert_allclose(leaf, np.full(leaf.shape, expected), rtol=1e-6)
    frozen = optim.with_factors(optim.clipped(optax.sgd, 0.5))(1.0)
    state = frozen.init(params)
    state = state._replace(factors={"a": jnp.zeros(()), "b": jnp.full((), 0.5)})
    updates, _ = frozen.update({"a": jnp.full(3, np.nan), "b": grads["b"]}, state, params)
    np.testing.assert_array_equal(updates["a"], 0)
    expected = -0.5 * scale * min(1, 0.5 / (2 * scale))  # the norm is that of b alone
    np.testing.assert_allclose(updates["b"], np.full((2, 2), expected), rtol=1e-6)
    adam = optim.clipped(lambda rate: optim.adam(rate, weight_decay=0.0), 0.5)(1.0)
    plain = optim.adam(1.0, weight_decay=0.0)
    assert jax.tree.structure(adam.init(params)) == jax.tree.structure(plain.init(params))
