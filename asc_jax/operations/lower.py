"""Write a network as operations that have rules in integers, without changing what it computes.

Every result of 8 bits needs a range, so that what is one operation to a trained network may be
several here: an activation by a table is apart from the operation before it, and a response
normalisation is written out. Functions of one value that follow each other become one table, and
factors and shifts by channel one convolution.
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from asc_jax.operations import graph
from asc_jax.operations.graph import ACTIVATIONS, ELEMENTWISE, Operation
from asc_jax.types import Array, Params

BOUNDS = (None, "relu", "relu6")  # activations that bound a result, and need no table
MOVED = ("reshape", "slice", "transpose", "concatenate")  # kinds that bound nothing
LOOKUP, ENERGY, LOG_NORM = "lookup", "energy", "log_norm"  # kinds that only this file makes
# The logarithm of a norm is looked up in sums of squares of several ranges, each a part of the one
# before: one of 8 bits alone would be 0 for a channel whose values are a sixteenth of another's.
LEVELS = (1, 16, 256)
SPAN = 0.5 * math.log(255 * LEVELS[-1])  # from a step of the last range to the end of the first
LINEAR = ("add", "sub", "mul", "div")
# The function of one value: its kind, of `ELEMENTWISE` or `ACTIVATIONS`; the other operand, a
# number or `[c]`, or None; whether that comes first.
Function = tuple[str, np.ndarray | None, bool]


def lower(operations: Sequence[Operation]) -> list[Operation]:
    """Return the operations that `program.build` has rules for, in order.

    Those of a kind that nothing can be made of stay. What was computed under a name is computed
    under it still, or is part of another operation. There are three more kinds than in `graph`:
      "lookup", a function of one value: `functions`, in the order in which they are applied,
      "energy", the sum of the squares over some axes: `axis`, `keepdims`,
      "log_norm", the logarithm of the root of an energy, which is given once for each of `LEVELS`.
    The range of an operation with the option `bounds` is that; with the option `range`, (name,
    factor, shift), it is the range of the result of that name, multiplied and shifted.

    Args:
      operations: as `reader.read` returns them. They are not changed.
    """
    operations = _functions(activations_apart(operations))
    operations = _energies(operations)
    operations = [part for op in operations for part in _written_out(op)]
    read = {name for op in operations for name in op.inputs}
    return [op for op in operations if op.kind != "constant" or op.name in read]


def arrays(operations: Sequence[Operation], params: Params) -> Params:
    """Return the arrays of lowered operations; those that are given go before their own."""
    own = {op.owner: op.arrays for op in operations}
    return own | {name: values for name, values in params.items() if values}


def results(operations: Sequence[Operation], params: Params, log_mel: Array) -> dict[str, Array]:
    """Return what `graph.results` returns, of operations that `lower` returned."""
    return graph.results(operations, arrays(operations, params), log_mel, RULES)


def apply(functions: Sequence[Function], x, numpy=np):
    """Return functions of x, one after the other; numpy: the module that computes them."""
    for kind, value, first in functions:
        if kind in ELEMENTWISE:
            function = getattr(numpy, ELEMENTWISE[kind])
            value = value.item() if value is not None and value.size == 1 else value
            operands = [x] if value is None else [value, x] if first else [x, value]
            x = function(*operands)
        else:
            x = ACTIVATIONS[kind](x)
    return x


def _compute_lookup(op: Operation, params: Params, x: Array) -> Array:
    return apply(op.options["functions"], x, jnp)


def _compute_energy(op: Operation, params: Params, x: Array) -> Array:
    return jnp.sum(x * x, axis=op.options["axis"], keepdims=op.options["keepdims"])


def _compute_log_norm(op: Operation, params: Params, energy: Array, *_: Array) -> Array:
    return 0.5 * jnp.log(jnp.maximum(energy, 1e-30))


# Of `graph.results`, for the kinds that this file makes.
RULES = {LOOKUP: _compute_lookup, ENERGY: _compute_energy, LOG_NORM: _compute_log_norm}


def activations_apart(operations: Sequence[Operation]) -> list[Operation]:
    """Return the operations, with activations that need a table by themselves."""
    return [part for op in operations for part in _activation_apart(op)]


def _activation_apart(op: Operation) -> list[Operation]:
    """Return the operation, and its activation by itself where that needs a table."""
    if op.kind == "activation" and (op.activation not in BOUNDS or len(op.shape) != 3):
        return [_lookup(op.name, op.inputs[0], op.shape, [(op.activation, None, False)])]
    bounded = op.activation in BOUNDS and op.kind not in MOVED
    if op.kind == "activation" or bounded or op.activation is None:
        return [op]
    name = f"{op.name}/linear"
    linear = dataclasses.replace(op, name=name, activation=None, shares=op.owner)
    return [linear, _lookup(op.name, name, op.shape, [(op.activation, None, False)])]


def _lookup(name: str, source: str, shape, functions: list[Function], activation=None) -> Operation:
    options = {"functions": functions}
    return Operation(LOOKUP, name, [source], tuple(shape), options, activation=activation)


def _functions(operations: Sequence[Operation]) -> list[Operation]:
    """Join functions of one value, and make convolutions of those that are linear."""
    known = {op.name: op for op in operations}
    readers = collections.Counter(name for op in operations for name in op.inputs)
    made: dict[str, Operation] = {}
    for op in operations:
        op = _as_lookup(op, known)
        before = made.get(op.inputs[0]) if op.kind == LOOKUP else None
        if before and readers[before.name] == 1 and (joined := _joined(before, op, made, readers)):
            op = joined
        made[op.name] = op
    return [_as_conv(op) for op in made.values()]


def _as_lookup(op: Operation, known: Mapping[str, Operation]) -> Operation:
    """Return the function of one value that an operation is, or the operation."""
    if op.kind not in ELEMENTWISE:
        return op
    constants = [known[n].kind == "constant" if n in known else False for n in op.inputs]
    if sum(constants) != len(op.inputs) - 1:
        return op
    value, first = None, constants[0]
    if len(op.inputs) == 2:
        value = np.asarray(known[op.inputs[not first]].arrays["value"], np.float64)
        by_channel = len(op.shape) == 3 and value.size == value.shape[-1] == op.shape[-1]
        linear = _is_linear([(op.kind, value, first)])
        if value.size != 1 and not (by_channel and linear):
            return op
        value = value.reshape(-1)
    source = op.inputs[constants.index(False)]
    if source in known and known[source].shape != op.shape:
        return op
    return _lookup(op.name, source, op.shape, [(op.kind, value, first)], op.activation)


def _joined(before: Operation, op: Operation, made, readers) -> Operation | None:
    """Return one operation for two, and take the first one out of those that are made."""
    if before.activation is not None:
        return None
    functions = op.options["functions"]
    if before.kind == LOOKUP:
        functions = [*before.options["functions"], *functions]
        if not (_is_table(functions) or _is_linear(functions)):
            return None
        del made[before.name]
        return _lookup(op.name, before.inputs[0], op.shape, functions, op.activation)
    parts = [made.get(name) for name in before.inputs]
    ready = before.kind == "add" and len(before.inputs) == 2 and _is_linear(functions)
    if not ready or not all(_is_linear_part(part, readers, op.shape) for part in parts):
        return None
    # a (x + y) + b = (a x + b) + a y
    factor, _ = _line(functions, max(value.size for _, value, _ in functions))
    own = [functions, [("mul", factor, False)]]
    for name in (before.name, *before.inputs):
        del made[name]
    inputs = []
    for number, (x, more) in enumerate(zip(parts, own, strict=True), 1):
        inputs.append(f"{op.name}/part{number}")
        made[inputs[-1]] = _lookup(inputs[-1], x.inputs[0], x.shape, [*_functions_of(x), *more])
        readers[inputs[-1]] = 1
    return dataclasses.replace(before, name=op.name, inputs=inputs, activation=op.activation)


def _is_linear_part(op: Operation | None, readers, shape) -> bool:
    alone = op is not None and op.kind == LOOKUP and readers[op.name] == 1
    return alone and op.activation is None and op.shape == shape and _is_linear(_functions_of(op))


def _functions_of(op: Operation) -> list[Function]:
    return op.options["functions"]


def _is_table(functions: Sequence[Function]) -> bool:
    """Return whether the functions are the same for all channels."""
    return all(value is None or value.size == 1 for _, value, _ in functions)


def _is_linear(functions: Sequence[Function]) -> bool:
    return all(kind in LINEAR and not (kind == "div" and first) for kind, _, first in functions)


def _line(functions: Sequence[Function], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return factor and shift `[n]` of linear functions."""
    shift = np.broadcast_to(apply(functions, np.zeros(n)), n)
    return np.broadcast_to(apply(functions, np.ones(n)), n) - shift, shift


def _as_conv(op: Operation) -> Operation:
    """Return a convolution of 1×1, each channel by itself, for linear functions of an image."""
    if op.kind != LOOKUP or not _is_linear(_functions_of(op)):
        return op
    is_image = len(op.shape) == 3 and math.prod(op.shape[:2]) > 1
    if not is_image and _is_table(_functions_of(op)):
        return op
    c = op.shape[-1]
    factor, shift = _line(_functions_of(op), c)
    values = {"kernel": factor.reshape(1, 1, 1, c), "bias": shift}
    options = {"strides": (1, 1), "padding": ((0, 0), (0, 0)), "groups": c}
    return Operation("conv", op.name, op.inputs, op.shape, options, values, op.activation)


def _energies(operations: Sequence[Operation]) -> list[Operation]:
    """Join products of a result and itself with the sums over them."""
    readers = collections.Counter(name for op in operations for name in op.inputs)
    made: dict[str, Operation] = {}
    for op in operations:
        before = made.get(op.inputs[0]) if op.kind == "reduce_sum" else None
        square = before and before.kind == "mul" and len({*before.inputs}) == 1
        if square and before.activation is None and readers[before.name] == 1:
            del made[before.name]
            op = dataclasses.replace(op, kind=ENERGY, inputs=before.inputs[:1])
        made[op.name] = op
    return list(made.values())


def _written_out(op: Operation) -> list[Operation]:
    """Return the operations of a response normalisation, or the operation: `layers.response_norm`.

    That is x · gain + β, with gain = 1 + γ · norm / mean norm for each channel. Norms are taken as
    parts of the largest one, so that a quiet clip has as many steps as a loud one; the 1e-6 that
    the mean is spared from being 0 by is not needed then. The product has the range of the result
    less β, of whose negative values a relu leaves nothing.
    """
    if op.kind != "grn":
        return [op]
    (x,), vector, number = op.inputs, (1, 1, op.shape[-1]), (1, 1, 1)
    gamma, beta = (np.asarray(op.arrays[name], np.float64).reshape(1) for name in ("gamma", "beta"))
    part = functools.partial("{}/{}".format, op.name)
    over_channels = {"axis": (3,), "keepdims": True}
    levels = [part(f"energy{level}") for level in LEVELS]
    share = [("div", np.ones(1), True), ("mul", gamma, False)]
    like_result = {"range": (op.name, 1.0, -float(beta[0]))}
    shift = {"value": beta.reshape(1, 1, 1, 1)}

    def energy(name: str, level: int) -> Operation:
        options = {"axis": (1, 2), "keepdims": True}
        options |= {"range": (levels[0], 1 / level, 0.0)} if level > 1 else {}
        return Operation(ENERGY, name, [x], vector, options)

    def make(kind: str, name: str, inputs: list[str], shape, **options) -> Operation:
        return Operation(kind, part(name), [*map(part, inputs)], shape, options)

    return [
        *map(energy, levels, LEVELS),
        Operation(LOG_NORM, part("log"), levels, vector),
        make("reduce_max", "peak", ["log"], number, **over_channels),
        make("sub", "below", ["log", "peak"], vector, bounds=(-SPAN, 0.0)),
        make(
            LOOKUP, "norm", ["below"], vector, functions=[("exp", None, False)], bounds=(0.0, 1.0)
        ),
        make("reduce_mean", "mean", ["norm"], number, **over_channels),
        make(LOOKUP, "share", ["mean"], number, functions=share),
        make("mul", "ratio", ["norm", "share"], vector),
        make(LOOKUP, "gain", ["ratio"], vector, functions=[("add", np.ones(1), False)]),
        Operation("mul", part("product"), [x, part("gain")], op.shape, like_result),
        Operation("constant", part("beta"), [], number, {}, shift),
        dataclasses.replace(
            op, kind="add", inputs=[part("product"), part("beta")], options={}, arrays={}
        ),
    ]
