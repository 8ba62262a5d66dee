"""Name the tensors of the PyTorch networks whose weights can be converted, one table for each.

A table is a `Layout`. Its shapes hold the names of channel counts, which a state dict's own tensors
fill in; what the network's attributes are then is computed from these counts.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from asc_jax.errors import UserError
from asc_jax.models.cnn_gru import DIVISOR
from asc_jax.models.cp_mobile import STAGES
from asc_jax.models.layers import BRANCHES, DEPTHWISE, make_divisible
from asc_jax.models.tf_sepnet import LAYERS, NORM, POOL, RESIDUAL_NORMS

STAGE_OF_BLOCK = {block: stage + 1 for block, stage in enumerate(STAGES, 1)}
LAYERS_OF_BLOCK = ("expand", "depthwise", "project")
NORM_NAMES = {  # PyTorch's name → our collection and name
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}


class Tensor(NamedTuple):
    """A tensor of a state dict.

    name: in the state dict. path: in our variables. shape: PyTorch's; every item is a size or the
    name of a channel count (`stage1`, `inside2` …), which a state dict's own tensors fill in.
    """

    name: str
    path: tuple[str, ...]
    shape: tuple[int | str, ...]


class Layout(NamedTuple):
    """The tensors of one network, or of one variant of it.

    network: its name in `models.MODELS`. title: of whose network it is, for messages. variant: the
    attributes that the names of the tensors tell. tensors: all but the counters, in PyTorch's
    order. infer: `(channel counts, wanted attributes) -> the other attributes`; it raises a
    `UserError` where no network has such counts.
    """

    network: str
    title: str
    variant: dict
    tensors: tuple[Tensor, ...]
    infer: Callable[[Mapping[str, int], Mapping], dict]

    @property
    def counters(self) -> list[str]:
        """Return the names of the tensors that count the batches a BatchNorm has seen."""
        names = [t.name for t in self.tensors if t.path[-1] == "var"]
        return [counter_of(name) for name in names]


def counter_of(running_var: str) -> str:
    """Return the name of a BatchNorm's counter by that of its variance."""
    return running_var.replace("running_var", "num_batches_tracked")


@functools.cache
def layouts() -> tuple[Layout, ...]:
    """Return every layout; among equals the first is taken."""
    return (
        *(
            Layout(
                "cp_mobile",
                "the baseline's network",
                {"grn": grn} | ({"depthwise": depthwise} if depthwise != "batch_norm" else {}),
                tuple(layout(grn=grn, depthwise=depthwise)),
                _cp_mobile,
            )
            for depthwise in DEPTHWISE
            for grn in (False, True)
        ),
        *(
            Layout(
                "tf_sepnet",
                "TF-SepNet",
                {"depth": depth, "norm": norm},
                tuple(_of_tf_sepnet(depth, norm)),
                _tf_sepnet,
            )
            for depth, norm in itertools.product(LAYERS, RESIDUAL_NORMS)
        ),
        Layout("cnn_gru", "the CNN-GRU", {}, tuple(_of_cnn_gru()), _cnn_gru),
        Layout("cp_resnet", "CP-ResNet", {}, tuple(_of_cp_resnet()), _cp_resnet),
    )


def _conv_bn(conv: str, norm: str, path: tuple[str, ...], shape) -> Iterator[Tensor]:
    """Yield the tensors of a convolution without bias and of its normalisation."""
    yield Tensor(f"{conv}.weight", ("params", *path, "kernel"), shape)
    for name, (collection, leaf) in NORM_NAMES.items():
        yield Tensor(f"{norm}.{name}", (collection, *path, "norm", leaf), shape[:1])


def _dense(name: str, path: tuple[str, ...], shape) -> Iterator[Tensor]:
    """Yield the tensors of a dense layer or a convolution with a bias."""
    yield Tensor(f"{name}.weight", ("params", *path, "kernel"), shape)
    yield Tensor(f"{name}.bias", ("params", *path, "bias"), shape[:1])


def _require(sizes: Mapping[str, int], expected: Mapping[str, int], what: str) -> None:
    """Raise a `UserError` unless the channel counts are those of a network."""
    if wrong := {name: n for name, n in sizes.items() if n != expected[name]}:
        found = ", ".join(f"{name} {n}, expected {expected[name]}" for name, n in wrong.items())
        raise UserError(f"no {what} makes these channel counts: {found}")


# CP-Mobile, the baseline's and that of 2023.


def torch_names() -> dict[str, tuple[str, ...]]:
    """Return our module path by the baseline's module name, for every convolution with its norm.

    Example:
      >>> torch_names()["stages.s2.b4.block.1"]
      ('b4', 'depthwise')
    """
    names = {f"in_c.{i}": (f"stem{i + 1}",) for i in range(2)}
    for block, stage in STAGE_OF_BLOCK.items():
        for i, layer in enumerate(LAYERS_OF_BLOCK):
            names[f"stages.s{stage}.b{block}.block.{i}"] = (f"b{block}", layer)
    return names | {"feed_forward": ("head",)}


def layout(*, grn: bool, depthwise: str = "batch_norm") -> list[Tensor]:
    """Return every tensor of CP-Mobile but the counters, in the baseline's order.

    The branches of a depthwise filter have the names that seunggyu-han/dcase2025_task1_hyu gives
    them, and a fused filter those of a convolution with a bias.
    """
    tensors = []
    for module, path in torch_names().items():
        if grn and path[-1] == "expand":
            prefix = module.replace("block.0", "after_block_norm")
            for leaf in ("gamma", "beta"):
                tensors.append(Tensor(f"{prefix}.{leaf}", ("params", path[0], "grn", leaf), (1,)))
        c_out, c_in, size = _sizes_of(path)
        if path[-1] == "depthwise" and depthwise == "branches":
            tensors.append(Tensor(f"{module}.alpha", ("params", *path, "alpha"), (len(BRANCHES),)))
            for name, sizes in BRANCHES.items():
                names = f"{module}.conv{name}.0", f"{module}.conv{name}.1"
                tensors += _conv_bn(*names, (*path, name), (c_out, c_in, *sizes))
        elif path[-1] == "depthwise" and depthwise == "fused":
            tensors += _dense(f"{module}.0", path, (c_out, c_in, size, size))
        else:
            tensors += _conv_bn(f"{module}.0", f"{module}.1", path, (c_out, c_in, size, size))
    return tensors


def _sizes_of(path: tuple[str, ...]) -> tuple[str, int | str, int]:
    """Return output channels, input channels of one group and kernel size of a convolution."""
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


def _cp_mobile(sizes: Mapping[str, int], wanted: Mapping) -> dict:
    """Return attributes that make these channel counts, the wanted numbers where they fit."""
    width, insides = sizes["stage1"], [sizes["inside1"], sizes["inside2"]]
    stages = [width, sizes["stage2"], sizes["stage3"]]

    def grows(multiplier):
        return [make_divisible(width * multiplier**i) for i in range(3)] == stages

    def expands(expansion):
        return [make_divisible(n * expansion) for n in stages[:2]] == insides

    found = None, None
    if width and sizes["stem"] == width // 4:
        found = (
            _simplest(grows, wanted.get("width_multiplier", 1.8), stages[1] / width, 8 / width),
            _simplest(expands, wanted.get("expansion", 2.1), insides[0] / width, 8 / width),
        )
    if None in found:
        counts = ", ".join(f"{name} {n}" for name, n in sizes.items())
        raise UserError(
            f"no width, width_multiplier and expansion make these channel counts: {counts}"
        )
    names = ("width", "width_multiplier", "expansion", "n_classes")
    return dict(zip(names, (width, *found, sizes["n_classes"]), strict=True))


def _simplest(fits: Callable, wanted: float, centre: float, reach: float) -> float | None:
    """Return `wanted` if it fits, or the fitting number near `centre` with fewest decimals."""
    if fits(wanted):
        return wanted
    for scale in (1, 10, 100, 1000, 10_000):
        low, high = max(1, math.floor((centre - reach) * scale)), (centre + reach) * scale
        candidates = [i / scale for i in range(low, math.ceil(high) + 1) if fits(i / scale)]
        if candidates:
            return min(candidates, key=lambda number: abs(number - wanted))
    return None


# TF-SepNet, as yqcai888/easy_dcase_task1 names it.

_PATHS = {  # of a block: theirs → ours
    "freq_dw_conv": ("freq_depthwise", (1, 3, 1)),
    "freq_pw_conv": ("freq_pointwise", ("c_in", 1, 1)),
    "temp_dw_conv": ("time_depthwise", (1, 1, 3)),
    "temp_pw_conv": ("time_pointwise", ("c_in", 1, 1)),
}


def _of_tf_sepnet(depth: int, norm: str) -> Iterator[Tensor]:
    def conv_bn(theirs, ours, shape):
        return _conv_bn(f"{theirs}._conv", f"{theirs}._bn", ours, shape)

    yield from conv_bn("conv_layers.0", ("stem1",), ("stem", 1, 3, 3))
    yield from conv_bn("conv_layers.1", ("stem2",), ("wide", 1, 3, 3))
    before, n_norms, n_blocks = "wide", 0, 0
    for number, layer in enumerate(LAYERS[depth]):
        module = f"middle_layers.{number}"
        if layer == NORM:
            n_norms += 1
            for leaf in ("rho", "gamma", "beta") if norm == "ada_res_norm" else ():
                path = ("params", f"n{n_norms}", leaf)
                yield Tensor(f"{module}._{leaf}", path, (1, before, 1, 1))
        elif layer != POOL:
            n_blocks += 1
            block, width, half = f"b{n_blocks}", f"width × {layer}", f"half of width × {layer}"
            if before != width:
                yield from conv_bn(f"{module}.trans_conv", (block, "expand"), (width, before, 1, 1))
            for theirs, (ours, shape) in _PATHS.items():
                shape = half, *(half if n == "c_in" else n for n in shape)
                yield from conv_bn(f"{module}.{theirs}", (block, ours), shape)
            before = width
    yield from _dense("classifier.conv", ("head",), ("n_classes", before, 1, 1))


def _tf_sepnet(sizes: Mapping[str, int], _: Mapping) -> dict:
    width = 2 * sizes["stem"]
    expected = {"stem": width // 2, "wide": 2 * width, "n_classes": sizes["n_classes"]}
    for layer in {*LAYERS[16]} - {NORM, POOL}:
        n = int(layer * width)
        expected |= {f"width × {layer}": n, f"half of width × {layer}": n // 2}
    _require(sizes, expected, "width of a TF-SepNet")
    return {"width": width, "n_classes": sizes["n_classes"]}


# The CNN-GRU, as joesephgit/DCASE2025 names it.


def _of_cnn_gru() -> Iterator[Tensor]:
    numbers = {1: "mix_means", 2: "mix_maxima", 3: "mix_gru", 4: "mix_both"}
    for number, ours in numbers.items():
        yield Tensor(f"param{number}", ("params", ours), ())

    def conv_bn(theirs, *ours, shape):
        return _conv_bn(f"{theirs}.0", f"{theirs}.1", ours, shape)

    def squeeze_excite(theirs, *ours, n, half):
        yield from _dense(f"{theirs}.fc1", (*ours, "squeeze"), (half, n))
        yield from _dense(f"{theirs}.fc2", (*ours, "excite"), (n, half))

    yield from conv_bn("conv2d_1_0", "stem1", shape=("first", 1, 3, 3))
    yield from conv_bn("conv2d_1_1", "stem2", shape=("half", "first", 1, 1))
    yield from conv_bn("codw2d_1L1", "stem_freq", shape=("width", 1, 3, 1))
    yield from conv_bn("codw2d_1R1", "stem_time", shape=("width", 2, 1, 3))
    yield from squeeze_excite("se_1_1", "stem_se", n="width", half="half")
    branches = {1: "max", 2: "mean"}
    for number, branch in branches.items():
        theirs = f"2d_2_{number}"
        yield from conv_bn(f"conv{theirs}", branch, "expand", shape=("inside", "width", 1, 1))
        yield from conv_bn(f"codw{theirs}L", branch, "freq", shape=("wide", 1, 5, 1))
        yield from conv_bn(f"codw{theirs}R", branch, "time", shape=("wide", 1, 1, 5))
    for number, branch in branches.items():
        yield from squeeze_excite(f"se_2_{number}", branch, "se", n="wide", half="inside")
    yield from conv_bn("conv2d_3_1", "merge", shape=("wide", "wide", 1, 1))
    yield from conv_bn("codw2d_3_1", "last_freq", shape=("last", 1, 5, 1))
    yield from conv_bn("conv2d_4_1", "maps", shape=("maps", "last", 5, 1))
    for name, side, n in (("ih", "in", "mel_bins"), ("hh", "hidden", "hidden")):
        path = ("params", "gru", f"{side}_kernel")
        yield Tensor(f"bgru2d_4_1.weight_{name}_l0", path, ("gates", n))
    for name, side in (("ih", "in"), ("hh", "hidden")):
        path = ("params", "gru", f"{side}_bias")
        yield Tensor(f"bgru2d_4_1.bias_{name}_l0", path, ("gates",))
    yield from _dense("conv1d_5_2", ("head",), ("n_classes", 1, "maps"))


def _cnn_gru(sizes: Mapping[str, int], _: Mapping) -> dict:
    n, hidden = sizes["width"], sizes["hidden"]
    inside, last = 3 * n // 2, 6 * n
    expected = {"first": max(inside // DIVISOR, 1), "half": n // 2, "width": n, "inside": inside}
    expected |= {"wide": 2 * inside, "last": last, "maps": max(last // DIVISOR, 1)}
    expected |= {"hidden": hidden, "gates": 3 * hidden}
    expected |= {name: sizes[name] for name in ("mel_bins", "n_classes")}
    _require(sizes, expected, "width of a CNN-GRU")
    return {"width": n, "hidden": hidden, "n_classes": sizes["n_classes"]}


# CP-ResNet, as fschmid56/cpjku_dcase23 names it.

_BLOCKS = (  # theirs, ours, sizes of the kernels, input channels of a group of both, shortcut
    ("stage1.block1", "b1", (3, 1), ("stage1", "stage1"), False),
    ("stage1.block2", "b2", (3, 3), ("stage1", "stage1"), False),
    ("stage2.block1", "b3", (3, 3), ("half of stage1", "half of stage2"), True),
    ("stage3.block1", "b4", (3, 1), ("stage2", "stage3"), True),
)


def _of_cp_resnet() -> Iterator[Tensor]:
    yield from _conv_bn("in_c.0", "in_c.1", ("stem",), ("stage1", 1, 5, 5))
    for theirs, ours, sizes, inputs, has_shortcut in _BLOCKS:
        width = theirs.partition(".")[0]
        for i, (size, c_in) in enumerate(zip(sizes, inputs, strict=True), 1):
            names = f"{theirs}.conv{i}", f"{theirs}.bn{i}"
            yield from _conv_bn(*names, (ours, f"conv{i}"), (width, c_in, size, size))
        if has_shortcut:
            names = f"{theirs}.shortcut.conv", f"{theirs}.shortcut.bn"
            yield from _conv_bn(*names, (ours, "shortcut"), (width, inputs[0], 1, 1))
    yield from _conv_bn(
        "feed_forward.0", "feed_forward.1", ("head",), ("n_classes", "stage3", 1, 1)
    )


def _cp_resnet(sizes: Mapping[str, int], _: Mapping) -> dict:
    widths = tuple(sizes[f"stage{i}"] for i in (1, 2, 3))
    halves = {f"half of stage{i}": widths[i - 1] // 2 for i in (1, 2)}
    _require({**sizes}, {**sizes} | halves, "widths of a CP-ResNet")
    return {"widths": widths, "n_classes": sizes["n_classes"]}
