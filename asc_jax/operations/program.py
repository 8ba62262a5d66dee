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

import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from asc_jax.errors import UserError
from asc_jax.operations import lower
from asc_jax.operations.graph import INPUT, Operation
from asc_jax.operations.lower import ENERGY, LEVELS, LOG_NORM, LOOKUP, SPAN

LOWEST, HIGHEST = -128, 127  # of int8
MAX_WEIGHT = 127
MAX_BIAS = 2**30
MAX_SUM = 2**31
REDUCED = ("reduce_mean", "reduce_sum", "reduce_max", ENERGY)
ADD_SHIFT = 20  # bits that ADD shifts its inputs to the left by, before it scales them
# Kind of operation → the range of its result is its own, not its input's.
OWN_RANGE = (
    *("conv", "dense", "add", "sub", "mul", "reduce_mean", "reduce_sum"),
    *(ENERGY, LOOKUP, "concatenate"),
)

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
    """Sum of two tensors, or their difference: an axis of 1 counts for all positions of the other.

    multipliers, shifts: of both inputs and of the sum. sign: of the second input, 1 or -1.
    """

    multipliers: tuple[int, int, int]
    shifts: tuple[int, int, int]
    sign: int = 1


@dataclasses.dataclass(frozen=True, eq=False)
class Mul(Step):
    """Product of two tensors; an axis of 1 counts for all positions of the other."""

    multiplier: int
    shift: int


@dataclasses.dataclass(frozen=True, eq=False)
class Lookup(Step):
    """A function of one value; table: int8 `[256]`, of the results for -128 … 127."""

    table: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Max(Step):
    """The larger one of two tensors of one shape, scale and zero point."""


@dataclasses.dataclass(frozen=True, eq=False)
class Constant(Step):
    """An array; it has no inputs. values: int8, of the output's shape."""

    values: np.ndarray


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
    """Mean or sum over axes, with a scale of its own: the sum, as of weights of 1.

    axis: of an image's three axes, those that follow each other: (0, 1), say, for mel bins and
    frames. The result has a 1 there. weight_scale: float32, that of these weights: 1 over the
    number of values for a mean, 1 for a sum.
    """

    axis: tuple[int, ...]
    weight_scale: np.float32
    multiplier: int
    shift: int


@dataclasses.dataclass(frozen=True, eq=False)
class Energy(Step):
    """Sum of squares over axes, as for `Mean`."""

    axis: tuple[int, ...]
    multiplier: int
    shift: int


@dataclasses.dataclass(frozen=True, eq=False)
class Slice(Step):
    """A part; ranges: (start, end, step) for every axis."""

    ranges: tuple[tuple[int, int, int], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Transpose(Step):
    """The same values with axes in another order: axis n is axis `permutation[n]` of the input."""

    permutation: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Concat(Step):
    """Two tensors of one scale and zero point, one after the other along an axis."""

    axis: int


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
        """Return the bytes of its parameters: int8 weights and constants, and int32 biases."""
        convs = [step for step in self.steps if isinstance(step, Conv)]
        n_bytes = sum(step.kernel.nbytes + step.bias.nbytes for step in convs)
        return n_bytes + sum(
            step.values.nbytes for step in self.steps if isinstance(step, Constant)
        )

    @property
    def table_bytes(self) -> int:
        """Return the bytes of tables, each of which is kept once."""
        lookups = [step for step in self.steps if isinstance(step, Lookup)]
        return sum(map(len, {step.table.tobytes() for step in lookups}))


def build(
    operations: Sequence[Operation], shape: Sequence[int], ranges: Mapping[str, Range]
) -> Program:
    """Return the integer program of a network.

    Args:
      operations: as `reader.read` returns them, BatchNorms folded.
      shape: of one clip's log-mel.
      ranges: least and largest value by the name of a lowered operation, and of `INPUT`, as
        `calibrate.calibrate` returns them; those of `OWN_RANGE` are used.

    Raises:
      UserError: there is no integer rule for an operation or its activation, or a range is not
        finite. It names the layer.
    """
    require_rules(operations)
    operations = lower.lower(operations)
    ranges = _shared_ranges(operations, ranges)
    tensors = {INPUT: tensor(INPUT, shape, ranges[INPUT])}
    source, steps = tensors[INPUT], []
    for op in operations:
        inputs = [tensors[name] for name in op.inputs]
        steps += _RULES[op.kind](op, inputs, ranges.get(op.name))
        tensors[op.name] = steps[-1].output
    return Program(source, steps)


def require_rules(operations: Sequence[Operation]) -> None:
    """Check that every operation can be computed in integers.

    Args:
      operations: as `reader.read` returns them.

    Raises:
      UserError: one cannot; it is named with its layer.
    """
    for op in lower.lower(operations):
        if op.kind not in _RULES:
            raise _no_rule(op, f"the operation {op.kind}")
        if len(op.shape) > 4:
            raise _no_rule(op, f"a result of {len(op.shape)} axes")
        axes = op.options.get("axis") if op.kind in REDUCED else None
        if axes and sorted(axes) != [*range(min(axes), max(axes) + 1)]:
            raise _no_rule(op, f"a sum over the axes {', '.join(map(str, sorted(axes)))}")


def _shared_ranges(operations: Sequence[Operation], ranges: Mapping) -> dict[str, Range]:
    """Return the ranges, where a result that only another one reads takes part in that one's."""
    readers = collections.Counter(name for op in operations for name in op.inputs)
    known, shared = {op.name: op for op in operations}, dict(ranges)
    for op in reversed(operations):
        if "range" in op.options:
            name, factor, shift = op.options["range"]
            shared[op.name] = tuple(end * factor + shift for end in shared[name])
        if "bounds" in op.options:
            shared[op.name] = op.options["bounds"]
        if op.kind == "concatenate":
            for name in op.inputs:
                if name in known and known[name].kind in OWN_RANGE and readers[name] == 1:
                    shared[name] = shared[op.name]
    return shared


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
        "network. docs/quantisation.md lists what has one"
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
    _require_broadcast(op, inputs, "a sum")
    twice = 2 * float(max(x.scale for x in inputs))
    output = tensor(op.name, op.shape, bounds, twice / 2**10)
    factors = [float(x.scale) / twice for x in inputs]
    factors.append(twice / (2**ADD_SHIFT * float(output.scale)))
    multipliers, shifts = zip(*map(requantisation, factors), strict=True)
    sign = -1 if op.kind == "sub" else 1
    options = {"multipliers": multipliers, "shifts": shifts, "sign": sign}
    return [Add(tuple(inputs), output, **_bounds(op, output), **options)]


def _require_broadcast(op: Operation, inputs: Sequence[Tensor], what: str) -> None:
    """Check that two inputs make the result's shape, with axes of 1 for all positions."""
    if len(inputs) != 2 or np.broadcast_shapes(*(x.shape for x in inputs)) != op.shape:
        raise _no_rule(op, f"{what} of {len(inputs)} results of such shapes")


def _mul(op: Operation, inputs: Sequence[Tensor], bounds: Range) -> list[Step]:
    """Return a product, with a scale of which LiteRT's ways to compute the factor agree.

    LiteRT computes the factor in float32, and LiteRT for Microcontrollers in double precision.
    """
    _require_broadcast(op, inputs, "a product")
    a, b = (x.scale for x in inputs)
    output = tensor(op.name, op.shape, bounds, 2 * float(a) * float(b))
    while True:
        narrow = requantisation(float(a * b / output.scale))
        if narrow == requantisation(float(a) * float(b) / float(output.scale)):
            break
        output = dataclasses.replace(output, scale=np.nextafter(output.scale, np.float32(np.inf)))
    multiplier, shift = narrow
    step = Mul(tuple(inputs), output, **_bounds(op, output), multiplier=multiplier, shift=shift)
    return [step]


def _lookup(op: Operation, inputs: Sequence[Tensor], bounds: Range) -> list[Step]:
    (x,) = inputs
    output = tensor(op.name, op.shape, bounds)
    function = functools.partial(lower.apply, op.options["functions"])
    return [_lookup_of(x, output, function, **_bounds(op, output))]


def _lookup_of(x: Tensor, output: Tensor, function: Callable, **bounds) -> Lookup:
    """Return a table of a function; where that is not finite, 0 or an end of the range."""
    with np.errstate(all="ignore"):
        values = (np.arange(LOWEST, HIGHEST + 1) - x.zero_point) * float(x.scale)
        values = np.nan_to_num(np.asarray(function(values), np.float64))
        steps = np.clip(np.rint(values / float(output.scale)), -(2.0**20), 2.0**20)
    bounds = bounds or {"activation": None, "low": LOWEST, "high": HIGHEST}
    table = np.clip(steps + output.zero_point, bounds["low"], bounds["high"])
    return Lookup((x,), output, **bounds, table=table.astype(np.int8))


def _log_norm(op: Operation, inputs: Sequence[Tensor], bounds) -> list[Step]:
    """Return the logarithm of a norm, as the largest one of those by energies of several ranges.

    It counts from the least norm that is told apart, which is a step of the last range. All but
    the last energy say nothing where the next one is not at its end.
    """
    output, steps = tensor(op.name, op.shape, (0.0, SPAN)), []
    ends = [(HIGHEST - x.zero_point) * float(x.scale) for x in inputs]
    for x, level, least in zip(inputs, LEVELS, [*ends[1:], 0.0], strict=True):

        def log_norm(energy: np.ndarray, least: float = least) -> np.ndarray:
            found = 0.5 * np.log(energy / ends[0]) + SPAN
            return np.where(energy > least * (1 + 1e-6), found, 0.0)

        steps.append(_lookup_of(x, output.reshaped(f"{op.name}/of{level}", x.shape), log_norm))
    largest = steps[0].output
    for level, step in zip(LEVELS[1:], steps[1:], strict=True):
        name = op.name if level == LEVELS[-1] else f"{op.name}/max{level}"
        steps.append(_moved(name, op.shape, (largest, step.output), Max))
        largest = steps[-1].output
    return steps


def _constant(op: Operation, inputs: Sequence[Tensor], bounds) -> list[Step]:
    values = np.asarray(op.arrays["value"], np.float64)[0]
    output = tensor(op.name, op.shape, (values.min(), values.max()))
    steps = np.clip(np.rint(values / float(output.scale)) + output.zero_point, LOWEST, HIGHEST)
    return [Constant((), output, None, LOWEST, HIGHEST, values=steps.astype(np.int8))]


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
    """Return a pool of 1×1, which does nothing but bound the values; of an image."""
    (x,) = inputs
    return [_pool_of(op, x, "max", (1, 1), (1, 1), ((0, 0), (0, 0)))]


def _reduce(op: Operation, inputs: Sequence[Tensor], bounds: Range) -> list[Step]:
    """Return a sum over axes of an image, between reshapes if the input or the result is none."""
    (x,), steps = inputs, []
    axis = tuple(sorted(axis - 1 for axis in op.options["axis"]))
    if len(x.shape) != 3:
        before, after = x.shape[: axis[0]], x.shape[axis[-1] + 1 :]
        sizes = math.prod(before), math.prod(x.shape[a] for a in axis), math.prod(after)
        steps.append(_reshape_of(x, f"{op.name}/image", sizes))
        x, axis = steps[-1].output, (1,)
    shape = tuple(1 if n in axis else size for n, size in enumerate(x.shape))
    name = op.name if shape == op.shape else f"{op.name}/sum"
    steps.append(_sum(op, x, name, shape, axis, bounds))
    if shape != op.shape:
        steps.append(_reshape_of(steps[-1].output, op.name, op.shape))
    return steps


def _sum(op: Operation, x: Tensor, name: str, shape, axis, bounds: Range) -> Mean | Energy:
    n, options = math.prod(x.shape[a] for a in axis), {"axis": axis}
    if op.kind == ENERGY:
        if n * (HIGHEST - LOWEST) ** 2 >= MAX_SUM:
            raise _no_rule(op, f"a sum of {n:,} squares, too many for int32,")
        unit = float(x.scale * x.scale)  # rounded to float32, as LiteRT does
    else:
        options["weight_scale"] = np.float32(1 / n if op.kind == "reduce_mean" else 1)
        unit = float(x.scale) * float(options["weight_scale"])
    output = tensor(name, shape, bounds, 2 * unit)
    multiplier, shift = requantisation(unit / float(output.scale))
    options |= _bounds(op, output) | {"multiplier": multiplier, "shift": shift}
    return (Energy if op.kind == ENERGY else Mean)((x,), output, **options)


def _reduce_max(op: Operation, inputs: Sequence[Tensor], bounds) -> list[Step]:
    """Return a maximum over axes: a pool as long as they are, between reshapes."""
    (x,), axis = inputs, [axis - 1 for axis in op.options["axis"]]
    sizes = x.shape[: min(axis)], x.shape[min(axis) : max(axis) + 1], x.shape[max(axis) + 1 :]
    image = _reshape_of(x, f"{op.name}/image", [*map(math.prod, sizes)])
    rows, n, columns = image.output.shape
    largest = dataclasses.replace(op, name=f"{op.name}/pool", shape=(rows, 1, columns))
    pool = _pool_of(largest, image.output, "max", (1, n), (1, n), ((0, 0), (0, 0)))
    return [image, pool, _reshape_of(pool.output, op.name, op.shape)]


def _slice(op: Operation, inputs: Sequence[Tensor], bounds) -> list[Step]:
    ranges = tuple(tuple(map(int, part)) for part in op.options["ranges"])
    return [_moved(op.name, op.shape, inputs, Slice, ranges=ranges)]


def _transpose(op: Operation, inputs: Sequence[Tensor], bounds) -> list[Step]:
    permutation = tuple(axis - 1 for axis in op.options["permutation"][1:])
    if op.options["permutation"][0] != 0:
        raise _no_rule(op, "a transposition of clips")
    return [_moved(op.name, op.shape, inputs, Transpose, permutation=permutation)]


def _moved(name: str, shape, inputs: Sequence[Tensor], kind: type[Step], **options) -> Step:
    """Return a step whose values are those of its inputs, in other places."""
    output = inputs[0].reshaped(name, shape)
    return kind(tuple(inputs), output, None, LOWEST, HIGHEST, **options)


def _concatenate(op: Operation, inputs: Sequence[Tensor], bounds: Range) -> list[Step]:
    """Return one tensor after another, each brought to the scale of the result if it has not it."""
    axis, steps, parts = op.options["axis"] - 1, [], []
    output = tensor(op.name, op.shape, bounds)
    if len({(x.scale, x.zero_point) for x in inputs}) == 1:
        output = inputs[0].reshaped(op.name, op.shape)
    for number, x in enumerate(inputs, 1):
        if (x.scale, x.zero_point) != (output.scale, output.zero_point):
            steps.append(
                _lookup_of(x, output.reshaped(f"{op.name}/part{number}", x.shape), np.array)
            )
            x = steps[-1].output
        parts.append(x)
    whole = parts[0]
    for number, x in enumerate(parts[1:], 2):
        n_along = whole.shape[axis] + x.shape[axis]
        shape = (*whole.shape[:axis], n_along, *whole.shape[axis + 1 :])
        name = op.name if number == len(parts) else f"{op.name}/first{number}"
        steps.append(_moved(name, shape, (whole, x), Concat, axis=axis))
        whole = steps[-1].output
    return steps if len(parts) > 1 else [*steps, _reshape_of(whole, op.name, op.shape)]


def _reshape(op: Operation, inputs: Sequence[Tensor], bounds) -> list[Step]:
    return [_reshape_of(inputs[0], op.name, op.shape)]


def _reshape_of(x: Tensor, name: str, shape: Sequence[int]) -> Reshape:
    return Reshape((x,), x.reshaped(name, shape), None, LOWEST, HIGHEST)


_RULES: dict[str, Callable[..., list[Step]]] = {
    "conv": _conv,
    "dense": _dense,
    "add": _add,
    "sub": _add,
    "mul": _mul,
    LOOKUP: _lookup,
    "constant": _constant,
    "avg_pool": _pool,
    "max_pool": _pool,
    "activation": _activation,
    "reduce_mean": _reduce,
    "reduce_sum": _reduce,
    "reduce_max": _reduce_max,
    ENERGY: _reduce,
    LOG_NORM: _log_norm,
    "reshape": _reshape,
    "slice": _slice,
    "transpose": _transpose,
    "concatenate": _concatenate,
}
