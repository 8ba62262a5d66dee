"""Follow a jaxpr to the equations that do its work, and how often each of them runs.

Nothing is skipped in silence: a primitive that holds a jaxpr and is not known here raises.
Names of primitives and parameters are those of JAX 0.10 to 0.12.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Primitives that run their one inner jaxpr exactly once.
CALLS = _names(
    """call jit pjit closed_call compute_on core_call custom_partitioning remat remat2 checkpoint
    custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr custom_vmap_call custom_lin composite
    linear_call program_order xla_metadata_call"""
)
# Primitives whose jaxprs combine two numbers, and do so once per number taken in.
COMBINERS = re.compile(r"reduce|reduce_window|select_and_scatter|scatter(-\w+)?")
SUBSCRIPTS = re.compile(r"([A-Za-z., ]+)->([A-Za-z. ]*)")


@dataclasses.dataclass(frozen=True)
class Visit:
    """An equation, how often it runs, and the named scopes around it, outermost first."""

    scope: tuple[str, ...]
    eqn: Any
    times: int


@dataclasses.dataclass(frozen=True)
class Branches:
    """A `cond` or `switch`: the cost of each branch in one run, and which was followed."""

    scope: tuple[str, ...]
    costs: tuple[int, ...]
    followed: int


@dataclasses.dataclass
class Walk:
    """One pass over a jaxpr.

    weigh: `Visit`s → cost; of a cond, the branch where it is highest is followed. Of a
      `lax.platform_dependent`, the default is, so that the machine makes no difference.
    while_trips: how often `while` loops run: one number for all, or one per loop in the order
      of the program; None: not known. branches: the conds met so far.
    """

    weigh: Callable[[Sequence[Visit]], tuple[int, ...]]
    while_trips: int | Sequence[int] | None = None
    branches: list[Branches] = dataclasses.field(default_factory=list)
    n_whiles: int = 0

    def visits(self, jaxpr, scope: tuple[str, ...] = (), times: int = 1) -> Iterator[Visit]:
        """Every equation without a jaxpr of its own, and every one with a combiner.

        Raises:
          ValueError: a `while` whose trip count is not known; an unknown primitive that holds
            a jaxpr.
        """
        for eqn in opened(jaxpr).eqns:
            name, inner = eqn.primitive.name, list(inner_jaxprs(eqn.params))
            here = scope + scopes(eqn)
            if not inner or COMBINERS.fullmatch(name):
                yield Visit(here, eqn, times)
            elif name in CALLS and len(inner) == 1:
                yield from self.visits(inner[0], here, times)
            elif name == "scan":
                yield from self.visits(inner[0], here, times * eqn.params["length"])
            elif name == "shard_map":
                yield from self.visits(inner[0], here, times * _n_shards(eqn))
            elif name == "cond" and (default := default_branch(eqn)) is not None:
                yield from self.visits(default, here, times)
            elif name == "cond":
                yield from self._dearest(inner, here, times)
            elif name == "while":
                trips = self._trips(here, eqn)
                yield from self.visits(eqn.params["cond_jaxpr"], here, times * (trips + 1))
                yield from self.visits(eqn.params["body_jaxpr"], here, times * trips)
            elif name == "custom_linear_solve":
                # the others only serve its derivatives
                yield from self.visits(eqn.params["jaxprs"].solve, here, times)
            else:
                raise ValueError(
                    f"primitive {name!r}{place(here)} holds a jaxpr that the counter does not "
                    "know how to count"
                )

    def _dearest(self, branches, scope, times) -> list[Visit]:
        visited = [list(self.visits(branch, scope)) for branch in branches]
        weights = [self.weigh(visits) for visits in visited]
        followed = weights.index(max(weights))
        self.branches.append(Branches(scope, tuple(weight[0] for weight in weights), followed))
        return [dataclasses.replace(v, times=v.times * times) for v in visited[followed]]

    def _trips(self, scope, eqn) -> int:
        number, given = self.n_whiles, self.while_trips
        self.n_whiles += 1
        if given is None:
            parts = (eqn.params["cond_jaxpr"], eqn.params["body_jaxpr"])
            if not any(self.weigh([v for part in parts for v in self.visits(part, scope)])):
                return 0  # however often what costs nothing runs, it costs nothing
            raise ValueError(
                f"a while loop{place(scope)}: how often it runs is not in the jaxpr; use "
                "lax.scan or fori_loop with a fixed length, or say how often with while_trips"
            )
        if isinstance(given, int):
            return given
        if number >= len(given):
            raise ValueError(
                f"while_trips names {len(given)} loops, and there is another{place(scope)}"
            )
        return given[number]


def opened(jaxpr):
    """The jaxpr in a closed one; JAX 0.12 has one class for both."""
    return getattr(jaxpr, "jaxpr", jaxpr)


def inner_jaxprs(value) -> Iterator:
    """Jaxprs among the parameters of a primitive, in mappings, sequences and dataclasses too."""
    if hasattr(opened(value), "eqns"):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from inner_jaxprs(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from inner_jaxprs(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from inner_jaxprs(getattr(value, field.name, None))


def default_branch(eqn):
    """Return what `lax.platform_dependent` runs on platforms it does not name; None: no such."""
    platforms = eqn.params.get("branches_platforms") or ()
    return eqn.params["branches"][platforms.index(None)] if None in platforms else None


def scopes(eqn) -> tuple[str, ...]:
    """Names of the modules around an equation; entries for jvp, vmap, … are left out."""
    names = (part.name for part in eqn.source_info.name_stack.stack if _is_scope(part))
    return tuple(name for name in names if name != "rematted_computation" and not _einsum(name))


def _einsum(name: str) -> bool:
    """Return whether einsum opened that scope, by its arrow: a layer may be called "a,b"."""
    subscripts = SUBSCRIPTS.fullmatch(name)
    if not subscripts:
        return False
    operands, result = (re.sub("[^A-Za-z]", "", side) for side in subscripts.groups())
    return set(result) <= set(operands) and len(set(result)) == len(result)


def _is_scope(part) -> bool:
    return type(part).__name__ == "Scope"


def _n_shards(eqn) -> int:
    """Over the axes the body is written per shard of; the others it sees whole."""
    sizes, axes = eqn.params["mesh"].shape, eqn.params["newly_manual_axes"]
    return math.prod(sizes[axis] for axis in axes)


def place(scope: tuple[str, ...]) -> str:
    """` in stem/conv`, for a message; nothing outside every scope."""
    return f" in {'/'.join(scope)}" if scope else ""
