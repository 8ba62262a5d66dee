"""The flags of `asc-jax prepare-data` for recordings and classes of one's own."""

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from asc_jax.data.own import inputs
from asc_jax.data.own.cutting import SHORT, Cut
from asc_jax.data.own.inputs import Inputs, Names
from asc_jax.data.own.plan import DUPLICATES, Choices
from asc_jax.data.own.problems import Problems
from asc_jax.errors import UserError, expect

LAYOUTS = ("tau", "folders", "table")
TEST_FRACTION = 0.2
# Flag → layouts that it is for; all others are for any.
FOR = {
    **dict.fromkeys(("tau_dir", "download", "splits"), ("tau",)),
    "input_dir": ("folders",),
    **dict.fromkeys(("input_table", "groups", "group_set"), ("table",)),
    **dict.fromkeys(
        ("clip_s", "hop_s", "min_peak_dbfs", "short", "recording_pattern", "split_pattern"),
        ("folders", "table"),
    ),
    **dict.fromkeys(
        ("test_fraction", "folds", "seed", "classes", "duplicates", "skip_unreadable"),
        ("folders", "table"),
    ),
}


class Request(NamedTuple):
    """Hold what the flags ask for.

    inputs: as read. problems: of these. cut, choices: see there. settings: flag → value, of all
    that the clips depend on.
    """

    inputs: Inputs
    problems: Problems
    cut: Cut
    choices: Choices
    settings: dict[str, Any]


def define() -> None:
    """Define the flags."""
    flags.DEFINE_string("input_dir", None, "Folder with a folder of recordings for each class")
    flags.DEFINE_string(
        "input_table", None, "csv with the columns path (from the csv's own folder on, or "
        "absolute) and label, perhaps start_s, end_s, split, recording, and any others as groups"
    )  # fmt: skip
    flags.DEFINE_float("clip_s", 1.0, "Length of a clip, seconds")
    flags.DEFINE_float("hop_s", 1.0, "Seconds from the start of a clip to that of the next")
    flags.DEFINE_float(
        "min_peak_dbfs", -60.0, "Leave out clips whose peak is lower, dB of full scale; -inf: none"
    )
    flags.DEFINE_enum("short", "reject", SHORT, "What to do with recordings shorter than a clip")
    flags.DEFINE_string(
        "recording_pattern", None, "Regular expression that finds, in paths such as "
        "dog/take7-b.wav, what names the recording: its first group, as '/take([0-9]+)' "
        "(default: each file is one)"
    )  # fmt: skip
    flags.DEFINE_string(
        "split_pattern",
        None,
        "Regular expression that finds the split in the same way; with "
        "--folds the number of a fold is enough",
    )
    flags.DEFINE_float(
        "test_fraction", None, "Fraction of the clips that go to the split test, the others to "
        f"train (default: {TEST_FRACTION}, unless splits are given)"
    )  # fmt: skip
    flags.DEFINE_integer(
        "folds",
        None,
        "Number of splits fold1, fold2 … in place of train, test; chosen, or given by "
        "--split_pattern or the column split",
    )
    flags.DEFINE_integer("seed", 0, "Seed of the choice of splits")
    flags.DEFINE_list("classes", None, "Order of the classes (default: by name)")
    flags.DEFINE_list("groups", None, "Columns of the table to count results by (default: all)")
    flags.DEFINE_multi_string(
        "group_set", [], "Set of values of a column to count together: device:seen=a,b"
    )
    flags.DEFINE_enum(
        "duplicates", "reject", DUPLICATES, "What to do with one sound under several names"
    )
    flags.DEFINE_bool("skip_unreadable", False, "Leave out files that cannot be read")


def check_layout(options: flags.FlagValues) -> None:
    """Raise a `UserError` if a flag is given that is for another layout."""
    for name, layouts in FOR.items():
        if options[name].present and options.layout not in layouts:
            raise UserError(
                f"--{name} is for --layout {' and '.join(layouts)}, not for --layout "
                f"{options.layout}: add --layout {layouts[0]}, or leave it out"
            )


def request(options: flags.FlagValues) -> Request:
    """Read the inputs that the flags name.

    Raises:
      UserError: a flag is missing, wrong or against another one, or the input cannot be read.
    """
    cut = Cut(
        options.clip_s, options.hop_s, options.min_peak_dbfs, options.short,
        int(options.sample_rate),
    )  # fmt: skip
    names = Names(
        _pattern(options, "recording_pattern"),
        _pattern(options, "split_pattern"),
        _folds(options.folds),
    )
    problems = Problems()
    if options.layout == "folders":
        _require(options, "input_dir", "a folder with a folder for each class")
        found = inputs.read_folders(options.input_dir, names, problems)
    else:
        _require(options, "input_table", "a csv with the columns path and label")
        found = inputs.read_table(options.input_table, names, options.groups, problems)
    given = names.split is not None or found.has_splits
    fractions = _fractions(options, given)
    folds = tuple(f"fold{number + 1}" for number in range(names.folds))
    choices = Choices(
        fractions,
        tuple(fractions or folds),
        options.seed,
        options.duplicates,
        options.skip_unreadable,
        None if options.classes is None else tuple(map(inputs.composed, options.classes)),
        _group_sets(options.group_set),
    )
    settings = {
        name: options[name].value
        for name, layouts in FOR.items()
        if "tau" not in layouts and not name.startswith("input_")
    }
    settings |= {
        "layout": options.layout,
        "sample_rate": cut.sample_rate,
        "min_peak_dbfs": f"{cut.min_peak_dbfs:g}",  # which may be infinite
        "test_fraction": None if given or names.folds else fractions["test"],
    }
    return Request(found, problems, cut, choices, settings)


def _require(options: flags.FlagValues, name: str, what: str) -> None:
    if options[name].value is None:
        raise UserError(f"--layout {options.layout} needs --{name}: {what}")
    if not Path(options[name].value).exists():
        raise UserError(f"{options[name].value}: no such file or folder; --{name} names {what}")


def _pattern(options: flags.FlagValues, name: str) -> re.Pattern | None:
    text = options[name].value
    try:
        return None if text is None else re.compile(text)
    except re.error as error:
        raise UserError(f"--{name} {text!r} is no regular expression: {error}") from error


def _folds(n_folds: int | None) -> int:
    if n_folds is None:
        return 0
    expect("--folds", n_folds, 2 <= n_folds <= 100, "2 … 100")
    return n_folds


def _fractions(options: flags.FlagValues, given: bool) -> dict[str, float] | None:
    """Return split → its share, None where the splits are given with the recordings."""
    fraction, folds = options.test_fraction, options.folds
    if fraction is not None:
        expect("--test_fraction", fraction, 0 < fraction < 1, "between 0 and 1")
        if given or folds:
            other = "--folds" if folds else "the split that the input names"
            raise UserError(f"--test_fraction and {other} choose splits in two ways: leave one out")
    if given:
        return None
    if folds:
        return {f"fold{number + 1}": 1 / folds for number in range(folds)}
    test = TEST_FRACTION if fraction is None else fraction
    return {"train": 1 - test, "test": test}


def _group_sets(texts: list[str]) -> Mapping[str, Mapping[str, tuple[str, ...]]]:
    """`device:seen=a,b` → {"device": {"seen": ("a", "b")}}."""
    sets: dict[str, dict[str, tuple[str, ...]]] = {}
    for text in texts:
        found = re.fullmatch(r"([^:=]+):([^:=]+)=(.+)", text.strip())
        if not found:
            raise UserError(f"--group_set {text!r}: expected COLUMN:NAME=VALUE,VALUE")
        column, name = found[1].strip().lower(), found[2].strip()
        values = next(csv.reader([found[3]], skipinitialspace=True))
        if name in sets.setdefault(column, {}):
            raise UserError(f"--group_set {text!r}: {column} has a set {name} already")
        sets[column][name] = tuple(dict.fromkeys(value.strip() for value in values))
    return sets
