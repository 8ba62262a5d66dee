"""A folder of folders, or a table → labelled stretches of files, before any sound is read.

ROOT/<class>/…/*.wav          the first folder is the class
path,label,start_s,device     a table with a row for each stretch of a file
"""

import contextlib
import hashlib
import math
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from asc_jax.data import labels
from asc_jax.data.own.problems import Problems, first
from asc_jax.data.recordings import find_recordings
from asc_jax.data.table import read_whole_table
from asc_jax.errors import UserError

OWN_COLUMNS = ("path", "label", "start_s", "end_s", "split", "recording")  # of a table
N_HASHED = 4096  # bytes, of the beginning, the middle and the end of a file
SPLIT_NAME = re.compile("[a-z][a-z0-9_]{0,39}")
RESERVED_SPLITS = ("all",)  # of tensorflow-datasets


class Stretch(NamedTuple):
    """A labelled part of a file, or a whole one.

    path: of the file. name: the same from the root on, with "/". label: its class. start_s,
    end_s: seconds; the end may be infinite. recording: what must not be in two splits; "" for the
    file itself. split: as given; "" where it is to be chosen. groups: value of each group column,
    "" where unknown. line: in the table; 0 without one.
    """

    path: Path
    name: str
    label: str
    start_s: float = 0.0
    end_s: float = math.inf
    recording: str = ""
    split: str = ""
    groups: tuple[str, ...] = ()
    line: int = 0

    @property
    def where(self) -> str:
        """Return the file, and the line of the table."""
        return f"{self.name} (line {self.line})" if self.line else self.name


class Inputs(NamedTuple):
    """Hold what is to be cut.

    source: the folder or the table. stretches: in the order of their names. columns: the group
    columns. notes: what a person should know, a sentence each. has_splits: a column gives them.
    """

    source: Path
    stretches: list[Stretch]
    columns: tuple[str, ...]
    notes: list[str]
    has_splits: bool = False


class Names(NamedTuple):
    """Say how recordings and splits are found in the names of files.

    recording: searched for; its first group, or all that it matches, names the recording. split:
    the same for the split. None: not searched for. folds: how many there are, if splits are the
    numbers of folds; 0 otherwise.
    """

    recording: re.Pattern | None = None
    split: re.Pattern | None = None
    folds: int = 0


def read_folders(root: str | os.PathLike, names: Names, problems: Problems) -> Inputs:
    """Find the recordings of a folder whose folders are the classes.

    Args:
      root: the folder.
      names: what names of files say.
      problems: more may be added.

    Raises:
      UserError: there is no such folder, or no recording in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; expected one with a folder for each class")
    found, others = find_recordings([root])
    notes = [others.partition(". A file")[0]] if others else []
    stretches, n_hidden = [], 0
    for path in found:
        relative = path.relative_to(root)
        if len(relative.parts) == 1 and not path.is_dir():
            problems.add(
                f"recordings lie directly in {root}, expected each in the folder of its class",
                relative.name,
            )
        elif relative.parts[0].startswith("."):
            n_hidden += 1
        else:
            label = composed(relative.parts[0])
            stretches.append(_named(Stretch(path, relative.as_posix(), label), names, problems))
    if found and not stretches and not n_hidden:
        raise UserError(
            f"{len(found):,} recordings lie directly in {root}, and none in a folder of its class: "
            f"--input_dir names the folder that holds a folder for each class, perhaps "
            f"{root.absolute().parent}"
        )
    if n_hidden:
        notes.append(f"{n_hidden:,} recordings in hidden folders are not looked at")
    classes = {stretch.label for stretch in stretches}
    empty = [
        name for name in sorted(os.listdir(root))
        if (root / name).is_dir() and not name.startswith(".") and composed(name) not in classes
    ]  # fmt: skip
    if empty:
        notes.append(f"{len(empty)} folders have no recordings and are no classes: {first(empty)}")
    return Inputs(root, sorted(stretches, key=lambda stretch: stretch.name), (), notes)


def read_table(
    path: str | os.PathLike, names: Names, groups: Sequence[str] | None, problems: Problems
) -> Inputs:
    """Read a table with a row for each recording or stretch of one.

    Args:
      path: of the table, with the columns path and label and perhaps others of `OWN_COLUMNS`.
      names: what names of files say, if no column does.
      groups: names of the group columns; None takes all other columns that can be.
      problems: more may be added.

    Raises:
      UserError: it cannot be read as a table, or has no such columns.
    """
    path = Path(path)
    header, rows = read_whole_table(path, ("path", "label"))
    for column, pattern in (("recording", names.recording), ("split", names.split)):
        if column in header and pattern:
            raise UserError(
                f"{path} has a column {column}, and --{column}_pattern asks for another way: "
                "leave one out"
            )
    columns, notes = _group_columns(path, header, [row for _, row in rows], groups)
    stretches = [
        stretch for line, row in rows
        if (stretch := _stretch(path.parent, line, row, columns, names, problems))
    ]  # fmt: skip
    if not rows:
        problems.say(f"{path} lists no recordings")
    stretches.sort(key=lambda stretch: (stretch.name, stretch.start_s, stretch.end_s, stretch.line))
    _overlaps(stretches, problems)
    return Inputs(path, stretches, columns, notes, "split" in header)


def _stretch(
    root: Path,
    line: int,
    row: Mapping[str, str],
    columns: Sequence[str],
    names: Names,
    problems: Problems,
) -> Stretch | None:
    """Return what a row says; None where it does not name a file and a class."""
    cell, label = row["path"].replace("\\", "/"), composed(row["label"])
    if not cell or not label:
        problems.add(f"rows have no {'label' if cell else 'path'}", f"line {line}")
        return None
    path = Path(os.path.normpath(root / os.path.expanduser(cell)))
    inside = os.path.normpath(root)
    name = path.relative_to(inside).as_posix() if path.is_relative_to(inside) else path.as_posix()
    start_s, end_s = _seconds(row.get("start_s", ""), 0.0), _seconds(row.get("end_s", ""), math.inf)
    stretch = Stretch(path, name, label, recording=row.get("recording", ""), line=line)
    if start_s is None or end_s is None or not 0 <= start_s < end_s or math.isinf(start_s):
        problems.add(
            "rows have an end_s that is not after start_s, or one of them is no number of seconds "
            "of at least 0",
            f"{stretch.where}: {row.get('start_s', '')!r} to {row.get('end_s', '')!r}",
        )
        return None
    if "split" in row:
        if split := _split_name(row["split"], names.folds):
            stretch = stretch._replace(split=split)
        else:
            problems.add(f"rows have no split as expected ({_expected(names.folds)})",
                         f"{stretch.where}: {row['split']!r}")  # fmt: skip
    stretch = stretch._replace(
        start_s=start_s,
        end_s=end_s,
        groups=tuple(_group_value(row[column]) for column in columns),
    )
    return _named(stretch, names, problems)


def _named(stretch: Stretch, names: Names, problems: Problems) -> Stretch:
    """Return a stretch with the recording and the split that its file's name says."""
    if names.recording:
        if (found := names.recording.search(stretch.name)) and _matched(found):
            stretch = stretch._replace(recording=_matched(found))
        else:
            problems.add("files have names without the --recording_pattern", stretch.where)
    if names.split:
        found = names.split.search(stretch.name)
        if split := found and _split_name(_matched(found), names.folds):
            stretch = stretch._replace(split=split)
        elif found:
            problems.add(
                f"files have names whose --split_pattern gives no split as expected "
                f"({_expected(names.folds)})",
                f"{stretch.where}: {_matched(found)!r}",
            )
        else:
            problems.add("files have names without the --split_pattern", stretch.where)
    return stretch


def _matched(found: re.Match) -> str:
    return (found[1] or "") if found.re.groups else found[0]


def _split_name(text: str, folds: int) -> str | None:
    """Return a split's name; None for a text that is none."""
    text = text.lower()
    if folds:
        number = text.removeprefix("fold").strip(" _-").removesuffix(".0")  # as of a spreadsheet
        is_one = number.isascii() and number.isdigit() and 1 <= int(number) <= folds
        return f"fold{int(number)}" if is_one else None
    return text if SPLIT_NAME.fullmatch(text) and text not in RESERVED_SPLITS else None


def _expected(folds: int) -> str:
    if folds:
        return f"1 to {folds}, since there are --folds {folds}"
    return (
        "at most 40 letters a to z, digits and _, a letter first, and not all; with --folds N the "
        "number of a fold"
    )


def composed(name: str) -> str:
    """Return a name as it is typed: a file system may keep an umlaut as two characters."""
    return unicodedata.normalize("NFC", name)


def _seconds(cell: str, if_empty: float) -> float | None:
    """Return a number, perhaps with a decimal comma; None for what is none."""
    if not cell:
        return if_empty
    try:
        value = float(cell.replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _group_value(cell: str) -> str:
    """Return the value of a group; "" where it is not known."""
    return "" if cell.lower() == labels.UNKNOWN_NAME else composed(cell)


def _group_columns(
    path: Path,
    header: Sequence[str],
    rows: Sequence[Mapping[str, str]],
    asked: Sequence[str] | None,
) -> tuple[tuple[str, ...], list[str]]:
    """Return the group columns of a table, and notes on those taken and not."""
    others = [name for name in header if name not in OWN_COLUMNS]
    if asked is not None:
        asked = [name.lower() for name in dict.fromkeys(asked)]
        for name in asked:
            if name not in others:
                raise UserError(
                    f"{path} has no group column {name!r} (--groups); it has "
                    f"{first(others, 20) or 'none'}"
                )
            if reason := _not_a_group(name, rows):
                raise UserError(f"{path}: {name!r} (--groups) cannot be a group column: {reason}")
        return tuple(asked), []
    reasons = {name: _not_a_group(name, rows) for name in others}
    taken = [name for name in others if not reasons[name]]
    left = [f"{name!r} ({reason})" for name, reason in reasons.items() if reason]
    notes = []
    if taken:
        notes.append(f"group columns: {', '.join(taken)}; --groups names others")
    if left:
        notes.append(f"columns that are not used: {first(left)}")
    return tuple(taken), notes


def _not_a_group(name: str, rows: Sequence[Mapping[str, str]]) -> str | None:
    """Return why a column cannot be a group column; None if it can."""
    values = sorted({_group_value(row[name]) for row in rows} - {""})
    if not values:
        return "it is empty"
    try:
        labels.Labels(("a", "b"), {name: labels.Group(tuple(values))})
    except UserError as error:
        return str(error)
    return None


def _overlaps(stretches: Sequence[Stretch], problems: Problems) -> None:
    """Note stretches of one file that contradict each other; `stretches` are sorted."""
    files = defaultdict(list)
    for stretch in stretches:
        files[stretch.path].append(stretch)
    for rows in files.values():
        open_rows: list[Stretch] = []
        for row in rows:
            open_rows = [other for other in open_rows if other.end_s > row.start_s]
            for other in open_rows:
                if what := _contradiction(other, row):
                    problems.add(what, f"{row.name} (lines {other.line} and {row.line})")
                    break
            open_rows.append(row)


def _contradiction(one: Stretch, other: Stretch) -> str | None:
    """Return what is wrong with two stretches that overlap; None if nothing is."""
    if one.label != other.label:
        return "stretches of a file have two labels"
    if (one.start_s, one.end_s) == (other.start_s, other.end_s):
        return "stretches of a file are listed twice"
    if one[5:-1] != other[5:-1]:
        return "stretches of a file overlap, and differ in their recording, split or groups"
    return None


def fingerprint(inputs: Inputs) -> str:
    """Return a hash of names, labels, file sizes and some bytes of every file.

    The beginning, the middle and the end of each, since reading all would take as long as
    building; they tell a folder that was recorded or processed again, where all sizes stay the
    same. A file that cannot be read is left out.
    """
    digest = hashlib.sha256(repr(inputs.columns).encode())
    for stretch in inputs.stretches:
        digest.update(repr(stretch[1:-1]).encode())
    for path in dict.fromkeys(stretch.path for stretch in inputs.stretches):
        with contextlib.suppress(OSError):
            size = os.stat(path).st_size if path.is_file() else 0
            digest.update(f" {size} ".encode())
            if size:
                with path.open("rb") as file:
                    for at in (0, (size - N_HASHED) // 2, size - N_HASHED):
                        file.seek(max(at, 0))
                        digest.update(file.read(N_HASHED))
    return digest.hexdigest()
