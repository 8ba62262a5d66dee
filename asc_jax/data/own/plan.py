"""Labelled stretches and what is in their files → the clips of each split.

Everything that is wrong with the input is collected here, and told at once.
"""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from asc_jax.data.labels import UNKNOWN, Group, Labels
from asc_jax.data.own import splitting
from asc_jax.data.own.cutting import Cut, Found, Span, Window, probe_all
from asc_jax.data.own.inputs import Inputs, Stretch
from asc_jax.data.own.problems import Problems
from asc_jax.errors import UserError, expect, printable

DUPLICATES = ("reject", "first", "keep")


class Clip(NamedTuple):
    """A clip to be stored; numbers as in `Labels`, -1 where unknown.

    recording: what it was cut from. filename: of the file, and the start in seconds, such as
    "dog bark/1-100.ogg@3.00".
    """

    window: Window
    label: int
    group_ids: tuple[int, ...]
    recording: str
    filename: str


@dataclasses.dataclass(frozen=True)
class Choices:
    """Hold what a person decides about recordings that can be taken in several ways.

    fractions: split → its share; None: the splits are given with the recordings. wanted: splits
    that must not be empty. seed: of the choice of splits. duplicates: what becomes of one sound
    under two names, one of `DUPLICATES`: the first is kept, or all are, in one split.
    skip_unreadable: leave out files that cannot be read. classes: their order; None: by name.
    group_sets: column → set → its values.

    Raises:
      UserError: the seed is negative.
    """

    fractions: Mapping[str, float] | None = None
    wanted: tuple[str, ...] = ()
    seed: int = 0
    duplicates: str = "reject"
    skip_unreadable: bool = False
    classes: tuple[str, ...] | None = None
    group_sets: Mapping[str, Mapping[str, tuple[str, ...]]] = dataclasses.field(
        default_factory=dict
    )

    def __post_init__(self):
        expect("--seed", self.seed, self.seed >= 0, "at least 0")


class Plan(NamedTuple):
    """Hold what is to be stored.

    splits: name → its clips, in the order of the files' names. labels: of the clips. columns: the
    group columns, as `Clip.group_ids` has them. n_quiet: (split, class) → windows left out since
    they are too quiet; the split is "" where all of a recording is. notes: a sentence each.
    """

    splits: dict[str, list[Clip]]
    labels: Labels
    columns: tuple[str, ...]
    n_quiet: Counter
    notes: list[str]

    def paths(self) -> list[Path]:
        """Return the files, each once."""
        clips = (clip for part in self.splits.values() for clip in part)
        return list(dict.fromkeys(clip.window.path for clip in clips))


class _Part(NamedTuple):
    """A stretch, and the windows that it gives. damaged: it cannot be used, and was noted."""

    stretch: Stretch
    recording: str
    rate: int = 0
    spans: Sequence[Span] = ()
    n_quiet: int = 0
    digest: str = ""
    damaged: bool = False

    @property
    def n_clips(self) -> int:
        """Return the clips of it; one if it is damaged, so that its class is not missed as well."""
        return 1 if self.damaged else len(self.spans)


def make_plan(
    inputs: Inputs,
    cut: Cut,
    choices: Choices,
    problems: Problems,
    on_file: Callable[[int], object] = lambda n_files: None,
) -> Plan:
    """Read every file once and decide which clips it gives to which split.

    Args:
      inputs: as `own.inputs` reads them.
      cut: how recordings are cut.
      choices: what a person decided.
      problems: of the inputs so far; more may be added.
      on_file: called with 1 after each file.

    Raises:
      UserError: all problems together.
    """
    notes = Problems()
    parts = _read_files(inputs.stretches, cut, choices, problems, notes, on_file)
    parts, joined = _copies(parts, choices.duplicates, problems, notes)
    labels = _labels(parts, inputs.columns, choices, problems)
    clips = _clips_by_recording(parts, joined)
    if choices.fractions is None:
        split_of = _given_splits(parts, joined, choices.wanted, problems, notes)
    else:
        split_of = _chosen_splits(parts, clips, choices.fractions, choices.seed, problems)
    problems.raise_if_any()
    if several := [name for name, counts in clips.items() if len(counts) > 1]:
        notes.say(
            f"{len(several):,} recordings have clips of several classes, such as {several[0]}: is "
            "--recording_pattern meant to match them?"
        )
    order = choices.wanted or sorted({split_of[name] for name in clips})
    splits: dict[str, list[Clip]] = {split: [] for split in order}
    n_quiet = Counter()
    for part in parts:
        split = split_of.get(joined[part.recording], "")
        n_quiet[split, part.stretch.label] += part.n_quiet
        splits.setdefault(split, []).extend(_clips(part, labels, inputs.columns))
    splits = {split: sorted(rows, key=_place) for split, rows in splits.items() if rows}
    _require_whole(splits)
    return Plan(splits, labels, inputs.columns, n_quiet, [*inputs.notes, *notes.lines()])


def _require_whole(splits: Mapping[str, Sequence[Clip]]) -> None:
    """Raise a `UserError` if a recording is in two splits after all."""
    split_of: dict[str, str] = {}
    for split, clips in splits.items():
        for clip in clips:
            if split_of.setdefault(clip.recording, split) != split:
                raise UserError(
                    f"the recording {clip.recording} is in the splits {split_of[clip.recording]} "
                    f"and {split}: give recordings other names"
                )


def _place(clip: Clip) -> tuple[str, Span]:
    return clip.window.path.as_posix(), clip.window.span


def _read_files(
    stretches: Iterable[Stretch],
    cut: Cut,
    choices: Choices,
    problems: Problems,
    notes: Problems,
    on_file: Callable[[int], object],
) -> list[_Part]:
    """Return what the files give, those that cannot be used marked as damaged."""
    files = defaultdict(list)
    for stretch in stretches:
        files[stretch.path].append(stretch)
    jobs = [(path, [(row.start_s, row.end_s) for row in rows]) for path, rows in files.items()]
    parts = []
    for rows, found in zip(files.values(), probe_all(jobs, cut, on_file), strict=True):
        if isinstance(found, Found):
            parts += _usable(rows, found, cut, problems, notes)
        elif choices.skip_unreadable:
            notes.add("files cannot be read and are left out", _reason(rows[0], found))
        else:
            missing = isinstance(found.__cause__, FileNotFoundError)
            problems.add(
                f"files {'are not there' if missing else 'cannot be read'} (--skip_unreadable "
                "leaves them out)",
                _reason(rows[0], found),
            )
            parts += [_Part(row, _recording(row), damaged=True) for row in rows]
    return parts


def _reason(stretch: Stretch, error: UserError) -> str:
    """Return why a file cannot be read, with its name, and without the advice for each."""
    words = str(error).removeprefix(f"{printable(str(stretch.path))}: ").partition(". Convert")[0]
    return f"{stretch.where}: {words}"


def _recording(stretch: Stretch) -> str:
    return stretch.recording or stretch.name


def _usable(
    rows: Sequence[Stretch], found: Found, cut: Cut, problems: Problems, notes: Problems
) -> list[_Part]:
    """Return what the stretches of a file give."""
    parts, is_shorter = [], f"are shorter than a clip of {cut.clip_s:g} s"
    for note in found.notes:
        notes.add("files are odd, and are used as they are", f"{rows[0].name}: {note}")
    for i, row in enumerate(rows):
        part = _Part(
            row, _recording(row), found.rate, found.spans[i], found.n_quiet[i], found.digest
        )
        length = found.n_samples / found.rate
        named = f"{row.where} ({min(row.end_s, length) - row.start_s:.2f} s)"
        if found.outside[i]:
            problems.add(
                "stretches begin or end after the end of their file",
                f"{row.where}: {row.start_s:g} to {row.end_s:g} s of {length:.2f} s",
            )
            part = part._replace(damaged=True)
        elif found.short[i] and cut.short == "reject":
            problems.add(
                f"recordings {is_shorter} (--short pad fills them up with silence, --short drop "
                "leaves them out)",
                named,
            )
            part = part._replace(damaged=True)
        elif found.short[i] and cut.short == "drop":
            notes.add(f"recordings {is_shorter} and are left out", named)
            continue
        elif found.short[i]:
            notes.add(f"recordings {is_shorter} and are filled up with silence", named)
        if found.n_quiet[i] and not found.spans[i] and not part.damaged:
            notes.add(
                f"recordings are nowhere louder than {cut.min_peak_dbfs:g} dB of full scale and "
                "give no clip (--min_peak_dbfs)",
                row.where,
            )
        parts.append(part)
    return parts


def _copies(
    parts: list[_Part], duplicates: str, problems: Problems, notes: Problems
) -> tuple[list[_Part], dict[str, str]]:
    """Find files of equal sound.

    Returns:
      The parts to use, and recording → the recording that it has to share a split with, itself
      where there are no copies.
    """
    by_sound: dict[str, dict[Path, _Part]] = defaultdict(dict)
    for part in parts:
        if part.spans and part.digest:
            by_sound[part.digest].setdefault(part.stretch.path, part)
    joined = {part.recording: part.recording for part in parts}

    def whole(name: str) -> str:
        while joined[name] != name:
            name = joined[name]
        return name

    dropped: set[Path] = set()
    for same in by_sound.values():
        if len(same) == 1:
            continue
        names = " = ".join(part.stretch.name for part in same.values())
        if len({part.stretch.label for part in same.values()}) > 1:
            problems.add("sounds are there under several classes", names)
        elif duplicates == "reject":
            problems.add(
                "sounds are there under several names (--duplicates first keeps the first name, "
                "--duplicates keep keeps all, in one split)",
                names,
            )
        elif duplicates == "first":
            notes.add("sounds are there under several names; the first is kept", names)
            dropped |= {*list(same)[1:]}
        else:
            notes.add("sounds are there under several names; all are kept, in one split", names)
            one = whole(next(iter(same.values())).recording)
            for part in same.values():
                joined[whole(part.recording)] = one
    kept = [part for part in parts if part.stretch.path not in dropped]
    return kept, {name: whole(name) for name in joined}


def _clips_by_recording(
    parts: Sequence[_Part], joined: Mapping[str, str]
) -> dict[str, dict[str, int]]:
    """Return recording → class → number of clips, of those that have any."""
    clips: dict[str, Counter] = defaultdict(Counter)
    for part in parts:
        if part.n_clips:
            clips[joined[part.recording]][part.stretch.label] += part.n_clips
    return {name: dict(counts) for name, counts in clips.items()}


def _given_splits(
    parts: Sequence[_Part],
    joined: Mapping[str, str],
    wanted: Sequence[str],
    problems: Problems,
    notes: Problems,
) -> dict[str, str]:
    """Return recording → its split, as the input says."""
    given: dict[str, set[str]] = defaultdict(set)
    there, classes = set(), {part.stretch.label for part in parts}
    for part in parts:
        if part.stretch.split:
            given[joined[part.recording]].add(part.stretch.split)
            if part.n_clips:
                there.add((part.stretch.label, part.stretch.split))
    for name, splits in given.items():
        if len(splits) > 1:
            problems.add("recordings are in more than one split", f"{name} ({_listed(splits)})")
    if problems.lines() and not all(part.stretch.split for part in parts):
        return {}  # the names of splits are wrong: what else they would lead to says nothing
    splits = {split for _, split in there} | {*wanted}
    for label in sorted(classes):
        missing = [split for split in sorted(splits) if (label, split) not in there]
        if len(missing) == len(splits):
            problems.add("classes have no clip", label)
        elif missing:
            notes.add("classes have no clip in some split", f"{label} (in {_listed(missing)})")
    for split in wanted:
        if split not in {split for _, split in there}:
            problems.add("splits have no recording", split)
    return {name: min(splits) for name, splits in given.items()}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _chosen_splits(
    parts: Sequence[_Part],
    clips: Mapping[str, Mapping[str, int]],
    fractions: Mapping[str, float],
    seed: int,
    problems: Problems,
) -> dict[str, str]:
    """Return recording → a split, so that every split has clips of every class."""
    n_recordings = Counter(label for counts in clips.values() for label in counts)
    few = [
        label for label in sorted({part.stretch.label for part in parts})
        if n_recordings[label] < len(fractions)
    ]  # fmt: skip
    for label in few:
        n_quiet = sum(part.n_quiet > 0 and not part.spans and part.stretch.label == label
                      for part in parts)  # fmt: skip
        quiet = f", and {n_quiet} below --min_peak_dbfs" if n_quiet else ""
        problems.add(
            f"classes have fewer recordings than there are splits ({len(fractions)})",
            f"{label} ({n_recordings[label]}{quiet})",
        )
    split_of = splitting.assign(clips, fractions, seed) if clips else {}
    for label, splits in splitting.lacking(clips, split_of).items():
        if label not in few:
            problems.add(
                "classes have no recording in some split: recordings hold several classes, and "
                "another --seed may find a way",
                f"{label} (none in {_listed(splits)})",
            )
    return split_of


def _labels(
    parts: Sequence[_Part], columns: Sequence[str], choices: Choices, problems: Problems
) -> Labels | None:
    """Return the names of classes and groups; None if there is a problem with them."""
    found = {part.stretch.label for part in parts}
    classes = sorted(found)
    if choices.classes is not None:
        for name in classes:
            if name not in choices.classes:
                problems.add("classes are not in --classes", name)
        for name in choices.classes:
            if name not in found:
                problems.add("classes of --classes have no recording", name)
        classes = choices.classes
    for column in choices.group_sets:
        if column not in columns:
            problems.say(
                f"--group_set {column}: there is no such group column; there are "
                f"{', '.join(columns) or 'none'}"
            )
    groups = {
        column: Group(
            tuple(sorted({part.stretch.groups[i] for part in parts if part.n_clips} - {""})),
            dict(choices.group_sets.get(column, {})),
        )
        for i, column in enumerate(columns)
    }
    bad = [name for name in classes if _is_bad(name, problems)]
    if not bad:
        try:
            return Labels(tuple(classes), groups)
        except UserError as error:
            problems.say(str(error))
    return None


def _is_bad(name: str, problems: Problems) -> bool:
    """Return True for a name that no class can have, and note why."""
    try:
        Labels((name, "b" if name == "a" else "a"))
    except UserError as error:
        problems.say(str(error))
        return True
    return False


def _seconds(start_s: float) -> str:
    """Return a start with two decimals, or as many as it takes.

    Example:
      >>> _seconds(3.0), _seconds(0.0625)
      ('3.00', '0.0625')
    """
    return f"{start_s:.2f}" if abs(start_s - round(start_s, 2)) < 1e-4 else f"{start_s:.9g}"


def _clips(part: _Part, labels: Labels, columns: Sequence[str]) -> list[Clip]:
    """Return the clips of a stretch."""
    stretch = part.stretch
    if not part.spans:  # its groups may have values that no clip has
        return []
    label, name = labels.classes.index(stretch.label), printable(stretch.name)
    group_ids = tuple(
        labels.groups[column].values.index(value) if value else UNKNOWN
        for column, value in zip(columns, stretch.groups, strict=True)
    )
    recording = printable(part.recording)
    return [
        Clip(
            Window(stretch.path, part.rate, span),
            label,
            group_ids,
            recording,
            f"{name}@{_seconds(span.start / part.rate)}",
        )
        for span in part.spans
    ]
