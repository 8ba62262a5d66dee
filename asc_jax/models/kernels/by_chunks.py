"""Run a network in training a few clips at a time, cut where it takes statistics over the batch.

Between two calls of `batch_moments` nothing of a network looks at more than one clip. `by_chunks`
traces the network, cuts the traced program there, and runs each piece by `chunks.piece`. It knows
nothing of layers: any network whose only look across clips is `batch_moments` can be run in this
way. Where `clip_axis` finds something else that may mix clips, the network is run as it is written.
"""

import functools
import os
from collections.abc import Callable

import jax
import jax.extend.core as jex

from asc_jax.models.kernels import chunks, clip_axis, compiler
from asc_jax.models.kernels.clip_axis import MixesClips
from asc_jax.models.kernels.normalise import batch_moments

CACHE_BYTES = 2**20  # of a core's second-level cache, where the system does not say


def by_chunks(fn: Callable, n_at_once: int | None = None) -> Callable:
    """Return a function that computes what `fn` does, a few clips at a time.

    Args:
      fn: `(shared, clips) -> results`: two pytrees of arrays, of which those of `clips` have one
        row for each clip, `[b, …]`; and a pytree of arrays.
      n_at_once: about so many clips at a time; None: as many as fit the cache.

    Returns:
      `(shared, clips, scratch=None) -> (results, scratch)`. `scratch` is memory that may be written
      over: what the call before returned, or () in the first call; its values change nothing.
      Without it (None), the memory of the pieces' results is filled before it is written.
    """

    def run(shared, clips, scratch=None):
        n_clips = jax.tree.leaves(clips)[0].shape[0]
        with compiler.only_cpu():
            whole, shape = jax.make_jaxpr(fn, return_shape=True)(shared, clips)
        size = chunk_size(n_clips, n_at_once or clips_in_cache(whole, n_clips))
        if size == n_clips or not any(map(_is_cut, whole.eqns)):
            return fn(shared, clips), scratch
        try:
            with compiler.only_cpu():
                part = jax.make_jaxpr(fn)(shared, jax.tree.map(lambda x: x[:size], clips))
        except Exception:  # it is written for some numbers of clips alone
            return fn(shared, clips), scratch
        values = jax.tree.leaves(shared), jax.tree.leaves(clips)
        try:
            results, written = _run(whole, part, *values, size, scratch or ())
        except MixesClips:
            return fn(shared, clips), scratch
        results = jax.tree.unflatten(jax.tree.structure(shape), results)
        if scratch is None or (scratch and _shapes(scratch) != _shapes(written)):
            return results, scratch  # not asked for, or made for other clips
        return results, written

    return run


def chunk_size(n_clips: int, wanted: float) -> int:
    """Return the divisor of `n_clips` that is nearest to a wanted number, by their ratio."""
    divisors = [n for n in range(1, n_clips + 1) if n_clips % n == 0]
    return min(divisors, key=lambda n: max(n / wanted, wanted / n))


def clips_in_cache(jaxpr, n_clips: int) -> float:
    """Return how many clips' widest activations fill two thirds of a core's cache.

    For CP-Mobile that is 5 clips in 2 MiB, where 1, 2, 4, 5 and 8 take 5.28, 5.09, 4.99, 4.95 and
    5.11 ms a clip, and 2.5 in 1 MiB, where 1, 2, 4, 5, 8 and 10 take 4.74, 4.60, 4.55, 4.55, 4.67
    and 4.83 ms.
    """
    arrays = [v.aval for e in jaxpr.eqns for v in e.outvars if hasattr(v.aval, "shape")]
    sizes = [a.size * a.dtype.itemsize for a in arrays]
    return cache_bytes() * n_clips / (1.5 * max(sizes, default=1))


@functools.cache
def cache_bytes() -> int:
    """Return the size of a core's second-level cache."""
    try:
        return max(os.sysconf("SC_LEVEL2_CACHE_SIZE"), 0) or CACHE_BYTES
    except (ValueError, OSError):
        return CACHE_BYTES


def _run(whole, part, shared, clips, size: int, scratch) -> tuple[list, tuple]:
    """Run a network in pieces.

    Args:
      whole, part: the network traced for all clips and for `size` of them; the two are gone through
        together.
      shared, clips: its inputs, flat.

    Returns:
      Its results, flat, and those of all pieces.
    """
    jaxpr, n_shared, scratch = part.jaxpr, len(shared), list(scratch)
    same, sizes = clip_axis.alike(jaxpr, whole.jaxpr), (size, clips[0].shape[0])
    has_rows = lambda v: clip_axis.has_rows(v, same[v], sizes)  # noqa: E731
    # The values known so far, by their variables: alike for all clips, or with a row for each.
    one = dict(zip(jaxpr.invars[:n_shared], shared, strict=True))
    many = dict(zip(jaxpr.invars[n_shared:], clips, strict=True))
    for v, value in zip(jaxpr.constvars, whole.consts, strict=True):
        (one if clip_axis.find(v, same[v]) is None else many)[v] = value
    before, piece, written = [], [], []  # equations since the last cut; results before it
    for k, (eqn, like) in enumerate(zip(jaxpr.eqns, whole.eqns, strict=True)):
        if _is_cut(eqn):
            _compute(whole, before, one, many)
            y, weight, shift = eqn.invars
            if weight not in many or shift not in one or not (has_rows(y) and has_rows(weight)):
                raise MixesClips
            later = [v for e in jaxpr.eqns[k + 1 :] for v in e.invars] + jaxpr.outvars
            outs = [y, *(v for v in _made(piece, later) if v is not y)]
            spent, scratch = scratch[: len(outs)], scratch[len(outs) :]
            fn, *values = _program_of_clips(part, piece, outs, one, many, has_rows)
            moments = many[weight], one[shift]
            results, found = chunks.piece(fn, size, _axis_name(eqn), *values, moments, spent)
            many |= zip(outs, results, strict=True)
            one |= zip(eqn.outvars, found, strict=True)
            before, piece, written = [], [], written + results
        elif _is_computed_before(eqn, like, piece, many):
            before.append((eqn, like))
        else:
            clip_axis.check(eqn, like, whole)
            piece.append(eqn)
    _compute(whole, before, one, many)
    outs = _made(piece, jaxpr.outvars)
    if outs:
        fn, *values = _program_of_clips(part, piece, outs, one, many, has_rows)
        results, _ = chunks.piece(fn, size, None, *values)
        many |= zip(outs, results, strict=True)
    values = one | many
    results = [v.val if isinstance(v, jex.Literal) else values[v] for v in jaxpr.outvars]
    return results, tuple(written)


def _is_computed_before(eqn, like, piece, many) -> bool:
    """Return whether an equation is computed for all clips, before the piece that is around it.

    That is so for what depends on no clip, the random numbers of a dropout included, and for what
    is a number for each clip, such as a weight. Zeros for every clip are left to the piece.
    """
    inputs = _unique(eqn.invars)
    if _made(piece, inputs) or any(v in many and v.aval.ndim > 1 for v in inputs):
        return False
    if eqn.primitive.name != "broadcast_in_dim" or eqn.outvars[0].aval.ndim < 2:
        return True
    return clip_axis.find(eqn.outvars[0], like.outvars[0]) is None


def _compute(whole, before, one, many) -> None:
    """Compute equations for all clips, and add their results to those known."""
    names = {w: v for eqn, like in before for v, w in _pairs(eqn, like, "invars")}
    outs = {w: v for eqn, like in before for v, w in _pairs(eqn, like, "outvars")}
    read = [w for w in names if w not in outs]
    if any(names[w] not in one and names[w] not in many for w in read):
        raise MixesClips
    fn = clip_axis.program(whole, read, list(outs), [like for _, like in before])
    results = fn(*((one | many)[names[w]] for w in read))
    for (w, v), value in zip(outs.items(), results, strict=True):
        axis = clip_axis.find(v, w)
        if axis in (None, 0):
            (one if axis is None else many)[v] = value


def _program_of_clips(part, eqns, outs, one, many, has_rows):
    """Return equations as what `chunks.piece` takes: a function, values of all clips, and others.

    Raises:
      MixesClips: a result has no row for each clip.
    """
    inside = {v for e in eqns for v in e.outvars}
    read = [v for v in _unique([v for e in eqns for v in e.invars] + outs) if v not in inside]
    clips, shared = [v for v in read if v in many], [v for v in read if v in one]
    if len(clips) + len(shared) < len(read) or not all(map(has_rows, clips + outs)):
        raise MixesClips
    clips = clips or list(many)[:1]  # it says the number of clips
    fn = clip_axis.program(part, [*clips, *shared], outs, eqns)
    values = [many[v] for v in clips], [one[v] for v in shared]
    return (lambda clips, shared: fn(*clips, *shared)), *values


def _pairs(eqn, like, which: str) -> list[tuple]:
    """Return the variables of an equation, each with that of the other trace."""
    pairs = zip(getattr(eqn, which), getattr(like, which), strict=True)
    return [(v, w) for v, w in pairs if not isinstance(v, jex.Literal | jex.DropVar)]


def _unique(variables) -> list:
    """Return the variables among those and literals, each once, in order."""
    return list(dict.fromkeys(v for v in variables if not isinstance(v, jex.Literal)))


def _made(eqns, wanted) -> list:
    """Return the wanted variables that these equations make."""
    made = {v for e in eqns for v in e.outvars}
    return [v for v in _unique(wanted) if v in made]


def _is_cut(eqn) -> bool:
    """Return whether an equation is a call of `normalise.batch_moments`."""
    if eqn.params.get("name") != batch_moments.__name__ or len(eqn.invars) != 3:
        return False
    return any(clip_axis.is_ours(e) for e in _inner_equations(eqn))


def _axis_name(eqn) -> str | None:
    """Return the replica axis of the sums inside an equation."""
    for e in _inner_equations(eqn):
        if e.primitive.name.startswith("psum"):
            if len(e.params["axes"]) != 1:
                raise MixesClips
            return e.params["axes"][0]
        if name := _axis_name(e):
            return name
    return None


def _inner_equations(eqn) -> list:
    return [e for j in jex.jaxprs_in_params(eqn.params) for e in getattr(j, "jaxpr", j).eqns]


def _shapes(arrays) -> list:
    return [(x.shape, x.dtype) for x in arrays]
