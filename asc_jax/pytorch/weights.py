"""Convert weights of the official PyTorch baseline to our variables and back, without PyTorch.

A state dict is any mapping from the baseline's tensor names (`in_c.0.0.weight` …) to arrays.
Convolution kernels turn from `[c_out, c_in, kf, kt]` to `[kf, kt, c_in, c_out]` and back; nothing
else changes, so that the values stay equal bit for bit. Strides and activation leave no trace in
a state dict: they are taken to be the baseline's.
"""

import collections
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from asc_jax.errors import UserError
from asc_jax.models.layers import make_divisible

STAGE_OF_BLOCK = {1: 1, 2: 1, 3: 1, 4: 2, 5: 2, 6: 3}
LAYERS_OF_BLOCK = ("expand", "depthwise", "project")
NORM = {  # PyTorch's name → our collection and name
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}
# The front end's constants, which a Lightning checkpoint holds beside the network.
FRONT_END_BUFFERS = ("mel.0.kernel", "mel.1.spectrogram.window", "mel.1.mel_scale.fb")
# How their names end, whatever the front end is called in a file.
_BUFFER_NAMES = (
    r"(^|[./])(mel\.0|\w*resampl\w*)\.kernel$",
    r"(^|[./])spectrogram\.window$",
    r"(^|[./])mel_scale\.fb$",
)
_FIRST_MODULE = re.compile(r"(?<![^./])(in_c|stages|feed_forward)\.")
# What the names of tensors contain, and the kind of network that has such.
_OTHER_NETWORKS = (
    (r"activation_post_process|_packed_params|fake_quant", "a network quantised by PyTorch"),
    (r"patch_embed\.", "a transformer of patches, such as PaSST or AST"),
    (r"encoder\.layers?\.\d+\.", "a transformer, such as BEATs"),
    (r"weight_ih_l\d", "a network with a recurrent layer, such as a CNN-GRU"),
    (r"BCBlocks\.", "a BC-ResNet"),
    (r"(freq|temp)_dw_conv|middle_layers\.", "a TF-SepNet"),
    (r"(^|[./])stage[123]\.\d", "a CP-ResNet"),
    (r"(^|[./])features\.\d+\.(block|conv|0)\.", "a MobileNet, such as EfficientAT's"),
    (r"layer[1-4]\.\d+\.conv\d", "a ResNet"),
    (r"rbr_|reparam|branch", "a network whose branches are not fused yet"),
)
MAX_PROBLEMS = 10  # named in one message
MAX_COUNT = 2**53  # beyond it not every reader of JSON keeps a whole number


class Tensor(NamedTuple):
    """A tensor of the baseline's state dict.

    name: in the state dict. path: in our variables. shape: PyTorch's; every item is a size or the
    name of a channel count (`stage1`, `inside2` …), which a state dict's own tensors fill in.
    """

    name: str
    path: tuple[str, ...]
    shape: tuple[int | str, ...]


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


def counter_names() -> list[str]:
    """Return the names of the 21 tensors that count the training batches a BatchNorm has seen."""
    return [f"{name}.1.num_batches_tracked" for name in torch_names()]


def layout(*, grn: bool) -> list[Tensor]:
    """Return every tensor but the counters, in the baseline's order."""
    tensors = []
    for module, path in torch_names().items():
        c_out, c_in, size = _sizes_of(path)
        kernel_shape = c_out, c_in, size, size
        tensors.append(Tensor(f"{module}.0.weight", ("params", *path, "kernel"), kernel_shape))
        for name, (collection, leaf) in NORM.items():
            tensors.append(
                Tensor(f"{module}.1.{name}", (collection, *path, "norm", leaf), (c_out,))
            )
        if grn and path[-1] == "project":
            prefix = module.replace("block.2", "after_block_norm")
            for leaf in ("gamma", "beta"):
                tensors.append(Tensor(f"{prefix}.{leaf}", ("params", path[0], "grn", leaf), (1,)))
    return tensors


def find_networks(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Find the baseline's networks among tensors by their names.

    A wrapper puts a prefix before the names: `model.` of a Lightning module, `module.` of several
    GPUs, `_orig_mod.` of a compiled network, and any other, also several of them.

    Args:
      names: of the tensors, as `files.read` gives them.

    Returns:
      Prefix → the baseline's own name → name among `names`, of every tensor under the prefix that
      belongs to no other network and is no constant of a front end. Whether a network is complete
      is not looked at, but a sixth of its names are there.

    Example:
      >>> names = [f"student.{name}" for name in [t.name for t in layout(grn=False)]]
      >>> list(find_networks([*names, "teacher.conv1.weight"]))
      ['student.']
    """
    names = list(names)
    known = {tensor.name for tensor in layout(grn=True)} | {*counter_names()}
    counts = collections.Counter()
    for name in names:
        for match in _FIRST_MODULE.finditer(name):
            if name[match.start() :] in known:
                counts[name[: match.start()]] += 1
                break
    prefixes = [prefix for prefix, count in counts.items() if count >= len(known) // 6]
    networks = {prefix: {} for prefix in prefixes}
    for name in names:
        inside = [prefix for prefix in prefixes if name.startswith(prefix)]
        prefix = max(inside, key=len, default=None)
        if prefix is not None and "/" not in name[len(prefix) :] and not front_end_part(name):
            networks[prefix][name.removeprefix(prefix)] = name
    return networks


def front_end_part(name: str) -> str | None:
    """Return which constant of a front end a tensor is, one of `FRONT_END_BUFFERS`, by its name.

    Example:
      >>> front_end_part("net.mel.mel_scale.fb")
      'mel.1.mel_scale.fb'
    """
    ends = zip(FRONT_END_BUFFERS, _BUFFER_NAMES, strict=True)
    return next((buffer for buffer, end in ends if re.search(end, name)), None)


def of_teacher(place: str) -> bool:
    """Return whether the name of a part of a file says that it is a teacher's, not the network's.

    Example:
      >>> of_teacher("net_teacher.mel")
      True
    """
    return "teacher" in place.lower()


def plain_names(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays of the one network by the baseline's own names, without a prefix.

    Raises:
      UserError: there are several networks.
    """
    networks = find_networks(state_dict)
    if len(networks) > 1:
        found = ", ".join(repr(prefix) for prefix in networks)
        raise UserError(f"there are {len(networks)} networks, with the prefixes {found}: take one")
    for names in networks.values():
        return {name: np.asarray(state_dict[full]) for name, full in names.items()}
    return {name: np.asarray(x) for name, x in state_dict.items() if not front_end_part(name)}


def from_torch(state_dict: Mapping[str, np.ndarray]) -> dict:
    """Convert the baseline's state dict to `{"params": …, "batch_stats": …}`.

    Args:
      state_dict: tensor name → floating array; any one prefix is accepted, see `find_networks`.
        The batch counters, the constants of a front end and what lies outside of the prefix are
        ignored.

    Returns:
      Nested dicts of arrays for `CPMobile.apply`, of the dtypes given.

    Raises:
      UserError: a tensor is missing, unknown, not of the shape that the other tensors imply,
        not floating, not finite or a negative variance (ten of them are named), there are several
        networks, or no `CPMobile` has such shapes.
    """
    return traverse_util.unflatten_dict(_match(state_dict)[0])


def to_torch(variables: Mapping, counters: Mapping[str, int] | int = 0) -> dict[str, np.ndarray]:
    """Convert `{"params": …, "batch_stats": …}` to the baseline's state dict.

    Args:
      variables: of `CPMobile`; dtypes are kept.
      counters: training batches seen, one number or one for each of `counter_names()`.

    Returns:
      Tensor name → array (a copy), in the order of the baseline's own state dict.

    Raises:
      UserError: these are not the variables of a `CPMobile`; missing and unknown ones are named.
    """
    values = traverse_util.flatten_dict(variables)
    tensors = layout(grn=any("grn" in path for path in values))
    paths = {tensor.path for tensor in tensors}
    problems = [f"missing {'/'.join(path)}" for path in sorted(paths - set(values))]
    problems += [f"unknown {'/'.join(path)}" for path in sorted(set(values) - paths)]
    if problems:
        raise UserError(f"these are not the variables of CPMobile: {'; '.join(problems)}")
    state_dict = {}
    for name, path, shape in tensors:
        value = np.asarray(values[path])
        value = value.transpose(3, 2, 0, 1) if len(shape) == 4 else value
        state_dict[name] = np.array(value, order="C")
        if path[-1] == "var":
            counter = name.replace("running_var", "num_batches_tracked")
            count = counters if isinstance(counters, int) else counters[counter]
            state_dict[counter] = np.array(count, np.int64)
    return state_dict


def infer_config(
    state_dict: Mapping[str, np.ndarray],
    *,
    width_multiplier: float = 1.8,
    expansion: float = 2.1,
) -> dict:
    """Return the attributes of the `CPMobile` whose tensors these are.

    Channels are rounded, so a range of multipliers and expansions makes the same network.

    Args:
      state_dict: as for `from_torch`.
      width_multiplier, expansion: above 0 and at most 64. Taken wherever they fit the shapes;
        otherwise that number with the fewest decimals, nearest to them, which fits.

    Returns:
      `width`, `width_multiplier`, `expansion`, `n_classes`, `grn`.

    Raises:
      UserError: as `from_torch`, or a number out of its range.
    """
    for name, wanted in (("width_multiplier", width_multiplier), ("expansion", expansion)):
        if not 0 < wanted <= 64:
            raise UserError(f"{name} is {wanted!r}, expected a number above 0 and at most 64")
    values, sizes = _match(state_dict)
    inferred = _attributes(sizes, width_multiplier, expansion)
    grn = ("params", "b1", "grn", "gamma") in values
    return inferred | {"n_classes": sizes["n_classes"], "grn": grn}


def read_counters(state_dict: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Return how many training batches each BatchNorm has seen, for the counters that are there.

    Raises:
      UserError: a counter is no whole number from 0 to 2⁵³.
    """
    tensors = plain_names(state_dict)
    counters = {name: tensors[name] for name in counter_names() if name in tensors}
    for name, value in counters.items():
        if value.shape or not np.issubdtype(value.dtype, np.integer):
            raise UserError(f"{name} is {value.dtype} {value.shape}, expected one whole number")
        if not 0 <= value <= MAX_COUNT:
            raise UserError(f"{name} is {value}, expected a count of batches, 0 … {MAX_COUNT}")
    return {name: int(value) for name, value in counters.items()}


def looks_like(names: Iterable[str]) -> str:
    """Return which kind of network has tensors of such names, as the end of a sentence, or ""."""
    names = list(names)
    for pattern, kind in _OTHER_NETWORKS:
        if any(re.search(pattern, name) for name in names):
            return f"; it looks like {kind}"
    return ""


def _match(state_dict: Mapping) -> tuple[dict[tuple[str, ...], np.ndarray], dict[str, int]]:
    """Return our values by path, and the channel counts by name."""
    found = plain_names(state_dict)
    for name in counter_names():
        found.pop(name, None)
    tensors = layout(grn=any(".after_block_norm." in name for name in found))
    if not any(tensor.name in found for tensor in tensors):
        raise UserError(
            f"none of the tensors ({', '.join(list(found)[:3]) or 'there are none'} …) is one of "
            f"the baseline's network ({tensors[0].name}, {tensors[1].name} …){looks_like(found)}"
        )
    sizes = _channel_counts(found, tensors)
    values, problems = {}, []
    for tensor in tensors:
        value, shape = found.pop(tensor.name, None), tuple(sizes.get(n, n) for n in tensor.shape)
        problem = _problem(tensor, value, shape)
        if problem:
            problems.append(problem)
        else:
            value = value.transpose(2, 3, 1, 0) if len(shape) == 4 else value
            values[tensor.path] = np.asarray(value, order="C")
    problems += [f"unknown {name} of shape {value.shape}" for name, value in found.items()]
    if problems:
        n_more = len(problems) - MAX_PROBLEMS
        more = f"; and {n_more} more" if n_more > 0 else ""
        raise UserError(
            f"this is not a state dict of the baseline's network{_differences(found, state_dict)}: "
            + "; ".join(problems[:MAX_PROBLEMS])
            + more
        )
    _attributes(sizes)  # raises an error if no network has these channel counts
    return values, sizes


def _differences(unknown: Mapping[str, np.ndarray], state_dict: Mapping) -> str:
    """Say in words how a network differs from the baseline's, as far as it can be told."""
    told, names = [], plain_names(state_dict)
    blocks = {
        int(match[1]) for name in names if (match := re.match(r"stages\.s\d+\.b(\d+)\.", name))
    }
    if blocks and blocks != {*STAGE_OF_BLOCK}:
        told.append(f"it has the blocks {', '.join(f'b{b}' for b in sorted(blocks))}, not b1 … b6")
    for name, value in names.items():
        is_depthwise = name.endswith(".block.1.0.weight") and value.ndim == 4
        if is_depthwise and value.shape[2:] != (3, 3):
            size = " × ".join(map(str, value.shape[2:]))
            told.append(f"block {name.split('.')[2]} has a depthwise kernel of {size}, not 3 × 3")
    kernel = names.get("in_c.0.0.weight")
    if kernel is not None and kernel.ndim == 4 and kernel.shape[1] != 1:
        told.append(f"it takes {kernel.shape[1]} channels, not one log-mel")
    if any(name.endswith(".0.bias") for name in unknown):
        told.append("its convolutions have a bias, as where BatchNorms were folded into them")
    kinds = looks_like(unknown) if unknown else ""
    return "".join(f", {each}" for each in told) + kinds.replace("; it", ", it")


def _problem(tensor: Tensor, value: np.ndarray | None, shape: tuple[int, ...]) -> str | None:
    """Return what is wrong with the value of a tensor; None: nothing."""
    if value is None:
        return f"missing {tensor.name} of shape {shape}"
    if value.shape != shape:
        return f"misshapen {tensor.name}: {value.shape}, expected {shape}"
    if not jnp.issubdtype(value.dtype, jnp.floating):
        known = "expected float32, float16, bfloat16 or float64"
        return f"not floating {tensor.name}: {value.dtype}, {known}"
    n_bad = np.count_nonzero(~np.isfinite(value))
    if n_bad:
        return f"not finite {tensor.name}: {n_bad} of {value.size} values are NaN or inf"
    n_bad = np.count_nonzero(value < 0) if tensor.path[-1] == "var" else 0
    if n_bad:
        return f"negative {tensor.name}: {n_bad} of {value.size} variances are below 0"
    return None


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


def _channel_counts(found: Mapping[str, np.ndarray], tensors: list[Tensor]) -> dict[str, int]:
    """Return the channel counts that most tensors agree on, so that an odd one is reported."""
    votes = collections.defaultdict(collections.Counter)
    for tensor in tensors:
        shape = found[tensor.name].shape if tensor.name in found else ()
        if len(shape) == len(tensor.shape):
            for name, n in zip(tensor.shape, shape, strict=True):
                votes[name][n] += 1
    return {name: votes[name].most_common(1)[0][0] for name in votes if isinstance(name, str)}


def _attributes(
    sizes: Mapping[str, int], width_multiplier: float = 1.8, expansion: float = 2.1
) -> dict[str, float]:
    """Return the `width`, `width_multiplier` and `expansion` that make these channel counts.

    Raises:
      UserError: none do.
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
    """Return `wanted` if it fits, or the fitting number near `centre` with fewest decimals."""
    if fits(wanted):
        return wanted
    for scale in (1, 10, 100, 1000, 10_000):
        low, high = max(1, math.floor((centre - reach) * scale)), (centre + reach) * scale
        candidates = [i / scale for i in range(low, math.ceil(high) + 1) if fits(i / scale)]
        if candidates:
            return min(candidates, key=lambda number: abs(number - wanted))
    return None
