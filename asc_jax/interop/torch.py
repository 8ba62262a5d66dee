"""Weights of the official PyTorch baseline ↔ our variables. No PyTorch is needed.

A state dict is any mapping from the baseline's tensor names (`in_c.0.0.weight` …) to arrays.
Convolution kernels turn from `[c_out, c_in, kf, kt]` to `[kf, kt, c_in, c_out]`; nothing else
changes, so that the values stay equal bit for bit.
"""

import re
from collections.abc import Mapping

import numpy as np

from asc_jax.errors import UserError

STAGE_OF_BLOCK = {1: 1, 2: 1, 3: 1, 4: 2, 5: 2, 6: 3}
PARTS = ("expand", "depthwise", "project")
# Tensors that a Lightning checkpoint holds besides the network's, or that count batches.
IGNORED = re.compile(r"mel\.|.*\.num_batches_tracked$")


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


def from_torch(state_dict: Mapping[str, np.ndarray]) -> dict:
    """The baseline's state dict → `{"params": …, "batch_stats": …}`.

    Args:
      state_dict: tensor name → array; a `model.` prefix is accepted, and a Lightning
        checkpoint's three `mel.` buffers are passed over. Dtypes are kept.

    Returns:
      Nested dicts for `CPMobile.apply`.

    Raises:
      UserError: a tensor is missing, unknown or not of a possible shape; all are named.
    """
    tensors = {name.removeprefix("model."): np.asarray(value) for name, value in state_dict.items()}
    tensors = {name: value for name, value in tensors.items() if not IGNORED.match(name)}
    variables: dict = {"params": {}, "batch_stats": {}}
    problems = []
    for torch_name, path in torch_names().items():
        for source, (collection, *leaf) in _leaves(torch_name):
            if source not in tensors:
                problems.append(f"missing {source}")
                continue
            value = tensors.pop(source)
            expected = 4 if leaf == ["kernel"] else 1
            if value.ndim != expected:
                problems.append(f"{source} has shape {value.shape}, expected {expected} axes")
                continue
            value = value.transpose(2, 3, 1, 0) if expected == 4 else value
            _set(variables[collection], (*path, *leaf), np.ascontiguousarray(value))
    for block, stage in STAGE_OF_BLOCK.items():
        for leaf in ("gamma", "beta"):
            source = f"stages.s{stage}.b{block}.after_block_norm.{leaf}"
            if source in tensors:
                _set(variables["params"], (f"b{block}", "grn", leaf), tensors.pop(source))
    problems += [f"unknown {name}" for name in tensors]
    if problems:
        raise UserError(
            "this is not a state dict of the baseline's network: " + "; ".join(problems)
        )
    return variables


def _leaves(torch_name: str):
    """Tensor names of one convolution with its BatchNorm → where each goes."""
    yield f"{torch_name}.0.weight", ("params", "kernel")
    yield f"{torch_name}.1.weight", ("params", "norm", "scale")
    yield f"{torch_name}.1.bias", ("params", "norm", "bias")
    yield f"{torch_name}.1.running_mean", ("batch_stats", "norm", "mean")
    yield f"{torch_name}.1.running_var", ("batch_stats", "norm", "var")


def _set(tree: dict, path: tuple[str, ...], value: np.ndarray) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value
