"""Read the operations of a trained network off its jaxpr, the program that JAX traces.

Calls are opened, and of a `lax.platform_dependent` the default branch is followed. What depends on
no clip is computed here, in float64; so is what a factor or a shift by channel, such as a batch
normalisation in evaluation, does to the kernel and the bias of the convolution before it.
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from asc_jax.complexity import jaxpr_walk
from asc_jax.errors import UserError
from asc_jax.models.layers import response_norm
from asc_jax.operations import recorded
from asc_jax.operations.graph import ACTIVATIONS, ELEMENTWISE, INPUT, REDUCTIONS, Operation
from asc_jax.operations.recorded import Recorded
from asc_jax.types import Params

N_CLIPS = 89  # in the traced batch: a length that no other axis is likely to have
IMAGES = (0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)  # a convolution's axes, channels last
LAYERS = ("conv", "dense", "grn")  # kinds of operation that have the name of their layer


@dataclasses.dataclass(frozen=True)
class Steps:
    """A result whose second axis, that of a recurrent layer's steps, comes before the clips."""

    op: Operation


class UnknownPrimitive(UserError):
    """The network holds a primitive, or a use of one, for which there is no rule."""


def read(apply: Callable, variables: Params, shape: tuple[int, ...]) -> list[Operation]:
    """Return the operations of a network in order, from `log_mel` to `logits`.

    Args:
      apply: `(variables, log_mel) -> logits`, as `models.evaluation` returns it.
      variables: of the network, numpy or JAX arrays.
      shape: of one clip's log-mel.

    Returns:
      Operations with float64 arrays. Their names are those of the network's layers.

    Raises:
      UnknownPrimitive: there is no rule for a primitive.

    Example:
      >>> from asc_jax.models.kernels.convolution import conv
      >>> def network(kernel, log_mel):
      ...     return jnp.mean(jax.nn.relu(3 * conv(log_mel, kernel, (2, 2)) - 1), axis=(1, 2))
      >>> conv, mean = read(network, np.full((1, 1, 1, 3), 2.0, np.float32), (8, 6, 1))
      >>> conv.kind, conv.arrays["kernel"].ravel(), conv.arrays["bias"], conv.activation
      ('conv', array([6., 6., 6.]), array([-1., -1., -1.]), 'relu')
      >>> mean.kind, mean.options["axis"], mean.shape
      ('reduce_mean', (1, 2), (3,))
    """
    with np.errstate(all="ignore"):  # `run.deploy` rejects values that are not finite, by name
        return _simplified(_traced(apply, variables, shape))


def read_function(
    apply: Callable, variables: Params, shape: tuple[int, ...]
) -> tuple[list[Operation], Callable[[Params], Params]]:
    """Return the operations of a network, and their arrays as a function of its variables.

    Args:
      apply, shape: see `read`.
      variables: floating arrays; only their structure and shapes matter.

    Returns:
      The operations, whose arrays mean nothing, and `variables -> {owner: arrays}`, which JAX
      traces and differentiates: kernels and biases with BatchNorm folded in.

    Raises:
      UnknownPrimitive: there is no rule for a primitive.

    Example:
      >>> operations, arrays = read_function(lambda v, x: x @ (2 * v), jnp.ones((3, 1)), (3,))
      >>> arrays(jnp.array([[1.0], [2.0], [3.0]]))[operations[0].owner]["kernel"].ravel().tolist()
      [2.0, 4.0, 6.0]
    """
    leaves, tree = jax.tree.flatten(variables)
    rng = np.random.default_rng(0)  # no two values are equal by chance, as those of a fresh network
    drawn = [recorded.leaf(rng.uniform(0.5, 1.5, np.shape(x)), k) for k, x in enumerate(leaves)]
    operations = read(apply, jax.tree.unflatten(tree, drawn), shape)

    def arrays(variables: Params) -> Params:
        leaves, known = jax.tree.leaves(variables), {}
        own = {op.owner: op.arrays for op in operations}
        return jax.tree.map(lambda x: recorded.compute(x, leaves, known), own)

    return operations, arrays


def _traced(apply: Callable, variables: Params, shape: tuple[int, ...]) -> dict[str, Operation]:
    """Return the operations as they are traced, by name; the result is the last one."""
    clips = jax.ShapeDtypeStruct((N_CLIPS, *shape), jnp.float32)
    closed = jax.make_jaxpr(apply)(jax.tree.map(_shape_of, variables), clips)
    operations = {INPUT: Operation("input", INPUT, [], shape)}
    leaves = map(_wide, jax.tree.leaves(variables))
    (result,) = _run(operations, closed, [*leaves, operations[INPUT]], ())
    return operations | {result.name: operations.pop(result.name)}


@functools.cache
def _patterns() -> dict[str, dict[str, Operation]]:
    """Return the operations of every activation, as they are traced."""
    return {
        name: _traced(lambda _, x, function=function: function(x), (), (1,))
        for name, function in ACTIVATIONS.items()
    }


def _argument(op: Operation, operations, like: Operation, pattern) -> str | None:
    """Return the name of x, where an operation is computed from x as `like` is from the input.

    Args:
      op: one of `operations`.
      operations: a network's, by name.
      like: one of `pattern`.
      pattern: those of a function, by name.

    Returns:
      None: it is computed otherwise; "": a constant, the same as in the pattern.
    """
    if like.kind == "input":
        return op.name
    if (op.kind, op.activation) != (like.kind, like.activation):
        return None
    if op.kind == "constant":
        same = np.array_equal(op.arrays["value"].ravel(), like.arrays["value"].ravel())
        return "" if same else None
    pairs = zip(op.inputs, like.inputs, strict=True)
    names = {_argument(operations[a], operations, pattern[b], pattern) for a, b in pairs} - {""}
    return names.pop() if len(names) == 1 else None


def _shape_of(leaf):
    """Return what JAX traces a leaf by: for a recorded array, which it does not know, its shape."""
    is_recorded = isinstance(leaf, Recorded)
    return jax.ShapeDtypeStruct(leaf.shape, jnp.float32) if is_recorded else leaf


def _wide(value) -> np.ndarray:
    if isinstance(value, Recorded):
        return value
    if hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jax.dtypes.extended):
        return value  # a key
    value = np.asarray(value)
    return value.astype(np.float64) if jnp.issubdtype(value.dtype, jnp.floating) else value


def _run(operations: dict[str, Operation], closed, values: list, scope: tuple[str, ...]) -> list:
    """Add the operations of a jaxpr; values are operations, and arrays that depend on no clip."""
    jaxpr = jaxpr_walk.opened(closed)
    env = dict(zip(jaxpr.constvars, map(_wide, getattr(closed, "consts", ())), strict=True))
    env |= zip(jaxpr.invars, values, strict=True)

    def value(atom):
        return _wide(atom.val) if isinstance(atom, jex.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        here = _Here(operations, scope + jaxpr_walk.scopes(eqn), eqn)
        env |= zip(eqn.outvars, here.read([value(atom) for atom in eqn.invars]), strict=True)
    return [value(atom) for atom in jaxpr.outvars]


@dataclasses.dataclass
class _Here:
    """An equation, the modules around it, and the operations that it is added to."""

    operations: dict[str, Operation]
    scope: tuple[str, ...]
    eqn: Any

    def read(self, values: list) -> list:
        """Return the results of the equation."""
        name, params = self.eqn.primitive.name, self.eqn.params
        inner = list(jaxpr_walk.inner_jaxprs(params))
        default = jaxpr_walk.default_branch(self.eqn)
        if op := self._response_norm(values):
            return [op]
        if default is not None:
            return _run(self.operations, default, values[1:], self.scope)
        if name in jaxpr_walk.CALLS and len(inner) == 1:
            return _run(self.operations, inner[0], values, self.scope)
        if any(isinstance(value, Operation | Steps) for value in values):
            if name not in RULES:
                raise self.unknown()
            results = RULES[name](self, *values)
        elif name == "platform_index":
            return [None]
        elif name in CONSTANT_RULES and all(value.dtype == np.float64 for value in values):
            results = RULES[name](self, *values)
        else:
            results = self._computed(values)
        return list(results) if isinstance(results, list | tuple) else [results]

    def _computed(self, values: list):
        """Return the result of an equation, or several, of arrays alone."""
        dtypes = [atom.aval.dtype for atom in self.eqn.invars]

        def bind(*values):
            values = map(jnp.asarray, values, dtypes)
            return self.eqn.primitive.bind(*values, **self.eqn.params)

        results = jax.tree.map(_wide, bind(*map(np.asarray, values)))
        if not any(isinstance(value, Recorded) for value in values):
            return results
        if self.eqn.primitive.multiple_results:
            return [
                recorded.record(result, lambda *x, k=k: bind(*x)[k], values)
                for k, result in enumerate(results)
            ]
        return recorded.record(results, bind, values)

    def _response_norm(self, values: list) -> Operation | None:
        """Return the operation of a call of `response_norm`; None: the equation is another."""
        takes = [isinstance(value, Operation) for value in values] == [True, False, False]
        if not takes or self.eqn.params.get("name") != response_norm.__name__:
            return None
        shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in self.eqn.invars]
        (call,) = jax.make_jaxpr(response_norm)(*shapes).eqns
        if str(call.params["jaxpr"]) != str(self.eqn.params["jaxpr"]):
            return None
        gamma, beta = (np.reshape(value, 1) for value in values[1:])
        return self.add("grn", values[0], arrays={"gamma": gamma, "beta": beta})

    def unknown(self, why: str = "") -> UnknownPrimitive:
        """Return the error that names the primitive and its layer."""
        place = jaxpr_walk.place(self.scope[1:])
        return UnknownPrimitive(
            f"the primitive {self.eqn.primitive.name}{place} has no export rule{why}: --to "
            "stablehlo writes any network"
        )

    def require(self, condition: bool, why: str) -> None:
        if not condition:
            raise self.unknown(f" where {why}")

    def add(self, kind: str, *inputs, shape=None, arrays=None, **options) -> Operation:
        """Add an operation; shape: of its result, where that is not the equation's."""
        shape = shape or self.eqn.outvars[0].aval.shape
        self.require(shape[0] == N_CLIPS, "clips are not the first axis")
        others = [x for x in inputs if isinstance(x, Operation)]
        names = [
            x.name if isinstance(x, Operation) else self._constant(x, others, shape).name
            for x in inputs
        ]
        return self._named(kind, names, shape[1:], options, arrays or {})

    def _named(self, kind, inputs, shape, options, arrays) -> Operation:
        name = "/".join((*self.scope[1:], *([] if kind in LAYERS else [kind]))) or kind
        n = sum(name == known.partition("#")[0] for known in self.operations)
        name += f"#{n + 1}" if n else ""
        self.operations[name] = Operation(kind, name, inputs, tuple(shape), options, arrays)
        return self.operations[name]

    def _constant(self, value, others: list[Operation], shape) -> Operation:
        """Add an array, `[1, …]` and without copies along axes that an other operand has."""
        value = np.asanyarray(value, np.float64)
        value = value.reshape((1,) * (len(shape) - value.ndim) + value.shape)
        for axis in range(value.ndim):
            first = value.take([0], axis)
            has = axis == 0 or any(x.shape[axis - 1] == shape[axis] for x in others)
            if has and np.array_equal(np.broadcast_to(first, value.shape), value):
                value = first
        self.require(len(value) == 1, "a constant differs from clip to clip")
        return self._named("constant", [], value.shape[1:], {}, {"value": value})

    def reshape(self, x, shape: tuple[int, ...]):
        if not isinstance(x, Operation):
            return x.reshape(shape)
        if x.kind in REDUCTIONS and not x.options["keepdims"]:
            axes, source = x.options["axis"], self.operations[x.inputs[0]]
            kept = [1 if axis in axes else n for axis, n in enumerate(source.shape, 1)]
            if list(shape[1:]) == kept:
                options = {"axis": axes, "keepdims": True}
                return self._named(x.kind, x.inputs, kept, options, {})
        return self.add("reshape", x, shape=shape)

    def activation(self, name: str, x) -> Operation:
        op = self.add("activation", x)
        op.activation = name
        return op

    def elementwise(self, kind: str, *operands):
        if any(isinstance(x, Operation) for x in operands):
            return self._mean(kind, *operands) or self.add(kind, *operands)
        return getattr(np, ELEMENTWISE[kind])(*operands)

    def _mean(self, kind: str, x, divisor=None):
        """Return the mean for a sum that is divided by the number of values; None: it is not."""
        if kind != "div" or not isinstance(x, Operation) or isinstance(divisor, Operation):
            return None
        if x.kind == "mul" and (pool := self.operations.get(x.inputs[0], x)).kind == "avg_pool":
            factor = self.operations[x.inputs[1]].arrays["value"] / divisor
            return pool if np.all(factor == 1) else self.elementwise("mul", pool, factor)
        whole = math.prod(self.operations[x.inputs[0]].shape) if x.inputs else 0
        if x.kind == "reduce_sum" and np.all(divisor == whole / math.prod(x.shape)):
            return self._named("reduce_mean", x.inputs, x.shape, x.options, {})
        return None


def _elementwise(kind: str) -> Callable:
    return lambda here, *operands: here.elementwise(kind, *operands)


def _power(here: _Here, x):
    product, exponent = x, here.eqn.params["y"]
    for _ in range(abs(exponent) - 1):
        product = here.elementwise("mul", product, x)
    return product if exponent > 0 else here.elementwise("div", 1.0, product)


def _reshape(here: _Here, x):
    return here.reshape(x, here.eqn.outvars[0].aval.shape)


def _broadcast(here: _Here, x, *_):
    shape, axes = here.eqn.outvars[0].aval.shape, here.eqn.params["broadcast_dimensions"]
    own = (N_CLIPS, *x.shape) if isinstance(x, Operation) else x.shape
    narrow = [1] * len(shape)
    for axis, n in zip(axes, own, strict=True):
        narrow[axis] = n
    y = here.reshape(x, tuple(narrow))
    if not isinstance(x, Operation):
        return np.broadcast_to(y, shape)
    return y if y.shape == shape[1:] else here.add("mul", y, np.ones((1, *shape[1:])))


def _conv(here: _Here, x, kernel):
    params = here.eqn.params
    plain = isinstance(kernel, np.ndarray) and tuple(params["dimension_numbers"]) == IMAGES
    here.require(plain, "it is not of images, channels last, with a constant kernel")
    dilations = (*params["lhs_dilation"], *params["rhs_dilation"], params["batch_group_count"])
    here.require(set(dilations) == {1}, "it is dilated")
    return here.add(
        "conv",
        x,
        arrays={"kernel": kernel, "bias": np.zeros(kernel.shape[-1])},
        strides=params["window_strides"],
        padding=params["padding"],
        groups=params["feature_group_count"],
    )


def _dense(here: _Here, x, kernel):
    (left, right), batched = here.eqn.params["dimension_numbers"]
    product = isinstance(x, Operation) and isinstance(kernel, np.ndarray) and kernel.ndim == 2
    here.require(
        product and tuple(left) == (len(x.shape),) and not any(batched),
        "it is not of a result's last axis with a constant matrix",
    )
    kernel = kernel if tuple(right) == (0,) else kernel.T
    return here.add("dense", x, arrays={"kernel": kernel, "bias": np.zeros(kernel.shape[1])})


def _window(here: _Here, x, start):
    combiner = [eqn.primitive.name for eqn in jaxpr_walk.opened(here.eqn.params["jaxpr"]).eqns]
    known = combiner in (["add"], ["max"]) and start == {"add": 0, "max": -np.inf}[combiner[0]]
    here.require(known, "it is neither a sum nor a maximum")
    return _pool(here, x, combiner[0])


def _pool(here: _Here, x, combiner: str):
    p = here.eqn.params
    size, strides, padding = p["window_dimensions"], p["window_strides"], p["padding"]
    plain = len(size) == 4 and size[0] == size[3] == 1
    plain &= {*p["base_dilation"], *p["window_dilation"]} == {1}
    here.require(plain, "its window is not one of mel bins and frames")
    options = {"size": size[1:3], "strides": strides[1:3], "padding": padding[1:3]}
    if combiner == "max":
        return here.add("max_pool", x, **options)
    return here.add("mul", here.add("avg_pool", x, **options), np.float64(math.prod(size)))


def _reduce(here: _Here, x):
    return here.add(here.eqn.primitive.name, x, axis=here.eqn.params["axes"], keepdims=False)


def _concatenate(here: _Here, *xs):
    here.require(all(isinstance(x, Operation) for x in xs), "a part of it is a constant")
    return here.add("concatenate", *xs, axis=here.eqn.params["dimension"])


def _slice(here: _Here, x):
    p = here.eqn.params
    strides = p["strides"] or (1,) * len(p["start_indices"])
    ranges = zip(p["start_indices"], p["limit_indices"], strides, strict=True)
    return here.add("slice", x, ranges=[*ranges][1:])


def _split(here: _Here, x):
    axis, parts, start = here.eqn.params["axis"], [], 0
    for out, n in zip(here.eqn.outvars, here.eqn.params["sizes"], strict=True):
        ranges = [(0, length, 1) for length in x.shape]
        ranges[axis - 1] = (start, start + n, 1)
        parts.append(here.add("slice", x, shape=out.aval.shape, ranges=ranges))
        start += n
    return parts


def _transpose(here: _Here, x):
    if here.eqn.params["permutation"] != (1, 0, 2):
        return here.add("transpose", x, **here.eqn.params)
    return x.op if isinstance(x, Steps) else Steps(x)


def _scan(here: _Here, *values):
    """Write a loop out, step by step: what it goes over are `Steps`, and what it collects."""
    p = here.eqn.params
    n_consts, n_carry, length = p["num_consts"], p["num_carry"], p["length"]
    consts, carry = values[:n_consts], values[n_consts : n_consts + n_carry]
    over, collected = values[n_consts + n_carry :], []
    here.require(all(isinstance(x, Steps) for x in over), "it goes over another axis than steps")
    for step in reversed(range(length)) if p["reverse"] else range(length):
        rows = []
        for x in over:
            ranges = [(step, step + 1, 1), *((0, n, 1) for n in x.op.shape[1:])]
            row = here.add("slice", x.op, shape=(N_CLIPS, 1, *x.op.shape[1:]), ranges=ranges)
            rows.append(here.add("reshape", row, shape=(N_CLIPS, *x.op.shape[1:])))
        results = _run(here.operations, p["jaxpr"], [*consts, *carry, *rows], here.scope)
        carry = results[:n_carry]
        collected.append(results[n_carry:])
    collected = collected[::-1] if p["reverse"] else collected
    stacked = []
    for parts in zip(*collected, strict=True):
        here.require(all(isinstance(y, Operation) for y in parts), "it collects a constant")
        shape = N_CLIPS, 1, *parts[0].shape
        parts = [here.add("reshape", y, shape=shape) for y in parts]
        whole = N_CLIPS, length, *shape[2:]
        stacked.append(Steps(here.add("concatenate", *parts, shape=whole, axis=1)))
    return [*carry, *stacked]


def _unchanged(here: _Here, *xs):
    floating = all(jnp.issubdtype(v.aval.dtype, jnp.floating) for v in here.eqn.outvars)
    here.require(floating, "the result is not floating")
    return list(xs)


# Primitive → the rule that adds its operations, or computes it where all operands are arrays.
CONSTANT_RULES = {
    **{kind: _elementwise(kind) for kind in ELEMENTWISE},
    "broadcast_in_dim": _broadcast,
    "convert_element_type": _unchanged,
    "integer_pow": _power,
    "neg": lambda here, x: here.elementwise("mul", x, -1.0),
    "reshape": _reshape,
    "rsqrt": lambda here, x: here.elementwise("div", 1.0, here.elementwise("sqrt", x)),
    "square": lambda here, x: here.elementwise("mul", x, x),
    "squeeze": _reshape,
}
RULES = CONSTANT_RULES | {
    "concatenate": _concatenate,
    "conv_general_dilated": _conv,
    "copy": _unchanged,
    "dot_general": _dense,
    "logistic": lambda here, x: here.activation("sigmoid", x),
    "optimization_barrier": _unchanged,
    "reduce_max": _reduce,
    "reduce_min": _reduce,
    "reduce_sum": _reduce,
    "reduce_window": _window,
    "reduce_window_max": lambda here, x: _pool(here, x, "max"),
    "reduce_window_sum": lambda here, x: _pool(here, x, "add"),
    "scan": _scan,
    "slice": _slice,
    "split": _split,
    "transpose": _transpose,
}


def _simplified(operations: dict[str, Operation]) -> list[Operation]:
    """Return what the last one depends on, in order, with operations merged where that is exact."""
    readers = collections.Counter([next(reversed(operations))])
    for op in reversed(operations.values()):  # so that a larger pattern goes before its parts
        for name, pattern in _patterns().items():
            x = _argument(op, operations, next(reversed(pattern.values())), pattern)
            if x and readers[op.name]:
                op.kind, op.inputs, op.activation = "activation", [x], name
                break
        readers.update(op.inputs if readers[op.name] else ())
    kept, merged = {}, {}  # by name; merged: name → the operation that does its work
    for op in operations.values():
        inputs = [merged.get(name) or kept[name] for name in op.inputs if readers[op.name]]
        op.inputs = [x.name for x in inputs]
        constants = [x.arrays["value"] for x in inputs if x.kind == "constant"]
        before = [x for x in inputs if x.kind != "constant"]
        if len(before) == 1 and readers[before[0].name] == 1 and _merge(before[0], op, *constants):
            merged[op.name], readers[before[0].name] = before[0], readers[op.name]
        elif readers[op.name]:
            kept[op.name] = op
    read = {name for op in kept.values() for name in op.inputs}
    unread = [op.name for op in kept.values() if op.kind == "constant" and op.name not in read]
    operations = [op for op in kept.values() if op.name not in (INPUT, *unread)]
    _share([op for op in operations if op.kind == "dense"])
    return operations


def _share(operations: list[Operation]) -> None:
    """Say of operations with equal arrays that they share them: the steps of a recurrent layer."""
    owners = {}
    for op in operations:
        key = tuple((name, op.arrays[name].tobytes()) for name in sorted(op.arrays))
        owner = owners.setdefault(key, op)
        op.shares = owner.name if owner is not op else None


def _merge(op: Operation, after: Operation, value: np.ndarray | None = None) -> bool:
    """Do the work of an only reader in the operation before it; return whether that is possible.

    Args:
      op: the operation before.
      after: its only reader.
      value: the constant that it reads too.
    """
    if op.activation is not None or op.kind == "input":
        return False
    if after.kind == "activation":
        op.activation = after.activation
        return True
    if value is None or op.kind not in ("conv", "dense") or after.shape != op.shape:
        return False
    by_channel, first = value.size == value.shape[-1], after.inputs[0] == op.name
    value = value.reshape(-1)
    lines = {"add": (1, value), "sub": (1, -value) if first else (-1, value), "mul": (value, 0)}
    lines |= {"div": (1 / value, 0)} if first else {}
    if after.kind not in lines or not by_channel:
        return False
    factor, shift = lines[after.kind]
    kernel, bias = op.arrays["kernel"], op.arrays["bias"]
    op.arrays = {"kernel": kernel * factor, "bias": bias * factor + shift}
    return True
