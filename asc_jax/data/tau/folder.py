"""A folder in TAU's layout → checked lists of recordings, before any sound is read.

    DIR/audio/*.wav
    DIR/meta.csv                             every clip: scene, place and device
    DIR/split_setup/split5.csv … test.csv    the clips of each split
    DIR/evaluation_setup/fold1_train.csv     the 100 % training list
    DIR/../TAU-urban-acoustic-scenes-2024-mobile-evaluation    optional, without labels

All lists are separated by tabs; CRLF line ends and a byte order mark do no harm.

Source: the data set's documentation (Zenodo record 6337421) and the task's split lists.
"""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from asc_jax.data.tau.tables import read_table
from asc_jax.data.tau.taxonomy import CITIES, DEVICES, SCENES, TRAIN_PERCENTS
from asc_jax.errors import UserError

EVALUATION_FOLDER = "TAU-urban-acoustic-scenes-2024-mobile-evaluation"
UNKNOWN = -1  # label, device and city of a clip that has none on record
META_COLUMNS = ("filename", "scene_label", "identifier", "source_label")
N_NAMED = 5  # a message names this many of the offending files


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
        problems += _name_problems(lists[split], names, meta if labelled else None)
        problems += _file_problems(lists[split], root, names, sizes)
        if not problems:
            recordings[split] = [
                _recording(root / name, name, meta.get(name), sizes) for name in names
            ]
    if problems:
        raise UserError(*problems)
    return recordings


def _check_layout(tau_dir: Path) -> None:
    """Refuse a folder that is not TAU's, naming the first thing expected and not found."""
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
    """Filename → (label, device id, city id, location)."""
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


def _name_problems(path: Path, names: list[str], meta: dict | None) -> list[str]:
    """What is wrong with the names of a list; `meta` None where there is none."""
    twice = [name for name, n in Counter(names).items() if n > 1]
    absent = [] if meta is None else [name for name in names if name not in meta]
    problems = {"are listed more than once": twice, "are not in meta.csv": absent}
    return [_problem(path, bad, what) for what, bad in problems.items() if bad]


def _file_problems(path: Path, root: Path, names: list[str], sizes: dict) -> list[str]:
    """What is wrong with the files of a list, without opening them; fills in `sizes`."""
    for folder in {(root / name).parent for name in names}:
        # One pass over a folder is far quicker than a look-up of each of 230,350 files.
        if folder not in sizes:
            sizes[folder] = _sizes(folder)
    found = [sizes[(root / name).parent].get(Path(name).name) for name in names]
    missing = [name for name, size in zip(names, found, strict=True) if size is None]
    empty = [name for name, size in zip(names, found, strict=True) if size == 0]
    problems = {f"are not in {root}": missing, "are empty (0 bytes)": empty}
    return [_problem(path, bad, what) for what, bad in problems.items() if bad]


def _sizes(folder: Path) -> dict[str, int]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    except (OSError, ValueError):  # not there, no folder, or a name that none can have
        return {}


def _problem(path: Path, bad: list[str], what: str) -> str:
    more = f" and {len(bad) - N_NAMED} more" if len(bad) > N_NAMED else ""
    named = ", ".join(bad[:N_NAMED])
    return f"{path}: {len(bad)} of the listed files {what}: {named}{more}"


def _recording(path: Path, filename: str, meta: tuple | None, sizes: dict) -> Recording:
    label, device_id, city_id, location = meta or (UNKNOWN, UNKNOWN, UNKNOWN, "")
    fields = path.stem.split("-")  # scene-city-location-segment-cut-device
    segment = fields[3] if meta and len(fields) == 6 else ""
    n_bytes = sizes[path.parent][path.name]
    return Recording(path, filename, label, device_id, city_id, location, segment, n_bytes)
