"""Find the axis of the clips in a traced program, and whether anything runs along it.

A program is traced for two numbers of clips. Where the shapes of one variable differ between the
two is the axis of its clips. A primitive that is in none of the lists below counts as one that
mixes clips.
"""

import math
from collections.abc import Callable

import jax
import jax.extend.core as jex
import numpy as np


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


class MixesClips(Exception):
    """Something but batch statistics looks at more than one clip."""


# Each result by the values at the same place.
BY_PLACE = _names(
    """abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp clz complex conj
    convert_element_type copy cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt
    imag integer_pow is_finite le lgamma log log1p log2 logistic lt max min mul name ne neg
    nextafter not optimization_barrier or population_count pow real reciprocal reduce_precision
    rem round rsqrt select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh
    sqrt square stop_gradient sub tan tanh written_out xor"""
)
# They move axes, or contract some. Where a result has the axis of the clips, nothing ran along it.
BY_SHAPE = _names(
    """argmax argmin broadcast_in_dim dot_general expand_dims reduce_and reduce_max reduce_min
    reduce_or reduce_prod reduce_sum reduce_xor squeeze stack transpose"""
)
# They work along the axes that `(params, shape of the first operand) -> axes` returns.
_windows = lambda p, _: [k for k, n in enumerate(p["window_dimensions"]) if n != 1]  # noqa: E731
ALONG = {
    "sort": lambda p, _: [p["dimension"]],
    "concatenate": lambda p, _: [p["dimension"]],
    "rev": lambda p, _: p["dimensions"],
    "split": lambda p, _: [p["axis"]],
    "tile": lambda p, _: [k for k, n in enumerate(p["reps"]) if n != 1],
    "pad": lambda p, _: [k for k, edges in enumerate(p["padding_config"]) if any(edges)],
    "top_k": lambda p, shape: [p.get("axis", len(shape) - 1) % len(shape)],
    "slice": lambda p, shape: [
        k
        for k, n in enumerate(shape)
        if (p["start_indices"][k], p["limit_indices"][k]) != (0, n)
        or (p["strides"] or {k: 1})[k] != 1
    ],
    **dict.fromkeys(
        ("gather", "dynamic_slice"),
        lambda p, shape: [k for k, n in enumerate(shape) if p["slice_sizes"][k] != n],
    ),
    **dict.fromkeys(
        ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), lambda p, _: [p["axis"]]
    ),
    **dict.fromkeys(("reduce_window_sum", "reduce_window_max", "reduce_window_min"), _windows),
}
# They run the programs inside them on the values they are given.
CALLS = _names(
    """call closed_call cond core_call custom_jvp_call custom_vjp_call jit pjit remat remat2
    checkpoint scan while"""
)
# Their parameters that have to be the same for all numbers of clips.
EQUAL_PARAMS = _names("length reverse num_consts num_carry cond_nconsts body_nconsts")
# Parameters that say the number of clips, and are checked by the shapes of the results.
SHAPE_PARAMS = _names("shape new_sizes limit_indices slice_sizes")


def alike(part, whole) -> dict:
    """Return variable of `part` → variable of `whole`, two traces of one program.

    Raises:
      MixesClips: their equations differ by more than shapes and numbers.
    """
    if len(part.eqns) != len(whole.eqns):
        raise MixesClips
    same = _pairs([*part.constvars, *part.invars], [*whole.constvars, *whole.invars])
    for eqn, like in zip(part.eqns, whole.eqns, strict=True):
        if eqn.primitive is not like.primitive:
            raise MixesClips
        _check_reads(eqn.invars, like.invars, same)
        same |= _pairs(eqn.outvars, like.outvars)
    _check_reads(part.outvars, whole.outvars, same)
    for v, w in zip(part.outvars, whole.outvars, strict=True):
        _check_literals(v, w)
    return same


def find(variable, like) -> int | None:
    """Return the axis of the clips, or None; `like` is the variable in the other trace.

    Raises:
      MixesClips: it has more than one.
    """
    shapes = variable.aval.shape, like.aval.shape
    if len(shapes[0]) != len(shapes[1]):
        raise MixesClips
    axes = [k for k, (n, m) in enumerate(zip(*shapes, strict=True)) if n != m]
    if len(axes) > 1:
        raise MixesClips
    return axes[0] if axes else None


def has_rows(variable, like, sizes) -> bool:
    """Return whether it has one row for each clip; `sizes`: the numbers of clips of both traces."""
    return find(variable, like) == 0 and (variable.aval.shape[0], like.aval.shape[0]) == sizes


def check(eqn, like, traced, derivative: bool = True) -> None:
    """Raise `MixesClips` unless an equation computes every clip by itself.

    Args:
      eqn, like: the equation in both traces.
      traced: any traced program.
      derivative: whether it will be differentiated.
    """
    for v, w in zip(eqn.invars, like.invars, strict=True):
        _check_literals(v, w)
    ins = [_axis(v, w) for v, w in zip(eqn.invars, like.invars, strict=True)]
    outs = [_axis(v, w) for v, w in zip(eqn.outvars, like.outvars, strict=True)]
    name, params = eqn.primitive.name, eqn.params
    if name in CALLS:
        _check_call(eqn, like, traced, derivative)
    elif any(_differ(params[k], like.params[k]) for k in params.keys() - SHAPE_PARAMS):
        raise MixesClips
    elif all(axis is None for axis in ins):  # of no clip, or the same for each
        if name != "broadcast_in_dim" and any(axis is not None for axis in outs):
            raise MixesClips
    elif any(axis is None for axis in outs) or not _is_by_clip(eqn, ins, outs):
        raise MixesClips


def _is_by_clip(eqn, ins, outs) -> bool:
    """Return whether an equation that holds no program computes every clip by itself."""
    name, params = eqn.primitive.name, eqn.params
    if name in BY_PLACE or name in BY_SHAPE:
        return True
    if name in ALONG:
        along = ALONG[name](params, eqn.invars[0].aval.shape)
        return ins[0] not in along and (name == "gather" or outs[0] not in along)
    if name == "reshape":
        return _before(eqn.invars[0], ins[0]) == _before(eqn.outvars[0], outs[0])
    if name == "conv_general_dilated":
        return (
            ins[0] == params["dimension_numbers"].lhs_spec[0]
            and ins[1] is None
            and params["batch_group_count"] == 1
        )
    return False


def _check_call(eqn, like, traced, derivative: bool) -> None:
    params, name = eqn.params, eqn.primitive.name
    if any(params[k] != like.params[k] for k in params.keys() & EQUAL_PARAMS):
        raise MixesClips
    if name == "custom_vjp_call" and derivative and not is_ours(eqn):
        raise MixesClips  # its gradient may look at more clips than it does
    if name == "custom_jvp_call" and derivative:
        _check_program(*(_with_derivative(e, traced) for e in (eqn, like)), derivative=False)
        return
    for part, whole in zip(_programs(eqn), _programs(like), strict=True):
        _check_program(part, whole, derivative)


def _check_program(part, whole, derivative: bool) -> None:
    alike(part.jaxpr, whole.jaxpr)
    if any(_differ(a, b) for a, b in zip(part.consts, whole.consts, strict=True)):
        raise MixesClips
    for pair in zip(part.jaxpr.eqns, whole.jaxpr.eqns, strict=True):
        check(*pair, part, derivative)


def _programs(eqn) -> list:
    """Return the programs inside an equation; of several for different machines the last one."""
    values = [v for p in eqn.params.values() for v in (p if isinstance(p, tuple) else (p,))]
    found = [
        v if isinstance(v, jex.ClosedJaxpr) else jex.ClosedJaxpr(v, ())
        for v in values
        if isinstance(v, jex.ClosedJaxpr | jex.Jaxpr)
    ]
    return found[-1:] if "branches_platforms" in eqn.params else found


def program(traced, inputs: list, outputs: list, eqns: list) -> Callable:
    """Return some equations of a traced program as a function of flat values."""
    jaxpr = traced.jaxpr.replace(constvars=(), invars=inputs, outvars=outputs, eqns=eqns)
    return jex.jaxpr_as_fun(traced.replace(jaxpr=jaxpr, consts=()))


def _with_derivative(eqn, traced):
    """Return the program of a `jax.custom_jvp` function and its derivative."""
    variables = list(dict.fromkeys(v for v in eqn.invars if not isinstance(v, jex.Literal)))
    fn = program(traced, variables, eqn.outvars, [eqn])
    avals = [v.aval for v in variables]
    tangents = [a.to_tangent_aval() for a in avals]
    k = [i for i, t in enumerate(tangents) if t.dtype != jax.dtypes.float0]

    def both(values, tangents):
        def of(*chosen):
            given = list(values)
            for i, x in zip(k, chosen, strict=True):
                given[i] = x
            return fn(*given)

        return jax.jvp(of, [values[i] for i in k], tangents)

    return jax.make_jaxpr(both)(avals, [tangents[i] for i in k])


def is_ours(eqn) -> bool:
    """Return whether an equation calls a function whose derivative one of these kernels defines.

    Each of them keeps clips apart. Where JAX does not tell, the network is run as it is written.
    """
    rule = getattr(eqn.params.get("bwd"), "f", None)
    return getattr(rule, "__module__", "").startswith(__package__)


def _axis(variable, like) -> int | None:
    return None if isinstance(variable, jex.Literal) else find(variable, like)


def _pairs(variables, like) -> dict:
    if len(variables) != len(like):
        raise MixesClips
    return dict(zip(variables, like, strict=True))


def _check_reads(variables, like, same) -> None:
    if len(variables) != len(like):
        raise MixesClips
    for v, w in zip(variables, like, strict=True):
        if isinstance(v, jex.Literal) != isinstance(w, jex.Literal):
            raise MixesClips
        if not isinstance(v, jex.Literal) and same[v] is not w:
            raise MixesClips


def _check_literals(v, w) -> None:
    if isinstance(v, jex.Literal) and _differ(v.val, w.val):
        raise MixesClips


def _differ(a, b) -> bool:
    """Return whether two constants or parameters differ, or cannot be compared."""
    try:
        return a is not b and a != b and not (a != a and b != b)  # of which NaN differs from itself
    except Exception:  # arrays, which NumPy compares, or tracers and keys
        pass
    try:
        return not np.array_equal(a, b)
    except Exception:
        return True


def _before(variable, axis: int) -> int:
    """Return how many elements lie side by side before one clip's: 1 if the clips are outermost."""
    return math.prod(variable.aval.shape[:axis])
