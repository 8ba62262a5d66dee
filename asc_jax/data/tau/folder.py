"""A folder in TAU's layout → checked lists of recordings, before any sound is read.

    DIR/audio/*.wav
    DIR/meta.csv                             every clip: scene, place and device
    DIR/split_setup/split5.csv … test.csv    the clips of each split
    DIR/evaluation_setup/fold1_train.csv     the 100 % training list
    DIR/../TAU-urban-acoustic-scenes-2024-mobile-evaluation    optional, without labels

All lists are separated by tabs. What spreadsheets make of them is read too: semicolons or commas,
quotes, UTF-16, any line ends, further columns, empty lines.

Source: the data set's documentation (Zenodo record 6337421) and the task's split lists.
"""

import contextlib
import errno
import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from asc_jax.data.table import read_table
from asc_jax.data.tau import clip_names
from asc_jax.data.tau.taxonomy import CITIES, DEVICES, SCENES, TRAIN_PERCENTS
from asc_jax.errors import UserError, short
from asc_jax.machine import files

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


class Meta(NamedTuple):
    """Hold what `meta.csv` says of a clip."""

    line: int
    scene: str
    location: str
    device: str


def find_lists(tau_dir: str | os.PathLike) -> dict[str, Path]:
    """Name the splits a folder has lists for, with those lists.

    Args:
      tau_dir: a folder in TAU's layout.

    Returns:
      Split name → its list, in the order train_5pct … train_100pct, test, evaluation.

    Raises:
      UserError: the folder, its `meta.csv`, its `audio` or all split lists are missing, or
        cannot be read.
    """
    try:
        return _lists(Path(tau_dir))
    except OSError as error:
        raise UserError(f"cannot read {tau_dir}: {files.reason(error)}") from error


def _lists(tau_dir: Path) -> dict[str, Path]:
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
      UserError: the layout, a column, a name or a file is wrong, two rows contradict each other,
        or a clip is to be trained and tested on. What is wrong with the listed files is
        collected over all lists first.
    """
    tau_dir = Path(tau_dir)
    lists = find_lists(tau_dir)
    for split in splits or ():
        if split not in lists:
            hint = ""
            if split == "evaluation":
                folder = tau_dir.absolute().parent / EVALUATION_FOLDER
                hint = f": unpack the evaluation set as {folder}, with audio/ and evaluation_setup/"
            raise UserError(
                f"{tau_dir} has no list for the split {split!r}{hint}; it has {', '.join(lists)}"
            )
    meta = _read_meta(tau_dir / "meta.csv", tau_dir)
    recordings, problems, sizes = {}, [], {}
    for split in lists if splits is None else splits:
        labelled = split != "evaluation"
        root = tau_dir if labelled else lists[split].parent.parent
        rows = list(named_rows(lists[split], root, ("filename",), ("scene_label",)))
        names = [row["filename"] for _, row in rows]
        if not names:
            problems.append(f"{lists[split]} lists no clips")
        problems += _problems(lists[split], root, names, meta if labelled else None, sizes)
        if labelled:
            problems += _contradictions(lists[split], rows, meta)
        if not problems:
            paths = [root / name for name in names]
            recordings[split] = [
                _recording(path, name, meta.get(name), sizes[path.parent][path.name])
                for path, name in zip(paths, names, strict=True)
            ]
    problems += [] if problems else _trained_and_tested(lists, recordings)
    if problems:
        raise UserError(*problems)
    return recordings


def notes(recordings: dict[str, list[Recording]], official: Collection[str] = ()) -> list[str]:
    """Return what a person should know of lists that can be used: a sentence each.

    Args:
      recordings: what `read_recordings` returned.
      official: names of the splits whose lists are the published ones.
    """
    labelled = [clips for split, clips in recordings.items() if split != "evaluation"]
    clips = {clip.path: clip for clip in itertools.chain(*labelled)}.values()
    said = []
    if odd := sorted({clip.location.partition("-")[0] for clip in clips if clip.city_id < 0}):
        said.append(f"cities that TAU does not have are stored as unknown: {_first(odd)}")
    if odd := [clip.filename for clip in clips if clip.device_id < 0]:
        said.append(
            f"{len(odd)} clips are of devices that TAU does not have, which are stored and counted "
            f"as unknown: {_first(odd)}"
        )
    odd = [clip for clip in clips if clip.label >= 0 and not _is_named_as_on_record(clip)]
    if odd:
        said.append(
            f"{len(odd)} clips have another place in their names, which held-out locations and "
            f"segments are taken from, than in meta.csv: {_first([c.filename for c in odd])}"
        )
    if not recordings.keys() <= {*official, "evaluation"}:
        said += _shared_places(recordings)
    return said


def _is_named_as_on_record(clip: Recording) -> bool:
    name = _parse(clip.filename)
    return name is None or f"{name.city}-{name.location}" == clip.location


def _shared_places(recordings: dict[str, list[Recording]]) -> list[str]:
    """Return a sentence about places that are both trained and tested on, if there are any."""
    train = [clips for split, clips in recordings.items() if split.startswith("train_")]
    trained, tested = list(itertools.chain(*train)), recordings.get("test", [])
    places, segments = (
        _keys(trained, names) & _keys(tested, names)
        for names in (("label", "location"), ("label", "location", "segment"))
    )
    if not places:
        return []
    where = sorted({location for _, location in places})
    return [
        f"training and test splits share {len(where)} locations and {len(segments)} ten-second "
        f"recordings, so results on the test split will be too good: {_first(where)}"
    ]


def _keys(clips: Sequence[Recording], names: Sequence[str]) -> set[tuple]:
    """Return the values of these fields, where all are known."""
    keys = {tuple(getattr(clip, name) for name in names) for clip in clips}
    return {key for key in keys if "" not in key}


def _trained_and_tested(
    lists: dict[str, Path], recordings: dict[str, list[Recording]]
) -> list[str]:
    """Return a problem for each training split that has clips of the test split."""
    test, problems = {clip.path for clip in recordings.get("test", ())}, []
    for split, clips in recordings.items():
        both = [clip.filename for clip in clips if clip.path in test]
        if both and split.startswith("train_"):
            problems.append(
                f"{lists[split]}: {len(both)} of its clips are in {lists['test']} too, so they "
                f"would be trained and tested on; take them out of one: {_first(both)}"
            )
    return problems


def _first(names: Sequence[str]) -> str:
    """Return the first few names, and how many more there are."""
    more = f" and {len(names) - N_NAMED} more" if len(names) > N_NAMED else ""
    return ", ".join(names[:N_NAMED]) + more


def _check_layout(tau_dir: Path) -> None:
    """Raise a UserError that names the first thing of TAU's layout that is not there."""
    if not tau_dir.is_dir():
        raise UserError(f"{tau_dir} is not a folder; expected one in the layout of TAU 2022")
    for name, kind in (("meta.csv", "file"), ("audio", "folder")):
        if not (tau_dir / name).exists():
            inner = sorted(tau_dir.glob(f"*/{name}"))
            hint = f"; did you mean {inner[0].parent}?" if inner else ""
            raise UserError(
                f"{tau_dir / name} not found: {tau_dir} is not in TAU 2022's layout{hint}"
            )
        if (tau_dir / name).is_dir() != (kind == "folder"):
            raise UserError(f"{tau_dir / name} is not a {kind}, as it is in TAU 2022's layout")
    setup = tau_dir / "split_setup"
    if not setup.is_dir() or not any(name.endswith(".csv") for name in os.listdir(setup)):
        raise UserError(
            f"{setup} has no split lists (split5.csv … test.csv): add "
            "--download to fetch the official ones"
        )


def _read_meta(path: Path, root: Path) -> dict[str, Meta]:
    """Return filename → what is on record; a UserError names rows that contradict each other."""
    meta, problems = {}, []
    for line, row in named_rows(path, root, META_COLUMNS):
        filename, scene, location, device = (row[column] for column in META_COLUMNS)
        if scene not in SCENES:
            raise UserError(
                f"{path}, line {line}: unknown scene {scene!r}; known are {', '.join(SCENES)}"
            )
        new = Meta(line, scene, location, device)
        known = meta.setdefault(filename, new)
        name = _parse(filename)
        if known[1:] != new[1:]:
            both = f"lines {known.line} ({', '.join(known[1:])}) and {line} ({', '.join(new[1:])})"
            problems.append(f"{both} for {filename}")
        elif name and name.scene != scene:
            problems.append(f"line {line} ({scene}) and its file's name, {filename}")
    if problems:
        raise UserError(
            f"{path}: {len(problems)} contradictions: {_first(problems)}. Correct what is wrong"
        )
    return meta


def _parse(filename: str) -> clip_names.ClipName | None:
    """Return the fields of a name in TAU's form, None for one of another form."""
    with contextlib.suppress(UserError):
        name = clip_names.parse(filename)
        return name if name.scene in SCENES else None
    return None


def named_rows(
    path: Path, root: Path, columns: Sequence[str], others: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield what `read_table` returns, with every filename relative to `root`.

    Raises:
      UserError: also for a filename that leads elsewhere.
    """
    roots = tuple(f"{folder.as_posix()}/" for folder in {root.absolute(), root.resolve()})
    for line, row in read_table(path, columns, others):
        name = row["filename"].replace("\\", "/")
        for folder in roots:
            name = name.removeprefix(folder)
        name = name.removeprefix("./")
        if name.startswith("/") or name[1:3] == ":/" or ".." in name.split("/"):
            raise UserError(
                f"{path}, line {line}: {short(row['filename'])} is not in {root}: expected a name "
                "that starts from there, as audio/NAME.wav"
            )
        row["filename"] = name
        yield line, row


def _contradictions(
    path: Path, rows: Sequence[tuple[int, dict[str, str]]], meta: dict[str, Meta]
) -> list[str]:
    """Return a problem if a list gives clips another scene than `meta.csv`."""
    bad = [
        f"{row['filename']} ({scene} in line {line}, {meta[row['filename']].scene} in line "
        f"{meta[row['filename']].line} of meta.csv)"
        for line, row in rows
        if row["filename"] in meta
        and (scene := row.get("scene_label"))
        and scene != meta[row["filename"]].scene
    ]
    return [f"{path}: {len(bad)} scenes are not those of meta.csv: {_first(bad)}"] if bad else []


def _problems(
    path: Path,
    root: Path,
    names: list[str],
    meta: dict[str, Meta] | None,
    sizes: dict[Path, dict[str, int]],
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
            messages.append(f"{path}: {len(bad)} of the listed files {what}: {_first(bad)}")
    return messages


def _sizes(folder: Path) -> dict[str, int]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    except ValueError:  # a name that none can have
        return {}
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
            return {}
        raise UserError(f"cannot read {folder}: {files.reason(error)}") from error


def _recording(path: Path, filename: str, meta: Meta | None, n_bytes: int) -> Recording:
    if meta is None:
        return Recording(path, filename, UNKNOWN, UNKNOWN, UNKNOWN, "", "", n_bytes)
    segment = ""
    with contextlib.suppress(UserError):  # a name of another form
        segment = clip_names.parse(filename).segment
    ids = (
        SCENES.index(meta.scene),
        _id(meta.device, DEVICES),
        _id(meta.location.partition("-")[0], CITIES),
    )
    return Recording(path, filename, *ids, meta.location, segment, n_bytes)


def _id(name: str, known: tuple[str, ...]) -> int:
    return known.index(name) if name in known else UNKNOWN


def fingerprint(clips: Sequence[Recording]) -> str:
    """Return a hash of what a split is made from: names, labels, file sizes, some files' bytes.

    Some files, evenly spread, since reading all would take as long as building; they tell a
    folder that was made or processed again, where all sizes stay the same.
    """
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(repr(clip[1:]).encode())
    for clip in clips[:: max(1, len(clips) // N_HASHED_CLIPS)]:
        try:
            digest.update(Path(clip.path).read_bytes())
        except OSError as error:
            raise UserError(f"cannot read {clip.path}: {files.reason(error)}") from error
    return digest.hexdigest()
