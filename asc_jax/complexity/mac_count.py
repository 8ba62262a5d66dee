"""The result of `complexity.count_macs`: plain values that nobody can change."""

import dataclasses


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
