"""Find the axis of the clips in a traced program, and whether anything runs along it.

A program is traced for two numbers of clips. Where the shapes of one variable differ between the
two is the axis of its clips.
"""

import math

import jax.extend.core as jex

ALONG = {  # primitives that work along axes without changing their lengths: which axes those are
    "sort": lambda p: [p["dimension"]],
    "concatenate": lambda p: [p["dimension"]],
    "rev": lambda p: p["dimensions"],
    "pad": lambda p: [k for k, edges in enumerate(p["padding_config"]) if any(edges)],
    **dict.fromkeys(
        ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), lambda p: [p["axis"]]
    ),
    **dict.fromkeys(
        ("reduce_window", "reduce_window_sum", "reduce_window_max", "reduce_window_min"),
        lambda p: [k for k, n in enumerate(p["window_dimensions"]) if n != 1],
    ),
}


class MixesClips(Exception):
    """Something but batch statistics looks at more than one clip."""


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


def check(eqn, like) -> None:
    """Raise `MixesClips` unless an equation computes every clip by itself; `like`: see `find`."""
    if eqn.primitive is not like.primitive:
        raise MixesClips
    ins = [
        None if isinstance(v, jex.Literal) else find(v, w)
        for v, w in zip(eqn.invars, like.invars, strict=True)
    ]
    outs = [find(v, w) for v, w in zip(eqn.outvars, like.outvars, strict=True)]
    if all(axis is None for axis in ins):
        return  # of no clip, or zeros for each
    if any(axis is None for axis in outs):
        raise MixesClips
    name, params = eqn.primitive.name, eqn.params
    inner, inner_like = (_jaxprs(e) for e in (eqn, like))
    if inner:
        for one, other in zip(inner, inner_like, strict=True):
            if len(one.eqns) != len(other.eqns):
                raise MixesClips
            for each in zip(one.eqns, other.eqns, strict=True):
                check(*each)
        if name == "scan" and params["length"] != like.params["length"]:
            raise MixesClips
        return
    shape = eqn.invars[0].aval.shape
    if name in ALONG and ins[0] in ALONG[name](params):
        raise MixesClips
    if name == "reshape" and _before(eqn.invars[0], ins[0]) != _before(eqn.outvars[0], outs[0]):
        raise MixesClips
    if name == "conv_general_dilated" and ins[0] != params["dimension_numbers"].lhs_spec[0]:
        raise MixesClips
    if name in ("gather", "dynamic_slice") and ins[0] is not None:
        if params["slice_sizes"][ins[0]] != shape[ins[0]]:
            raise MixesClips
    if name.startswith(("scatter", "dynamic_update_slice", "select_and")):
        raise MixesClips


def _before(variable, axis: int) -> int:
    """Return how many elements lie side by side before one clip's: 1 if the clips are outermost."""
    return math.prod(variable.aval.shape[:axis])


def _jaxprs(eqn) -> list:
    """Return the programs inside an equation; of several for different machines the last one."""
    found = [getattr(j, "jaxpr", j) for j in jex.jaxprs_in_params(eqn.params)]
    return found[-1:] if "branches_platforms" in eqn.params else found
