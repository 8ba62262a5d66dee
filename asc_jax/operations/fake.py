"""Compute operations in float32 as the integer program would: fake quantisation, with gradients.

Every value is rounded where the program has an int8, or in a bias an int32. The gradient passes
straight through a rounding, and is 0 where a value is cut off.

Source: B. Jacob et al., "Quantization and training of neural networks for efficient
  integer-arithmetic-only inference" (CVPR 2018).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from asc_jax.models.kernels.compiler import channels
from asc_jax.operations import graph, lower
from asc_jax.operations.graph import INPUT, Operation
from asc_jax.operations.program import HIGHEST, LOWEST, MAX_BIAS, MAX_WEIGHT, OWN_RANGE
from asc_jax.types import Array, Params

MIN_SCALE = 1e-30
Ranges = Mapping[str, Mapping[str, Array]]  # "low" and "high" → name → float32 scalar


class Point(NamedTuple):
    """The scale and the zero point of a tensor, float32 scalars; they have no gradient."""

    scale: Array
    zero_point: Array


def names(operations: Sequence[Operation]) -> list[str]:
    """Return the names of the results that have a range of their own, the input's first.

    Those of the program's operations: also of the parts of one that it writes out, see `lower`.
    """
    return [INPUT, *(op.name for op in lower.lower(operations) if op.kind in OWN_RANGE)]


def point(low: Array, high: Array, min_scale: Array | float = 0.0) -> Point:
    """Return scale and zero point of a range, as `program.tensor` does in float64."""
    low, high = jnp.minimum(low, 0), jnp.maximum(high, 0)
    scale = jnp.maximum((high - low) / (HIGHEST - LOWEST), jnp.maximum(min_scale, MIN_SCALE))
    zero_point = jnp.clip(jnp.rint(LOWEST - low / scale), LOWEST, HIGHEST)
    return Point(*map(jax.lax.stop_gradient, (scale, zero_point)))


def activations(x: Array, at: Point) -> Array:
    """Return values rounded to the int8 of a tensor.

    The gradient is 1 where the int8 is none of those that values beyond the range are cut off to.

    Example:
      >>> at = Point(jnp.float32(0.5), jnp.float32(-128))
      >>> x = jnp.array([-1.0, 0.7, 200.0])
      >>> activations(x, at).tolist()
      [0.0, 0.5, 127.5]
      >>> jax.grad(lambda x: activations(x, at).sum())(x).tolist()
      [0.0, 1.0, 0.0]
    """
    steps = jnp.rint(x / at.scale) + at.zero_point
    value = (jnp.clip(steps, LOWEST, HIGHEST) - at.zero_point) * at.scale
    inside = (steps >= LOWEST) & (steps <= HIGHEST)
    through = jnp.where(inside, x, jax.lax.stop_gradient(x))
    return _straight_through(through, value)


def weights(params: Params, x: Point) -> tuple[Params, Array]:
    """Return kernel and bias of an operation rounded as in the program, and the kernel's scales.

    Args:
      params: `kernel [..., c_out]`, `bias [c_out]`, BatchNorm folded in.
      x: of the operation's input.

    Returns:
      Arrays like `params`, whose gradient is that of the given ones, and scales `[c_out]`.
    """
    kernel, bias = params["kernel"], params["bias"]
    largest = jnp.abs(kernel).max(axis=tuple(range(kernel.ndim - 1)))
    scale = jnp.maximum(largest / MAX_WEIGHT, jnp.abs(bias) / (x.scale * MAX_BIAS))
    scale = jax.lax.stop_gradient(jnp.maximum(scale, MIN_SCALE))
    steps = jnp.clip(jnp.rint(kernel / channels(scale, kernel)), -MAX_WEIGHT, MAX_WEIGHT)
    unit = x.scale * scale  # of the sums
    rounded = {
        "kernel": _straight_through(kernel, steps * channels(scale, kernel)),
        "bias": _straight_through(bias, jnp.rint(bias / unit) * unit),
    }
    return rounded, scale


def compute(
    operations: Sequence[Operation], params: Params, ranges: Ranges, log_mel: Array
) -> tuple[Array, dict[str, Array]]:
    """Return the logits, and the results before they are rounded.

    A response normalisation, which the program writes out, is computed in float32 as a whole, and
    its result is rounded; the parts keep the ranges that they have.

    Args:
      operations: as `reader` returns them, of which each has a rule in `program`.
      params: float32 arrays by the name of their owner.
      ranges: of `names(operations)`.
      log_mel: `[b, n_mels, n_frames, 1]`.

    Returns:
      Logits `[b, n_classes]`; and by the name of a result with a range of its own, its values
      `[b, …]` before they are rounded.
    """
    at = {INPUT: point(ranges["low"][INPUT], ranges["high"][INPUT])}
    found, exact = {INPUT: activations(log_mel, at[INPUT])}, {INPUT: log_mel}
    for op in lower.activations_apart(operations):
        own, least = params.get(op.owner, {}), 0.0
        x = at.get(op.inputs[0]) if op.inputs else None
        if op.kind in ("conv", "dense"):
            own, scale = weights(own, x)
            least = 2 * x.scale * scale.max()  # finer steps than the sums' tell nothing more
        y = graph.result(op, own, *(found[name] for name in op.inputs), rules=lower.RULES)
        if op.name in ranges["low"]:
            exact[op.name] = y
            x = point(ranges["low"][op.name], ranges["high"][op.name], least)
        elif op.kind in OWN_RANGE or op.kind in graph.ELEMENTWISE:
            x = None  # a part of the program's next operation
        found[op.name] = y if x is None else activations(y, x)
        at[op.name] = x
    return found[operations[-1].name], exact


def _straight_through(x: Array, value: Array) -> Array:
    """Return a value whose gradient is that of x."""
    return x + jax.lax.stop_gradient(value - x)
