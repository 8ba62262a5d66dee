"""Focal loss: PyTorch's numbers, its limits, and finite gradients everywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asc_jax.training import losses


@pytest.mark.parametrize("kind", ["rand", "ext"])
@pytest.mark.parametrize(("name", "gamma"), [("focal", 2.0), ("ce", 0.0)])
def test_loss_and_gradient_equal_pytorch(golden, kind, name, gamma):
    arrays = golden("d_loss")
    logits, labels = (
        jnp.asarray(arrays[f"{kind}_logits"]),
        jnp.asarray(arrays[f"{kind}_labels"]),
    )
    loss = losses.focal_loss(logits, labels, gamma=gamma)
    reference = arrays[f"{kind}_{name}_per_example64"]
    np.testing.assert_allclose(loss, reference, rtol=1e-6, atol=1e-6)
    gradient = jax.grad(lambda x: jnp.mean(losses.focal_loss(x, labels, gamma=gamma)))(logits)
    np.testing.assert_allclose(gradient, arrays[f"{kind}_{name}_grad64"], atol=1e-6)


def test_loss_with_gamma_zero_is_cross_entropy():
    logits = jax.random.normal(jax.random.key(0), (5, 10))
    labels = jnp.arange(5)
    expected = -jax.nn.log_softmax(logits)[labels, labels]
    np.testing.assert_allclose(losses.focal_loss(logits, labels, gamma=0.0), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_gradient_is_finite_at_extreme_logits(gamma):
    logits = jnp.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [0.0, 0.0, 0.0]])
    labels = jnp.array([0, 0, 2])
    gradient = jax.grad(lambda x: jnp.sum(losses.focal_loss(x, labels, gamma=gamma)))(logits)
    assert np.all(np.isfinite(gradient))


def test_loss_weighs_confident_examples_less():
    logits = jnp.array([[4.0, 0.0], [0.0, 0.0]])
    labels = jnp.array([0, 0])
    ratio = losses.focal_loss(logits, labels) / losses.focal_loss(logits, labels, gamma=0.0)
    assert ratio[0] < 0.001 < ratio[1]


def test_negative_gamma_is_refused():
    with pytest.raises(ValueError, match="at least 0"):
        losses.focal_loss(jnp.zeros((1, 2)), jnp.array([0]), gamma=-1.0)
