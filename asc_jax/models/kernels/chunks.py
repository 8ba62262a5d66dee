"""A layer computed a few clips at a time, so that on a CPU its work stays in the cache.

One clip's widest activation is 278 kB: a few of them fit a core's cache, those of a batch do
not, and an operation that runs over the whole batch waits for memory. Batch normalisation needs
the whole batch between two convolutions and nothing else does. So a layer is: finish the
previous normalisation, activate, convolve, and add up what the next normalisation needs, for a
few clips at once; only the convolution's result is kept. The backward pass computes the rest
again, for the same few clips, from what the layer was given.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from asc_jax.models.kernels.compiler import channels, column_sums, written_out
from asc_jax.types import Array

CPU_CLIPS = 5  # whose widest activations and gradients a core's cache holds


def chunk_size(n_clips: int, max_clips: int) -> int:
    """The largest divisor of `n_clips` that is at most `max_clips`."""
    return max(n for n in range(1, max_clips + 1) if n_clips % n == 0)


def are_several(n_clips: int, max_clips: int | None) -> bool:
    """Return whether so many clips are cut into chunks."""
    return max_clips is not None and chunk_size(n_clips, max_clips) < n_clips


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def layer(
    fn: Callable,
    max_clips: int | None,
    axis_name: str | None,
    clips,
    shared,
    weight,
    shift,
    scratch=(),
):
    """`fn` on a few clips at a time, and the moments of its first result over the global batch.

    Args:
      fn: `(clips, shared) -> tuple of arrays [n, f, t, c] or None`, for any number n of clips, of
        which each is computed by itself.
      max_clips: at most so many at a time; None: all at once.
      axis_name: replica axis that the moments are taken over, under pmap.
      clips: pytree of arrays `[b, …]`.
      shared: pytree of what all clips use, such as a kernel.
      weight: `[b]`, 1 for a clip that counts in the moments and 0 for padding; no gradient.
      shift: `[c]`, at least float32, anything near the mean: subtracted before summing, so that
        one pass keeps the digits that E[y²] − E[y]² would lose; no gradient.
      scratch: arrays like `fn`'s results for all clips, which may be written over them; or none.

    Returns:
      `fn`'s results for all clips; mean and (biased) variance, `[c]` each, in the dtype of
      `shift`; and the number of values they are of, which has no gradient.

    Raises:
      ValueError: scratch memory of other clips, where there are several chunks.
    """
    return _forward(fn, max_clips, axis_name, clips, shared, weight, shift, scratch)[0]


def _forward(fn, max_clips, axis_name, clips, shared, weight, shift, scratch):
    def step(sums, chunk, spent):
        del spent  # None: all that is read is needed again
        clips, weight = chunk
        y, *rest = fn(clips, shared)
        results = (written_out(y), *rest)
        d = (results[0].astype(shift.dtype) - channels(shift)) * _per_clip(weight)
        return sums + column_sums(d, d * d), results

    zero = jnp.zeros((2, *shift.shape), shift.dtype)
    each = clips, weight
    sums, results = _over_chunks(step, zero, each, max_clips, after=clips, scratch=scratch)
    y = results[0]
    n_values = jnp.sum(weight) * (y.shape[1] * y.shape[2])
    sums, n_values = _psum((sums, n_values), axis_name)
    offset, square = sums / n_values
    mean, var = shift + offset, jnp.maximum(square - offset * offset, 0)
    return (results, mean, var, n_values), (clips, shared, weight, shift, y, mean, n_values)


def _backward(fn, max_clips, axis_name, residuals, cotangents):
    clips, shared, weight, shift, y, mean, n_values = residuals
    (dy, *rest), dmean, dvar, _ = cotangents
    dmean, dvar = _psum(jnp.stack([dmean, dvar]), axis_name) / n_values

    def step(dshared, chunk, dy):
        clips, weight, y, rest = chunk
        centred = y.astype(shift.dtype) - channels(mean)
        through = channels(dmean) + 2 * channels(dvar) * centred
        dy = (dy.astype(shift.dtype) + _per_clip(weight) * through).astype(y.dtype)
        _, pull = jax.vjp(fn, clips, shared)
        dclips, more = pull((written_out(dy), *rest))
        return jax.tree.map(jnp.add, dshared, more), dclips

    zero = jax.tree.map(jnp.zeros_like, shared)
    each = (clips, weight, y, tuple(rest))
    dshared, dclips = _over_chunks(step, zero, each, max_clips, after=dy, spent=dy)
    return dclips, dshared, jnp.zeros_like(weight), jnp.zeros_like(shift), None


layer.defvjp(_forward, _backward)


def _psum(tree, axis_name):
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def _per_clip(weight: Array) -> Array:
    return weight[:, None, None, None]


def _over_chunks(
    step: Callable, carry, clips, max_clips: int | None, *, after, spent=None, scratch=()
):
    """`step(carry, clips, spent)` over chunks of the clips, as in `lax.scan`; its results joined.

    `lax.scan` would start its results as zeros shared by all layers, and so copy them for each;
    here they start as a number that only this layer has, and each is written in place. It is one
    of `after`, which the layer before has just computed: a number that is there from the start
    would have XLA begin with the results of all layers, and hold nearly twice the memory.

    `spent`: an array over the clips that nothing else needs, or None. The first result is written
    over it, if it has the same shape and dtype, and then need not be started. `scratch`: the
    same for every result, or empty.
    """
    n_clips = jax.tree.leaves(clips)[0].shape[0]
    if not are_several(n_clips, max_clips):
        return step(carry, clips, spent)
    size = chunk_size(n_clips, max_clips)

    def chunk(arrays, index):
        cut = functools.partial(jax.lax.dynamic_slice_in_dim, slice_size=size)
        return jax.tree.map(lambda x: cut(x, index * size), arrays)

    def empty(like):
        return jnp.full(like.shape, jax.tree.leaves(after)[0].ravel()[-1], like.dtype)

    def body(index, state):
        carry, results = state
        held = results[0] if over else spent
        carry, parts = step(carry, chunk(clips, index), chunk(held, index))
        put = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=0)
        write = lambda whole, part: put(whole, part, index * size)  # noqa: E731
        return carry, list(map(write, results, jax.tree.leaves(parts)))

    step = jax.jit(step, inline=True)  # traced once for the shapes and the loop
    shapes = jax.eval_shape(lambda: step(carry, chunk(clips, 0), chunk(spent, 0))[1])
    shapes, tree = jax.tree.flatten(shapes)
    shapes = [jax.ShapeDtypeStruct((n_clips, *one.shape[1:]), one.dtype) for one in shapes]
    _check_fits(scratch, shapes)
    results = list(scratch) or list(map(empty, shapes))
    over = spent is not None and jax.typeof(spent) == jax.typeof(results[0])
    if over:
        results[0] = spent
    carry, results = jax.lax.fori_loop(0, n_clips // size, body, (carry, results))
    return carry, jax.tree.unflatten(tree, results)


def _check_fits(scratch, results) -> None:
    held, needed = ([f"{x.dtype}{list(x.shape)}" for x in arrays] for arrays in (scratch, results))
    if held and held != needed:
        raise ValueError(f"scratch memory of {held} is not that of these clips, {needed}")
