"""How the tensors of the official baseline's state dict are named and shaped, and whose.

The shapes are given in names of channel counts (`stage1`, `inside2` …), which a state dict's
own tensors fill in.
"""

import collections
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from asc_jax.errors import UserError
from asc_jax.models.blocks import make_divisible

STAGE_OF_BLOCK = {1: 1, 2: 1, 3: 1, 4: 2, 5: 2, 6: 3}
PARTS = ("expand", "depthwise", "project")
NORM = {  # PyTorch's name → our collection and name
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}


class Tensor(NamedTuple):
    """name: in the state dict. path: in our variables. shape: PyTorch's, sizes or their names."""

    name: str
    path: tuple[str, ...]
    shape: tuple[int | str, ...]


def torch_names() -> dict[str, tuple[str, ...]]:
    """Baseline module name → our module path, for every convolution and its BatchNorm.

    Example:
      >>> torch_names()["stages.s2.b4.block.1"]
      ('b4', 'depthwise')
    """
    names = {f"in_c.{i}": (f"stem{i + 1}",) for i in range(2)}
    for block, stage in STAGE_OF_BLOCK.items():
        for i, part in enumerate(PARTS):
            names[f"stages.s{stage}.b{block}.block.{i}"] = (f"b{block}", part)
    return names | {"feed_forward": ("head",)}


def counter_names() -> list[str]:
    """The 21 integer tensors that count the training batches a BatchNorm has seen."""
    return [f"{name}.1.num_batches_tracked" for name in torch_names()]


def layout(*, grn: bool) -> list[Tensor]:
    """Every tensor but the counters, in the baseline's order."""
    tensors = []
    for module, path in torch_names().items():
        c_out, c_in, size = _sizes_of(path)
        tensors.append(
            Tensor(f"{module}.0.weight", ("params", *path, "kernel"), (c_out, c_in, size, size))
        )
        for name, (collection, leaf) in NORM.items():
            tensors.append(
                Tensor(f"{module}.1.{name}", (collection, *path, "norm", leaf), (c_out,))
            )
        if grn and path[-1] == "project":
            prefix = module.replace("block.2", "after_block_norm")
            for leaf in ("gamma", "beta"):
                tensors.append(Tensor(f"{prefix}.{leaf}", ("params", path[0], "grn", leaf), (1,)))
    return tensors


def _sizes_of(path: tuple[str, ...]) -> tuple[str, int | str, int]:
    """Output channels, input channels of one group, and kernel size of a convolution."""
    if len(path) == 1:
        stem = {"stem1": ("stem", 1, 3), "stem2": ("stage1", "stem", 3)}
        return stem.get(path[0], ("n_classes", "stage3", 1))
    block = int(path[0].removeprefix("b"))
    before = STAGE_OF_BLOCK.get(block - 1, 1)
    inside, c_in, c_out = f"inside{before}", f"stage{before}", f"stage{STAGE_OF_BLOCK[block]}"
    return {
        "expand": (inside, c_in, 1),
        "depthwise": (inside, 1, 3),
        "project": (c_out, inside, 1),
    }[path[1]]


def vote(found: Mapping[str, np.ndarray], tensors: list[Tensor]) -> dict[str, int]:
    """Channel counts that most tensors agree on, so that one odd tensor is the one blamed."""
    votes = collections.defaultdict(collections.Counter)
    for tensor in tensors:
        shape = found[tensor.name].shape if tensor.name in found else ()
        if len(shape) == len(tensor.shape):
            for name, n in zip(tensor.shape, shape, strict=True):
                votes[name][n] += 1
    return {name: votes[name].most_common(1)[0][0] for name in votes if isinstance(name, str)}


def attributes(
    sizes: Mapping[str, int], width_multiplier: float = 1.8, expansion: float = 2.1
) -> dict[str, float]:
    """Attributes of the `CPMobile` that has these channel counts.

    Args:
      sizes: as `vote` gives them, complete.
      width_multiplier, expansion: taken where they fit; see `interop.torch.infer_config`.

    Returns:
      `width`, `width_multiplier`, `expansion`.

    Raises:
      UserError: there is none.
    """
    width, insides = sizes["stage1"], [sizes["inside1"], sizes["inside2"]]
    stages = [width, sizes["stage2"], sizes["stage3"]]

    def grows(multiplier):
        return [make_divisible(width * multiplier**i) for i in range(3)] == stages

    def expands(expansion):
        return [make_divisible(n * expansion) for n in stages[:2]] == insides

    found = None, None
    if width and sizes["stem"] == width // 4:
        found = (
            _simplest(grows, width_multiplier, stages[1] / width, 8 / width),
            _simplest(expands, expansion, insides[0] / width, 8 / width),
        )
    if None in found:
        counts = ", ".join(f"{name} {n}" for name, n in sizes.items())
        raise UserError(
            f"no width, width_multiplier and expansion make these channel counts: {counts}"
        )
    return dict(zip(("width", "width_multiplier", "expansion"), (width, *found), strict=True))


def _simplest(fits: Callable, wanted: float, centre: float, reach: float) -> float | None:
    """`wanted` if it fits, or the fitting number around `centre` with the fewest decimals."""
    if fits(wanted):
        return wanted
    for scale in (1, 10, 100, 1000, 10_000):
        low, high = max(1, math.floor((centre - reach) * scale)), (centre + reach) * scale
        candidates = [i / scale for i in range(low, math.ceil(high) + 1) if fits(i / scale)]
        if candidates:
            return min(candidates, key=lambda number: abs(number - wanted))
    return None
