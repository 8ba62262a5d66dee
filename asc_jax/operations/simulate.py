"""Run an integer program in JAX: batched, compiled, exact on every machine.

JAX has no 64-bit integers unless it is told to, and int32 products of matrices are slow. So a
product of 32-bit integers is taken in halves, and sums of products of 8-bit integers are taken in
float32, whose integers are exact to 2^24, over at most `BLOCK` channels at a time. No convolution
of the machine's library is called, which might compute by a transform that rounds.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from asc_jax.models.kernels.compiler import EXACT, channels
from asc_jax.operations.graph import is_whole
from asc_jax.operations.program import (
    ADD_SHIFT,
    HIGHEST,
    LOWEST,
    Add,
    Concat,
    Constant,
    Conv,
    Energy,
    Lookup,
    Max,
    Mean,
    Mul,
    Pool,
    Program,
    Reshape,
    Slice,
    Step,
    Tensor,
    Transpose,
)
from asc_jax.types import Array

BLOCK = 512  # channels: 512 · 255 · 127 < 2^24

# Step → its arrays: arguments, because XLA's CPU compiler computes some constants wrongly.
Arrays = list[tuple[np.ndarray, ...]]
_ARRAYS = {
    Conv: ("kernel", "bias", "multiplier", "shift"),
    Lookup: ("table",),
    Constant: ("values",),
}


def simulator(program: Program) -> Callable[[Array], Array]:
    """Return a compiled `[b, *input.shape] int8 -> [b, *output.shape] int8` of a program."""
    compiled, values = jax.jit(lambda values, x: compute(program, values, x)[-1]), arrays(program)
    return lambda x: compiled(values, x)


def arrays(program: Program) -> Arrays:
    """Return the arrays of every step."""
    return [
        tuple(getattr(step, name) for name in _ARRAYS.get(type(step), ())) for step in program.steps
    ]


def compute(program: Program, values: Arrays, x: Array) -> list[Array]:
    """Return the int8 results of all steps.

    Args:
      program: of n steps.
      values: what `arrays` returns for it.
      x: `[b, *program.input.shape]` int8.

    Returns:
      n arrays `[b, *output.shape]` int8; the last one holds the logits.
    """
    results, by_name = [], {program.input.name: x}
    for step, own in zip(program.steps, values, strict=True):
        inputs = [by_name[tensor.name].astype(jnp.int32) for tensor in step.inputs]
        y = _RULES[type(step)](step, own, *inputs)
        results.append(jnp.clip(y, step.low, step.high).astype(jnp.int8))
        by_name[step.output.name] = results[-1]
    return results


def quantise(tensor: Tensor, x: Array) -> Array:
    """Return the int8 values for real ones: rint(x · inverse) + zero point, halves to even.

    A compiler may divide by multiplying with the inverse, and join a product and a sum in one
    rounding. Here it finds neither, so that the bits are the same on every machine.

    Args:
      tensor: gives zero point and `inverse`, 1 / scale in float32.
      x: float32.

    Example:
      >>> quantise(Tensor("x", (3,), np.float32(0.5), 3), jnp.array([0.25, -0.75, 100.0]))
      Array([  3,   1, 127], dtype=int8)
    """
    steps = jnp.clip(jnp.rint(x * tensor.inverse), -(2.0**16), 2.0**16).astype(jnp.int32)
    return jnp.clip(steps + tensor.zero_point, LOWEST, HIGHEST).astype(jnp.int8)


def dequantise(tensor: Tensor, q: Array) -> Array:
    """Return the float32 values that int8 ones stand for."""
    return (q.astype(jnp.float32) - tensor.zero_point) * tensor.scale


def requantise(sums: Array, multiplier: Array, shift: Array) -> Array:
    """Return sums · multiplier · 2^(shift - 31), rounded twice, as LiteRT does.

    First the product is divided by 2^31, halves rounded up; then by 2^-shift, halves away from 0.

    Args:
      sums: int32.
      multiplier: int32, not negative.
      shift: int32, -31 … 0.

    Returns:
      int32.

    Source: SaturatingRoundingDoublingHighMul and RoundingDivideByPOT of gemmlowp. The former adds
      1 - 2^30 to a negative product and truncates, which is the same as adding 2^30 and rounding
      down.
    """
    sums, multiplier = jnp.int32(sums), jnp.int32(multiplier)
    return _divide_by_power(_high_product(sums, multiplier), -jnp.int32(shift))


def _high_product(a: Array, b: Array) -> Array:
    """Return (a · b + 2^30) >> 31, for int32 a and b ≥ 0."""
    a_high, a_low, b_high, b_low = a >> 16, a & 0xFFFF, b >> 16, b & 0xFFFF
    # The product's four parts; every sum below fits into int32.
    lowest = a_low.astype(jnp.uint32) * b_low.astype(jnp.uint32)
    middle = a_low * b_high + (lowest >> 16).astype(jnp.int32)
    other = a_high * b_low + (middle & 0xFFFF)
    high = a_high * b_high + (middle >> 16) + (other >> 16)
    bits = other & 0xFFFF  # 16 … 31 of the product
    return (high << 1) + (bits >> 15) + ((bits >> 14) & 1)


def _divide_by_power(x: Array, exponent: Array) -> Array:
    """Return x / 2^exponent, halves rounded away from 0; exponent: 0 … 31."""
    mask = (jnp.int32(1) << exponent) - 1
    threshold = (mask >> 1) + (x < 0)
    return (x >> exponent) + ((x & mask) > threshold)


def _conv(step: Conv, own: tuple, x: Array) -> Array:
    kernel, bias, multiplier, shift = own
    x = _pad(x - step.inputs[0].zero_point, step.padding, 0)
    if step.groups == 1 and is_whole(kernel.shape[:2], step.padding, x.shape[1:3]):
        x, kernel = x.reshape(len(x), 1, 1, -1), kernel.reshape(1, 1, -1, kernel.shape[-1])
    depthwise = step.groups == x.shape[-1]
    product = _depthwise if depthwise else _grouped
    windows = _windows(x, kernel.shape[:2], step.strides, step.output.shape)
    taps = (kernel[i, j] for i in range(kernel.shape[0]) for j in range(kernel.shape[1]))
    parts = (product(window, tap, step.groups) for window, tap in zip(windows, taps, strict=True))
    sums = sum(parts, start=jnp.int32(0))
    bias, multiplier, shift = (channels(values, sums) for values in (bias, multiplier, shift))
    return requantise(sums + bias, multiplier, shift) + step.output.zero_point


def _depthwise(x: Array, tap: Array, groups: int) -> Array:
    """Return the products of one position of the kernel, `[1, c_out]`; `[b, f, t, c_out]`."""
    x = jnp.repeat(x, tap.shape[-1] // groups, axis=-1)
    return x * channels(tap[0].astype(jnp.int32), x)


def _grouped(x: Array, tap: Array, groups: int) -> Array:
    """Return the sums over channels of one position of the kernel, `[c_in / groups, c_out]`."""
    n_in, n_out = tap.shape
    x = x.reshape(*x.shape[:3], groups, n_in).astype(jnp.float32)
    tap = tap.reshape(n_in, groups, n_out // groups).astype(jnp.float32)
    sums = jnp.int32(0)
    for start in range(0, n_in, BLOCK):
        block = slice(start, start + BLOCK)
        part = jnp.einsum("bftgi,igo->bftgo", x[..., block], tap[block], precision=EXACT)
        sums += part.astype(jnp.int32)
    return sums.reshape(*x.shape[:3], n_out)


def _windows(x: Array, size, strides, shape) -> list[Array]:
    """Return, for every position in a window, the values that windows have there."""
    return [
        x[
            :,
            i : i + strides[0] * (shape[0] - 1) + 1 : strides[0],
            j : j + strides[1] * (shape[1] - 1) + 1 : strides[1],
        ]
        for i in range(size[0])
        for j in range(size[1])
    ]


def _pad(x: Array, padding: Sequence, value: int) -> Array:
    if not np.any(padding):
        return x
    return jnp.pad(x, ((0, 0), *padding, (0, 0)), constant_values=value)


def _add(step: Add, own: tuple, *inputs: Array) -> Array:
    """Return the sum: both inputs are scaled to the same unit, with bits to spare."""
    scaled = [
        requantise(sign * ((x - tensor.zero_point) << ADD_SHIFT), multiplier, shift)
        for x, tensor, multiplier, shift, sign in zip(
            inputs, step.inputs, step.multipliers, step.shifts, (1, step.sign), strict=False
        )
    ]
    total = requantise(sum(scaled), step.multipliers[2], step.shifts[2])
    return total + step.output.zero_point


def _pool(step: Pool, own: tuple, x: Array) -> Array:
    value = step.inputs[0].zero_point if step.kind == "avg" else LOWEST
    x = _pad(x, step.padding, value)
    windows = _windows(x, step.size, step.strides, step.output.shape)
    if step.kind == "max":
        return jnp.stack(windows).max(axis=0)
    total, n = sum(windows, start=jnp.int32(0)), math.prod(step.size)
    # Halves away from 0: the magnitude is divided.
    return jnp.sign(total) * ((jnp.abs(total) + n // 2) // n)


def _mul(step: Mul, own: tuple, *inputs: Array) -> Array:
    left, right = (x - tensor.zero_point for x, tensor in zip(inputs, step.inputs, strict=True))
    product = requantise(left * right, step.multiplier, step.shift)
    return product + step.output.zero_point


def _lookup(step: Lookup, own: tuple, x: Array) -> Array:
    (table,) = own
    return jnp.asarray(table)[x - LOWEST]


def _constant(step: Constant, own: tuple) -> Array:
    (values,) = own
    return jnp.asarray(values)[None]


def _mean(step: Mean, own: tuple, x: Array) -> Array:
    return _sum(step, x - step.inputs[0].zero_point)


def _energy(step: Energy, own: tuple, x: Array) -> Array:
    x -= step.inputs[0].zero_point
    return _sum(step, x * x)


def _sum(step: Mean | Energy, x: Array) -> Array:
    total = x.sum(axis=tuple(axis + 1 for axis in step.axis), keepdims=True)
    return requantise(total, step.multiplier, step.shift) + step.output.zero_point


def _slice(step: Slice, own: tuple, x: Array) -> Array:
    return x[:, *(slice(*part) for part in step.ranges)]


def _transpose(step: Transpose, own: tuple, x: Array) -> Array:
    return x.transpose(0, *(axis + 1 for axis in step.permutation))


def _concat(step: Concat, own: tuple, *inputs: Array) -> Array:
    return jnp.concatenate(inputs, step.axis + 1)


def _reshape(step: Reshape, own: tuple, x: Array) -> Array:
    return x.reshape(x.shape[0], *step.output.shape)


_RULES: dict[type[Step], Callable[..., Array]] = {
    Conv: _conv,
    Add: _add,
    Mul: _mul,
    Lookup: _lookup,
    Max: lambda step, own, *inputs: jnp.maximum(*inputs),
    Constant: _constant,
    Pool: _pool,
    Mean: _mean,
    Energy: _energy,
    Reshape: _reshape,
    Slice: _slice,
    Transpose: _transpose,
    Concat: _concat,
}
