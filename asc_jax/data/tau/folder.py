"""A folder in TAU's layout → checked lists of recordings, before any sound is read.

    DIR/audio/*.wav
    DIR/meta.csv                             every clip: scene, place and device
    DIR/split_setup/split5.csv … test.csv    the clips of each split
    DIR/evaluation_setup/fold1_train.csv     the 100 % training list
    DIR/../TAU-urban-acoustic-scenes-2024-mobile-evaluation    optional, without labels

All lists are separated by tabs; CRLF line ends and a byte order mark do no harm.

Source: the data set's documentation (Zenodo record 6337421) and the task's split lists.
"""

import contextlib
import csv
import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from asc_jax.data import clip_names
from asc_jax.data.tau.taxonomy import CITIES, DEVICES, SCENES, TRAIN_PERCENTS
from asc_jax.errors import UserError

EVALUATION_FOLDER = "TAU-urban-acoustic-scenes-2024-mobile-evaluation"
UNKNOWN = -1  # label, device and city of a clip that has none on record
META_COLUMNS = ("filename", "scene_label", "identifier", "source_label")
N_NAMED = 5  # a message names this many of the offending files
N_HASHED_CLIPS = 16  # of every split, for its fingerprint


class Recording(NamedTuple):
    """One clip of a list; ids as in `taxonomy`, -1 where unknown."""

    path: Path
    filename: str  # as in the list, e.g. audio/airport-lisbon-1000-40000-0-a.wav
    label: int
    device_id: int
    city_id: int
    location: str  # e.g. lisbon-1000
    segment: str  # the ten-second recording it was cut from, e.g. 40000
    n_bytes: int  # of the wav file


def find_lists(tau_dir: str | os.PathLike) -> dict[str, Path]:
    """Name the splits a folder has lists for, with those lists.

    Args:
      tau_dir: a folder in TAU's layout.

    Returns:
      Split name → its list, in the order train_5pct … train_100pct, test, evaluation.

    Raises:
      UserError: the folder, its `meta.csv`, its `audio` or all split lists are missing.
    """
    tau_dir = Path(tau_dir)
    _check_layout(tau_dir)
    setup = tau_dir / "split_setup"
    lists = {f"train_{n}pct": setup / f"split{n}.csv" for n in TRAIN_PERCENTS}
    if not lists["train_100pct"].exists():
        lists["train_100pct"] = tau_dir / "evaluation_setup" / "fold1_train.csv"
    lists["test"] = setup / "test.csv"
    evaluation = tau_dir.absolute().parent / EVALUATION_FOLDER
    lists["evaluation"] = evaluation / "evaluation_setup" / "fold1_test.csv"
    return {split: path for split, path in lists.items() if path.is_file()}


def read_recordings(
    tau_dir: str | os.PathLike, splits: Sequence[str] | None = None
) -> dict[str, list[Recording]]:
    """Read and check the lists of a folder in TAU's layout.

    Args:
      tau_dir: the folder.
      splits: names of the wanted splits; None takes those there are.

    Returns:
      Split name → its recordings in the order of its list.

    Raises:
      UserError: the layout, a column, a name or a file is wrong. What is wrong with the
        listed files is collected over all lists first.
    """
    tau_dir = Path(tau_dir)
    lists = find_lists(tau_dir)
    for split in splits or ():
        if split not in lists:
            raise UserError(
                f"{tau_dir} has no list for the split {split!r}; it has {', '.join(lists)}"
            )
    meta = _read_meta(tau_dir / "meta.csv")
    recordings, problems, sizes = {}, [], {}
    for split in lists if splits is None else splits:
        names = [row["filename"] for row in read_table(lists[split], ("filename",))]
        if not names:
            problems.append(f"{lists[split]} lists no clips")
        labelled = split != "evaluation"
        root = tau_dir if labelled else lists[split].parent.parent
        problems += _problems(lists[split], root, names, meta if labelled else None, sizes)
        if not problems:
            paths = [root / name for name in names]
            recordings[split] = [
                _recording(path, name, meta.get(name), sizes[path.parent][path.name])
                for path, name in zip(paths, names, strict=True)
            ]
    if problems:
        raise UserError(*problems)
    return recordings


def _check_layout(tau_dir: Path) -> None:
    """Raise a UserError that names the first thing of TAU's layout that is not there."""
    if not tau_dir.is_dir():
        raise UserError(f"{tau_dir} is not a folder; expected one in the layout of TAU 2022")
    for name in ("meta.csv", "audio"):
        if not (tau_dir / name).exists():
            inner = sorted(tau_dir.glob(f"*/{name}"))
            hint = f"; did you mean {inner[0].parent}?" if inner else ""
            raise UserError(
                f"{tau_dir / name} not found: {tau_dir} is not in TAU 2022's layout{hint}"
            )
    if not any((tau_dir / "split_setup").glob("*.csv")):
        raise UserError(
            f"{tau_dir / 'split_setup'} has no split lists (split5.csv … test.csv): add "
            "--download to fetch the official ones"
        )


def _read_meta(path: Path) -> dict[str, tuple[int, int, int, str]]:
    """Return filename → (label, device id, city id, location)."""
    meta = {}
    for number, row in enumerate(read_table(path, META_COLUMNS), start=2):
        filename, scene, location, device = (row[column] for column in META_COLUMNS)
        city = location.partition("-")[0]
        meta[filename] = (
            _id(path, number, "scene", scene, SCENES),
            _id(path, number, "device", device, DEVICES),
            _id(path, number, "city", city, CITIES),
            location,
        )
    return meta


def _id(path: Path, row: int, kind: str, name: str, known: tuple[str, ...]) -> int:
    if name not in known:
        raise UserError(f"{path}, row {row}: unknown {kind} {name!r}; known are {', '.join(known)}")
    return known.index(name)


def _problems(
    path: Path, root: Path, names: list[str], meta: dict | None, sizes: dict[Path, dict[str, int]]
) -> list[str]:
    """Return what is wrong with a list, without opening its files.

    Args:
      path: of the list.
      root: the folder that its names start from.
      names: of its clips.
      meta: names on record; None: there is no record of them.
      sizes: filled in: folder → bytes of its files.
    """
    for folder in {(root / name).parent for name in names} - sizes.keys():
        # One pass over a folder is far quicker than a look-up of each of 230,350 files.
        sizes[folder] = _sizes(folder)
    n_bytes = {name: sizes[(root / name).parent].get(Path(name).name) for name in names}
    problems = {
        "are listed more than once": [name for name, n in Counter(names).items() if n > 1],
        "are not in meta.csv": [name for name in names if meta is not None and name not in meta],
        f"are not in {root}": [name for name in names if n_bytes[name] is None],
        "are empty (0 bytes)": [name for name in names if n_bytes[name] == 0],
    }
    messages = []
    for what, bad in problems.items():
        if bad:
            more = f" and {len(bad) - N_NAMED} more" if len(bad) > N_NAMED else ""
            first = ", ".join(bad[:N_NAMED])
            messages.append(f"{path}: {len(bad)} of the listed files {what}: {first}{more}")
    return messages


def _sizes(folder: Path) -> dict[str, int]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    except (OSError, ValueError):  # not there, no folder, or a name that none can have
        return {}


def _recording(path: Path, filename: str, meta: tuple | None, n_bytes: int) -> Recording:
    label, device_id, city_id, location = meta or (UNKNOWN, UNKNOWN, UNKNOWN, "")
    segment = ""
    if meta:
        with contextlib.suppress(UserError):  # a name of another form
            segment = clip_names.parse(filename).segment
    return Recording(path, filename, label, device_id, city_id, location, segment, n_bytes)


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a tab-separated file with a header that must have `columns`, or raise a UserError."""
    try:
        with path.open(encoding="utf-8-sig", newline=None) as file:
            reader = csv.DictReader(file, delimiter="\t")
            header = reader.fieldnames or []
            rows = [{k: v for k, v in row.items() if k in columns} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    for column in columns:
        if column not in header:
            raise UserError(
                f"{path} has no column {column!r}; expected columns separated by tabs, "
                f"found {', '.join(map(repr, header)) or 'none'}"
            )
    for number, row in enumerate(rows, start=2):
        if not all(row[column] for column in columns):
            raise UserError(f"{path}, row {number}: expected {', '.join(columns)}, got {row}")
    return rows


def fingerprint(clips: Sequence[Recording]) -> str:
    """Return a hash of what a split is made from: names, labels, file sizes, some files' bytes.

    Some files, evenly spread, since reading all would take as long as building; they tell a
    folder that was made or processed again, where all sizes stay the same.
    """
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(repr(clip[1:]).encode())
    for clip in clips[:: max(1, len(clips) // N_HASHED_CLIPS)]:
        digest.update(Path(clip.path).read_bytes())
    return digest.hexdigest()


def file_stamps(recordings: dict[str, list[Recording]]) -> dict[Path, tuple[int, int, int]]:
    """Return size, time and inode of each file, which change when it is replaced or written to."""
    stamps = {}
    for clip in itertools.chain(*recordings.values()):
        with contextlib.suppress(OSError):
            status = os.stat(clip.path)
            stamps[clip.path] = (status.st_size, status.st_mtime_ns, status.st_ino)
    return stamps


def require_unchanged(before: dict, after: dict) -> None:
    """Compare two `file_stamps` of the same files.

    Raises:
      UserError: they differ.
    """
    changed = [str(path) for path in before if before[path] != after.get(path)]
    if changed:
        raise UserError(
            f"{len(changed)} of the files were replaced or changed while they were read, first "
            f"{changed[0]}: run it again once they stay as they are"
        )
