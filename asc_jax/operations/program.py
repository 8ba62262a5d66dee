"""Describe a network as integer operations: the same numbers for every way to run it.

A real value is `scale * (q - zero_point)` of an integer q. Activations are int8 with one scale and
one zero point for each tensor. Weights are int8 from -127 to 127, zero point 0, one scale for each
channel of the result. Sums and biases are int32, in units of the input's scale times the weights'.
A sum becomes an int8 by an integer multiplier and a shift (`requantisation`).

Scales are float32, because LiteRT's files store them so; what follows from them is computed from
these float32 values in double precision, as LiteRT computes it.

Source: B. Jacob et al., "Quantization and training of neural networks for efficient
  integer-arithmetic-only inference" (CVPR 2018); LiteRT's 8-bit quantisation specification.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from asc_jax.errors import UserError
from asc_jax.operations.graph import INPUT, Operation

LOWEST, HIGHEST = -128, 127  # of int8
MAX_WEIGHT = 127
MAX_BIAS = 2**30
MAX_SUM = 2**31
ADD_SHIFT = 20  # bits that ADD shifts its inputs to the left by, before it scales them
# Kind of operation → the range of its result is its own, not its input's.
OWN_RANGE = ("conv", "dense", "add", "reduce_mean")

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A result of the program: int8 values.

    name: that of the operation. shape: for one clip. scale: float32, of one step. zero_point: the
    int8 that stands for 0.
    """

    name: str
    shape: tuple[int, ...]
    scale: np.float32
    zero_point: int

    @property
    def inverse(self) -> np.float32:
        """Return 1 / scale, rounded to float32: what real values are multiplied by."""
        return np.float32(1 / float(self.scale))

    def reshaped(self, name: str, shape: Sequence[int]) -> "Tensor":
        """Return a tensor of another name and shape, with the same scale and zero point."""
        return dataclasses.replace(self, name=name, shape=tuple(shape))


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """Hold what all operations have.

    inputs, output: tensors. activation: "relu", "relu6" or None, and what it means: low, high: the
    least and the largest int8 of the result.
    """

    inputs: tuple[Tensor, ...]
    output: Tensor
    activation: str | None
    low: int
    high: int


@dataclasses.dataclass(frozen=True, eq=False)
class Conv(Step):
    """Convolution, or a dense layer as one of 1×1.

    kernel: int8 `[kf, kt, c_in / groups, c_out]`. kernel_scale: float32 `[c_out]`. bias: int32
    `[c_out]`. strides, padding: for mel bins and frames; padding is ((before, after), …), and what
    is padded is the value 0. multiplier, shift: int32 `[c_out]`.
    """

    kernel: np.ndarray
    kernel_scale: np.ndarray
    bias: np.ndarray
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    groups: int
    multiplier: np.ndarray
    shift: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Add(Step):
    """Sum of two tensors of one shape; multipliers, shifts: of both inputs and of the sum."""

    multipliers: tuple[int, int, int]
    shifts: tuple[int, int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Pool(Step):
    """Mean or maximum over windows, with the input's scale.

    kind: "avg", where what is padded counts as the value 0, or "max", where it is ignored.
    """

    kind: str
    size: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]


@dataclasses.dataclass(frozen=True, eq=False)
class Mean(Step):
    """Mean over mel bins and frames, with a scale of its own: the sum, as of weights of 1.

    weight_scale: float32, that of these weights: 1 over the number of values.
    """

    weight_scale: np.float32
    multiplier: int
    shift: int


@dataclasses.dataclass(frozen=True, eq=False)
class Reshape(Step):
    """The same values in another shape."""


@dataclasses.dataclass(frozen=True)
class Program:
    """An integer network: `[b, *input.shape]` int8 → `[b, *output.shape]` int8."""

    input: Tensor
    steps: Sequence[Step]

    @property
    def output(self) -> Tensor:
        """Return the tensor of the logits."""
        return self.steps[-1].output

    @property
    def n_bytes(self) -> int:
        """Return the bytes of its parameters: int8 weights and int32 biases."""
        convs = [step for step in self.steps if isinstance(step, Conv)]
        return sum(step.kernel.nbytes + step.bias.nbytes for step in convs)


def build(
    operations: Sequence[Operation], shape: Sequence[int], ranges: Mapping[str, Range]
) -> Program:
    """Return the integer program of a network.

    Args:
      operations: as `reader.read` returns them, BatchNorms folded.
      shape: of one clip's log-mel.
      ranges: least and largest value by the name of an operation, and of `INPUT`, as
        `calibrate.calibrate` returns them; those of `OWN_RANGE` are used.

    Raises:
      UserError: there is no integer rule for an operation or its activation, or a range is not
        finite. It names the layer.
    """
    require_rules(operations)
    tensors = {INPUT: tensor(INPUT, shape, ranges[INPUT])}
    source, steps = tensors[INPUT], []
    for op in operations:
        inputs = [tensors[name] for name in op.inputs]
        steps += _RULES[op.kind](op, inputs, ranges.get(op.name))
        tensors[op.name] = steps[-1].output
    return Program(source, steps)


def require_rules(operations: Sequence[Operation]) -> None:
    """Check that every operation can be computed in integers.

    Raises:
      UserError: one cannot; it is named with its layer.
    """
    for op in operations:
        if op.kind not in _RULES:
            raise _no_rule(op, f"the operation {op.kind}")
        if op.activation not in (None, "relu", "relu6"):
            raise _no_rule(op, f"the activation {op.activation}")
        if op.kind == "reduce_mean" and tuple(op.options["axis"]) != (1, 2):
            raise _no_rule(op, "a mean over other axes than mel bins and frames")


def tensor(name: str, shape: Sequence[int], bounds: Range, min_scale: float = 0.0) -> Tensor:
    """Return the int8 tensor for values in a range, which is widened to hold 0 exactly.

    Args:
      name: of the operation.
      shape: for one clip.
      bounds: least and largest value.
      min_scale: the scale is at least this.

    Raises:
      UserError: the range is not finite.

    Example:
      >>> tensor("x", (4,), (0.0, 2.55)).zero_point, tensor("x", (4,), (-1.0, 1.55)).zero_point
      (-128, -28)
    """
    if not np.all(np.isfinite(bounds)):
        raise UserError(
            f"the values of {name} go from {bounds[0]} to {bounds[1]} on the clips for "
            "calibration: the network is not finite there; take --checkpoint best, or train again"
        )
    low, high = min(float(bounds[0]), 0.0), max(float(bounds[1]), 0.0)
    width = max(high - low, min_scale * (HIGHEST - LOWEST))
    # A result that is always 0 needs a scale, too; float32 ends at 1e-38.
    scale = np.float32(width / (HIGHEST - LOWEST) if width > 1e-30 else 1.0)
    zero_point = np.clip(np.rint(LOWEST - low / float(scale)), LOWEST, HIGHEST)
    return Tensor(name, tuple(shape), scale, int(zero_point))


def requantisation(factor: float) -> tuple[int, int]:
    """Return (multiplier, shift): factor ≈ multiplier · 2^(shift - 31), to 31 bits.

    Args:
      factor: from 0 to below 1.

    Returns:
      multiplier: 0, or from 2^30 to 2^31 - 1. shift: from -31 to 0.

    Source: LiteRT's QuantizeMultiplier.

    Example:
      >>> requantisation(0.5), requantisation(0.3 / 4)
      ((1073741824, 0), (1288490189, -3))
    """
    mantissa, shift = math.frexp(factor)
    multiplier = math.floor(mantissa * 2**31 + 0.5)
    if multiplier == 2**31:
        multiplier, shift = 2**30, shift + 1
    if multiplier == 0 or shift < -31:
        return 0, 0
    if shift > 0:
        raise ValueError(f"the factor {factor} is not below 1")
    return multiplier, shift


def _no_rule(op: Operation, what: str) -> UserError:
    return UserError(
        f"{what} of {op.name} has no rule in integers of 8 bits: --dtype float16 writes this "
        "network. Convolutions, dense layers, sums of two results, average and maximum pools, the "
        "mean over mel bins and frames, relu and relu6 have one"
    )


def _bounds(op: Operation, output: Tensor) -> dict:
    """Return the activation of a result, and its least and largest int8."""
    low, high = LOWEST, HIGHEST
    if op.activation in ("relu", "relu6"):
        low = output.zero_point
    if op.activation == "relu6":
        steps = math.floor(float(np.float32(6) / output.scale) + 0.5)
        high = min(high, output.zero_point + steps)
    return {"activation": op.activation, "low": low, "high": high}


def _conv(op: Operation, inputs: Sequence[Tensor], bounds: Range) -> list[Step]:
    options = {name: op.options[name] for name in ("strides", "padding", "groups")}
    return [_convolution(op, inputs[0], op.name, op.shape, bounds, op.arrays["kernel"], **options)]


def _dense(op: Operation, inputs: Sequence[Tensor], bounds: Range) -> list[Step]:
    """Return a convolution of 1×1, between reshapes if the input is no image."""
    (x,) = inputs
    kernel, steps = op.arrays["kernel"][None, None], []
    shape = (*(1,) * (3 - len(x.shape)), *x.shape)
    if shape != x.shape:
        steps.append(_reshape_of(x, f"{op.name}/image", shape))
        x = steps[-1].output
    image = (*shape[:-1], op.shape[-1])
    name = op.name if image == op.shape else f"{op.name}/dense"
    options = {"strides": (1, 1), "padding": ((0, 0), (0, 0)), "groups": 1}
    steps.append(_convolution(op, x, name, image, bounds, kernel, **options))
    return (
        steps if image == op.shape else [*steps, _reshape_of(steps[-1].output, op.name, op.shape)]
    )


def _convolution(op, x: Tensor, name, shape, bounds, kernel, *, strides, padding, groups) -> Conv:
    kernel, bias = np.asarray(kernel, np.float64), np.asarray(op.arrays["bias"], np.float64)
    # A channel of tiny weights gets weights of 0 rather than a bias that does not fit.
    kernel_scale = np.maximum(
        np.abs(kernel).max(axis=(0, 1, 2)) / MAX_WEIGHT,
        np.abs(bias) / (float(x.scale) * MAX_BIAS),
    )
    # A step of the result below the unit of the sums would tell nothing more.
    output = tensor(name, shape, bounds, 2 * float(x.scale) * kernel_scale.max())
    # A channel without weights and bias needs a scale, too: any that makes a factor below 1.
    idle = float(output.scale) / (2 * float(x.scale))
    kernel_scale = np.where(kernel_scale > 1e-30, kernel_scale, idle).astype(np.float32)
    unit = float(x.scale) * kernel_scale.astype(np.float64)  # of the sums
    weights = np.rint(kernel / kernel_scale.astype(np.float64))
    weights = np.clip(weights, -MAX_WEIGHT, MAX_WEIGHT).astype(np.int8)
    biases = np.rint(bias / unit).astype(np.int64)
    sums = np.abs(weights.astype(np.int64)).sum(axis=(0, 1, 2)) * (HIGHEST - LOWEST)
    if np.any(sums + np.abs(biases) >= MAX_SUM):
        raise _no_rule(
            op, f"a sum over {math.prod(kernel.shape[:3]):,} values, too many for int32,"
        )
    pairs = [requantisation(factor) for factor in unit / float(output.scale)]
    multiplier, shift = np.array(pairs, np.int32).T
    return Conv(
        (x,),
        output,
        **_bounds(op, output),
        kernel=weights,
        kernel_scale=kernel_scale,
        bias=biases.astype(np.int32),
        strides=tuple(strides),
        padding=tuple(map(tuple, padding)),
        groups=groups,
        multiplier=multiplier,
        shift=shift,
    )


def _add(op: Operation, inputs: Sequence[Tensor], bounds: Range) -> list[Step]:
    if len(inputs) != 2 or inputs[0].shape != inputs[1].shape:
        raise _no_rule(op, "a sum of two shapes")
    twice = 2 * float(max(x.scale for x in inputs))
    output = tensor(op.name, op.shape, bounds, twice / 2**10)
    factors = [float(x.scale) / twice for x in inputs]
    factors.append(twice / (2**ADD_SHIFT * float(output.scale)))
    multipliers, shifts = zip(*map(requantisation, factors), strict=True)
    return [
        Add(tuple(inputs), output, **_bounds(op, output), multipliers=multipliers, shifts=shifts)
    ]


def _pool(op: Operation, inputs: Sequence[Tensor], bounds) -> list[Step]:
    (x,) = inputs
    size, strides, padding = (op.options[name] for name in ("size", "strides", "padding"))
    return [_pool_of(op, x, op.kind.removesuffix("_pool"), size, strides, padding)]


def _pool_of(op: Operation, x: Tensor, kind: str, size, strides, padding) -> Pool:
    output = x.reshaped(op.name, op.shape)
    return Pool(
        (x,),
        output,
        **_bounds(op, output),
        kind=kind,
        size=tuple(size),
        strides=tuple(strides),
        padding=tuple(map(tuple, padding)),
    )


def _activation(op: Operation, inputs: Sequence[Tensor], bounds) -> list[Step]:
    """Return a pool of 1×1, which does nothing but bound the values."""
    (x,) = inputs
    if len(x.shape) != 3:
        raise _no_rule(op, f"the activation {op.activation}, of no image,")
    return [_pool_of(op, x, "max", (1, 1), (1, 1), ((0, 0), (0, 0)))]


def _mean(op: Operation, inputs: Sequence[Tensor], bounds: Range) -> list[Step]:
    (x,) = inputs
    *image, c = x.shape
    weight_scale = np.float32(1 / math.prod(image))
    unit = float(x.scale) * float(weight_scale)
    shape = 1, 1, c
    name = op.name if shape == op.shape else f"{op.name}/mean"
    output = tensor(name, shape, bounds, 2 * unit)
    multiplier, shift = requantisation(unit / float(output.scale))
    options = {"weight_scale": weight_scale, "multiplier": multiplier, "shift": shift}
    mean = Mean((x,), output, **_bounds(op, output), **options)
    return [mean] if shape == op.shape else [mean, _reshape_of(output, op.name, op.shape)]


def _reshape(op: Operation, inputs: Sequence[Tensor], bounds) -> list[Step]:
    if op.activation:
        raise _no_rule(op, f"the activation {op.activation} of a reshaped result")
    return [_reshape_of(inputs[0], op.name, op.shape)]


def _reshape_of(x: Tensor, name: str, shape: Sequence[int]) -> Reshape:
    return Reshape((x,), x.reshaped(name, shape), None, LOWEST, HIGHEST)


_RULES: dict[str, Callable[..., list[Step]]] = {
    "conv": _conv,
    "dense": _dense,
    "add": _add,
    "avg_pool": _pool,
    "max_pool": _pool,
    "activation": _activation,
    "reduce_mean": _mean,
    "reshape": _reshape,
}
