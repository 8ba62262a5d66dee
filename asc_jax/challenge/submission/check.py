"""Check a finished submission strictly, by its files alone.

    DIR/task1/<label>/<label>.output.split_{5,10,25,50,100}.csv
    DIR/task1/<label>/<label>.meta.yaml

Source: the layout and rules of DCASE 2024 Task 1.
"""

import csv
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asc_jax.challenge.submission import author
from asc_jax.complexity.limits import MAX_BYTES, MAX_MACS
from asc_jax.data.tau.taxonomy import DEVICES, N_SCENES, SCENES, TRAIN_PERCENTS
from asc_jax.errors import UserError, printable, short

N_EVALUATION_CLIPS = 135_730
COLUMNS = ["filename", "scene_label", *SCENES]
SUM_TOLERANCE = 1e-5
SPLITS = tuple(f"split_{percent}" for percent in TRAIN_PERCENTS)
SYSTEM = ("description", "complexity", "external_datasets", "source_code")
COMPLEXITY = {"total_model_size": MAX_BYTES, "total_parameters": math.inf, "macs": MAX_MACS}


def check(out_dir: Path, *, practice: bool = False) -> list[str]:
    """Return the problems of all entries in `out_dir/task1`, one line each.

    practice: accept another number of clips than the challenge's 135,730.
    """
    folders = [path for path in sorted(out_dir.glob("task1/[!.]*")) if path.is_dir()]
    if not folders:
        return [f"{out_dir / 'task1'}: no entry there, expected task1/<label>/ in {out_dir}"]
    problems = [p for folder in folders for p in check_entry(folder, practice=practice)]
    return [printable(problem) for problem in problems]


def check_entry(folder: Path, *, label: str | None = None, practice: bool = False) -> list[str]:
    """Return the problems of one entry; `label`: its name, None: that of the folder."""
    label = label or folder.name
    problems = []
    if not author.LABEL.fullmatch(label):
        problems.append(f"{folder}: not named <LastName>_<INST>_task1_<1..4>")
    outputs = [folder / f"{label}.output.{split}.csv" for split in SPLITS]
    meta = folder / f"{label}.meta.yaml"
    expected = {*outputs, meta}
    found = {path for path in folder.iterdir() if path.suffix != ".pdf"}
    problems += [f"{path.name}: missing" for path in sorted(expected - found)]
    problems += [f"{path.name}: not part of a submission" for path in sorted(found - expected)]
    names = {}
    for path in outputs:
        if path in found:
            clips, more = _check_output(path, practice)
            problems += more
            if clips is not None:
                names[path.name] = clips
    problems += _same_clips(names)
    if meta in found:
        problems += [f"{meta.name}: {problem}" for problem in _check_meta(meta, label)]
    return problems


def _check_output(path: Path, practice: bool) -> tuple[list[str] | None, list[str]]:
    """Return the names of the clips of a csv file, None if they are unclear, and its problems."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = [*csv.reader(file, delimiter="\t")] or [[]]
    except (OSError, ValueError, csv.Error) as error:
        return None, [f"{path.name}: cannot be read: {error}"]
    if header != COLUMNS:
        return None, [f"{path.name}: columns {header}, expected, separated by tabs, {COLUMNS}"]
    if not rows:
        return None, [f"{path.name}: holds no clips"]
    uneven = _in_rows(
        path,
        [len(row) != len(COLUMNS) for row in rows],
        lambda n: f"{len(rows[n])} cells, expected {len(COLUMNS)}",
    )
    if uneven:
        return None, uneven
    names = [row[0] for row in rows]
    problems = []
    if not practice and len(rows) != N_EVALUATION_CLIPS:
        problems.append(
            f"{path.name}: {len(rows):,} clips, the evaluation list has {N_EVALUATION_CLIPS:,}"
        )
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        more = f" (and {len(twice) - 1:,} clips more)" if len(twice) > 1 else ""
        problems.append(f"{path.name}: clip {twice[0]} is listed more than once{more}")
    folders = _in_rows(
        path,
        ["/" in name or not name for name in names],
        lambda n: f"clip {names[n]!r}, expected a file name",
    )
    problems += folders + _check_probs(path, rows)
    return None if twice or folders else names, problems


def _check_probs(path: Path, rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the problems of numbers, sums and labels of the rows."""
    try:
        probs = np.array([row[2:] for row in rows], np.float64)
    except ValueError as error:
        return [f"{path.name}: a probability is no number: {error}"]
    inside = np.all((probs >= 0) & (probs <= 1), axis=1)
    if not inside.all():
        return _in_rows(path, ~inside, lambda n: "a probability is not in [0, 1]")
    sums = probs.sum(1)
    problems = _in_rows(
        path,
        np.abs(sums - 1) > SUM_TOLERANCE,
        lambda n: f"probabilities sum to {sums[n]:.6g}, expected 1",
    )
    labels = [row[1] for row in rows]
    unknown = _in_rows(
        path,
        [label not in SCENES for label in labels],
        lambda n: f"scene_label {labels[n]!r}, expected one of {', '.join(SCENES)}",
    )
    if unknown:
        return problems + unknown
    at_label = probs[range(len(rows)), [SCENES.index(label) for label in labels]]
    return problems + _in_rows(
        path,
        at_label < probs.max(1),
        lambda n: (
            f"scene_label is {labels[n]}, but {SCENES[probs[n].argmax()]} is the most probable"
        ),
    )


def _in_rows(path: Path, bad: Sequence[bool], problem: Callable[[int], str]) -> list[str]:
    """Return the problem of the first bad row and its number as an editor counts; [] for none.

    bad: of each row after the header. problem: of a row, by its number in `bad`.
    """
    rows = np.flatnonzero(bad).tolist()
    more = f" (and {len(rows) - 1:,} rows more)" if len(rows) > 1 else ""
    return [f"{path.name}, row {n + 2}: {problem(n)}{more}" for n in rows[:1]]


def _same_clips(names: Mapping[str, list[str]]) -> list[str]:
    """Return the problems of files that do not list the same clips in the same order."""
    problems = []
    first = next(iter(names), None)
    for other, clips in names.items():
        if clips != names[first]:
            lacks = sorted({*names[first]} - {*clips}) or ["none, their order differs"]
            problems.append(f"{other}: other clips than in {first}; lacks {lacks[0]}")
    return problems


def _check_meta(path: Path, label: str) -> list[str]:
    """Return the problems of the meta file of the entry `label`, down to every accuracy."""
    try:
        meta = author.read_yaml(path)
    except UserError as error:
        return [str(error)]
    if not isinstance(meta, Mapping):
        return ["holds no sections"]
    submission = meta.get("submission")
    problems = author.submission_problems(submission)
    if isinstance(submission, Mapping) and submission.get("label") != label:
        problems.append(
            f"submission.label is {short(submission.get('label'))}, its folder is {label}"
        )
    for section, keys in (("system", SYSTEM), ("system.description", author.DESCRIPTION)):
        missing = [key for key in keys if key not in _mapping_at(meta, section)]
        problems += [f"{section}: {', '.join(missing)} missing"] * bool(missing)
    for key, limit in COMPLEXITY.items():
        value, name = _mapping_at(meta, "system.complexity").get(key), f"system.complexity.{key}"
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            problems.append(f"{name} is {short(value)}, expected a number above 0")
        elif value > limit:
            shown = f"{value:,}" if value < 1e15 else short(value)
            problems.append(f"{name} is {shown}, over the budget of {limit:,}")
    results = _mapping_at(meta, "results").get("development_dataset")
    if not isinstance(results, Mapping) or [*results] != [*SPLITS]:
        found = map(author.text, results) if isinstance(results, Mapping) else [short(results)]
        problems.append(
            f"results.development_dataset holds {', '.join(found) or 'nothing'}, expected, in this "
            f"order, {', '.join(SPLITS)}"
        )
        return problems
    for split in SPLITS:
        problems += [f"results, {split}: {problem}" for problem in _check_results(results, split)]
    return problems


def _check_results(results: Mapping, split: str) -> list[str]:
    """Return the problems of a split's accuracies (percent) and log losses."""
    names = ["overall", *(f"class_wise.{scene}" for scene in SCENES)]
    names += [f"device_wise.{device}" for device in DEVICES]
    rows = {name: _mapping_at(results, f"{split}.{name}") for name in names}
    problems = []
    for name, row in rows.items():
        for key, highest in (("accuracy", 100), ("logloss", math.inf)):
            value = row.get(key)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (is_number and 0 <= value <= highest and value < math.inf):
                problems.append(f"{name}.{key} is {short(value)}, expected a number")
                break
    if problems:
        return problems
    mean = math.fsum(rows[f"class_wise.{scene}"]["accuracy"] for scene in SCENES) / N_SCENES
    overall = rows["overall"]["accuracy"]
    if abs(mean - overall) > 0.01:
        return [f"overall.accuracy is {overall}, the mean of the scenes {mean:.2f}"]
    return []


def _mapping_at(tree: Any, path: str) -> Mapping:
    """Return the mapping at `a.b.c`; an empty one if there is none."""
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree if isinstance(tree, Mapping) else {}
