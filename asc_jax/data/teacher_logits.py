"""Logits of teachers for named clips: our file, two published forms, and how clips get them.

    teachers = [read_teacher_logits("teachers.npz")]
    clips = with_teacher_logits(clips, teachers, classes)

Clips and rows are matched by file name, so the order of either does not matter.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from asc_jax.data.clips import Clips
from asc_jax.data.table import read_table
from asc_jax.errors import UserError, short
from asc_jax.machine import files

COLUMN = "teacher_logits"  # of the clips, [n, n_teachers, n_classes]
FORMAT = "asc_jax teacher logits 1"
READ_AT_ONCE = 64  # clips, while only their names are wanted
FOLDER = "audio/"  # which TAU's lists put before a name, and data sets may leave out
N_NAMED = 3  # clips that a message names


class TeacherLogits(NamedTuple):
    """Hold the logits of one file.

    path: of the file. filenames: `[n]`, of the clips. logits: `[n_teachers, n, n_classes]`
    float32. classes: names of the classes, None where the file does not say them.
    """

    path: Path
    filenames: list[str]
    logits: np.ndarray
    classes: tuple[str, ...] | None


def write_teacher_logits(
    path: str | os.PathLike,
    filenames: Sequence[str],
    logits: np.ndarray,
    classes: Sequence[str],
    sources: Sequence[Mapping[str, Any]],
) -> None:
    """Write a file atomically: an npz of `format`, `filenames`, `classes`, `logits`, `sources`.

    Args:
      path: in an existing folder.
      filenames: n names, each once.
      logits: `[n_teachers, n, n_classes]`, stored as float32.
      classes: names, in the order of the logits.
      sources: of each teacher, what it is; stored as text, in JSON.

    Raises:
      OSError: it cannot be written.
    """
    with files.atomic_writer(Path(path)) as file:
        np.savez_compressed(
            file,
            format=np.array(FORMAT),
            filenames=np.array(filenames, dtype=str),
            classes=np.array(classes, dtype=str),
            logits=np.asarray(logits, np.float32),
            sources=np.array(json.dumps(list(sources))),
        )


def read_teacher_logits(
    path: str | os.PathLike,
    *,
    meta_csv: str | os.PathLike | None = None,
    read_tensor: Callable[[Path], np.ndarray] | None = None,
) -> TeacherLogits:
    """Read a file of teachers' logits.

    Args:
      path: of one of these:
        `.npz`, as `asc-jax logits` writes it;
        `.npy`, `[n, n_classes]` or `[n_teachers, n, n_classes]`, with `<name>.index.json` or
        `index.json` beside it: `{"filenames": [...]}`, and perhaps "classes";
        `.pt` or `.pth`, a PyTorch tensor of such a shape, whose rows are those of TAU's `meta.csv`.
      meta_csv: the table whose rows those of a tensor are; None: the `meta.csv` beside it. The rows
        of an `.npy` file are the table's where it has no index.
      read_tensor: reads a file of PyTorch's, such as `asc_jax.pytorch.files.read_tensor`.

    Raises:
      UserError: the file is missing or damaged, or is not what its kind is.
    """
    path = Path(path).expanduser()
    kind = path.suffix.lower()
    classes = None
    if kind == ".npz":
        filenames, logits, classes = _read_own(path)
    elif kind == ".npy":
        with _opened(path) as logits:
            pass
        if meta_csv and _index_of(path) is None:
            filenames, logits = _by_rows(path, logits, Path(meta_csv).expanduser())
        else:
            filenames, classes = _read_index(path)
    elif kind in (".pt", ".pth"):
        if read_tensor is None:
            raise UserError(f"{path} is a file of PyTorch's, and no reader of such files is given")
        table = Path(meta_csv).expanduser() if meta_csv else path.with_name("meta.csv")
        if not table.is_file():
            raise UserError(
                f"the rows of {path} are those of TAU's meta.csv, and there is no {table}: name "
                "the table with --config.distill.meta_csv"
            )
        filenames, logits = _by_rows(path, read_tensor(path), table)
    else:
        raise UserError(
            f"{path} is no file of teachers' logits: expected .npz, as asc-jax logits writes it, "
            ".npy with an index of file names, or a tensor in .pt or .pth"
        )
    logits = _checked(path, logits, filenames, classes)
    return TeacherLogits(path, filenames, logits, classes)


def with_teacher_logits(
    clips: Clips, teachers: Sequence[TeacherLogits], classes: Sequence[str]
) -> Clips:
    """Return clips with the column `teacher_logits`, `[n_teachers, n_classes]` of each.

    The clips are read once, for their names.

    Args:
      clips: of a training split.
      teachers: of which every one has logits for every clip; those for other clips are not used.
      classes: names, in the order that the logits are to have.

    Raises:
      UserError: clips have no logits, which are counted and named, or the classes are others.
    """
    names = [_key(name) for name in filenames_of(clips)]
    columns = []
    for teacher in teachers:
        rows = {_key(name): row for row, name in enumerate(teacher.filenames)}
        missing = [name for name in names if name not in rows]
        if missing:
            raise UserError(
                f"{teacher.path} has no logits for {len(missing):,} of the {len(names):,} training "
                f"clips: {_some(missing)}. It has {len(rows):,} clips, such as "
                f"{next(iter(rows))}: make it anew with asc-jax logits --split SPLIT, the split "
                "of the training"
            )
        chosen = teacher.logits[:, [rows[name] for name in names]]
        columns.append(chosen[:, :, _order(teacher, classes)])
    column = np.concatenate(columns).swapaxes(0, 1)
    return clips.with_columns(**{COLUMN: np.ascontiguousarray(column)})


def with_teachers_of(
    config, clips: Clips, read_tensor: Callable[[Path], np.ndarray] | None = None
) -> Clips:
    """Return training clips with the logits that the section `distill` of a config asks for.

    Args:
      config: of the run, with the names of its classes.
      clips: of its training split, which are given back as they are where it asks for none.
      read_tensor: see `read_teacher_logits`.

    Raises:
      UserError: as `read_teacher_logits` and `with_teacher_logits`.
    """
    paths = paths_of(config)
    if not paths:
        return clips
    meta_csv = config.distill.meta_csv or None
    teachers = [
        read_teacher_logits(path, meta_csv=meta_csv, read_tensor=read_tensor) for path in paths
    ]
    return with_teacher_logits(clips, teachers, config.labels.classes)


def paths_of(config) -> list[str]:
    """Return the files of logits that the section `distill` of a config names; ~ is the home."""
    words = [word.strip() for word in (config.distill.logits or "").split(",")]
    return [os.path.expanduser(word) for word in words if word]


def read_sources(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Return what `write_teacher_logits` was told of each teacher of a file.

    Raises:
      UserError: the file is missing or damaged.
    """
    path = Path(path)
    with _opened(path) as content:
        sources = json.loads(str(content["sources"]))
        if not isinstance(sources, list) or not all(isinstance(each, dict) for each in sources):
            raise ValueError("its sources are no list of objects")
        return sources


def filenames_of(clips: Clips) -> list[str]:
    """Return the file names of clips, in stored order; reads them once."""
    names: list[str] = []
    for batch in clips.in_order(READ_AT_ONCE):
        names += batch["filename"][batch["mask"]].tolist()
    return names


def class_order(there: Sequence[str], here: Sequence[str], whose: str) -> list[int]:
    """Return where each class of `here` stands in `there`.

    Raises:
      UserError: they are not the same classes.
    """
    if {*there} != {*here}:
        differing = [name for name in (*here, *there) if (name in here) != (name in there)]
        raise UserError(
            f"{whose} differs in the classes {short(differing)}: it has {short(list(there))}, "
            f"expected {short(list(here))}"
        )
    return [list(there).index(name) for name in here]


def _order(teacher: TeacherLogits, classes: Sequence[str]) -> list[int]:
    n_classes = teacher.logits.shape[-1]
    if teacher.classes is not None:
        return class_order(teacher.classes, classes, str(teacher.path))
    if n_classes != len(classes):
        raise UserError(
            f"{teacher.path} has logits for {n_classes} classes, expected {len(classes)}, one for "
            f"each of {short(list(classes))}"
        )
    return list(range(n_classes))


def _key(filename: str) -> str:
    """Return a name without its folder: `audio/clip-a.wav` → `clip-a.wav`."""
    return filename.removeprefix(FOLDER)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:N_NAMED]) + ", …" * (len(names) > N_NAMED)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator:
    """Give what NumPy reads of a file; objects, which could run code, are rejected."""
    try:
        files.require_ordinary(path)
        with path.open("rb") as file:
            if file.read(64).startswith(b"version https://git-lfs"):
                raise UserError(f"{path} is a Git LFS pointer, not the file: run git lfs pull")
            file.seek(0)
            yield np.load(file, allow_pickle=False)
    except UserError:
        raise
    except Exception as error:  # a damaged file makes NumPy raise whatever comes to hand
        raise _unreadable(path, error) from error


def _read_own(path: Path) -> tuple[list[str], np.ndarray, tuple[str, ...]]:
    with _opened(path) as content:
        if str(content["format"]) != FORMAT:
            raise ValueError(f"its format is {short(str(content['format']))}")
        names, classes = content["filenames"], content["classes"]
        if any((each.ndim, each.dtype.kind) != (1, "U") for each in (names, classes)):
            raise ValueError("its filenames or classes are no lists of text")
        return names.tolist(), content["logits"], tuple(classes.tolist())


def _index_places(path: Path) -> tuple[Path, Path]:
    """Return where the index of an array may lie: that of its name, and that of the folder."""
    return path.with_suffix(".index.json"), path.with_name("index.json")


def _index_of(path: Path) -> Path | None:
    """Return the index beside an array; None if there is none."""
    return next((each for each in _index_places(path) if each.is_file()), None)


def _read_index(path: Path) -> tuple[list[str], tuple[str, ...] | None]:
    """Return the file names of an array's rows, and the classes if the index has them."""
    index = _index_of(path)
    if index is None:
        own, of_all = (each.name for each in _index_places(path))
        raise UserError(
            f"{path} has no index beside it: expected {own} or {of_all} with "
            '{"filenames": […]}, or --config.distill.meta_csv, whose rows it has'
        )
    try:
        content = files.parse_json(files.read_text(index))
        names, classes = content["filenames"], content.get("classes")
        for each in (names, classes or []):
            if not isinstance(each, list) or not all(isinstance(name, str) for name in each):
                raise ValueError("filenames or classes is no list of names")
        return names, None if classes is None else tuple(classes)
    except (OSError, KeyError, ValueError) as error:
        raise _unreadable(index, error) from error


def _by_rows(path: Path, logits: np.ndarray, table: Path) -> tuple[list[str], np.ndarray]:
    """Return the file names of a table, and the rows of an array that are theirs.

    A published tensor has twice as many rows as TAU's table, of which its authors read the first.
    """
    names = [row["filename"] for _, row in read_table(table, ["filename"])]
    n_rows = np.shape(logits)[-2] if np.ndim(logits) > 1 else 0
    if not names or n_rows == 0 or n_rows % len(names):
        raise UserError(
            f"{path} has {n_rows:,} rows, and {table} {len(names):,}: expected as many, or a "
            "multiple, of which the first are read"
        )
    return names, logits[..., : len(names), :]


def _checked(path: Path, logits, filenames: Sequence[str], classes) -> np.ndarray:
    """Return logits as `[n_teachers, n, n_classes]` float32."""
    array = np.asarray(logits)
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise UserError(f"{path} holds {array.dtype}, expected floating logits")
    array = array[None] if array.ndim == 2 else array
    n, n_classes = len(filenames), array.shape[-1] if classes is None else len(classes)
    if array.ndim != 3 or 0 in array.shape or array.shape[1:] != (n, n_classes):
        raise UserError(
            f"{path} holds an array {np.shape(logits)} for {n:,} file names and {n_classes} "
            "classes, expected [n, n_classes] or [n_teachers, n, n_classes]"
        )
    with np.errstate(over="ignore"):  # infinite then, which is told below
        array = array.astype(np.float32)
    n_bad = int(np.sum(~np.isfinite(array).all(axis=-1)))
    if n_bad:
        raise UserError(f"{path} has NaN or inf in {n_bad:,} of {n * len(array):,} rows of logits")
    if array.min() >= 0 and np.abs(array.sum(axis=-1) - 1).max() < 1e-3:
        raise UserError(
            f"{path} holds probabilities, which are no logits: store the natural logarithms, of "
            "np.maximum(probabilities, 1e-30), since that of 0 is not finite"
        )
    names: dict[str, int] = {}
    twice = [name for row, name in enumerate(filenames) if names.setdefault(_key(name), row) != row]
    if twice:
        raise UserError(f"{path} has {len(twice):,} file names twice: {_some(twice)}")
    return array


def _unreadable(path: Path, error: BaseException) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(
            f"there is no file {path} of teachers' logits, for config.distill.logits: asc-jax "
            "logits makes one of trained runs"
        )
    words = files.system_words(error) or " ".join(str(error).split()) or type(error).__name__
    return UserError(
        f"{path} cannot be read as teachers' logits: {words}; copy it again, or make it anew with "
        "asc-jax logits"
    )
