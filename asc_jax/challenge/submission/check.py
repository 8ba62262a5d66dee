"""Check a finished submission strictly, by its files alone.

    DIR/task1/<label>/<label>.output.split_{5,10,25,50,100}.csv
    DIR/task1/<label>/<label>.meta.yaml
    DIR/task1/<label>/….pdf, the technical report
    DIR/task1.zip, which holds the folder task1 and is what is submitted

Source: the layout and rules of DCASE 2024 Task 1.
"""

import csv
import math
import re
import stat
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asc_jax.challenge.submission import author
from asc_jax.complexity.limits import MAX_BYTES, MAX_MACS
from asc_jax.data.tau.taxonomy import DEVICES, N_SCENES, SCENES, TRAIN_PERCENTS
from asc_jax.errors import UserError, printable, short
from asc_jax.machine import files, lock, staging

ZIP = "task1.zip"
ZIP_ERRORS = (OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error)
MAX_ENTRIES = 4
MAX_UNPACKED = 4 * 2**30  # bytes of a zip; four entries take some 0.6 GiB
WRITE_ZIP = "asc-jax submission --zip DIR writes one as it must be"
N_EVALUATION_CLIPS = 135_730
COLUMNS = ["filename", "scene_label", *SCENES]
SUM_TOLERANCE = 1e-5
SPLITS = tuple(f"split_{percent}" for percent in TRAIN_PERCENTS)
SYSTEM = ("description", "complexity", "external_datasets", "source_code")
COMPLEXITY = {"total_model_size": MAX_BYTES, "total_parameters": math.inf, "macs": MAX_MACS}


def check(path: Path, *, practice: bool = False) -> list[str]:
    """Return the problems of all entries in a zip or in `DIR/task1`, one line each.

    If the folder has none, a `task1.zip` beside it must hold the same.

    practice: accept other clips than the challenge's 135,730.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.is_file():
        problems = _check_zip(path, practice)
    else:
        problems = check_folder(path, practice=practice)
        if not problems and (path / ZIP).is_file():
            problems = _same_as_zip(path)
    return [printable(problem) for problem in problems]


def check_folder(out_dir: Path, *, practice: bool = False) -> list[str]:
    """Return the problems of all entries in `out_dir/task1`, without those of a zip."""
    entries = _entries(out_dir)
    if not entries:
        above = [f"; did you mean {folder}?" for folder in out_dir.parents if _entries(folder)]
        expected = f"expected task1/<label>/ in {out_dir}"
        return [printable(f"{out_dir / 'task1'}: no entry there, {expected}{''.join(above[:1])}")]
    strays = {*out_dir.joinpath("task1").iterdir()} - {*entries}
    strays = sorted({path.name for path in strays} - {lock.NAME, staging.STAGING, staging.REPLACED})
    problems = [f"task1/{name}: {_stray(name)}" for name in strays]
    if len(entries) > MAX_ENTRIES:
        problems.append(f"task1 holds {len(entries)} entries, expected at most {MAX_ENTRIES}")
    problems += [p for folder in entries for p in check_entry(folder, practice=practice)]
    return [printable(problem) for problem in problems]


def members(out_dir: Path) -> dict[str, Path]:
    """Return what of `out_dir` belongs into its zip: name there, sorted, and path."""
    return {
        f"task1/{folder.name}/{path.name}": path
        for folder in _entries(out_dir)
        for path in sorted(folder.iterdir())
        if path.name in _expected(folder.name) or _is_report(path)
    }


def check_entry(folder: Path, *, label: str | None = None, practice: bool = False) -> list[str]:
    """Return the problems of one entry; `label`: its name, None: that of the folder."""
    label = label or folder.name
    problems = []
    if not author.LABEL.fullmatch(label):
        problems.append(f"task1/{label}: expected {author.label_hint(label)}")
    meta, *outputs = _expected(label)
    found = {path.name for path in folder.iterdir() if not _is_report(path)}
    strays = sorted(found - {meta, *outputs})
    problems += [f"{name}: missing" for name in sorted({meta, *outputs} - found)]
    problems += [f"{name}: {_stray(name)}" for name in strays]
    names = {}
    for name in outputs:
        if name in found:
            clips, more = _check_output(folder / name, practice)
            problems += more
            if clips is not None:
                names[name] = clips
    problems += _same_clips(names)
    if meta in found:
        problems += [f"{meta}: {problem}" for problem in _check_meta(folder / meta, label)]
    return problems


def _entries(out_dir: Path) -> list[Path]:
    folders = sorted(out_dir.glob("task1/[!.]*"))
    return [path for path in folders if path.is_dir() and not _dropped_by(path.name)]


def _expected(label: str) -> list[str]:
    return [f"{label}.meta.yaml", *(f"{label}.output.{split}.csv" for split in SPLITS)]


def _is_report(path: Path) -> bool:
    return path.suffix == ".pdf" and path.name[0] != "." and path.is_file()


def _dropped_by(name: str) -> str | None:
    """Return whose file manager leaves or packs files of that name unasked."""
    if name in (".DS_Store", "__MACOSX", ".AppleDouble") or name.startswith("._"):
        return "macOS Finder"
    return "Windows Explorer" if name.lower() in ("thumbs.db", "desktop.ini") else None


def _stray(name: str) -> str:
    dropped_by = _dropped_by(name)
    return "not part of a submission" + (f"; {dropped_by} left it: remove it" if dropped_by else "")


def _check_zip(path: Path, practice: bool) -> list[str]:
    """Return the problems of a zip: of its names first, then of what it holds."""
    try:
        with zipfile.ZipFile(path) as archive:
            good, problems = _check_names(path.name, archive.infolist())
            if not good:
                return problems
            with tempfile.TemporaryDirectory() as scratch:
                staging.check_room(Path(scratch), sum(info.file_size for info in good))
                archive.extractall(scratch, good)
                return problems + check_folder(Path(scratch), practice=practice)
    except ZIP_ERRORS as error:
        if words := files.system_words(error):
            raise UserError(f"cannot unpack {path}: {words}") from error
        return [f"{path}: cannot be unpacked as a zip: {error}; {WRITE_ZIP}"]


def _check_names(
    of: str, infos: Sequence[zipfile.ZipInfo]
) -> tuple[list[zipfile.ZipInfo], list[str]]:
    """Return the files of a zip that lie where they must, and the problems of all others."""
    good: dict[str, zipfile.ZipInfo] = {}
    wrong: dict[str, list[str]] = {}
    for info in infos:
        problem = _problem_of(info) or ("packed twice" if info.filename in good else None)
        if problem:
            wrong.setdefault(problem, []).append(info.filename)
        elif not info.is_dir():
            good[info.filename] = info
    problems = [f"{of}: {_first(names)}: {what}; {WRITE_ZIP}" for what, names in wrong.items()]
    if not good and not problems:
        problems = [f"{of}: holds no files; {WRITE_ZIP}"]
    if sum(info.file_size for info in good.values()) > MAX_UNPACKED:
        return [], [*problems, f"{of}: unpacks to more than {MAX_UNPACKED / 2**30:g} GiB"]
    return [*good.values()], problems


def _problem_of(info: zipfile.ZipInfo) -> str | None:
    """Return what is wrong with the name or the kind of one member of a zip."""
    parts = info.filename.rstrip("/").split("/")
    dropped_by = next(filter(None, map(_dropped_by, parts)), None)
    if dropped_by:
        return f"{dropped_by} packed it"
    if "\\" in info.filename:
        return "its folders end in \\, expected /"
    if parts[0] != "task1":
        where = f"begins with {parts[0]}/" if len(parts) > 1 else "lies in no folder"
        where = "task1/ lies too deep" if "task1" in parts else where
        return f"{where}, expected task1/<label>/… at the top"
    if not info.is_dir() and (len(parts) != 3 or not {"", ".", ".."}.isdisjoint(parts)):
        return "expected task1/<label>/<file>"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "a link, expected a file"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "compressed in a way that few programs read, expected deflate"
    return "encrypted, expected no password" if info.flag_bits & 1 else None


def _first(names: Sequence[str]) -> str:
    return names[0] + (f" (and {len(names) - 1:,} more)" if len(names) > 1 else "")


def _same_as_zip(out_dir: Path) -> list[str]:
    """Return the problems of `task1.zip`, which must hold what lies beside it."""
    again = "write it again: asc-jax submission --zip DIR"
    folder = members(out_dir)
    try:
        with zipfile.ZipFile(out_dir / ZIP) as archive:
            infos, problems = _check_names(ZIP, archive.infolist())
            damaged = archive.testzip()
    except ZIP_ERRORS as error:
        return [f"{ZIP}: cannot be read as a zip: {error}; {again}"]
    packed = {info.filename: info.CRC for info in infos}
    both = sorted(folder.keys() & packed.keys())
    differences = {
        "is damaged": [damaged] if damaged else [],
        "is in the folder alone": sorted(folder.keys() - packed.keys()),
        "is not in the folder": sorted(packed.keys() - folder.keys()),
        "is another than in the folder": [
            name for name in both if zlib.crc32(folder[name].read_bytes()) != packed[name]
        ],
    }
    return problems + [
        f"{ZIP}: {_first(names)} {what}; {again}" for what, names in differences.items() if names
    ]


def _check_output(path: Path, practice: bool) -> tuple[list[str] | None, list[str]]:
    """Return the names of the clips of a csv file, None if they are unclear, and its problems."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = [*csv.reader(file, delimiter="\t")] or [[]]
            line_ends = file.newlines if isinstance(file.newlines, tuple) else (file.newlines,)
    except UnicodeDecodeError as error:
        return None, [f"{path.name}: is not text in UTF-8: {error}"]
    except (OSError, ValueError, csv.Error) as error:
        return None, [f"{path.name}: cannot be read: {error}"]
    if header and header[0].startswith("\ufeff"):
        return None, [f"{path.name}: begins with a byte order mark; save it as UTF-8 without one"]
    if "\r" in line_ends:
        return None, [f"{path.name}: has lines that end in \\r alone, expected \\n"]
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
            f"{path.name}: {len(rows):,} clips, the evaluation split has {N_EVALUATION_CLIPS:,} "
            "(--practice checks a package of other data)"
        )
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        more = f" (and {len(twice) - 1:,} clips more)" if len(twice) > 1 else ""
        problems.append(f"{path.name}: clip {twice[0]} is listed more than once{more}")
    wrong = _in_rows(
        path,
        ["/" in name or not name for name in names],
        lambda n: f"clip {names[n]!r}, expected a file name",
    )
    if not practice and not wrong:
        wrong = _in_rows(
            path,
            [not _is_evaluation_clip(name) for name in names],
            lambda n: f"clip {names[n]!r}, expected 0.wav to {N_EVALUATION_CLIPS - 1}.wav",
        )
    problems += wrong + _check_probs(path, rows)
    return None if twice or wrong else names, problems


def _is_evaluation_clip(name: str) -> bool:
    number = re.fullmatch(r"(0|[1-9][0-9]{0,5})\.wav", name)
    return bool(number) and int(number[1]) < N_EVALUATION_CLIPS


def _check_probs(path: Path, rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the problems of numbers, sums and labels of the rows."""
    wrong = [next((cell for cell in row[2:] if not _is_number(cell)), None) for row in rows]
    no_number = _in_rows(
        path,
        [cell is not None for cell in wrong],
        lambda n: f"probability {wrong[n]!r} is no number, expected one such as 0.25",
    )
    if no_number:
        return no_number
    probs = np.array([[float(cell) for cell in row[2:]] for row in rows])
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


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


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
    description = _mapping_at(meta, "system.description")
    problems += author.text_problems(description, author.DESCRIPTION, "system.description")
    system = _mapping_at(meta, "system")
    problems += author.text_problems(system, ["source_code"], "system")
    problems += [f"system.{p}" for p in author.dataset_problems(system.get("external_datasets"))]
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
