"""Read and write PyTorch's files as arrays by name; code that a file may carry is never run."""

import argparse
import os
import pathlib
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from asc_jax.errors import UserError, short
from asc_jax.machine.files import atomic_writer, is_zip, require_ordinary
from asc_jax.machine.optional_packages import require


class TorchFile(NamedTuple):
    """The content of a file.

    path: of the file. tensors: PyTorch's, not copied yet, by name. A dictionary inside a file gives
    its own name and a slash before the names of its tensors, except for a Lightning checkpoint's
    `state_dict`. hyper_parameters: those that a Lightning checkpoint was made with; one may be a
    mapping of more.
    """

    path: pathlib.Path
    tensors: dict
    hyper_parameters: dict

    def arrays(self, names: Mapping[str, str] | None = None) -> dict[str, np.ndarray]:
        """Copy tensors to arrays, dtypes kept, bfloat16 as `jnp.bfloat16`.

        Args:
          names: new name → name in the file; None: all tensors under their own names.

        Raises:
          UserError: NumPy has no such arrays.
        """
        names = dict(zip(self.tensors, self.tensors, strict=True)) if names is None else names
        return {new: _to_array(self.path, name, self.tensors[name]) for new, name in names.items()}


def read_state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Return the tensors of a file: `read(path).arrays()`."""
    return read(path).arrays()


def read(path: str | os.PathLike) -> TorchFile:
    """Read a state dict (`.pt`, `.pth`) or a Lightning checkpoint (`.ckpt`).

    Values that are no tensors are left out, and so is what a pruned tensor was before: PyTorch's
    `prune` stores `weight_orig` and `weight_mask` in place of `weight`, their product.

    Args:
      path: a file that `torch.save` wrote.

    Raises:
      UserError: PyTorch is not installed; the file is missing, damaged, or holds no tensors by
        name; or it asks for more than tensors and plain values, which could run code.
    """
    path = pathlib.Path(path)
    content, hyper_parameters = _load(path), None
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, {_EXPECTED}")
    if isinstance(content.get("state_dict"), Mapping):
        hyper_parameters = content.get("hyper_parameters")
        content = {**content["state_dict"]} | {
            f"{name}/": value for name, value in content.items() if name != "state_dict"
        }
    tensors = dict(_named_tensors(content))
    if not tensors:
        what = f"{len(content)} values without a tensor" if content else "nothing"
        raise UserError(f"{path} holds {what}, {_EXPECTED}")
    for name in [name.removesuffix("_mask") for name in tensors if name.endswith("_mask")]:
        original, mask = tensors.get(f"{name}_orig"), tensors[f"{name}_mask"]
        if original is not None and original.shape == mask.shape:
            tensors[name] = tensors.pop(f"{name}_orig") * tensors.pop(f"{name}_mask")
    return TorchFile(path, tensors, _by_name(path, hyper_parameters))


def read_tensor(path: str | os.PathLike) -> np.ndarray:
    """Read the one tensor that a file holds, by itself or under a name, as `read` reads several.

    Raises:
      UserError: as `read`, or the file holds several tensors.
    """
    path = pathlib.Path(path)
    content = _load(path)
    if isinstance(content, require("torch").Tensor):
        return _to_array(path, "its tensor", content)
    arrays = read(path).arrays()
    if len(arrays) > 1:
        raise UserError(f"{path} holds {len(arrays)} tensors, expected one: {short(list(arrays))}")
    return next(iter(arrays.values()))


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
_HEAD_BYTES = 512  # of a file, enough to tell its kind
_KINDS = (  # how files of other kinds begin, what they are, and what to do
    (rb"version https://git-lfs", "a Git LFS pointer, not the file itself: run git lfs pull"),
    (rb"\S*/annex/", "a git-annex pointer, not the file itself: run git annex get"),
    (
        rb"(?i)\s*(<!doctype html|<html|<\?xml)",
        "a web page: download the file itself, not its page",
    ),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd", "a compressed file: unpack it"),
    (rb"(?s).{257}ustar", "a tar archive: unpack it"),
    (rb"\x93NUMPY", "a NumPy array without names"),
    (rb"\x89HDF", "an HDF5 file, as Keras writes it: only PyTorch's networks can be converted"),
    (rb"(?s).{4}TFL3", "a LiteRT network, which is made for inference and cannot be converted"),
    (rb"GGUF", "a GGUF file, which is not PyTorch's"),
)


def _named_tensors(content: Mapping) -> Iterator[tuple]:
    """Yield the names and tensors of dictionaries and lists within each other, each read once."""
    tensor, seen, waiting = require("torch").Tensor, set(), [("", content)]
    while waiting:
        prefix, content = waiting.pop(0)
        for name, value in content.items() if isinstance(content, Mapping) else enumerate(content):
            name = f"{prefix}{name}".removesuffix("/")
            if isinstance(value, tensor):
                yield name, value
            elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
                seen.add(id(value))
                waiting.append((f"{name}/", value))


def _by_name(path, hyper_parameters) -> dict:
    """Return hyper-parameters, kept in mappings or `Namespace`s, by name, in mappings only."""
    hyper_parameters = _plain(hyper_parameters)
    if hyper_parameters is not None and not isinstance(hyper_parameters, Mapping):
        raise UserError(
            f"{path}: hyper_parameters is of type {type(hyper_parameters).__name__}, expected "
            f"values by name; where the file comes from, save the weights alone: {_SAVE}"
        )
    return {name: _plain(value) for name, value in (hyper_parameters or {}).items()}


def _plain(value):
    return vars(value) if isinstance(value, argparse.Namespace) else value


def _load(path: pathlib.Path):
    """Return the content of a file of tensors, plain values and what holds only values."""
    torch = require("torch")
    if path.is_dir():
        inside = [p.name for p in sorted(path.iterdir()) if p.suffix in (".ckpt", ".pt", ".pth")]
        hint = f": it holds {', '.join(inside[:5])}" if inside else ""
        raise UserError(f"{path} is a folder, expected one file{hint}")
    try:
        require_ordinary(path)
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if not head:
        raise UserError(f"{path} is empty: copy it again")
    try:
        with (
            torch.serialization.safe_globals(_harmless()),
            warnings.catch_warnings(action="ignore"),
        ):
            mmap = is_zip(path)  # mapped, a large file of something else costs nothing
            content = torch.load(path, weights_only=True, map_location="cpu", mmap=mmap)
            if mmap and _is_damaged(path):
                raise zipfile.BadZipFile
            return content
    except Exception as error:  # a damaged file makes PyTorch raise whatever comes to hand
        wanted = _GLOBAL.search(str(error))
        if wanted and not (mmap and _is_damaged(path)):  # where a name may be a corrupted one
            raise UserError(_refusal(path, wanted[1], mmap)) from error
        kind = _kind_of_zip(path) if mmap else _kind_of(head, path)
        raise UserError(
            f"{path} is {kind}"
            if kind
            else f"{path} is cut short, damaged or not a file of PyTorch's: copy it again, or save "
            f"it again with {_SAVE}"
        ) from error


def _harmless() -> list:
    """Return what files ask for and only holds values, with stand-ins for NumPy's own.

    Lightning keeps the hyper-parameters of a script in a Namespace, and people put paths and
    NumPy's scalars there.
    """
    paths = [
        (pathlib.PurePosixPath, f"{module}.{name}")
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
    ]
    scalars = [(_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [argparse.Namespace, *paths, *scalars, (_Dtype, "numpy.dtype")]


class _Dtype:
    """Stand in for a pickled `numpy.dtype`, of which only the code is looked at."""

    def __init__(self, code: str, *_):
        self.code = code

    def __setstate__(self, state):
        pass


def _scalar(dtype: _Dtype, data: bytes):
    """Return the number of a pickled NumPy scalar, as it is stored on most machines."""
    if not isinstance(dtype, _Dtype) or not re.fullmatch("[fiu][1248]|b1", dtype.code):
        raise UserError("a NumPy scalar that is no number")
    return np.frombuffer(data, f"<{dtype.code}")[0].item()


def _refusal(path: pathlib.Path, wanted: str, zipped: bool) -> str:
    """Say what a file asks for besides tensors and plain values, and the way out."""
    whole = _class_of_content(path) if zipped else None
    if whole:
        return (
            f"{path} holds a whole object of the class {whole}, which could run code; nothing was "
            f"run. Where its code is at hand, save the weights alone: {_SAVE}"
        )
    others = ""
    if zipped:
        torch = require("torch")
        with torch.serialization.safe_globals(_harmless()):
            names = {*torch.serialization.get_unsafe_globals_in_checkpoint(path)}
        names -= {wanted, f"builtins.{wanted}"}
        others = "".join(f", {name}" for name in sorted(names)[:5])
        others += ", …" if len(names) > 5 else ""
    return (
        f"{path} asks for {wanted}{others}, which could run code; nothing was run. Where it comes "
        f"from, save the weights alone: {_SAVE}; or, if you trust it, where its code is at hand: "
        f"torch.save(torch.load({str(path)!r}, weights_only=False)['state_dict'], 'weights.pt')"
    )


def _class_of_content(path: pathlib.Path) -> str | None:
    """Return the class of which a file holds one pickled object, None for a dictionary."""
    try:
        with zipfile.ZipFile(path) as file:
            name = next(name for name in file.namelist() if name.endswith("/data.pkl"))
            for opcode, argument, _ in pickletools.genops(file.read(name)):
                if opcode.name not in ("PROTO", "FRAME"):
                    is_class = opcode.name == "GLOBAL" and argument != "collections OrderedDict"
                    return argument.replace(" ", ".") if is_class else None
    except Exception:  # whatever a damaged file makes them raise
        return None


def _kind_of(head: bytes, path: pathlib.Path) -> str | None:
    """Say what a file that is no zip archive is, by how it begins; None: no idea."""
    for pattern, kind in _KINDS:
        if re.match(pattern, head):
            return kind
    n_header = int.from_bytes(head[:8], "little")
    if head[8:10] in (b'{"', b"{}") and n_header < path.stat().st_size:
        return (
            "a safetensors file: save it for PyTorch with "
            f"torch.save(safetensors.torch.load_file({str(path)!r}), 'weights.pt')"
        )
    if head.startswith(b"PK\x03\x04"):
        return f"cut short: its end is missing after {path.stat().st_size:,} bytes; copy it again"
    if re.fullmatch(rb"[\t\n\r\x20-\x7e]+", head):
        return f"a text file, which begins {short(head[:40].decode())}, not a file of PyTorch's"
    return None


def _kind_of_zip(path: pathlib.Path) -> str | None:
    """Say what a zip archive is that PyTorch cannot read; None: one of its own, but damaged."""
    try:
        with zipfile.ZipFile(path) as file:
            names = file.namelist()
    except Exception:  # whatever a damaged file makes zipfile raise
        return None
    if any(name.endswith("/constants.pkl") for name in names):
        return (
            "a TorchScript program, which is code; if you trust it, save its weights alone: "
            f"torch.save(torch.jit.load({str(path)!r}).state_dict(), 'weights.pt')"
        )
    if any(name.endswith("/data.pkl") for name in names):
        return None
    inside = ", ".join(names[:3]) or "nothing"
    return f"a zip archive of other files ({short(inside)} …): unpack it and convert one of them"


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
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise UserError(f"{path}: {name} has more values than the file: copy it again")
        if tensor.dtype == torch.bfloat16:  # numpy has no such type of its own
            return np.array(tensor.detach().view(torch.int16).numpy()).view(jnp.bfloat16)
        return np.array(tensor.detach().numpy())
    except (RuntimeError, TypeError) as error:
        raise UserError(
            f"{path}: {name} is a {tensor.dtype} tensor that cannot be read, expected float32, "
            "float16, bfloat16 or float64"
        ) from error
