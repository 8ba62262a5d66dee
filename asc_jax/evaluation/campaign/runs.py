"""One run of many: its workdir, why it is not done, and what its evaluation left, clip by clip."""

import abc
import contextlib
import csv
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from asc_jax.data import held_out
from asc_jax.data.clips import dataset_folder, open_for
from asc_jax.data.labels import UNKNOWN_NAME, Labels, from_dict
from asc_jax.data.store import reader as stored
from asc_jax.data.teacher_logits import paths_of, with_teachers_of
from asc_jax.errors import UserError, short
from asc_jax.evaluation.campaign import bootstrap
from asc_jax.evaluation.campaign.clusters import RECORDINGS, clusters_of
from asc_jax.evaluation.result_files import stored_summary, upgraded
from asc_jax.machine import files
from asc_jax.training.workdir import checkpoints, run_config

FIGURE = (float, int, type(None))
# The fields that tables are made from: of `results.json`, and of the summary in it.
_RUN = {
    **dict.fromkeys(("config", "split", "test_split", "stored_dtype"), str),
    **dict.fromkeys(("code_version", "evaluated_with"), str),
    **dict.fromkeys(("official_lists", "over_budget"), bool),
    "seed": int,
    "complexity": dict,
}
_SUMMARY = {
    **dict.fromkeys(("macro_accuracy", "accuracy", "log_loss"), FIGURE),
    "n_clips": int,
    **dict.fromkeys(("classes", "groups"), dict),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(abc.ABC):
    """One run of many; a subclass adds its place among them and how its results are read."""

    seed: int
    config_name: str  # for `asc-jax train`
    overrides: tuple[str, ...]
    config: ml_collections.ConfigDict = dataclasses.field(compare=False, repr=False)  # of both
    workdir: Path
    n_clips: int  # of its training split

    @property
    @abc.abstractmethod
    def title(self) -> str:
        """Return a name that no other of the runs has."""

    @abc.abstractmethod
    def read(self) -> Any:
        """Return what its evaluation left; `.results` is the content of `results.json`.

        Raises:
          UserError: a file is missing or damaged, or the files come from different evaluations.
        """

    @property
    def work(self) -> int:
        """Number of clips that it trains on, over all epochs."""
        return self.n_clips * self.config.train.n_epochs


def unfinished(run: Run) -> str | None:
    """Return why a run is not done; None if it is trained to its end and evaluated since.

    Raises:
      UserError: the workdir belongs to a run with another config.
    """
    if not (run.workdir / "config.json").exists():
        return "not begun"
    run_config.check(run.workdir, run.config, flag="--out", same_data=True)
    step, extra = None, {}
    if (run.workdir / "checkpoints").is_dir():
        with contextlib.closing(checkpoints.Checkpoints(run.workdir)) as manager:
            step = manager.latest_step()
            with contextlib.suppress(UserError):  # damaged: told when it is resumed or evaluated
                extra = manager.newest_extra() or {}
    _require_same_clips(run, extra)
    if step is None or not (run.workdir / "results.json").exists():
        return "not trained and evaluated to the end"
    try:
        results = run.read().results
    except UserError as error:
        return str(error)
    expected = {
        "step": step,
        "epoch": run.config.train.n_epochs,
        "seed": run.seed,
        "split": run.config.data.train_split,
        "test_split": run.config.data.test_split,
        "stored_dtype": run.config.precision.stored,
        "checkpoint": "last",
    }
    stale = [
        f"{key} {results.get(key)!r}, expected {value!r}"
        for key, value in expected.items()
        if results.get(key) != value
    ]
    return f"results.json is of another state: {'; '.join(stale)}" if stale else None


def _require_same_clips(run: Run, extra: Mapping[str, Any]) -> None:
    """Raise a `UserError` if a data set was built anew, with other clips, since a run's training.

    The clips of a distilled network include its teachers' logits, and those of a run that holds
    out locations are what is left.

    extra: metadata of the run's newest checkpoint. Where the data set is gone, nothing is compared.
    """
    data = run.config.data
    for key, split in (("train_data", data.train_split), ("watched_data", data.test_split)):
        before = extra.get(key)
        if before is None or (key == "watched_data" and data.validation_locations):
            continue  # not known, or of locations held out
        try:
            now = stored.identity(dataset_folder(data.dir), split)
            if key == "train_data":
                now = _trained_on(run.config, now)
        except UserError:
            return
        if before == now:
            continue
        if key == "train_data" and run.config.distill.logits:
            raise UserError(
                f"{run.workdir} was trained with other logits of teachers than "
                f"{run.config.distill.logits} now holds, or on other clips than {split} in "
                f"{data.dir}: put those back, move the run away, or choose another --out"
            )
        raise UserError(
            f"{run.workdir} is of other clips than {split} in {data.dir} now holds: the data "
            "set was built anew since. Choose another --out, or build it as it was"
        )


# What `_trained_on` has computed, since it reads every clip for its name: (identity of the stored
# clips, fraction held out, seed, each file's path, size and time) → identity.
_IDENTITIES: dict[tuple, str | None] = {}


def _trained_on(config: ml_collections.ConfigDict, stored_identity: str) -> str | None:
    """Return the identity of a run's training clips: with logits of teachers, less those held out.

    stored_identity: of the whole split.

    Raises:
      UserError: the logits cannot be read, or no location can be held out.
    """
    fraction, paths = config.data.validation_locations, paths_of(config)
    if not fraction and not paths:
        return stored_identity
    stats = [(path, os.stat(path)) for path in paths if os.path.exists(path)]
    seed = config.seed if fraction else None
    files_there = ((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats)
    key = stored_identity, fraction, seed, *files_there
    if key not in _IDENTITIES:
        clips = with_teachers_of(config, open_for(config, config.data.train_split))
        _IDENTITIES[key] = held_out.split(clips, fraction, config.seed)[0].identity
    return _IDENTITIES[key]


class Answers(NamedTuple):
    """An evaluated run, with its parameters as stored, and what is known of the clips."""

    results: Mapping[str, Any]  # the content of `results.json`, see `result_files`
    labels: Labels
    filenames: np.ndarray  # [n] str, in rising order
    label: np.ndarray  # [n] int, number of the true class
    predicted: np.ndarray  # [n] int, number of the class that the run predicted
    recording: np.ndarray  # [n] str, the cluster that a clip is resampled with
    groups: Mapping[str, np.ndarray]  # column → [n] str, "unknown" where it is not known
    clusters: str = RECORDINGS  # a word for them, see `clusters_of`

    @property
    def correct(self) -> np.ndarray:
        """Return `[n]` bool, whether the run predicted the clip's class."""
        return self.predicted == self.label

    @property
    def summary(self) -> Mapping[str, Any]:
        """Return accuracies and log losses with the parameters as stored."""
        return stored_summary(self.results)


def read_all(runs: Sequence[Run], cluster: str | None = None) -> dict[Run, Answers]:
    """Return what each run left; those tested on one split share one array of each kind of name.

    cluster: group column whose values are resampled; None: as `read_answers` gives them.

    Raises:
      UserError: a file cannot be read, or runs were tested on different clips of one split.
    """
    answers: dict[Run, Answers] = {}
    firsts: dict[str, Run] = {}
    for run in runs:
        read = clustered(run.read(), cluster)
        first = firsts.setdefault(run.config.data.test_split, run)
        there = answers.get(first, read)
        require_same_test(run.workdir, read, first.workdir, there)
        answers[run] = there._replace(results=read.results, predicted=read.predicted)
    return answers


def require_same_test(workdir: Path, read: Answers, other: Path, there: Answers) -> None:
    """Raise a `UserError` if two runs were tested on different clips or classes."""
    if read.labels != there.labels or any(
        not np.array_equal(getattr(read, name), getattr(there, name))
        for name in ("filenames", "label", "recording")
    ):
        raise UserError(
            f"{workdir} and {other} were tested on different clips or classes: "
            "evaluate both on one data set, with asc-jax eval"
        )


def clustered(answers: Answers, column: str | None) -> Answers:
    """Return the same with the values of a group column as clusters; None: unchanged.

    Raises:
      UserError: there is no such column.
    """
    if column is None:
        return answers
    recording, clusters = clusters_of(answers.filenames, answers.recording, answers.groups, column)
    return answers._replace(recording=recording, clusters=clusters)


def read_answers(workdir: Path) -> Answers:
    """Read `results.json`, `output.csv` and `truth.csv`; clips without a label are left out.

    Simultaneous recordings by several devices, as TAU's names tell them, are one recording.

    Raises:
      UserError: a file is missing or damaged, or the three come from different evaluations.
    """
    results = read_results(workdir / "results.json")
    with _reading(workdir / "results.json"):
        labels = from_dict(results["labels"])
    columns = ("filename", "label", "recording", *labels.groups)
    truth = _read_table(workdir / "truth.csv", columns)
    output = read_output(workdir / "output.csv")
    if truth["filename"] != [name for name, _ in output]:
        raise _not_one_evaluation(workdir)
    numbers = {name: number for number, name in enumerate(labels.classes)}
    named = {*truth["label"]} | {name for _, name in output}
    if unknown := sorted(named - numbers.keys() - {UNKNOWN_NAME}):
        raise UserError(
            f"{workdir}: output.csv and truth.csv name {short(unknown[0])}, which is none of the "
            "classes in results.json: evaluate the run again"
        )
    label = np.array([numbers.get(name, -1) for name in truth["label"]])
    names = np.array(truth["filename"])
    kept = np.argsort(names, kind="stable")
    kept = kept[label[kept] >= 0]
    recording, clusters = clusters_of(names, truth["recording"], {})
    answers = Answers(
        results,
        labels,
        filenames=names[kept],
        label=label[kept],
        predicted=np.array([numbers.get(name, -1) for _, name in output])[kept],
        recording=recording[kept],
        groups={column: np.array(truth[column])[kept] for column in labels.groups},
        clusters=clusters,
    )
    require_same(workdir, answers.summary, answers.correct, answers.label)
    return answers


def read_probs(workdir: Path, answers: Answers) -> np.ndarray:
    """Return the probabilities in a run's `output.csv`, of the parameters as stored.

    Returns:
      `[n, n_classes]` float64, in the order of the clips and the classes of `read_answers`.

    Raises:
      UserError: it is missing or damaged, or lacks a clip.
    """
    path, classes = workdir / "output.csv", answers.labels.classes
    table = _read_table(path, ("filename", "scene_label", *classes))
    with _reading(path):
        rows = {name: row for row, name in enumerate(table["filename"])}
        if lacking := [name for name in answers.filenames.tolist() if name not in rows]:
            raise ValueError(f"it lacks {len(lacking)} clips, such as {lacking[0]}")
        order = [rows[name] for name in answers.filenames.tolist()]
        probs = np.array([table[name] for name in classes], float).T[order]
        if not np.isfinite(probs).all() or probs.min() < 0 or probs.max() > 1:
            raise ValueError("it holds numbers that are no probabilities")
        return probs


def require_same(
    workdir: Path, summary: Mapping[str, Any], correct: np.ndarray, label: np.ndarray
) -> None:
    """Raise a `UserError` unless a summary is that of these clips `[n]`.

    They differ where an evaluation was interrupted between the files.
    """
    stated = summary["macro_accuracy"]
    if stated is None or len(label) != summary["n_clips"] or not len(label):
        raise _not_one_evaluation(workdir)
    counted = bootstrap.macro_average(bootstrap.cluster_totals(correct, label, label))[0]
    if not abs(counted - stated) <= 1e-9:
        raise _not_one_evaluation(workdir)


def _not_one_evaluation(workdir: Path) -> UserError:
    return UserError(
        f"{workdir}: output.csv and results.json come from different evaluations: evaluate it again"
    )


def read_results(path: Path) -> dict[str, Any]:
    """Read `results.json`, as far as tables are made from it.

    Raises:
      UserError: it is missing or damaged, or lacks a field.
    """
    with _reading(path):
        results = upgraded(files.parse_json(files.read_text(path)))
        check_types(results, _RUN)
        summary = results.get(results["stored_dtype"])
        check_types(summary, _SUMMARY)
        for figures in summary["classes"].values():
            check_types(figures, {"accuracy": FIGURE})
    return results


def check_types(content: Any, types: Mapping[str, Any]) -> None:
    """Raise a `ValueError` unless a dict has these keys with values of these types."""
    for key, kind in types.items():
        if not isinstance(content, dict) or key not in content:
            raise ValueError(f"{key} is missing")
        value = content[key]
        number = value if isinstance(value, int | float) else 0
        if not (isinstance(value, kind) and abs(number) < 2**53):  # nor is NaN
            raise ValueError(f"{key} is {short(value)}")


def read_output(path: Path) -> list[tuple[str, str]]:
    """Return the clips of an `output.csv` and their predicted classes, in its order.

    Raises:
      UserError: it cannot be read, or is no such file.
    """
    table = _read_table(path, ("filename", "scene_label"))
    return list(zip(table["filename"], table["scene_label"], strict=True))


def _read_table(path: Path, columns: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the first columns of a table with a header, separated by tabs."""
    with _reading(path):
        files.require_ordinary(path)
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row[: len(columns)] for row in csv.reader(file, delimiter="\t")]
    if rows[:1] != [[*columns]] or min(map(len, rows)) < len(columns) or len(rows) < 2:
        raise UserError(
            f"{path} does not begin with the columns {' and '.join(columns)}, separated by tabs, "
            "or lists no clips: evaluate the run again"
        )
    cells = zip(*rows[1:], strict=True)
    return {name: list(column) for name, column in zip(columns, cells, strict=True)}


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong with a file of an evaluation into a `UserError` that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: evaluate the run with asc-jax eval") from error
    except (OSError, ValueError, KeyError, TypeError, UserError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}): evaluate the run again") from error
