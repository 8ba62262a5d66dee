"""Normalisation: over the batch with PyTorch's running statistics, and CP-Mobile's of responses."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from asc_jax.models.kernels.compiler import channels, column_sums, written_out
from asc_jax.types import Array

BATCH_NORM_EPS = 1e-5
BATCH_NORM_MOMENTUM = 0.1  # share of the new statistics, as PyTorch counts it


class Affine(NamedTuple):
    """`factor · (x − mean) + bias`, each `[c]`; None for `mean` or `factor` leaves it out."""

    mean: Array | None
    factor: Array | None
    bias: Array


@jax.custom_vjp
def scale_shift(x: Array, affine: Affine) -> Array:
    """Apply an `Affine` to `x [b, f, t, c]`: computed in its dtype, returned in that of x."""
    y = x.astype(affine.bias.dtype)
    if affine.mean is not None:
        y = y - channels(affine.mean)
    if affine.factor is not None:
        y = y * channels(affine.factor)
    return (y + channels(affine.bias)).astype(x.dtype)


def _scale_shift_forward(x, affine):
    return scale_shift(x, affine), (x, affine)


def _scale_shift_backward(residuals, dy):
    """Autodiff would sum over all positions three times, and once more than is needed."""
    x, (mean, factor, bias) = residuals
    dx = dy = written_out(dy).astype(bias.dtype)
    dmean, dfactor = None, None
    if factor is None:
        (dbias,) = column_sums(dy)
    else:
        dx = dy * channels(factor)
        centred = x.astype(bias.dtype)
        if mean is not None:
            centred = centred - channels(mean)
        dbias, dfactor = column_sums(dy, dy * centred)
    if mean is not None:
        dmean = -dbias if factor is None else -dbias * factor
    return dx.astype(x.dtype), Affine(dmean, dfactor, dbias)


scale_shift.defvjp(_scale_shift_forward, _scale_shift_backward)


class BatchNorm(nn.Module):
    """Batch normalisation with PyTorch's running statistics, over the global batch.

    In training, mean and variance are those of the valid clips of all replicas; the running
    variance is the unbiased one (Flax keeps the biased). Statistics are at least float32.
    """

    n_channels: int

    def setup(self) -> None:
        self.scale = self.param("scale", nn.initializers.ones, (self.n_channels,))
        self.bias = self.param("bias", nn.initializers.zeros, (self.n_channels,))
        self.mean = self.variable("batch_stats", "mean", jnp.zeros, (self.n_channels,))
        self.var = self.variable("batch_stats", "var", jnp.ones, (self.n_channels,))

    def shift(self) -> Array:
        """`[c]`, near the batch's mean if training is under way, the same on every replica."""
        return self.mean.value.astype(jnp.promote_types(self.mean.value.dtype, jnp.float32))

    def running(self) -> Affine:
        """The normalisation by the running statistics, for evaluation."""
        scale = self.scale.astype(jnp.promote_types(self.scale.dtype, jnp.float32))
        factor = scale * jax.lax.rsqrt(self.var.value.astype(scale.dtype) + BATCH_NORM_EPS)
        return Affine(None, factor, self.bias - self.mean.value * factor)

    def __call__(self, mean: Array, var: Array, n_values: Array) -> Affine:
        """The normalisation by the batch's moments `[c]`; updates the running ones."""
        if not self.is_initializing():
            unbiased = unbiased_variance(var, n_values)
            self.mean.value += BATCH_NORM_MOMENTUM * (mean - self.mean.value)
            self.var.value += BATCH_NORM_MOMENTUM * (unbiased - self.var.value)
        return Affine(mean, self.scale * jax.lax.rsqrt(var + BATCH_NORM_EPS), self.bias)


def unbiased_variance(var: Array, n_values: Array) -> Array:
    """Return the unbiased variance, from the biased one of `n` values."""
    return var * n_values / jnp.maximum(n_values - 1, 1)


class GlobalResponseNorm(nn.Module):
    """The two scalars of `response_norm`; at first they make it the identity."""

    @nn.compact
    def __call__(self) -> tuple[Array, Array]:
        return tuple(self.param(name, nn.initializers.zeros, (1,)) for name in ("gamma", "beta"))


def response_norm(x: Array, gamma: Array, beta: Array) -> Array:
    """x + γ · x · n + β, n = each channel's norm over its mean over channels; γ, β `[1]`.

    Source: CP-Mobile (Schmid et al. 2023, see `cp_mobile`), after ConvNeXt V2 (Woo et al. 2023).
    """
    gamma, beta = gamma.astype(x.dtype)[0], beta.astype(x.dtype)[0]
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))  # float16 ends at 65,504
    square = jnp.sum(wide * wide, axis=(1, 2), keepdims=True)
    # sqrt has no slope at 0, where a channel is silent: its gradient there is set to 0.
    norm = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    ratio = (norm / (jnp.mean(norm, axis=-1, keepdims=True) + 1e-6)).astype(x.dtype)
    return x + gamma * (x * ratio) + beta
