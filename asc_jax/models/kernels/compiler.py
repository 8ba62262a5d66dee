"""Instructions to XLA beyond the arithmetic: precision, what to compute once, in which order.

A GPU's compiler fuses what lies between the products; a CPU's has to be told, by barriers, by
`written_out` and by sums as products. Which of them a program holds is decided when it is
lowered: see `by_machine`.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax.interpreters import batching, mlir

# float32 means float32: by default GPUs round products to TensorFloat-32 and TPUs to bfloat16.
EXACT = jax.lax.Precision.HIGHEST


_only_cpu = contextvars.ContextVar("only_cpu", default=False)


@contextlib.contextmanager
def only_cpu():
    """Trace programs that will run on a CPU alone, without the ways of other machines.

    That is for the training of `by_chunks` alone, whose tracing takes a third longer with them (2.1
    in place of 1.6 s). A function that a network jits itself may be traced here first, and JAX then
    keeps the CPU's way of it for later programs of the same shapes.
    """
    token = _only_cpu.set(True)
    try:
        yield
    finally:
        _only_cpu.reset(token)


def by_machine(fn: Callable, definition: Callable, static: tuple, *operands):
    """Return `fn(*static, *operands, cpu=…)` on CPUs and NVIDIA GPUs, `definition(…)` elsewhere.

    The choice is made when the program is lowered. But inside `only_cpu`, the traced program holds
    all of them, the definition as the default, which the counter and the exporters follow.
    """
    if _only_cpu.get():
        return _on_cpu(fn, static, *operands)
    return _anywhere(fn, definition, static, *operands)


# Both are jitted so that each is traced once for operands of the same shapes.
@functools.partial(jax.jit, static_argnums=(0, 1), inline=True)
def _on_cpu(fn, static, *operands):
    return fn(*static, *operands, cpu=True)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), inline=True)
def _anywhere(fn, definition, static, *operands):
    return jax.lax.platform_dependent(
        *operands,
        cpu=functools.partial(fn, *static, cpu=True),
        cuda=functools.partial(fn, *static, cpu=False),
        default=functools.partial(definition, *static),
    )


def barrier(tree, cpu: bool):
    """Return `tree`, which XLA on a CPU must not fuse with what it is used for."""
    return jax.lax.optimization_barrier(tree) if cpu else tree


def written_out(x: jax.Array) -> jax.Array:
    """Return `x`, computed once and written to memory, however many take it from there.

    For a CPU, where XLA drops its own barrier before it fuses, and then computes a chain of
    operations again in each of its consumers. It has no derivative.
    """
    return _written_out.bind(x)


def _by_loop(x: jax.Array) -> jax.Array:
    """Return `x` by a loop that may run, which XLA cannot see through, and never does."""
    start = (0,) * x.ndim
    first = jax.lax.slice(x, start, (1,) * x.ndim)

    def body(state):
        x, _ = state
        return jax.lax.dynamic_update_slice(x, jnp.zeros_like(first), start), False

    never = (jnp.isnan(first) & (first == 0)).reshape(())
    return jax.lax.while_loop(lambda state: state[1], body, (x, never))[0]


# A primitive of its own, so that a traced program says that each clip stays as it is.
_written_out = jex.Primitive("written_out")
_written_out.def_impl(jax.jit(_by_loop))
_written_out.def_abstract_eval(lambda x: x)
mlir.register_lowering(_written_out, mlir.lower_fun(_by_loop, multiple_results=False))
batching.defvectorized(_written_out)


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
