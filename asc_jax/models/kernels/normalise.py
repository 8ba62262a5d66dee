"""Compute batch normalisation: moments over a batch, a factor and a shift by channel."""

import functools

import jax
import jax.numpy as jnp

from asc_jax.models.kernels.compiler import by_machine, channels, clips, column_sums, written_out
from asc_jax.types import Array


@functools.partial(jax.jit, static_argnames="axis_name")
def batch_moments(x: Array, weight: Array, shift: Array, axis_name: str | None = None):
    """Return the moments of each channel over the clips that count, of all replicas.

    It is the one operation of a network that looks at more than one clip. In a traced program it
    is a call of this name, at which `by_chunks` cuts and which it computes in its own way.

    Args:
      x: `[b, …, c]`.
      weight: `[b]`, 1 for a clip that counts and 0 for padding; it has no gradient.
      shift: `[c]`, at least float32, anything near the mean: subtracted before summing, so that
        one pass keeps the digits that E[x²] − E[x]² would lose. It has no gradient.
      axis_name: the replica axis, under pmap.

    Returns:
      Mean and biased variance, `[c]` each, in the dtype of `shift`; and the number of values they
      are of, which has no gradient.
    """
    return _moments(axis_name, x, weight, shift)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _moments(axis_name, x, weight, shift):
    return _moments_forward(axis_name, x, weight, shift)[0]


def _moments_forward(axis_name, x, weight, shift):
    sums = weighted_sums(x, weight, shift, cpu=False)
    mean, var, n_values = moments_of_sums(sums, x, weight, shift, axis_name)
    return (mean, var, n_values), (x, weight, shift, mean, n_values)


def _moments_backward(axis_name, residuals, cotangents):
    x, weight, shift, mean, n_values = residuals
    dmoments = psum(jnp.stack(cotangents[:2]), axis_name) / n_values
    dx = gradient_through_moments(x, weight, mean, *dmoments).astype(x.dtype)
    return dx, jnp.zeros_like(weight), jnp.zeros_like(shift)


_moments.defvjp(_moments_forward, _moments_backward)


def weighted_sums(x: Array, weight: Array, shift: Array, *, cpu: bool) -> Array:
    """Return `[2, c]`: the sums of `x - shift` and of its square over the clips that count."""
    d = (x.astype(shift.dtype) - channels(shift, x)) * clips(weight, x)
    return column_sums(d, d * d, cpu=cpu)


def moments_of_sums(sums, x: Array, weight: Array, shift: Array, axis_name: str | None):
    """Return the results of `batch_moments` from this replica's `weighted_sums`."""
    n_values = jnp.sum(weight) * (x[0].size // x.shape[-1])
    sums, n_values = psum((sums, n_values), axis_name)
    offset, square = sums / n_values
    return shift + offset, jnp.maximum(square - offset * offset, 0), n_values


def gradient_through_moments(x, weight, mean, dmean, dvar) -> Array:
    """Return the gradient to `x` from those to its moments, divided by the number of values."""
    centred = x.astype(mean.dtype) - channels(mean, x)
    return clips(weight, x) * (channels(dmean, x) + 2 * channels(dvar, x) * centred)


def psum(tree, axis_name):
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


@jax.custom_vjp
def affine(x: Array, mean: Array, factor: Array, bias: Array) -> Array:
    """Return `(x − mean) · factor + bias`.

    Args:
      x: `[…, c]`.
      mean, factor, bias: `[c]`; computed in their dtype, returned in that of x.
    """
    return _affine_forward(x, mean, factor, bias)[0]


def _affine_forward(x, mean, factor, bias):
    y = (x.astype(bias.dtype) - channels(mean, x)) * channels(factor, x)
    return (y + channels(bias, x)).astype(x.dtype), (x, mean, factor, bias)


def _affine_backward(residuals, dy):
    return by_machine(_affine_pull, _affine_pull, (), *residuals, dy)


def _affine_pull(x, mean, factor, bias, dy, *, cpu: bool = False):
    """Autodiff would sum over all positions three times, and once more than is needed."""
    dy = (written_out(dy) if cpu else dy).astype(bias.dtype)
    centred = x.astype(bias.dtype) - channels(mean, x)
    dbias, dfactor = column_sums(dy, dy * centred, cpu=cpu)
    return (dy * channels(factor, x)).astype(x.dtype), -dbias * factor, dfactor, dbias


affine.defvjp(_affine_forward, _affine_backward)
