"""Find the networks in a PyTorch file: a student and its teacher, or one for each device."""

import collections
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from asc_jax.errors import UserError
from asc_jax.pytorch import weights
from asc_jax.pytorch.files import TorchFile
from asc_jax.pytorch.front_end import front_ends


class Part(NamedTuple):
    """One network of a file.

    name: its prefix, "." if it has none. prefix: with its last sign. names: the baseline's own name
    of each tensor → name in the file.
    """

    name: str
    prefix: str
    names: dict[str, str]


def parts_of(file: TorchFile) -> list[Part]:
    """Return the networks of the baseline's kind, whether or not they can be converted."""
    return [
        Part(prefix[:-1] or ".", prefix, names)
        for prefix, names in weights.find_networks(file.tensors).items()
    ]


def choose(file: TorchFile, name: str | None = None) -> Part:
    """Return the one network to convert.

    Args:
      file: as `files.read` returns it.
      name: of the network, or as much of its end as tells it from the others; None: the only one,
        or one of several that are equal.

    Raises:
      UserError: there is no such network, or several.
    """
    parts = parts_of(file)
    known = ", ".join(part.name for part in parts)
    if name is not None:
        name = name.rstrip("./") or "."
        found = [part for part in parts if part.name == name] or [
            part for part in parts if re.search(rf"[./]{re.escape(name)}$", part.name)
        ]
        if len(found) == 1:
            return found[0]
        raise UserError(
            f"{file.path}: --part {name} is {'the end of several names' if found else 'not there'}"
            f", expected one of {known or 'none: it holds no network that can be converted'}"
        )
    if not parts:
        others = "; ".join(f"{group.name}: {group.text}" for group in _others(file, parts)[:5])
        raise UserError(
            f"{file.path} holds no network of the baseline's, whose tensors are named "
            f"in_c.0.0.weight, in_c.0.1.weight …, but {others}"
        )
    if all(_equal(file, parts[0], part) for part in parts[1:]):
        return parts[0]
    raise UserError(
        f"{file.path} holds {len(parts)} networks: choose one with --part NAME, of {known} "
        "(--list says more of them)"
    )


def describe(file: TorchFile) -> list[str]:
    """Return a line for each network, and for whatever else the file holds."""
    parts = parts_of(file)
    rows = [(f"--part {part.name}", *_of_part(file, part)) for part in parts]
    rows += [(name, count, text) for name, count, text in _others(file, parts)]
    constants = [name for names in front_ends(file.tensors).values() for name in names.values()]
    rows += [(n, _size(file, [n]), "constant of a front end") for n in dict.fromkeys(constants)]
    rows += [(name, "", f"hyper-parameter {value!r:.60}") for name, value in _settings(file)]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    head = f"{file.path}: {len(parts)} network{'s' * (len(parts) != 1)} of the baseline's kind"
    return [head, *(f"  {n:<{widths[0]}}  {c:>{widths[1]}}  {t}".rstrip() for n, c, t in rows)]


class _Group(NamedTuple):
    name: str
    count: str
    text: str


def _of_part(file: TorchFile, part: Part) -> tuple[str, str]:
    trained = [
        name
        for own, name in part.names.items()
        if not re.search(r"(running_(mean|var)|num_batches_tracked)$", own)
    ]
    try:
        attributes = weights.infer_config(file.arrays(part.names))
        text = "can be converted: " + ", ".join(f"{k} {v}" for k, v in attributes.items())
    except UserError as error:
        text = f"cannot be converted: {str(error):.200}"
    return _size(file, trained, "parameters"), text


def _others(file: TorchFile, parts: list[Part]) -> list[_Group]:
    """Return what belongs to no network of the baseline's kind, by the beginning of its names."""
    mine = {name for part in parts for name in part.names.values()}
    groups = collections.defaultdict(list)
    for name in file.tensors:
        if name not in mine and not weights.front_end_part(name):
            groups[re.split(r"[./]", name)[0]].append(name)
    return [
        _Group(name, _size(file, names), f"not converted{weights.looks_like(names)}")
        for name, names in groups.items()
    ]


def _size(file: TorchFile, names, what: str = "values") -> str:
    return f"{sum(math.prod(file.tensors[name].shape) for name in names):,} {what}"


def _settings(file: TorchFile) -> list[tuple]:
    """Return the hyper-parameters that are single values, also one level deeper."""
    plain = bool | int | float | str
    rows = list(file.hyper_parameters.items())
    for outer, inner in file.hyper_parameters.items():
        if isinstance(inner, Mapping):
            rows += [(f"{outer}.{name}", value) for name, value in inner.items()]
    return [(name, value) for name, value in rows if isinstance(value, plain)]


def _equal(file: TorchFile, one: Part, other: Part) -> bool:
    """Return whether two networks are the same one under two names."""
    if one.names.keys() != other.names.keys():
        return False
    ours, theirs = file.arrays(one.names), file.arrays(other.names)
    return all(np.array_equal(ours[name], theirs[name]) for name in ours)
