"""A config's network against the task's limits: layer by layer, and how far it could go.

Everything comes from shapes; nothing is computed or compiled.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import ml_collections

from asc_jax import features
from asc_jax.complexity.count import torchinfo_macs
from asc_jax.complexity.measure import measure
from asc_jax.models import precision
from asc_jax.models.from_config import deployed, log_mel_shape, model, n_samples
from asc_jax.types import Params

MAX_WIDTH = 4096  # where the searches give up: far above any network within a task's limits
MAX_EXPANSION = 64.0
MAX_FRAMES = 4096


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """A row of the table: what one layer makes and costs, for one clip."""

    layer: str
    output_shape: tuple[int, ...]
    n_params: int
    macs: int
    n_bytes: int


def examine(config: ml_collections.ConfigDict) -> tuple[list[LayerCost], dict]:
    """Cost of one clip, whether or not the config enforces its budget.

    Args:
      config: as `configs/base.py` defines it.

    Returns:
      A row for every layer that multiplies or has parameters, in the order of the network; and
      `totals`: the plain values of `measure`, `stored_dtype`, `macs_torchinfo` (the
      published convention), `n_folded` and `bytes_folded` (BatchNorm folded; in int8 a bias has
      four bytes), `headroom_macs`, `headroom_bytes` (negative: the excess) and `within_budget`.

    Raises:
      UserError: the values describe no network.
    """
    cost = measure(config)
    variables, shapes = _shapes(config)
    stored = config.precision.stored
    itemsize = jnp.dtype(stored).itemsize
    macs, n_bytes = cost["macs_by_layer"], cost["bytes_by_layer"]
    rows = [
        LayerCost(
            name,
            shapes.get(name, ()),
            n_bytes.get(name, 0) // itemsize,
            macs.get(name, 0),
            n_bytes.get(name, 0),
        )
        for name in dict.fromkeys([*macs, *n_bytes])  # the order of the products comes first
    ]
    n_folded = precision.n_folded(variables)
    totals = {name: value for name, value in cost.items() if not name.endswith("_by_layer")}
    return rows, totals | {
        "stored_dtype": stored,
        "macs_torchinfo": sum(torchinfo_macs(macs, variables).values()),
        "n_folded": n_folded,
        "bytes_folded": cost["bytes_int8"] if stored == precision.INT8 else n_folded * itemsize,
        "headroom_macs": cost["max_macs"] - cost["macs"],
        "headroom_bytes": cost["max_bytes"] - cost["bytes"],
        "within_budget": _fits(cost),
    }


def _shapes(config) -> tuple[Params, dict[str, tuple[int, ...]]]:
    """Abstract variables; module path → shape of its result, without the batch axis."""
    network = model(deployed(config)[0])
    clip = jax.ShapeDtypeStruct((1, *log_mel_shape(config)), jnp.float32)

    def run(key, clip):
        variables = network.init(key, clip, train=False)
        catch = {"capture_intermediates": True, "mutable": ["intermediates"], "train": False}
        caught = network.apply(variables, clip, **catch)[1]["intermediates"]
        return variables, dict(_results(caught))

    variables, results = jax.eval_shape(run, jax.random.key(0), clip)
    return variables, {path: result.shape[1:] for path, result in results.items()}


def _results(caught, path: tuple[str, ...] = ()) -> Iterator[tuple[str, jax.Array]]:
    """Yield the path of every module and the first array of its result."""
    if leaves := jax.tree.leaves(caught.get("__call__")):
        yield "/".join(path), leaves[0]
    for name, inner in caught.items():
        if name != "__call__":
            yield from _results(inner, (*path, name))


def solve(config: ml_collections.ConfigDict) -> dict:
    """Return how far the network can go within the limits, one value at a time.

    A bisection: the cost never falls as one of them grows.

    Returns:
      `n_frames`, the most frames, and `hop_lengths`, the smallest and largest hop that give
      them; `width`, the widest first stage (a multiple of 8, as the network rounds it);
      `expansion`, the largest in steps of 0.01. None where even the smallest is over.
      `at_least`: names of those where the search ended before the budget did.
    """
    length, f = n_samples(config), config.features.to_dict()

    def n_frames_with(hop_length):
        return features.n_frames(length, **f | {"hop_length": hop_length})

    framed = n_frames_with(1) - 1  # samples

    def with_frames(n_frames):
        smallest_hop = framed // n_frames + 1  # of those that give at most so many
        return _changed(config, "features", hop_length=smallest_hop)

    n_frames = _largest(2, MAX_FRAMES, lambda n: _within(with_frames(n)))
    hops = None
    if n_frames is not None:
        n_frames = log_mel_shape(with_frames(n_frames))[1]
        hops = [h for h in range(1, length + 1) if n_frames_with(h) == n_frames]
    widest = _largest_attribute(config, "width", 8, MAX_WIDTH)
    expansion = _largest_attribute(config, "expansion", 0.01, MAX_EXPANSION)
    ends = {
        "n_frames": n_frames is not None and _within(with_frames(MAX_FRAMES + 1)),
        "width": widest == MAX_WIDTH,
        "expansion": expansion == MAX_EXPANSION,
    }
    return {
        "n_frames": n_frames,
        "hop_lengths": hops and (hops[0], hops[-1]),
        "width": widest,
        "expansion": expansion,
        "at_least": [name for name, ended in ends.items() if ended],
    }


def _largest_attribute(config, name: str, step: float, highest: float) -> float | None:
    """Return the largest multiple of `step` of a network's attribute that is within the limits.

    None where even the smallest is over, or the network has no such attribute.
    """
    if name not in config.model:
        return None

    def value(number: int) -> float:
        return number * step if step >= 1 else number / round(1 / step)

    largest = _largest(
        1, round(highest / step), lambda n: _within(_changed(config, "model", **{name: value(n)}))
    )
    return largest and value(largest)


def _largest(low: int, high: int, holds: Callable[[int], bool]) -> int | None:
    """The largest of `low … high` that holds, when all below it do; None if none does."""
    if not holds(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _changed(config, section: str, **values) -> ml_collections.ConfigDict:
    changed = config.copy_and_resolve_references()
    changed[section].update(values)
    return changed


def _within(config) -> bool:
    return _fits(measure(config))


def _fits(cost: Mapping) -> bool:
    return cost["macs"] <= cost["max_macs"] and cost["bytes"] <= cost["max_bytes"]
