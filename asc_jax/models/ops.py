"""The network's convolutions: one meaning each, a body per kind of machine.

`"lax"` is the definition: a `lax` convolution, which the complexity counter reads and which
TPUs get, where nothing has been measured. `"shifts"` computes the same on CPUs and GPUs, whose
grouped and strided convolutions are slow: dense products over patches, and depthwise filters as
nine shifted multiply-adds with a hand-written backward pass. Tests hold the bodies equal, forward
and backward. `"auto"` takes the one for the default backend when the function is traced.

A GPU's compiler fuses what lies between the products; a CPU's has to be told, by barriers, by
`written_out` and by sums as products, what to compute once and in which order.

All are channels-last: `x [b, f, t, c]`, kernels `[kf, kt, c_in, c_out]`. 3×3 windows are
padded by 1 on every side (PyTorch's padding, which for stride 2 is not TensorFlow's SAME).
"""

import functools
import itertools

import jax
import jax.numpy as jnp

from asc_jax.types import Array

BODIES = ("auto", "lax", "shifts")
# float32 means float32: by default GPUs round products to TensorFloat-32 and TPUs to bfloat16.
EXACT = jax.lax.Precision.HIGHEST
FOLD = 4  # rows of a product added up before it is written
ROWS = 512  # summed over in one product, or somewhat more
TAPS = tuple(itertools.product(range(3), range(3)))


def resolve_body(body: str) -> str:
    """`"auto"` → the body for this machine; an unknown name raises ValueError."""
    if body not in BODIES:
        raise ValueError(f"unknown body {body!r}; known: {', '.join(BODIES)}")
    if body != "auto":
        return body
    return "lax" if jax.default_backend() == "tpu" else "shifts"


def on_cpu() -> bool:
    """Whether what is traced now will run on a CPU."""
    return jax.default_backend() == "cpu"


def barrier(tree):
    """On a CPU, what XLA must not fuse with what it is used for."""
    return jax.lax.optimization_barrier(tree) if on_cpu() else tree


def conv3x3(x: Array, kernel: Array, *, strides=(1, 1), body: str = "auto") -> Array:
    """3×3 convolution: `x [b, f, t, c_in]`, `kernel [3, 3, c_in, c_out]`."""
    if resolve_body(body) == "lax":
        return _lax_conv(x, kernel, strides, padding=1)
    if x.shape[-1] == 1:
        return _one_channel_conv(x, kernel, tuple(strides))
    return _patches_conv(x, kernel, strides)


def pointwise_conv(x: Array, kernel: Array, *, body: str = "auto") -> Array:
    """1×1 convolution: `x [b, f, t, c_in]`, `kernel [1, 1, c_in, c_out]`."""
    if resolve_body(body) == "lax":
        return _lax_conv(x, kernel, (1, 1), padding=0)
    return _dot(x, kernel[0, 0])


def depthwise_conv(x: Array, kernel: Array, *, strides=(1, 1), body: str = "auto") -> Array:
    """3×3 convolution of each channel by itself: `x [b, f, t, c]`, `kernel [3, 3, 1, c]`."""
    if resolve_body(body) == "lax":
        return _lax_conv(x, kernel, strides, padding=1, groups=x.shape[-1])
    return _depthwise_shifts(x, kernel, tuple(strides))


def avg_pool3x3(x: Array, *, strides=(1, 1)) -> Array:
    """Mean over 3×3 windows; the padding counts as zeros in it. `x [b, f, t, c]`."""
    return _avg_pool(x, tuple(strides))


def written_out(x: Array) -> Array:
    """`x`, on a CPU computed once and written to memory, however many take it from there.

    XLA drops its own barrier on a CPU before it fuses, and then computes a chain of operations
    again in each of its consumers. It cannot see through a loop that may run, and never does.
    """
    return _written_out(x) if on_cpu() else x


@jax.custom_vjp
def _written_out(x: Array) -> Array:
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


def column_sums(*arrays: Array) -> Array:
    """n × `[b, f, t, c]` → `[n, c]`, in two stages: they keep digits that one long sum loses.

    On a CPU rows by products with ones, which run at the speed of the memory; its reductions do
    not. Elsewhere clip by clip, so that the second stages of all n are one small operation.
    """
    if not on_cpu():
        by_clip = jnp.stack([jnp.sum(x, axis=(1, 2)) for x in arrays])
        return jnp.sum(jax.lax.optimization_barrier(by_clip), axis=1)
    return jnp.stack([_sums_of_rows(x) for x in arrays])


def _sums_of_rows(x: Array) -> Array:
    rows = x.reshape(-1, *x.shape[-2:])
    ones = jnp.ones((rows.shape[0], 1, rows.shape[1]), x.dtype)
    sums = jax.lax.dot_general(ones, rows, (((2,), (1,)), ((0,), (0,))), precision=EXACT)
    return jnp.sum(sums, axis=(0, 1))


def channels(vector: Array) -> Array:
    """`[c]` → `[1, 1, 1, c]`."""
    return vector[None, None, None]


def _lax_conv(x, kernel, strides, padding, groups=1):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=strides,
        padding=[(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        precision=EXACT,
    )


def _pad(x: Array) -> Array:
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _patches_conv(x: Array, kernel: Array, strides) -> Array:
    windows = _windows(_pad(x), strides, x.shape)
    patches = jnp.concatenate(windows, axis=-1)  # [b, f', t', 9 · c_in]
    return _dot(patches, kernel.reshape(-1, kernel.shape[-1]))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _one_channel_conv(x: Array, kernel: Array, strides) -> Array:
    """Of `x [b, f, t, 1]`: a product whose rows are nine numbers would cost more than it does."""
    windows = _windows(_pad(x), strides, x.shape)
    return sum(w * kernel[i, j][None, None] for w, (i, j) in zip(windows, TAPS, strict=True))


def _one_channel_forward(x, kernel, strides):
    return _one_channel_conv(x, kernel, strides), (x, kernel)


def _one_channel_backward(strides, residuals, dy):
    if on_cpu():
        _, pull = jax.vjp(functools.partial(_patches_conv, strides=strides), *residuals)
        return pull(dy)
    x, kernel = residuals
    dx = _depthwise_dx(kernel, dy, strides, x.shape)
    return jnp.sum(dx, axis=-1, keepdims=True), _depthwise_dkernel(x, kernel, dy, strides)


_one_channel_conv.defvjp(_one_channel_forward, _one_channel_backward)


def _out_size(shape, strides) -> tuple[int, int]:
    return (shape[1] - 1) // strides[0] + 1, (shape[2] - 1) // strides[1] + 1


def _windows(padded: Array, strides, shape) -> list[Array]:
    """For each of the nine taps, the padded input that it meets: 9 × `[b, f', t', c]`."""
    (sf, st), (nf, nt) = strides, _out_size(shape, strides)
    return [
        padded[:, i : i + sf * (nf - 1) + 1 : sf, j : j + st * (nt - 1) + 1 : st] for i, j in TAPS
    ]


# XLA's barriers in the hand-written backward passes keep it from sharing the shifted windows of
# the forward pass with the backward one, for which it would have to write all nine of them out.


@jax.custom_vjp
def _dot(x: Array, matrix: Array) -> Array:
    """`x [b, f, t, c_in]` times `matrix [c_in, c_out]`."""
    return jnp.dot(x, matrix, precision=EXACT)


def _dot_forward(x, matrix):
    return _dot(x, matrix), (x, matrix)


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


def _row_products(x: Array, y: Array) -> Array:
    """`xᵀ y`, `[m, c]` and `[m, n]` → `[c, n]`, at least float32: 16 bits would lose its end.

    On a CPU in equal parts of at least ROWS rows, as many as divide them: the rows of a part stay
    in the cache while a product goes over them.
    """
    n_rows = x.shape[0]
    most = max(n_rows // ROWS, 1) if on_cpu() else 1
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


_dot.defvjp(_dot_forward, _dot_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise_shifts(x: Array, kernel: Array, strides) -> Array:
    padded = barrier(_pad(x))
    windows = _windows(padded, strides, x.shape)
    return sum(w * kernel[i, j][None, None] for w, (i, j) in zip(windows, TAPS, strict=True))


def _depthwise_forward(x, kernel, strides):
    return _depthwise_shifts(x, kernel, strides), (x, kernel)


def _depthwise_backward(strides, residuals, dy):
    x, kernel = residuals
    x, dy = barrier((x, dy))
    dkernel = _depthwise_dkernel(x, kernel, dy, strides)
    return _depthwise_dx(kernel, dy, strides, x.shape), dkernel


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
    most = FOLD if on_cpu() else 1
    n = next(n for n in range(most, 0, -1) if x.shape[1] % n == 0)
    rows = x.shape[1] // n
    parts = [slice(start, start + rows) for start in range(0, x.shape[1], rows)]
    return sum((x[:, part] * y[:, part]).astype(dtype) for part in parts)


def _spread(dy: Array, strides, shape) -> Array:
    """`dy` where its windows' centres were in the input of that shape, zeros elsewhere, padded."""
    (sf, st), (_, f, t, _) = strides, shape
    nf, nt = _out_size(shape, strides)
    ends = (f - 1 - sf * (nf - 1), t - 1 - st * (nt - 1))
    zero = jnp.zeros((), dy.dtype)
    edges = ((0, 0, 0), (1, 1 + ends[0], sf - 1), (1, 1 + ends[1], st - 1), (0, 0, 0))
    return barrier(jax.lax.pad(dy, zero, edges))


_depthwise_shifts.defvjp(_depthwise_forward, _depthwise_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _avg_pool(x: Array, strides) -> Array:
    return sum(_windows(_pad(x), strides, x.shape)) / 9


def _avg_pool_forward(x, strides):
    return _avg_pool(x, strides), x.shape


def _avg_pool_backward(strides, shape, dy):
    return (sum(_windows(_spread(dy, strides, shape), (1, 1), shape)) / 9,)


_avg_pool.defvjp(_avg_pool_forward, _avg_pool_backward)
