"""Distillation: PyTorch's numbers, teachers matched by name, and the same bits on every path."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asc_jax.errors import UserError
from asc_jax.training import distillation, losses

GOLDEN = pathlib.Path(__file__).parent / "golden" / "d_distillation.npz"


def label_loss(logits, batch):
    return losses.focal(logits, batch, gamma=0.0)


def loss_and_gradient(reduction, average, dtype):
    """Of the reference's 16 clips and three teachers."""
    arrays = np.load(GOLDEN)
    loss_fn = distillation.distilled(
        label_loss,
        temperature=float(arrays["T"]),
        weight=float(arrays["lam"]),
        reduction=reduction,
        average=average,
    )
    teachers = jnp.asarray(arrays["teacher_logits"].swapaxes(0, 1), dtype)
    batch = {"label": jnp.asarray(arrays["labels"]), "teacher_logits": teachers}
    mean = jax.value_and_grad(lambda logits: jnp.mean(loss_fn(logits, batch)))
    loss, gradient = mean(jnp.asarray(arrays["logits"], dtype))
    assert loss.dtype == gradient.dtype == dtype
    return (loss, gradient), [arrays[f"{kind}_{reduction}_{average}"] for kind in ("loss", "grad")]


@pytest.mark.parametrize("average", distillation.AVERAGES)
@pytest.mark.parametrize("reduction", distillation.REDUCTIONS)
def test_loss_and_gradient_equal_pytorch(reduction, average):
    for ours, reference in zip(*loss_and_gradient(reduction, average, np.float32), strict=True):
        np.testing.assert_allclose(ours, reference, rtol=0, atol=1e-6)
    with jax.enable_x64(True):
        for ours, reference in zip(*loss_and_gradient(reduction, average, np.float64), strict=True):
            np.testing.assert_allclose(ours, reference, rtol=0, atol=1e-12)


def test_reductions_are_a_factor_of_the_classes_apart():
    keywords = {"temperature": 3.0, "weight": 0.0, "average": "logits"}
    keys = jax.random.split(jax.random.key(0))
    batch = {"label": jnp.arange(4), "teacher_logits": jax.random.normal(keys[0], (4, 2, 10))}
    logits = jax.random.normal(keys[1], (4, 10))
    mean, batchmean = (
        distillation.distilled(label_loss, reduction=reduction, **keywords)(logits, batch)
        for reduction in ("mean", "batchmean")
    )
    np.testing.assert_allclose(10 * mean, batchmean, rtol=1e-6)


def test_limits_are_the_label_loss_alone_and_zero_for_a_network_equal_to_its_teacher():
    logits = jax.random.normal(jax.random.key(0), (5, 10))
    batch = {"label": jnp.arange(5), "teacher_logits": logits[:, None] + 1.0}
    keywords = {"temperature": 2.0, "reduction": "batchmean"}
    for average in distillation.AVERAGES:
        alone, none = (
            distillation.distilled(label_loss, weight=weight, average=average, **keywords)
            for weight in (1.0, 0.0)
        )
        np.testing.assert_array_equal(alone(logits, batch), label_loss(logits, batch))
        np.testing.assert_allclose(none(logits, batch), np.zeros(5), atol=1e-6)


@pytest.mark.parametrize("average", distillation.AVERAGES)
def test_gradient_is_finite_for_confident_teachers_and_for_padding(average):
    logits = jnp.array([[1e4, -1e4, 0.0], [0.0, 0.0, 0.0]])
    teachers = jnp.array([[[-1e4, 1e4, 0.0], [1e4, 0.0, 0.0]], [[0.0] * 3] * 2])
    batch = {"label": jnp.array([0, 0]), "teacher_logits": teachers}
    loss_fn = distillation.distilled(
        label_loss, temperature=0.5, weight=0.02, reduction="mean", average=average
    )
    assert np.all(np.isfinite(jax.grad(lambda x: loss_fn(x, batch).sum())(logits)))


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", 0.0), ("weight", 1.5), ("reduction", "sum"), ("average", "geometric")],
)
def test_bad_value_is_rejected_by_name(name, value):
    keywords = {"temperature": 2.0, "weight": 0.02, "reduction": "mean", "average": "logits"}
    with pytest.raises(UserError, match=name):
        distillation.distilled(label_loss, **keywords | {name: value})
