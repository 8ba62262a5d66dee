"""Read and write PyTorch's files as arrays by name; code that a file may carry is never run."""

import argparse
import os
import pathlib
import re
import warnings
import zipfile
from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from asc_jax.errors import UserError
from asc_jax.machine.files import atomic_writer
from asc_jax.machine.optional_packages import require


class TorchFile(NamedTuple):
    """The content of a file.

    state_dict: arrays by name. hyper_parameters: those that a Lightning checkpoint was made with.
    """

    state_dict: dict[str, np.ndarray]
    hyper_parameters: dict


def read_state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Return the tensors of a file: `read(path).state_dict`."""
    return read(path).state_dict


def read(path: str | os.PathLike) -> TorchFile:
    """Read a state dict (`.pt`, `.pth`) or a Lightning checkpoint (`.ckpt`).

    Args:
      path: a file that `torch.save` wrote.

    Returns:
      A `TorchFile`; dtypes are kept, bfloat16 as `jnp.bfloat16`.

    Raises:
      UserError: PyTorch is not installed; the file is missing, damaged, or no state dict; or it
        asks for more than tensors and plain values, which could run code.
    """
    content, hyper_parameters = _load(pathlib.Path(path)), None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        hyper_parameters = content.get("hyper_parameters")
        content = content["state_dict"]
    tensor = require("torch").Tensor
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, {_EXPECTED}")
    other = [str(name) for name, value in content.items() if not isinstance(value, tensor)]
    if other or not content:
        what = f"besides tensors {', '.join(other)}" if other else "nothing"
        raise UserError(f"{path} holds {what}, {_EXPECTED}")
    state_dict = {str(name): _to_array(path, name, value) for name, value in content.items()}
    return TorchFile(state_dict, _by_name(path, hyper_parameters))


def write_state_dict(path: str | os.PathLike, state_dict: Mapping[str, np.ndarray]) -> None:
    """Write a file for `torch.load` atomically.

    Args:
      path: of the file; its folder is made if need be, and a file that is there is replaced.
      state_dict: arrays by name; dtypes are kept.

    Raises:
      UserError: PyTorch is not installed, or the file cannot be written.
    """
    torch = require("torch")
    path = pathlib.Path(path)
    tensors = {
        name: torch.from_numpy(np.array(value, order="C")) for name, value in state_dict.items()
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_writer(path) as file:
            torch.save(tensors, file)
    except (OSError, RuntimeError) as error:  # PyTorch raises RuntimeError when the disk is full
        raise UserError(f"cannot write {path}: {getattr(error, 'strerror', error)}") from error


_EXPECTED = "expected a state dict or a Lightning checkpoint: tensors by name"
_SAVE = "torch.save(model.state_dict(), 'weights.pt')"
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")  # how PyTorch names what it did not call


def _by_name(path, hyper_parameters) -> dict:
    """Return hyper-parameters, which Lightning keeps in a mapping or a `Namespace`, by name."""
    if isinstance(hyper_parameters, argparse.Namespace):
        return vars(hyper_parameters)
    if hyper_parameters is not None and not isinstance(hyper_parameters, Mapping):
        raise UserError(
            f"{path}: hyper_parameters is of type {type(hyper_parameters).__name__}, expected "
            f"values by name; where the file comes from, save the weights alone: {_SAVE}"
        )
    return dict(hyper_parameters or {})


def _load(path: pathlib.Path):
    """Return the content of a file of tensors, plain values and `argparse.Namespace`."""
    torch = require("torch")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if empty:
        raise UserError(f"{path} is empty: copy it again")
    # A Namespace only holds values; Lightning keeps the hyper-parameters of a script in it.
    allowed = torch.serialization.safe_globals([argparse.Namespace])
    try:
        with allowed, warnings.catch_warnings(action="ignore"):
            mmap = zipfile.is_zipfile(path)  # mapped, a large file of something else costs nothing
            content = torch.load(path, weights_only=True, map_location="cpu", mmap=mmap)
            if mmap and _is_damaged(path):
                raise zipfile.BadZipFile
            return content
    except Exception as error:  # a damaged file makes PyTorch raise whatever comes to hand
        wanted = _GLOBAL.search(str(error))
        if wanted and not (mmap and _is_damaged(path)):  # where a name may be a corrupted one
            raise UserError(
                f"{path} asks for {wanted[1]}, which could run code; nothing was run. Where it "
                f"comes from, save the weights alone: {_SAVE}"
            ) from error
        raise UserError(
            f"{path} is cut short, damaged or not a file of PyTorch's: copy it again, or save it "
            f"again with {_SAVE}"
        ) from error


def _is_damaged(path: pathlib.Path) -> bool:
    """Check the parts of the file against their checksums, which PyTorch does not look at."""
    try:
        with zipfile.ZipFile(path) as file:
            parts = file.infolist()
            if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
                return True  # PyTorch compresses nothing, and a bomb would keep us busy
            # PyTorch can be told to leave the checksums out; all of them are 0 then.
            return any(part.CRC for part in parts) and file.testzip() is not None
    except Exception:  # whatever a damaged file makes zipfile raise
        return True


def _to_array(path, name: str, tensor) -> np.ndarray:
    """Copy a tensor to an array, so that the file can be closed or replaced."""
    torch = require("torch")
    try:
        if tensor.dtype == torch.bfloat16:  # numpy has no such type of its own
            return np.array(tensor.detach().view(torch.int16).numpy()).view(jnp.bfloat16)
        return np.array(tensor.detach().numpy())
    except (RuntimeError, TypeError) as error:
        raise UserError(
            f"{path}: {name} is a {tensor.dtype} tensor that cannot be read, expected float32, "
            "float16, bfloat16 or float64"
        ) from error
