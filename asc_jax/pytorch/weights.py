"""Weights of the official PyTorch baseline ↔ our variables. No PyTorch is needed.

A state dict is any mapping from the baseline's tensor names (`in_c.0.0.weight` …) to arrays.
Convolution kernels turn from `[c_out, c_in, kf, kt]` to `[kf, kt, c_in, c_out]` and back; nothing
else changes, so that the values stay equal bit for bit. Strides and activation leave no trace in
a state dict: they are taken to be the baseline's.
"""

from collections.abc import Iterable, Mapping

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from asc_jax.errors import UserError
from asc_jax.pytorch.layout import attributes, counter_names, layout, torch_names, vote

__all__ = [
    "FRONT_END_BUFFERS",
    "from_torch",
    "infer_config",
    "plain_names",
    "read_counters",
    "to_torch",
    "torch_names",
]

# The front end's constants, which a Lightning checkpoint holds beside the network.
FRONT_END_BUFFERS = ("mel.0.kernel", "mel.1.spectrogram.window", "mel.1.mel_scale.fb")
MAX_COUNT = 2**53  # beyond it not every reader of JSON keeps a whole number


def plain_names(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays by the baseline's own names, which a Lightning module puts `model.` before.

    Raises:
      UserError: a tensor is there with and without it.
    """
    twice = [name for name in state_dict if f"model.{name}" in state_dict]
    if twice:
        more = f", and {len(twice) - 1} more such pairs" if len(twice) > 1 else ""
        raise UserError(
            f"{twice[0]} and model.{twice[0]} are both there{more}: two networks in one; leave "
            "one of them out where the file comes from"
        )
    return {name.removeprefix("model."): np.asarray(x) for name, x in state_dict.items()}


def from_torch(state_dict: Mapping[str, np.ndarray]) -> dict:
    """The baseline's state dict → `{"params": …, "batch_stats": …}`.

    Args:
      state_dict: tensor name → floating array; a `model.` prefix is accepted. The batch
        counters and a Lightning checkpoint's three `mel.` buffers are passed over.

    Returns:
      Nested dicts of arrays for `CPMobile.apply`, of the dtypes given.

    Raises:
      UserError: a tensor is missing, unknown, not of the shape that the other tensors imply,
        not floating, not finite or a negative variance (all of them are named), or there with
        and without prefix, or no `CPMobile` has such shapes.
    """
    values, _, _ = _match(state_dict)
    return traverse_util.unflatten_dict(values)


def to_torch(variables: Mapping, counters: Mapping[str, int] | int = 0) -> dict[str, np.ndarray]:
    """`{"params": …, "batch_stats": …}` → the baseline's state dict: `from_torch` undone.

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
    """The attributes of the `CPMobile` whose tensors these are.

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
    _, sizes, grn = _match(state_dict)
    inferred = attributes(sizes, width_multiplier, expansion)
    return inferred | {"n_classes": sizes["n_classes"], "grn": grn}


def read_counters(state_dict: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Training batches that each BatchNorm has seen, by name; those missing are left out.

    Raises:
      UserError: a counter is no whole number from 0 to 2⁵³.
    """
    found = plain_names(state_dict)
    counters = {name: found[name] for name in counter_names() if name in found}
    for name, value in counters.items():
        if value.shape or not np.issubdtype(value.dtype, np.integer):
            raise UserError(f"{name} is {value.dtype} {value.shape}, expected one whole number")
        if not 0 <= value <= MAX_COUNT:
            raise UserError(f"{name} is {value}, expected a count of batches, 0 … {MAX_COUNT}")
    return {name: int(value) for name, value in counters.items()}


def _match(state_dict: Mapping) -> tuple[dict[tuple[str, ...], np.ndarray], dict[str, int], bool]:
    """Our values by path, the channel counts by name, and whether there is response norm."""
    found = plain_names(state_dict)
    for name in (*FRONT_END_BUFFERS, *counter_names()):
        found.pop(name, None)
    tensors = layout(grn=any(".after_block_norm." in name for name in found))
    if not any(tensor.name in found for tensor in tensors):
        raise UserError(
            f"none of the tensors ({', '.join(list(found)[:3]) or 'there are none'} …) is one of "
            f"the baseline's network ({tensors[0].name}, {tensors[1].name} …)"
            f"{_prefix_hint(state_dict, tensors[0].name)}"
        )
    sizes = vote(found, tensors)
    values, problems = {}, []
    for tensor in tensors:
        value, shape = found.pop(tensor.name, None), tuple(sizes.get(n, n) for n in tensor.shape)
        problem = _problem(value, shape, variance=tensor.path[-1] == "var")
        if problem:
            problems.append(f"{problem[0]} {tensor.name}{problem[1]}")
        else:
            value = value.transpose(2, 3, 1, 0) if len(shape) == 4 else value
            values[tensor.path] = np.asarray(value, order="C")
    problems += [f"unknown {name} of shape {value.shape}" for name, value in found.items()]
    if problems:
        raise UserError(
            "this is not a state dict of the baseline's network: " + "; ".join(problems)
        )
    attributes(sizes)
    return values, sizes, ("params", "b1", "grn", "gamma") in values


def _prefix_hint(names: Iterable[str], known: str) -> str:
    """How to take off what a wrapper put before every name, if that is what is wrong."""
    prefixes = [name.removesuffix(known) for name in names if name.endswith(f".{known}")]
    if not prefixes:
        return ""
    prefix = repr(prefixes[0])
    return (
        f". Take {prefix} off where the file comes from: torch.save({{name.removeprefix({prefix}): "
        "tensor for name, tensor in state_dict.items()}, 'weights.pt')"
    )


def _problem(value: np.ndarray | None, shape: tuple, *, variance: bool) -> tuple[str, str] | None:
    """What is wrong with a tensor, as words before and after its name."""
    if value is None:
        return "missing", f" of shape {shape}"
    if value.shape != shape:
        return "misshapen", f": {value.shape}, expected {shape}"
    if not jnp.issubdtype(value.dtype, jnp.floating):
        return "not floating", f": {value.dtype}, expected float32, float16, bfloat16 or float64"
    n_bad = np.count_nonzero(~np.isfinite(value))
    if n_bad:
        return "not finite", f": {n_bad} of {value.size} values are NaN or inf"
    n_bad = np.count_nonzero(value < 0) if variance else 0
    return ("negative", f": {n_bad} of {value.size} variances are below 0") if n_bad else None
