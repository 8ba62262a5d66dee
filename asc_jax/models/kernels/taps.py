"""Convolutions as sums of shifted arrays and dense products, forward and backward.

On CPUs and NVIDIA GPUs these are faster than XLA's own convolutions, which are slow where they are
grouped or strided. A filter over each channel by itself is one multiply-add per tap; every other
convolution is a product, of patches where it sees more than one position. The barriers in the
backward passes keep XLA from sharing the shifted windows of the forward pass with the backward
one, for which it would have to write all of them out.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from asc_jax.models.kernels.compiler import EXACT, barrier, column_sums, written_out
from asc_jax.types import Array

FOLD = 4  # rows of a product added up before it is written
ROWS = 512  # the least number of rows that one product sums over


class Window(NamedTuple):
    """A sliding window: its size, its strides and the padding `(before, after)`, mel bins first."""

    size: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]

    @property
    def taps(self) -> list[tuple[int, int]]:
        """Return the positions inside the window, row by row."""
        return list(itertools.product(*map(range, self.size)))

    def n_out(self, shape) -> tuple[int, int]:
        """Return how many positions the window takes on `[b, f, t, c]`."""
        sizes = zip(shape[1:3], self.size, self.strides, self.padding, strict=True)
        return tuple((n + sum(pad) - size) // stride + 1 for n, size, stride, pad in sizes)


def pad(x: Array, window: Window, value: float = 0) -> Array:
    """Return `x [b, f, t, c]` with the window's padding around it."""
    edges = ((0, 0), *window.padding, (0, 0))
    return x if not any(map(any, edges)) else jnp.pad(x, edges, constant_values=value)


def windows(padded: Array, window: Window, shape) -> list[Array]:
    """Return what each tap meets of the padded input of that shape: n_taps × `[b, f', t', c]`."""
    b, _, _, c = padded.shape
    (sf, st), (nf, nt) = window.strides, window.n_out(shape)
    ends = sf * (nf - 1) + 1, st * (nt - 1) + 1
    return [
        jax.lax.slice(padded, (0, i, j, 0), (b, i + ends[0], j + ends[1], c), (1, sf, st, 1))
        for i, j in window.taps
    ]


def transposed(window: Window, shape, *pairs: tuple[Array, Array], cpu: bool) -> Array:
    """Return `Σ dy · kernel[tap]` over taps and pairs, each added where the tap met its input.

    With strides, positions of the input at equal distances from the last stride are met by the
    same taps: each such phase is computed by itself, and then they are put in turn.

    Args:
      window: that went over the input.
      shape: of the input, `[b, f, t, c]`.
      pairs: `dy [b, f', t', c]` and `kernel [kf, kt, 1, c]`, to multiply.
    """
    met, n_each, edges = zip(*map(_phases, *_by_axis(window, shape)), strict=True)
    padded = [barrier(jnp.pad(dy, ((0, 0), *edges, (0, 0))), cpu) for dy, _ in pairs]

    def phase(rows, columns):
        parts = [
            dy[:, f : f + n_each[0], t : t + n_each[1]] * kernel[i, j][None, None]
            for dy, (_, kernel) in zip(padded, pairs, strict=True)
            for i, f in rows
            for j, t in columns
        ]
        return sum(parts) if parts else jnp.zeros_like(padded[0][:, : n_each[0], : n_each[1]])

    rows = [in_turn([phase(r, columns) for columns in met[1]], 2) for r in met[0]]
    dx = in_turn(rows, 1)[:, : shape[1], : shape[2]]
    return written_out(dx) if cpu and len(met[0]) * len(met[1]) > 1 else dx


def _by_axis(window: Window, shape):
    """Return length, size, stride, padding before and number of results, for both axes."""
    before = [edge for edge, _ in window.padding]
    return shape[1:3], window.size, window.strides, before, window.n_out(shape)


def _phases(n: int, size: int, stride: int, before: int, n_out: int):
    """Return which results of a window the positions of its input went into, along one axis.

    The positions `stride · u + k`, 0 ≤ u < m, are phase k. The results are padded first.

    Returns:
      For each phase, pairs `(tap, start)`: position u met that tap in result `start + u`; m; and
      the padding of the results, before and after.

    Example:
      >>> _phases(n=5, size=3, stride=2, before=1, n_out=3)  # results at 0, 2 and 4
      ([[(1, 0)], [(0, 1), (2, 0)]], 3, (0, 1))
    """
    m = -(-n // stride)
    taps = [[i for i in range(size) if (k + before - i) % stride == 0] for k in range(stride)]
    offsets = [[(k + before - i) // stride for i in met] for k, met in enumerate(taps)]
    low, high = min(min(o, default=0) for o in offsets), max(max(o, default=0) for o in offsets)
    starts = [[o - min(low, 0) for o in each] for each in offsets]
    phases = [list(zip(*pair, strict=True)) for pair in zip(taps, starts, strict=True)]
    return phases, m, (max(-low, 0), max(m + high - n_out, 0))


def in_turn(arrays: list[Array], axis: int) -> Array:
    """Return the rows of several arrays in turn."""
    shape = list(arrays[0].shape)
    shape[axis] *= len(arrays)
    return arrays[0] if len(arrays) == 1 else jnp.stack(arrays, axis + 1).reshape(shape)


def filter_channels(window: Window, x: Array, kernel: Array, *, cpu: bool) -> Array:
    """Convolve each channel by itself: `x [b, f, t, c]`, `kernel [kf, kt, 1, m · c]`.

    Channel k of `x` makes the channels `m · k … m · k + m - 1` of the result.
    """
    padded = barrier(pad(_repeated(x, kernel), window), cpu)
    shifted = zip(windows(padded, window, x.shape), window.taps, strict=True)
    return sum(w * kernel[i, j][None, None] for w, (i, j) in shifted)


def filter_channels_backward(window, x, kernel, dy, *, cpu: bool) -> tuple[Array, Array]:
    """Return the gradients of `filter_channels` to `x` and `kernel`."""
    if x.shape[-1] == 1 and cpu:  # a product of all taps at once is faster for one channel
        return product_backward(window, x, kernel, dy, cpu=cpu)
    x, dy = barrier((x, dy), cpu)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    padded = barrier(pad(_repeated(x, kernel), window), cpu)
    products = (_folded_product(w, dy, wide, cpu) for w in windows(padded, window, x.shape))
    dkernel = column_sums(*products, cpu=cpu).reshape(kernel.shape).astype(kernel.dtype)
    m = kernel.shape[-1] // x.shape[-1]
    pairs = [(dy[..., k::m], kernel[..., k::m]) for k in range(m)]
    return transposed(window, x.shape, *pairs, cpu=cpu), dkernel


def _repeated(x: Array, kernel: Array) -> Array:
    """Return `x` with each channel as often as it is filtered; one channel is broadcast."""
    m = kernel.shape[-1] // x.shape[-1]
    return x if m == 1 or x.shape[-1] == 1 else jnp.repeat(x, m, axis=-1)


def _folded_product(x: Array, y: Array, dtype, cpu: bool) -> Array:
    """Return `x * y`, `[b, f, t, c]`; on a CPU up to FOLD rows added up: `[b, f / n, t, c]`."""
    n = next(n for n in range(FOLD if cpu else 1, 0, -1) if x.shape[1] % n == 0)
    rows = x.shape[1] // n
    parts = [slice(start, start + rows) for start in range(0, x.shape[1], rows)]
    return sum((x[:, part] * y[:, part]).astype(dtype) for part in parts)


def product(window: Window, x: Array, kernel: Array, *, cpu: bool) -> Array:
    """Convolve by one product of patches: `x [b, f, t, c_in]`, `kernel [kf, kt, c_in, c_out]`."""
    x = barrier(x, cpu)
    return jnp.dot(_patches(window, x), _matrix(kernel), precision=EXACT)


def product_backward(window, x, kernel, dy, *, cpu: bool) -> tuple[Array, Array]:
    """Return the gradients of `product` to `x` and `kernel`."""
    x, dy = barrier((x, dy), cpu)
    _, pull = jax.vjp(lambda x: _patches(window, x), x)
    (dx,) = pull(jnp.dot(dy, _matrix(kernel).T, precision=EXACT))
    return dx, product_of_patches(window, x, kernel, dy, cpu=cpu)


def product_of_patches(window, x, kernel, dy, *, cpu: bool) -> Array:
    """Return the gradient of `product` to `kernel`."""
    patches = _patches(window, x)
    rows, drows = patches.reshape(-1, patches.shape[-1]), dy.reshape(-1, dy.shape[-1])
    # The narrower operand first, because a CPU's product transposes that one; there the barrier
    # keeps XLA from exchanging them again.
    if rows.shape[1] <= drows.shape[1]:
        dmatrix = _row_products(rows, drows, cpu)
    else:
        dmatrix = barrier(_row_products(drows, rows, cpu), cpu).T
    return dmatrix.reshape(kernel.shape).astype(kernel.dtype)


def _patches(window: Window, x: Array) -> Array:
    """Return `[b, f', t', n_taps · c_in]`."""
    shifted = windows(pad(x, window), window, x.shape)
    return shifted[0] if len(shifted) == 1 else jnp.concatenate(shifted, axis=-1)


def _matrix(kernel: Array) -> Array:
    return kernel.reshape(-1, kernel.shape[-1])


def _row_products(x: Array, y: Array, cpu: bool) -> Array:
    """Return `xᵀ y`, `[m, c]` and `[m, n]` → `[c, n]`, at least float32: 16 bits lose its end.

    On a CPU in equal parts of at least ROWS rows, as many as divide them: the rows of a part stay
    in the cache while a product goes over them.
    """
    n_rows = x.shape[0]
    most = max(n_rows // ROWS, 1) if cpu else 1
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
