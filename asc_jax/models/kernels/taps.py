"""The convolutions of `models.ops` as sums of shifted arrays and dense products: the body "shifts".

Depthwise filters are nine shifted multiply-adds with a hand-written backward pass, the other
convolutions products, of patches where they see more than one position. The barriers in the
backward passes keep XLA from sharing the shifted windows of the forward pass with the backward
one, for which it would have to write all nine of them out.
"""

import functools
import itertools

import jax
import jax.numpy as jnp

from asc_jax.models.kernels import compiler
from asc_jax.models.kernels.compiler import EXACT, barrier, column_sums
from asc_jax.types import Array

FOLD = 4  # rows of a product added up before it is written
ROWS = 512  # summed over in one product, or somewhat more
TAPS = tuple(itertools.product(range(3), range(3)))


def patches_conv(x: Array, kernel: Array, strides) -> Array:
    """3×3 convolution by one product: `x [b, f, t, c_in]`, `kernel [3, 3, c_in, c_out]`."""
    windows = _windows(_pad(x), strides, x.shape)
    patches = jnp.concatenate(windows, axis=-1)  # [b, f', t', 9 · c_in]
    return dot(patches, kernel.reshape(-1, kernel.shape[-1]))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def one_channel_conv(x: Array, kernel: Array, strides) -> Array:
    """The same of one channel: a product whose rows are nine numbers costs more than it does."""
    windows = _windows(_pad(x), strides, x.shape)
    return sum(w * kernel[i, j][None, None] for w, (i, j) in zip(windows, TAPS, strict=True))


def _one_channel_forward(x, kernel, strides):
    return one_channel_conv(x, kernel, strides), (x, kernel)


def _one_channel_backward(strides, residuals, dy):
    if compiler.on_cpu():
        _, pull = jax.vjp(functools.partial(patches_conv, strides=strides), *residuals)
        return pull(dy)
    x, kernel = residuals
    dx = _depthwise_dx(kernel, dy, strides, x.shape)
    return jnp.sum(dx, axis=-1, keepdims=True), _depthwise_dkernel(x, kernel, dy, strides)


one_channel_conv.defvjp(_one_channel_forward, _one_channel_backward)


@jax.custom_vjp
def dot(x: Array, matrix: Array) -> Array:
    """`x [b, f, t, c_in]` times `matrix [c_in, c_out]`."""
    return jnp.dot(x, matrix, precision=EXACT)


def _dot_forward(x, matrix):
    return dot(x, matrix), (x, matrix)


def _dot_backward(residuals, dy):
    x, matrix = residuals
    x, dy = barrier((x, dy))
    rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    # The narrower operand first, because a CPU's product transposes that one; there the barrier
    # keeps XLA from exchanging them again.
    if rows.shape[1] <= drows.shape[1]:
        dmatrix = _row_products(rows, drows)
    else:
        dmatrix = barrier(_row_products(drows, rows)).T
    return jnp.dot(dy, matrix.T, precision=EXACT), dmatrix.astype(matrix.dtype)


dot.defvjp(_dot_forward, _dot_backward)


def _row_products(x: Array, y: Array) -> Array:
    """`xᵀ y`, `[m, c]` and `[m, n]` → `[c, n]`, at least float32: 16 bits would lose its end.

    On a CPU in equal parts of at least ROWS rows, as many as divide them: the rows of a part stay
    in the cache while a product goes over them.
    """
    n_rows = x.shape[0]
    most = max(n_rows // ROWS, 1) if compiler.on_cpu() else 1
    n_parts = next(n for n in range(most, 0, -1) if n_rows % n == 0)
    x, y = (rows.reshape(n_parts, -1, rows.shape[1]) for rows in (x, y))
    parts = jax.lax.dot_general(
        x,
        y,
        (((1,), (1,)), ((0,), (0,))),
        precision=EXACT,
        preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
    )
    return jnp.sum(parts, axis=0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise_conv(x: Array, kernel: Array, strides) -> Array:
    """3×3 convolution of each channel by itself: `x [b, f, t, c]`, `kernel [3, 3, 1, c]`."""
    padded = barrier(_pad(x))
    windows = _windows(padded, strides, x.shape)
    return sum(w * kernel[i, j][None, None] for w, (i, j) in zip(windows, TAPS, strict=True))


def _depthwise_forward(x, kernel, strides):
    return depthwise_conv(x, kernel, strides), (x, kernel)


def _depthwise_backward(strides, residuals, dy):
    x, kernel = residuals
    x, dy = barrier((x, dy))
    dkernel = _depthwise_dkernel(x, kernel, dy, strides)
    return _depthwise_dx(kernel, dy, strides, x.shape), dkernel


depthwise_conv.defvjp(_depthwise_forward, _depthwise_backward)


def _depthwise_dkernel(x, kernel, dy, strides) -> Array:
    wide = jnp.promote_types(x.dtype, jnp.float32)
    padded = barrier(_pad(x))
    products = (_folded_product(w, dy, wide) for w in _windows(padded, strides, x.shape))
    return column_sums(*products).reshape(kernel.shape).astype(kernel.dtype)


def _depthwise_dx(kernel, dy, strides, shape) -> Array:
    """A stride-1 convolution of dy, its rows and columns spread, with the mirrored kernel."""
    windows = _windows(_spread(dy, strides, shape), (1, 1), shape)
    return sum(
        w * kernel[2 - i, 2 - j][None, None] for w, (i, j) in zip(windows, TAPS, strict=True)
    )


def _folded_product(x: Array, y: Array, dtype) -> Array:
    """`x * y`, `[b, f, t, c]`; on a CPU up to FOLD rows of it added up: `[b, f / n, t, c]`."""
    most = FOLD if compiler.on_cpu() else 1
    n = next(n for n in range(most, 0, -1) if x.shape[1] % n == 0)
    rows = x.shape[1] // n
    parts = [slice(start, start + rows) for start in range(0, x.shape[1], rows)]
    return sum((x[:, part] * y[:, part]).astype(dtype) for part in parts)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def avg_pool3x3(x: Array, strides) -> Array:
    """Mean over 3×3 windows, zeros around `x [b, f, t, c]`."""
    return sum(_windows(_pad(x), strides, x.shape)) / 9


def _avg_pool_forward(x, strides):
    return avg_pool3x3(x, strides), x.shape


def _avg_pool_backward(strides, shape, dy):
    return (sum(_windows(_spread(dy, strides, shape), (1, 1), shape)) / 9,)


avg_pool3x3.defvjp(_avg_pool_forward, _avg_pool_backward)


def _pad(x: Array) -> Array:
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _out_size(shape, strides) -> tuple[int, int]:
    return (shape[1] - 1) // strides[0] + 1, (shape[2] - 1) // strides[1] + 1


def _windows(padded: Array, strides, shape) -> list[Array]:
    """Return the padded input that each of the nine taps meets: 9 × `[b, f', t', c]`."""
    (sf, st), (nf, nt) = strides, _out_size(shape, strides)
    return [
        padded[:, i : i + sf * (nf - 1) + 1 : sf, j : j + st * (nt - 1) + 1 : st] for i, j in TAPS
    ]


def _spread(dy: Array, strides, shape) -> Array:
    """`dy` where its windows' centres were in the input of that shape, zeros elsewhere, padded."""
    (sf, st), (_, f, t, _) = strides, shape
    nf, nt = _out_size(shape, strides)
    ends = (f - 1 - sf * (nf - 1), t - 1 - st * (nt - 1))
    zero = jnp.zeros((), dy.dtype)
    edges = ((0, 0, 0), (1, 1 + ends[0], sf - 1), (1, 1 + ends[1], st - 1), (0, 0, 0))
    return barrier(jax.lax.pad(dy, zero, edges))
