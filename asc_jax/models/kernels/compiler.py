"""Instructions to XLA beyond the arithmetic: precision, what to compute once, in which order.

A GPU's compiler fuses what lies between the products; a CPU's has to be told, by barriers, by
`written_out` and by sums as products. Which of them a program holds is decided when it is
lowered: see `by_machine`.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

# float32 means float32: by default GPUs round products to TensorFloat-32 and TPUs to bfloat16.
EXACT = jax.lax.Precision.HIGHEST


def by_machine(fn: Callable, definition: Callable, *operands):
    """Return `fn(*operands, cpu=…)` on a CPU or an NVIDIA GPU, `definition(*operands)` elsewhere.

    The choice is made when the program is lowered. The traced program holds all of them, the
    definition as the default, which is what the complexity counter and the exporters follow.
    """
    return jax.lax.platform_dependent(
        *operands,
        cpu=functools.partial(fn, cpu=True),
        cuda=functools.partial(fn, cpu=False),
        default=definition,
    )


def barrier(tree, cpu: bool = True):
    """Return `tree`, which XLA on a CPU must not fuse with what it is used for."""
    return jax.lax.optimization_barrier(tree) if cpu else tree


def written_out(x: jax.Array) -> jax.Array:
    """Return `x`, computed once and written to memory, however many take it from there.

    For a CPU, where XLA drops its own barrier before it fuses, and then computes a chain of
    operations again in each of its consumers. It cannot see through a loop that may run, and
    never does. It has no derivative.
    """
    first = x[(0,) * x.ndim]

    def body(state):
        x, _ = state
        return x.at[(0,) * x.ndim].set(0), False

    return jax.lax.while_loop(lambda state: state[1], body, (x, jnp.isnan(first) & (first == 0)))[0]


def column_sums(*arrays: jax.Array, cpu: bool) -> jax.Array:
    """Sum n arrays `[b, …, c]` over all but their last axis: `[n, c]`.

    In two stages, which keep digits that one long sum loses. On a CPU rows by products with ones,
    which run at the speed of the memory; its reductions do not. Elsewhere clip by clip, so that
    the second stages of all n are one small operation.
    """
    if not cpu:
        by_clip = jnp.stack([jnp.sum(x, axis=tuple(range(1, x.ndim - 1))) for x in arrays])
        return jnp.sum(jax.lax.optimization_barrier(by_clip), axis=1)
    return jnp.stack([_sums_of_rows(x) for x in arrays])


def _sums_of_rows(x: jax.Array) -> jax.Array:
    rows = x.reshape(-1, *x.shape[-2:])
    ones = jnp.ones((rows.shape[0], 1, rows.shape[1]), x.dtype)
    sums = jax.lax.dot_general(ones, rows, (((2,), (1,)), ((0,), (0,))), precision=EXACT)
    return jnp.sum(sums, axis=(0, 1))


def channels(vector: jax.Array, like: jax.Array) -> jax.Array:
    """Return `[c]` as `[1, …, 1, c]`, of as many axes as `like`."""
    return vector.reshape((1,) * (like.ndim - 1) + (-1,))


def clips(vector: jax.Array, like: jax.Array) -> jax.Array:
    """Return `[b]` as `[b, 1, …, 1]`, of as many axes as `like`."""
    return vector.reshape((-1,) + (1,) * (like.ndim - 1))
