"""Convert weights of PyTorch networks to our variables and back, without PyTorch.

A state dict is any mapping from the tensor names of a network that `networks` knows, such as the
official baseline's (`in_c.0.0.weight` …), to arrays. Convolution kernels turn from `[c_out, c_in,
kf, kt]` to `[kf, kt, c_in, c_out]` and back, matrices are transposed; nothing else changes, so that
the values stay equal bit for bit. Strides and activation leave no trace in a state dict.
"""

import collections
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from asc_jax.errors import UserError
from asc_jax.models import MODELS
from asc_jax.pytorch.networks import (
    STAGE_OF_BLOCK,
    Layout,
    Tensor,
    counter_of,
    layout,
    layouts,
    torch_names,
)

__all__ = [
    "counter_names",
    "find_networks",
    "from_torch",
    "front_end_part",
    "infer_config",
    "layout",
    "looks_like",
    "of_teacher",
    "plain_names",
    "read_counters",
    "recognise",
    "to_torch",
    "torch_names",
]

# The front end's constants, which a Lightning checkpoint holds beside the network.
FRONT_END_BUFFERS = ("mel.0.kernel", "mel.1.spectrogram.window", "mel.1.mel_scale.fb")
# How their names end, whatever the front end is called in a file.
_BUFFER_NAMES = (
    r"(^|[./])(mel\.0|\w*resampl\w*)\.kernel$",
    r"(^|[./])spectrogram\.window$",
    r"(^|[./])mel_scale\.fb$",
)
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
_NONE = MappingProxyType({})
MAX_PROBLEMS = 10  # named in one message
MAX_COUNT = 2**53  # beyond it not every reader of JSON keeps a whole number


def counter_names(variables: Mapping | None = None, attributes: Mapping = _NONE) -> list[str]:
    """Return the names of the tensors that count the training batches a BatchNorm has seen.

    Args:
      variables, attributes: see `to_torch`; None: CP-Mobile's, of which there are 21.
    """
    return (layouts()[0] if variables is None else _layout_of(variables, attributes)).counters


def recognise(names: Iterable[str]) -> Layout | None:
    """Return the layout with most of these tensor names, and fewest others; None: no name fits.

    Example:
      >>> recognise(["classifier.conv.weight", "middle_layers.15._rho"]).network
      'tf_sepnet'
    """
    names, best, most = {*names}, None, (0, 0)
    for each in layouts():
        known = {tensor.name for tensor in each.tensors}
        n_found = len(names & known) + len(names.intersection(each.counters))
        rank = n_found, -len(known - names)
        if n_found and (best is None or rank > most):
            best, most = each, rank
    return best


def find_networks(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Find the networks that can be converted among tensors by their names.

    A wrapper puts a prefix before the names: `model.` of a Lightning module, `module.` of several
    GPUs, `_orig_mod.` of a compiled network, and any other, also several of them.

    Args:
      names: of the tensors, as `files.read` gives them.

    Returns:
      Prefix → the network's own name → name among `names`, of every tensor under the prefix that
      belongs to no other network and is no constant of a front end. Whether a network is complete
      is not looked at, but a sixth of its names are there.

    Example:
      >>> names = [f"student.{name}" for name in [t.name for t in layout(grn=False)]]
      >>> list(find_networks([*names, "teacher.conv1.weight"]))
      ['student.']
    """
    names = list(names)
    sets = [{tensor.name for tensor in each.tensors} | {*each.counters} for each in layouts()]
    counts = collections.Counter()
    for name in names:
        starts = (0, *(match.end() for match in re.finditer(r"[./]", name)))
        for start in starts:
            if found := [k for k, known in enumerate(sets) if name[start:] in known]:
                counts.update((name[:start], k) for k in found)
                break
    prefixes = {prefix for (prefix, k), n in counts.items() if n >= len(sets[k]) // 6}
    prefixes = [prefix for prefix in dict.fromkeys(p for p, _ in counts) if prefix in prefixes]
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
    """Return the arrays of the one network by its own names, without a prefix.

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
    """Convert a network's state dict to `{"params": …, "batch_stats": …}`.

    Args:
      state_dict: tensor name → floating array; any one prefix is accepted, see `find_networks`.
        The batch counters, the constants of a front end and what lies outside of the prefix are
        ignored.

    Returns:
      Nested dicts of arrays for the network's `apply`, of the dtypes given.

    Raises:
      UserError: a tensor is missing, unknown, not of the shape that the other tensors imply,
        not floating, not finite or a negative variance (ten of them are named), there are several
        networks, or no network of that kind has such shapes.
    """
    return traverse_util.unflatten_dict(_match(state_dict)[0])


def to_torch(
    variables: Mapping,
    counters: Mapping[str, int] | int = 0,
    attributes: Mapping = _NONE,
) -> dict[str, np.ndarray]:
    """Convert `{"params": …, "batch_stats": …}` to the network's state dict.

    Args:
      variables: of a network that `networks` knows; dtypes are kept.
      counters: training batches seen, one number or one for each of `counter_names`.
      attributes: of the network, such as `depth`, for what the variables do not tell.

    Returns:
      Tensor name → array (a copy), in the order of the PyTorch network's own state dict.

    Raises:
      UserError: these are not the variables of such a network; missing and unknown ones are named.
    """
    values, layout = traverse_util.flatten_dict(variables), _layout_of(variables, attributes)
    paths = {tensor.path for tensor in layout.tensors}
    problems = [f"missing {'/'.join(path)}" for path in sorted(paths - set(values))]
    problems += [f"unknown {'/'.join(path)}" for path in sorted(set(values) - paths)]
    if problems:
        network = MODELS[layout.network].__name__
        raise UserError(f"these are not the variables of {network}: {'; '.join(problems)}")
    state_dict = {}
    for tensor in layout.tensors:
        state_dict[tensor.name] = np.array(_theirs(tensor, np.asarray(values[tensor.path])))
        if tensor.path[-1] == "var":
            counter = counter_of(tensor.name)
            count = counters if isinstance(counters, int) else counters[counter]
            state_dict[counter] = np.array(count, np.int64)
    return state_dict


def _layout_of(variables: Mapping, attributes: Mapping) -> Layout:
    """Return the layout that shares most paths with variables, and has fewest others."""
    paths = {*traverse_util.flatten_dict(variables)}

    def fit(each: Layout) -> tuple[int, int]:
        told = sum(attributes.get(name, value) == value for name, value in each.variant.items())
        return -len(paths ^ {tensor.path for tensor in each.tensors}), told

    return max(layouts(), key=fit)


def _ours(tensor: Tensor, value: np.ndarray) -> np.ndarray:
    """Return PyTorch's array as our network has it."""
    if not tensor.path[-1].endswith("kernel"):
        return value.reshape(-1) if value.ndim > 1 else value
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    return value.T if value.ndim == 2 else value[:, 0].T


def _theirs(tensor: Tensor, value: np.ndarray) -> np.ndarray:
    """Return our array as PyTorch's network has it, in the order of memory."""
    n_axes = len(tensor.shape)
    if tensor.path[-1].endswith("kernel"):
        value = value.transpose(3, 2, 0, 1) if n_axes == 4 else value.T
        value = value[:, None] if n_axes == 3 else value
    elif n_axes > 1:
        value = value.reshape([n if isinstance(n, int) else -1 for n in tensor.shape])
    return np.ascontiguousarray(value).reshape(value.shape)  # a single number stays one


def infer_config(
    state_dict: Mapping[str, np.ndarray],
    *,
    width_multiplier: float = 1.8,
    expansion: float = 2.1,
) -> dict:
    """Return the attributes of the network whose tensors these are.

    CP-Mobile's channels are rounded, so a range of multipliers and expansions makes the same one.

    Args:
      state_dict: as for `from_torch`.
      width_multiplier, expansion: CP-Mobile's, above 0 and at most 64. Taken wherever they fit the
        shapes; otherwise that number with the fewest decimals, nearest to them, which fits.

    Returns:
      Of CP-Mobile `width`, `width_multiplier`, `expansion`, `n_classes`, `grn`; of others likewise.

    Raises:
      UserError: as `from_torch`, or a number out of its range.
    """
    wanted = {"width_multiplier": width_multiplier, "expansion": expansion}
    for name, number in wanted.items():
        if not 0 < number <= 64:
            raise UserError(f"{name} is {number!r}, expected a number above 0 and at most 64")
    _, sizes, layout = _match(state_dict)
    return layout.infer(sizes, wanted) | layout.variant


def read_counters(state_dict: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Return how many training batches each BatchNorm has seen, for the counters that are there.

    Raises:
      UserError: a counter is no whole number from 0 to 2⁵³.
    """
    tensors = plain_names(state_dict)
    layout = recognise(tensors) or layouts()[0]
    counters = {name: tensors[name] for name in layout.counters if name in tensors}
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


def _match(state_dict: Mapping) -> tuple[dict, dict[str, int], Layout]:
    """Return our values by path, the channel counts by name, and the layout that has them."""
    found = plain_names(state_dict)
    layout = recognise(found)
    if layout is None or not any(tensor.name in found for tensor in layout.tensors):
        first, second = (tensor.name for tensor in layouts()[0].tensors[:2])
        raise UserError(
            f"none of the tensors ({', '.join(list(found)[:3]) or 'there are none'} …) is one of "
            f"the baseline's network ({first}, {second} …){looks_like(found)}"
        )
    for name in layout.counters:
        found.pop(name, None)
    sizes = _channel_counts(found, layout.tensors)
    values, problems = {}, []
    for tensor in layout.tensors:
        value, shape = found.pop(tensor.name, None), tuple(sizes.get(n, n) for n in tensor.shape)
        problem = _problem(tensor, value, shape)
        if problem:
            problems.append(problem)
        else:
            values[tensor.path] = np.asarray(_ours(tensor, value), order="C")
    problems += [f"unknown {name} of shape {value.shape}" for name, value in found.items()]
    if problems:
        n_more = len(problems) - MAX_PROBLEMS
        more = f"; and {n_more} more" if n_more > 0 else ""
        differences = _differences(found, state_dict) if layout.network == "cp_mobile" else ""
        raise UserError(
            f"this is not a state dict of {layout.title}{differences}: "
            + "; ".join(problems[:MAX_PROBLEMS])
            + more
        )
    layout.infer(sizes, {})  # raises an error if no network has these channel counts
    return values, sizes, layout


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


def _channel_counts(found: Mapping[str, np.ndarray], tensors: Iterable[Tensor]) -> dict[str, int]:
    """Return the channel counts that most tensors agree on, so that an odd one is reported."""
    votes = collections.defaultdict(collections.Counter)
    for tensor in tensors:
        shape = found[tensor.name].shape if tensor.name in found else ()
        if len(shape) == len(tensor.shape):
            for name, n in zip(tensor.shape, shape, strict=True):
                votes[name][n] += 1
    return {name: votes[name].most_common(1)[0][0] for name in votes if isinstance(name, str)}
