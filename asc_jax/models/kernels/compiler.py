"""Instructions to XLA beyond the arithmetic: precision, what to compute once, in which order.

A GPU's compiler fuses what lies between the products; a CPU's has to be told, by barriers, by
`written_out` and by sums as products.
"""

import jax
import jax.numpy as jnp

# float32 means float32: by default GPUs round products to TensorFloat-32 and TPUs to bfloat16.
EXACT = jax.lax.Precision.HIGHEST


def on_cpu() -> bool:
    """Return whether the function being traced will run on a CPU."""
    return jax.default_backend() == "cpu"


def barrier(tree):
    """On a CPU, what XLA must not fuse with what it is used for."""
    return jax.lax.optimization_barrier(tree) if on_cpu() else tree


def written_out(x: jax.Array) -> jax.Array:
    """`x`, on a CPU computed once and written to memory, however many take it from there.

    XLA drops its own barrier on a CPU before it fuses, and then computes a chain of operations
    again in each of its consumers. It cannot see through a loop that may run, and never does.
    """
    return _written_out(x) if on_cpu() else x


@jax.custom_vjp
def _written_out(x: jax.Array) -> jax.Array:
    first = x[(0,) * x.ndim]

    def body(state):
        x, _ = state
        return x.at[(0,) * x.ndim].set(0), False

    return jax.lax.while_loop(lambda state: state[1], body, (x, jnp.isnan(first) & (first == 0)))[0]


def _written_out_forward(x):
    return _written_out(x), None


def _written_out_backward(_, dy):
    return (dy,)


_written_out.defvjp(_written_out_forward, _written_out_backward)


def column_sums(*arrays: jax.Array) -> jax.Array:
    """n × `[b, f, t, c]` → `[n, c]`, in two stages: they keep digits that one long sum loses.

    On a CPU rows by products with ones, which run at the speed of the memory; its reductions do
    not. Elsewhere clip by clip, so that the second stages of all n are one small operation.
    """
    if not on_cpu():
        by_clip = jnp.stack([jnp.sum(x, axis=(1, 2)) for x in arrays])
        return jnp.sum(jax.lax.optimization_barrier(by_clip), axis=1)
    return jnp.stack([_sums_of_rows(x) for x in arrays])


def _sums_of_rows(x: jax.Array) -> jax.Array:
    rows = x.reshape(-1, *x.shape[-2:])
    ones = jnp.ones((rows.shape[0], 1, rows.shape[1]), x.dtype)
    sums = jax.lax.dot_general(ones, rows, (((2,), (1,)), ((0,), (0,))), precision=EXACT)
    return jnp.sum(sums, axis=(0, 1))


def channels(vector: jax.Array) -> jax.Array:
    """`[c]` → `[1, 1, 1, c]`."""
    return vector[None, None, None]
