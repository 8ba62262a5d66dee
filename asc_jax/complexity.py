"""Exact multiply-accumulates of a JAX function, read off its jaxpr, and the task's budget.

Nothing is computed or compiled. A convolution costs (output elements) × (kernel taps) ×
(input channels per group), a matrix product (output elements) × (contracted length); this is
how the task counts, positions in the padding included. What runs inside jit, vmap, remat,
custom derivatives, scan, cond or shard_map is followed; anything else that carries a jaxpr
raises, since skipping it would be a silent lie.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Mapping

import jax

from asc_jax.errors import UserError
from asc_jax.types import Params

# Primitives that run one inner jaxpr exactly once, and the parameter that holds it.
CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "custom_lin": "jaxpr",
}
N_NAMED_LAYERS = 3  # how many of the dearest layers an over-budget message names


@dataclasses.dataclass(frozen=True)
class MacCount:
    """Multiply-accumulates: in total, by Flax module path, by primitive."""

    total: int
    by_layer: Mapping[str, int]
    by_primitive: Mapping[str, int]


def count_macs(fn: Callable, *args, **kwargs) -> MacCount:
    """Count the multiply-accumulates of `fn(*args, **kwargs)`.

    Args:
      fn: any JAX function.
      *args: pytrees of arrays or `jax.ShapeDtypeStruct`s.
      **kwargs: likewise.

    Returns:
      A `MacCount`. Layers are module paths without the network's own name ("b1/expand").

    Raises:
      ValueError: the function holds a `while` loop (its length is unknown) or a primitive
        with an inner jaxpr that the counter does not know.

    Example:
      >>> import jax.numpy as jnp
      >>> count_macs(jnp.dot, jnp.ones((2, 3)), jnp.ones((3, 5))).total
      30
    """
    by_layer: collections.Counter = collections.Counter()
    by_primitive: collections.Counter = collections.Counter()
    for layer, primitive, macs in _walk(jax.make_jaxpr(fn)(*args, **kwargs).jaxpr, ""):
        by_layer[layer] += macs
        by_primitive[primitive] += macs
    return MacCount(sum(by_layer.values()), dict(by_layer), dict(by_primitive))


def _walk(jaxpr, outer: str):
    """Yield (layer, primitive, macs) for every product in a jaxpr and those inside it."""
    for eqn in jaxpr.eqns:
        name, params = eqn.primitive.name, eqn.params
        scope = "/".join(part for part in (outer, str(eqn.source_info.name_stack)) if part)
        if name == "conv_general_dilated":
            yield _layer(scope), name, _conv_macs(eqn)
        elif name == "dot_general":
            yield _layer(scope), name, _dot_macs(eqn)
        elif name in CALLS:
            yield from _walk(_open(params[CALLS[name]]), scope)
        elif name == "scan":
            for layer, primitive, macs in _walk(_open(params["jaxpr"]), scope):
                yield layer, primitive, macs * params["length"]
        elif name == "shard_map":
            size = math.prod(params["mesh"].shape.values())
            for layer, primitive, macs in _walk(_open(params["jaxpr"]), scope):
                yield layer, primitive, macs * size
        elif name == "cond":
            branches = [list(_walk(_open(branch), scope)) for branch in params["branches"]]
            yield from max(branches, key=lambda rows: sum(macs for *_, macs in rows))
        elif name == "while":
            raise ValueError(
                f"a while loop in {_layer(scope) or 'the function'}: how often it runs is not "
                "in the jaxpr; use lax.scan or fori_loop with a fixed length"
            )
        elif _inner_jaxprs(params):
            raise ValueError(
                f"primitive {name!r} holds a jaxpr that the counter does not know how to count"
            )


def _open(jaxpr):
    return getattr(jaxpr, "jaxpr", jaxpr)


def _inner_jaxprs(params) -> list:
    values = []
    for value in params.values():
        values += value if isinstance(value, list | tuple) else [value]
    return [value for value in values if hasattr(_open(value), "eqns")]


def _layer(scope: str) -> str:
    """`CPMobile/b1/expand` → `b1/expand`."""
    return scope.split("/", 1)[1] if "/" in scope else scope


def _conv_macs(eqn) -> int:
    kernel, numbers = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"]
    taps_and_channels = math.prod(kernel) // kernel[numbers.rhs_spec[0]]
    return math.prod(eqn.outvars[0].aval.shape) * taps_and_channels


def _dot_macs(eqn) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    length = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
    return math.prod(eqn.outvars[0].aval.shape) * length


def layer_bytes(params: Params, itemsize: int) -> dict[str, int]:
    """Bytes of the parameters of each layer, by module path, at `itemsize` bytes a value."""
    sizes: collections.Counter = collections.Counter()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = [entry.key for entry in path[:-1] if entry.key != "norm"]
        sizes["/".join(names)] += leaf.size * itemsize
    return dict(sizes)


def check_budget(
    macs: Mapping[str, int],
    n_bytes: Mapping[str, int],
    *,
    max_macs: int,
    max_bytes: int,
    enforce: bool = True,
) -> bool:
    """Hold a network against the task's limits.

    Args:
      macs: multiply-accumulates by layer, for one clip.
      n_bytes: bytes of the parameters in their stored dtype, by layer.
      max_macs: limit, multiply-accumulates.
      max_bytes: limit, bytes.
      enforce: False lets an over-budget network pass, for experiments outside the task.

    Returns:
      True when it is within both limits.

    Raises:
      UserError: a limit is exceeded; names limit, excess and the layers that cost most.
    """
    problems = [
        f"{sum(costs.values()):,} {unit} are {sum(costs.values()) - limit:,} over the limit of "
        f"{limit:,}; most go to {_dearest(costs)}"
        for costs, limit, unit in ((macs, max_macs, "MACs"), (n_bytes, max_bytes, "bytes"))
        if sum(costs.values()) > limit
    ]
    if problems and enforce:
        raise UserError(
            "the network is over the task's budget: " + ". ".join(problems) + ". Make it smaller "
            "(config.model, config.features.hop_length), or pass --config.budget.enforce=False "
            "for a run outside the task"
        )
    return not problems


def _dearest(costs: Mapping[str, int]) -> str:
    ranked = sorted(costs.items(), key=lambda item: -item[1])[:N_NAMED_LAYERS]
    return ", ".join(f"{layer} ({cost:,})" for layer, cost in ranked)
