"""Exact multiply-accumulates of a JAX function, read off its jaxpr.

Nothing is computed or compiled. One rule, which is how the task counts: an element of a
convolution's result costs (kernel taps) × (input channels per group), one of a matrix product
the contracted length. A tap counts wherever it falls: on the input, on padding, or on the
zeros that `lhs_dilation` inserts (a transposed convolution), as torchinfo and the baseline
have it; a tool that leaves those out prints less.

Two conventions. "exact" is that rule. "torchinfo", the figure that the baseline and the report
publish, also adds every BatchNorm parameter once per clip: 2,708 here, a scale and a bias for
each of 1,354 channels, although folded into the convolutions they cost nothing. Hence
29,416,448 + 2,708 = 29,419,156 at 65 frames and 29,425,664 + 2,708 = 29,428,372 at 68.
"""

import collections
import dataclasses
import functools
import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax.errors import TraceContextError

from asc_jax.complexity import jaxpr_walk, primitive_costs
from asc_jax.types import Params

_NEEDS_VALUES = (
    *(jax.errors.ConcretizationTypeError, jax.errors.TracerIntegerConversionError),
    *(jax.errors.TracerArrayConversionError, jax.errors.NonConcreteBooleanIndexError),
)


class Counts(dict):
    """Name → count. Cannot be changed; can be hashed, copied and pickled."""

    def _refuse(self, *args, **kwargs):
        raise TypeError("a count cannot be changed; change a copy: dict(count)")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self):
        return hash(frozenset(self.items()))

    def __reduce__(self):  # a dict's own way would fill an empty one item by item
        return Counts, (dict(self),)


@dataclasses.dataclass(frozen=True)
class Branches:
    """A `cond` or `switch`: the MACs of each branch in one run, and which one was counted."""

    layer: str
    macs: tuple[int, ...]
    counted: int


@dataclasses.dataclass(frozen=True)
class MacCount:
    """The cost of a function.

    total: multiply-accumulates. by_layer, by_primitive: the same by Linen module path and by
    primitive. flops: elementwise and reduction operations, which are no part of `total`.
    branches: every cond and switch. uncounted: primitives that multiply by an algorithm a
    jaxpr does not show (fft, lu, …) and how often they run; they are in neither figure.
    """

    total: int
    by_layer: Counts
    by_primitive: Counts
    flops: int
    branches: tuple[Branches, ...]
    uncounted: Counts


def count_macs(
    fn: Callable, *args, while_trips: int | Sequence[int] | None = None, **kwargs
) -> MacCount:
    """Count the multiply-accumulates of `fn(*args, **kwargs)`.

    jit, vmap, remat, custom derivatives and solves are followed; a scan counts its length
    times, shard_map and pmap once per shard, a cond or switch as its dearest branch. A
    `lax.platform_dependent` counts as its default on every machine, whatever the other branches
    hold, and is not in `branches`; without a default it counts as a switch.

    What `fn` traces is counted, whether or not its result is used: a second head whose logits are
    thrown away counts as in torchinfo's table, although a compiler may leave it out; to count a
    network without it, do not call it. Likewise a product that JAX uses to move or to interpolate
    values counts as the product that it is: the patches that `nn.ConvLocal` extracts with a
    convolution, the matrices by which `jax.image.resize` interpolates.

    FLOPs are a figure of its own: one per element of an elementwise result, whatever the
    function (exp counts like add); one per element that a reduction or window takes in beyond
    the first; one per element of a cumulative sum; a custom combiner, its own operations each
    time. Only floating-point numbers count, a complex one once; comparing, selecting,
    converting, drawing random bits, moving and communicating cost nothing, nor does a sum
    between replicas (psum).

    Args:
      fn: a JAX function, an NNX module, or a method of one. What it does to the state of NNX
        modules is counted and dropped. A module in a closure, partial or nnx.jit must not change
        its state and cannot be differentiated: make it an argument.
      *args: pytrees. Their arrays and `jax.ShapeDtypeStruct`s are traced, and `fn` cannot see
        their values; bind an array whose values it needs with functools.partial. All else
        (numbers, bools, strings, functions, …) reaches `fn` as it is.
      while_trips: how often `while` loops run: one number for all, or one per loop in the
        order of the program, an outer one before those inside.
      **kwargs: likewise pytrees.

    Returns:
      A `MacCount`. Layers are paths of named scopes, less the outermost if all share it: the
      network's own name ("b1/expand", not "CPMobile/b1/expand"). Linen opens one per module;
      NNX opens none, and its networks are one row.

    Raises:
      ValueError: a `while` loop of unknown length; a primitive that the counter does not know,
        or that calls code outside JAX; an NNX module that changes and is no argument.
      TypeError, IndexError: JAX's own, which names the argument whose value `fn` needs.

    Example:
      >>> import jax.numpy as jnp
      >>> count_macs(jnp.dot, jnp.ones((2, 3)), jnp.ones((3, 5))).total
      30
    """
    while_trips = _whole_numbers(while_trips)
    walk = jaxpr_walk.Walk(_weigh, while_trips)
    visits = list(walk.visits(_trace(fn, args, kwargs)))
    if isinstance(while_trips, tuple) and len(while_trips) != walk.n_whiles:
        raise ValueError(f"while_trips names {len(while_trips)} loops, there are {walk.n_whiles}")
    by_scope, by_primitive, by_layer, uncounted = (collections.Counter() for _ in range(4))
    flops = 0
    for visit in visits:
        name, (macs, visit_flops) = visit.eqn.primitive.name, _weigh([visit])
        flops += visit_flops
        if name in primitive_costs.PRODUCTS:
            by_scope[visit.scope] += macs
            by_primitive[name] += macs
        elif name in primitive_costs.ALGORITHMS:
            uncounted[name] += visit.times
    rooted = len({scope[:1] for scope in by_scope}) == 1
    for scope, macs in by_scope.items():
        by_layer[_layer(scope, rooted)] += macs
    branches = tuple(Branches(_layer(b.scope, rooted), b.costs, b.followed) for b in walk.branches)
    total = sum(by_layer.values())
    return MacCount(
        total, Counts(by_layer), Counts(by_primitive), flops, branches, Counts(uncounted)
    )


def _trace(fn: Callable, args: tuple, kwargs: dict):
    """Return the jaxpr of `fn(*args, **kwargs)`, with the arrays among them as its inputs."""
    method = fn.__call__ if callable(fn) and not inspect.ismethod(fn) else fn
    if inspect.ismethod(method):  # an NNX module becomes an input too: it may change its state
        fn, args = method.__func__, (method.__self__, *args)
    leaves, tree = jax.tree.flatten((args, kwargs))

    @functools.wraps(fn)  # JAX names the arguments of `fn` in its errors
    def call(*args, **kwargs):
        traced = tree.flatten_up_to((args, kwargs))
        args, kwargs = tree.unflatten(
            leaf if array is None else array for array, leaf in zip(traced, leaves, strict=True)
        )
        return fn(*args, **kwargs)

    args, kwargs = tree.unflatten(leaf if _is_array(leaf) else None for leaf in leaves)
    try:
        return jax.make_jaxpr(call)(*args, **kwargs)
    except (TraceContextError, ValueError) as error:
        if "trace level" not in str(error):
            raise
        raise ValueError(
            "fn changes or differentiates an NNX module that is not among its arguments, but in a "
            "closure, a functools.partial or an nnx.jit: make it an argument, as in "
            "count_macs(lambda net, x: net(x), net, x)"
        ) from error
    except _NEEDS_VALUES as error:
        error.add_note(
            "count_macs traces arrays, and fn cannot see their values. Give a Python value in "
            "place of the array, such as train=True, or bind it with functools.partial; for a "
            "function under jax.jit, name the argument in its static_argnames."
        )
        raise


def _is_array(leaf: Any) -> bool:
    """Return whether it is an array or stands for one; NumPy's types and scalars do not."""
    has_shape = hasattr(leaf, "shape") and hasattr(leaf, "dtype")
    return has_shape and not isinstance(leaf, type | np.generic)


def _whole_numbers(trips) -> int | tuple[int, ...] | None:
    """`while_trips` in Python's own integers, none of them negative."""
    if trips is None:
        return None
    single = np.ndim(trips) == 0
    try:
        numbers = tuple(operator.index(n) for n in ([trips] if single else trips))
    except TypeError as error:
        raise ValueError(f"while_trips must be whole numbers, got {trips!r}") from error
    if any(n < 0 for n in numbers):
        raise ValueError(f"while_trips must be at least 0, got {trips}")
    return numbers[0] if single else numbers


def _weigh(visits: Sequence[jaxpr_walk.Visit]) -> tuple[int, int]:
    """MACs and FLOPs."""
    macs = flops = 0
    for visit in visits:
        name = visit.eqn.primitive.name
        reason = primitive_costs.refusal(name)
        if reason:
            raise ValueError(f"primitive {name!r}{jaxpr_walk.place(visit.scope)}: {reason}")
        combiners = list(jaxpr_walk.inner_jaxprs(visit.eqn.params))
        macs += visit.times * primitive_costs.macs(visit.eqn)
        if not combiners:
            flops += visit.times * primitive_costs.flops(visit.eqn)
            continue
        inside = [v for jaxpr in combiners for v in jaxpr_walk.Walk(_weigh).visits(jaxpr)]
        combiner_macs, combiner_flops = _weigh(inside)
        if combiner_macs:
            raise ValueError(f"the combiner of {name!r} holds a product, which is not counted")
        flops += visit.times * combiner_flops * primitive_costs.n_applications(visit.eqn)
    return macs, flops


def _layer(scope: tuple[str, ...], rooted: bool) -> str:
    """`("CPMobile", "b1", "expand")` → `"b1/expand"`."""
    return "/".join(scope[1:] if rooted and len(scope) > 1 else scope)


def torchinfo_macs(by_layer: Mapping[str, int], variables: Params) -> dict[str, int]:
    """The published convention: exact MACs, plus every BatchNorm parameter once.

    Args:
      by_layer: exact MACs of one clip, by module path.
      variables: `{"params", "batch_stats"}`; a module with statistics is a BatchNorm.

    Returns:
      MACs by module path; each BatchNorm is a row of its own, as in torchinfo's table. A
      convolution's bias would count once per position there; the networks here have none.
    """
    statistics = jax.tree_util.tree_leaves_with_path(variables.get("batch_stats", {}))
    norms = {tuple(entry.key for entry in path[:-1]) for path, _ in statistics}
    rows = collections.Counter(by_layer)
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        names = tuple(entry.key for entry in path[:-1])
        if names in norms:
            rows["/".join(names)] += leaf.size
    return dict(rows)


def layer_bytes(params: Params, itemsize: int) -> dict[str, int]:
    """Bytes of the parameters of each layer, by module path, at `itemsize` bytes a value."""
    sizes: collections.Counter = collections.Counter()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = [entry.key for entry in path[:-1] if entry.key != "norm"]
        sizes["/".join(names)] += leaf.size * itemsize
    return dict(sizes)
