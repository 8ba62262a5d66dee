"""A strict check of a finished submission, which looks at its files and at nothing else.

    DIR/task1/<label>/<label>.output.split_{5,10,25,50,100}.csv
    DIR/task1/<label>/<label>.meta.yaml

Source: the layout and rules of DCASE 2024 Task 1.
"""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from asc_jax.challenge.submission.author import LABEL
from asc_jax.challenge.submission.check_meta import SPLITS, check_meta
from asc_jax.data.tau.taxonomy import N_SCENES, SCENES
from asc_jax.errors import printable

N_EVALUATION_CLIPS = 135_730
COLUMNS = ["filename", "scene_label", *SCENES]
SUM_TOLERANCE = 1e-5


def check(out_dir: Path, *, practice: bool = False) -> list[str]:
    """Problems of all entries in a folder, one line each; empty if there are none.

    Args:
      out_dir: holds `task1`.
      practice: do not ask for the challenge's 135,730 clips.
    """
    folders = sorted(path for path in (out_dir / "task1").glob("*") if path.is_dir())
    folders = [folder for folder in folders if not folder.name.startswith(".")]
    if not folders:
        return [f"{out_dir / 'task1'}: no entry there, expected task1/<label>/ in {out_dir}"]
    problems = [p for folder in folders for p in check_entry(folder, practice=practice)]
    return [printable(problem) for problem in problems]


def check_entry(folder: Path, *, label: str | None = None, practice: bool = False) -> list[str]:
    """Problems of one entry; `label` is the folder's name unless given."""
    label = label or folder.name
    problems = []
    if not LABEL.fullmatch(label):
        problems.append(f"{folder}: not named <LastName>_<INST>_task1_<1..4>")
    outputs = {split: folder / f"{label}.output.{split}.csv" for split in SPLITS}
    meta = folder / f"{label}.meta.yaml"
    expected = {*outputs.values(), meta}
    found = {path for path in folder.iterdir() if path.suffix != ".pdf"}
    problems += [f"{path.name}: missing" for path in sorted(expected - found)]
    problems += [f"{path.name}: not part of a submission" for path in sorted(found - expected)]
    names = {}
    for path in outputs.values():
        if path in found:
            names[path.name], more = _check_output(path, practice)
            problems += more
    problems += _same_clips({name: clips for name, clips in names.items() if clips is not None})
    if meta in found:
        problems += [f"{meta.name}: {problem}" for problem in check_meta(meta, label)]
    return problems


def _check_output(path: Path, practice: bool) -> tuple[list[str] | None, list[str]]:
    """Names of the clips of one csv file, None if they are in doubt, and what is wrong with it."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = [*csv.reader(file, delimiter="\t")] or [[]]
    except (OSError, ValueError, csv.Error) as error:
        return None, [f"{path.name}: cannot be read: {error}"]
    if header != COLUMNS:
        return None, [f"{path.name}: columns {header}, expected, separated by tabs, {COLUMNS}"]
    if not rows:
        return None, [f"{path.name}: holds no clips"]
    short = [n for n, row in enumerate(rows) if len(row) != len(COLUMNS)]
    if short:
        return None, [
            _in_rows(path, short, f"{len(rows[short[0]])} cells, expected {len(COLUMNS)}")
        ]
    names: list[str] | None = [row[0] for row in rows]
    problems = []
    if not practice and len(rows) != N_EVALUATION_CLIPS:
        problems.append(
            f"{path.name}: {len(rows):,} clips, the evaluation list has {N_EVALUATION_CLIPS:,}"
        )
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        more = f" (and {len(twice) - 1:,} clips more)" if len(twice) > 1 else ""
        problems.append(f"{path.name}: clip {twice[0]} is listed more than once{more}")
    folders = [n for n, name in enumerate(names) if "/" in name or not name]
    if folders:
        text = f"clip {names[folders[0]]!r}, expected a file name"
        problems.append(_in_rows(path, folders, text))
    names = None if twice or folders else names
    return names, problems + _check_probs(path, rows)


def _check_probs(path: Path, rows: Sequence[Sequence[str]]) -> list[str]:
    """Numbers, sums and labels of the rows."""
    try:
        probs = np.array([row[2:] for row in rows], np.float64).reshape(-1, N_SCENES)
    except ValueError as error:
        return [f"{path.name}: a probability is no number: {error}"]
    outside = np.flatnonzero(~np.all((probs >= 0) & (probs <= 1), axis=1))
    if outside.size:
        return [_in_rows(path, outside, "a probability is not in [0, 1]")]
    problems = []
    off = np.flatnonzero(np.abs(probs.sum(1) - 1) > SUM_TOLERANCE)
    if off.size:
        problems.append(
            _in_rows(path, off, f"probabilities sum to {probs[off[0]].sum():.6g}, expected 1")
        )
    ids = {scene: i for i, scene in enumerate(SCENES)}
    unknown = [n for n, row in enumerate(rows) if row[1] not in ids]
    if unknown:
        text = f"scene_label {rows[unknown[0]][1]!r}, expected one of {', '.join(SCENES)}"
        return [*problems, _in_rows(path, unknown, text)]
    label = np.array([ids[row[1]] for row in rows], int)
    other = np.flatnonzero(probs[np.arange(len(rows)), label] < probs.max(1, initial=0))
    if other.size:
        best = SCENES[int(probs[other[0]].argmax())]
        text = f"scene_label is {rows[other[0]][1]}, but {best} is the most probable"
        problems.append(_in_rows(path, other, text))
    return problems


def _in_rows(path: Path, rows: Sequence[int], what: str) -> str:
    """`rows` are numbers of rows after the header; the first is named as an editor counts."""
    more = f" (and {len(rows) - 1:,} rows more)" if len(rows) > 1 else ""
    return f"{path.name}, row {int(rows[0]) + 2}: {what}{more}"


def _same_clips(names: Mapping[str, list[str]]) -> list[str]:
    """All files must list the same clips in the same order."""
    first, *others = names or [None]
    problems = []
    for other in others:
        if names[other] == names[first]:
            continue
        lacks = sorted({*names[first]} - {*names[other]}) or ["none, their order differs"]
        problems.append(f"{other}: other clips than in {first}; lacks {lacks[0]}")
    return problems
