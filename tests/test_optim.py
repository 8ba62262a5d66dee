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
