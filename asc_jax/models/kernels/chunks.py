"""A piece of a network, a few clips at a time, so that on a CPU its work stays in the cache.

One clip's widest activation is 278 kB: a few of them fit a core's cache, those of a batch do
not, and an operation that runs over the whole batch waits for memory. Between two batch
statistics nothing needs the whole batch. So a piece is: what lies between them, and the sums that
the next statistics need, for a few clips at once; only its results are kept. The backward pass
computes the rest again, for the same few clips, from what the piece was given.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from asc_jax.models.kernels import compiler, normalise


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def piece(fn: Callable, size: int, axis_name: str | None, clips, shared, moments=(), scratch=()):
    """Return `fn(clips, shared)`, a few clips at a time, and the moments of its first results.

    Args:
      fn: `(clips, shared) -> list of arrays [n, …]`, for n = `size` clips, of which each is
        computed by itself.
      size: clips at a time, which divides their number.
      axis_name: replica axis that the moments are taken over, under pmap.
      clips: list of arrays `[b, …]`.
      shared: list of what all clips use, such as a kernel.
      moments: for each of the first results whose moments are taken, `(weight, shift)` of
        `normalise.batch_moments`.
      scratch: arrays like `fn`'s results for all clips, which may be written over them; or none.

    Returns:
      `fn`'s results for all clips; and a list of what `normalise.batch_moments` returns.
    """
    return _forward(fn, size, axis_name, clips, shared, moments, scratch)[0]


@compiler.only_cpu()
def _forward(fn, size, axis_name, clips, shared, moments, scratch):
    weights, shifts = [weight for weight, _ in moments], [shift for _, shift in moments]
    n = len(moments)

    def step(sums, chunk, spent):
        del spent  # None: all that is read is needed again
        results = fn(chunk[0], shared)
        normalised = list(map(compiler.written_out, results[:n]))
        each = zip(sums, normalised, chunk[1], shifts, strict=True)
        sums = [s + normalise.weighted_sums(*of_one, cpu=True) for s, *of_one in each]
        return sums, [*normalised, *results[n:]]

    zeros = [jnp.zeros((2, *shift.shape), shift.dtype) for shift in shifts]
    sums, results = _over_chunks(step, zeros, (clips, weights), size, after=clips, scratch=scratch)
    each = zip(sums, results[:n], weights, shifts, strict=True)
    found = [normalise.moments_of_sums(*of_one, axis_name) for of_one in each]
    return (results, found), (clips, shared, weights, results[:n], found)


@compiler.only_cpu()
def _backward(fn, size, axis_name, residuals, cotangents):
    clips, shared, weights, normalised, found = residuals
    dresults, dmoments = cotangents
    if not _floats(dresults) or not _floats([*clips, *shared]):
        return None, None, None, None
    # Through the moments only floating results have a gradient; `first` are their places.
    first = [k for k, y in enumerate(normalised) if _is_float(y)]
    through = [normalise.psum(jnp.stack(dmoments[k][:2]), axis_name) / found[k][2] for k in first]
    means = [found[k][0] for k in first]
    read = [normalised[k] for k in first], [weights[k] for k in first]

    def step(dshared, chunk, dy):
        clips, (normalised, weights), rest = chunk
        dresults = [dy, *rest]
        each = zip(normalised, weights, means, through, strict=True)
        for k, (y, weight, mean, dmoments) in enumerate(each):
            more = normalise.gradient_through_moments(y, weight, mean, *dmoments)
            dresults[k] = (dresults[k].astype(more.dtype) + more).astype(y.dtype)

        def floats(of_clips, of_shared):
            return _floats(fn(_with_floats(clips, of_clips), _with_floats(shared, of_shared)))

        _, pull = jax.vjp(floats, _floats(clips), _floats(shared))
        n = max(len(first), 1)
        dclips, more = pull([*map(compiler.written_out, dresults[:n]), *dresults[n:]])
        add = lambda total, one: total + one.astype(total.dtype)  # noqa: E731
        return jax.tree.map(add, dshared, more), dclips

    dy, *rest = _floats(dresults)
    # 16 bits would lose the end of a sum over many chunks.
    wide = lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32))  # noqa: E731
    zero = jax.tree.map(wide, _floats(shared))
    dshared, dclips = _over_chunks(step, zero, (clips, read, rest), size, after=dy, spent=dy)
    dclips, dshared = (
        [next(grads).astype(x.dtype) if _is_float(x) else None for x in arrays]
        for arrays, grads in ((clips, iter(dclips)), (shared, iter(dshared)))
    )
    return dclips, dshared, None, None


def _is_float(x) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)


def _floats(arrays) -> list:
    """Return the arrays that can have a gradient: some of a piece are integers."""
    return [x for x in arrays if _is_float(x)]


def _with_floats(arrays, floats) -> list:
    """Return the arrays with those in place of the floating ones."""
    floats = iter(floats)
    return [next(floats) if _is_float(x) else x for x in arrays]


piece.defvjp(_forward, _backward)


def _over_chunks(step: Callable, carry, clips, size: int, *, after, spent=None, scratch=()):
    """Run `step(carry, clips, spent)` over chunks, as `lax.scan` does, and join its results.

    `lax.scan` would start its results as zeros shared by all pieces, and so copy them for each;
    here they start as a number that only this piece has, and each is written in place. It is one
    of `after`, which the piece before has just computed: a number that is there from the start
    would have XLA begin with the results of all pieces, and hold nearly twice the memory.

    `spent`: an array over the clips that nothing else needs, or None. The first result is written
    over it, if it has the same shape and dtype, and then need not be started. `scratch`: the
    same for every result, or empty.
    """
    n_clips = jax.tree.leaves(clips)[0].shape[0]

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
    fits = [(x.shape, x.dtype) for x in scratch] == [(x.shape, x.dtype) for x in shapes]
    results = list(scratch) if fits else list(map(empty, shapes))
    over = spent is not None and results and jax.typeof(spent) == jax.typeof(results[0])
    if over:
        results[0] = spent
    carry, results = jax.lax.fori_loop(0, n_clips // size, body, (carry, results))
    return carry, jax.tree.unflatten(tree, results)
