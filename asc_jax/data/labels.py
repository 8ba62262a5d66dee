"""The names of a data set: its classes, and group columns such as the recording device.

A data set stores its `Labels`, and a run keeps those of its data set in `config.labels`, so that
evaluation, prediction and exports name the classes without the data set. A clip's label and its
place among the values of a group column are numbers: positions in these tuples, -1 where unknown.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from asc_jax.errors import UserError, short

MIN_CLASSES, MAX_CLASSES = 2, 100
MAX_VALUES = 1000  # of a group column
MAX_NAME = 100  # characters
UNKNOWN = -1  # number of a label or group value that is not known
UNKNOWN_NAME = "unknown"  # row of a table that counts clips whose group value is not known
# Names of columns that a clip has besides: a group column may not be called so.
TAKEN = ("audio", "label", "filename", "recording", "mask", "path", "split", "start_s", "end_s")


@dataclasses.dataclass(frozen=True)
class Group:
    """A group column.

    values: of which each clip has one, such as the devices. sets: named sets of values, such as
    those that occur in training and those that do not.
    """

    values: tuple[str, ...]
    sets: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Labels:
    """The class names of a data set, in the order of the network's logits, and its group columns.

    Raises:
      UserError: there are fewer than 2 or more than 100 classes, a name is empty, has more than
        100 characters or a control character, or occurs twice, or a set has a value that its
        group has not.

    Example:
      >>> labels = Labels(("cat", "dog"), {"room": Group(("hall", "yard"))})
      >>> labels.groups["room"].values
      ('hall', 'yard')
    """

    classes: tuple[str, ...]
    groups: Mapping[str, Group] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not MIN_CLASSES <= len(self.classes) <= MAX_CLASSES:
            raise UserError(
                f"there are {len(self.classes)} classes, expected {MIN_CLASSES} to {MAX_CLASSES}"
            )
        _check_names("class", self.classes)
        for column, group in self.groups.items():
            check_column(column)
            if len(group.values) > MAX_VALUES:
                raise UserError(
                    f"the group column {column} has {len(group.values):,} values, expected at most "
                    f"{MAX_VALUES:,}"
                )
            _check_names(f"value of {column}", group.values)
            for name, members in group.sets.items():
                _check_identifier(f"set of {column}", name)
                if not members or not {*members} <= {*group.values}:
                    raise UserError(
                        f"the set {name} of {column} is {short(list(members))}, expected some of "
                        f"{', '.join(group.values)}"
                    )

    @property
    def n_classes(self) -> int:
        """Return the number of classes, as many as the network has logits."""
        return len(self.classes)

    def to_dict(self) -> dict[str, Any]:
        """Return the labels as plain dicts and tuples: the section `labels` of a config."""
        groups = {
            column: {"values": tuple(group.values), "sets": dict(group.sets)}
            for column, group in self.groups.items()
        }
        return {"classes": tuple(self.classes), "groups": groups}


def from_dict(content: Mapping[str, Any]) -> Labels:
    """Return the labels that `to_dict` wrote, also once they have been through JSON.

    Raises:
      UserError: it is no such dict, or as `Labels`.
    """
    try:
        groups = {
            str(column): Group(
                _names(group["values"]),
                {str(name): _names(members) for name, members in group["sets"].items()},
            )
            for column, group in content["groups"].items()
        }
        classes = _names(content["classes"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"the labels {short(content)} have no list of classes, or no groups with values and "
            f"sets: {error}"
        ) from error
    return Labels(classes, groups)


def id_column(column: str) -> str:
    """Return the name of the batch's column with the numbers of a group's values."""
    return f"{column}_id"


def check_column(column: str) -> None:
    """Raise a `UserError` if a group column may not be called so."""
    _check_identifier("group column", column)
    if column in TAKEN:
        raise UserError(f"a group column may not be called {column}: choose another name")


def _names(names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{short(names)} is no list of names")
    return tuple(names)


def _check_identifier(what: str, name: str) -> None:
    if not re.fullmatch("[a-z][a-z0-9_]{0,39}", name):
        raise UserError(
            f"the {what} {name!r} may have lower-case letters a to z, digits and _ only, a letter "
            "first, and at most 40 of them"
        )


def _check_names(what: str, names: Sequence[str]) -> None:
    for name in names:
        if not name.strip() or name != name.strip() or len(name) > MAX_NAME:
            raise UserError(
                f"{what} {name!r}: expected 1 to {MAX_NAME} characters, no space at either end"
            )
        if not name.isprintable():
            raise UserError(f"{what} {name!r}: tabs, line ends and control characters are not read")
    if len({*names}) < len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise UserError(f"{what} {twice!r} is there twice")
    if UNKNOWN_NAME in names and not what.startswith("class"):
        raise UserError(f"{what} {UNKNOWN_NAME!r}: leave it empty where it is not known")
