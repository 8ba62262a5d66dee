"""Read what an evaluation left in a workdir, clip by clip, and check that its files agree."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from asc_jax.challenge.table1 import bootstrap
from asc_jax.data.clip_names import NAME_FORM
from asc_jax.data.tau.taxonomy import DEVICES, SCENES
from asc_jax.errors import UserError, short
from asc_jax.evaluation.result_files import stored_summary
from asc_jax.machine import files


class RunResults(NamedTuple):
    """One evaluated run.

    results: the content of `results.json` (see `result_files`). filenames: `[n]`, in rising order.
    scene: `[n]` int, the true scene. correct: `[n]` bool, whether the run predicted it, with its
    parameters as stored. segment, location: `[n]` str, the recording and the place of a clip;
    simultaneous recordings of several devices are one segment.
    """

    results: Mapping[str, Any]
    filenames: np.ndarray
    scene: np.ndarray
    correct: np.ndarray
    segment: np.ndarray
    location: np.ndarray

    @property
    def summary(self) -> Mapping[str, Any]:
        """Accuracies and log losses with the parameters as stored."""
        return stored_summary(self.results)


def read_run(workdir: Path) -> RunResults:
    """Read `results.json` and `output.csv`.

    Raises:
      UserError: a file is missing or damaged, a clip's name does not follow the data set's
        form, or the two files are not of one evaluation.
    """
    results = _read_json(workdir / "results.json")
    path = workdir / "output.csv"
    predicted = _read_output(path)
    fields = [name.removesuffix(".wav").split("-") for name, _ in predicted]
    for (name, _), words in zip(predicted, fields, strict=True):
        if len(words) != 6 or words[0] not in SCENES:
            raise UserError(f"{path}: the clip {name!r} is not named {NAME_FORM}")
    run = RunResults(
        results,
        filenames=np.array([name for name, _ in predicted]),
        scene=np.array([SCENES.index(words[0]) for words in fields]),
        correct=np.array([words[0] == s for words, (_, s) in zip(fields, predicted, strict=True)]),
        segment=np.array(["-".join(words[:4]) for words in fields]),
        location=np.array(["-".join(words[1:3]) for words in fields]),
    )
    _check_agreement(run, workdir)
    return run


def _read_json(path: Path) -> dict[str, Any]:
    try:
        results = files.parse_json(path.read_text("utf-8"))
        _check_fields(results)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: evaluate the run with eval.py") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): evaluate the run again") from error
    return results


def _check_fields(results: dict[str, Any]) -> None:
    """Raise a ValueError unless every field that a table is made from has its type."""
    _check_types(results, _RUN)
    summary = results.get(results["stored_dtype"])
    _check_types(summary, _SUMMARY)
    for group, names in (("scenes", SCENES), ("devices", DEVICES)):
        if {*summary[group]} != {*names}:
            raise ValueError(f"its {group} are not {', '.join(names)}")
        for figures in summary[group].values():
            _check_types(figures, {"accuracy": _FIGURE})


_FIGURE = (float, int, type(None))
_RUN = {
    **dict.fromkeys(("config", "split", "test_split", "stored_dtype"), str),
    **dict.fromkeys(("code_version", "evaluated_with"), str),
    **dict.fromkeys(("official_lists", "over_budget"), bool),
    "seed": int,
    "complexity": dict,
}
_SUMMARY = {
    **dict.fromkeys(("macro_accuracy", "accuracy", "log_loss"), _FIGURE),
    "n_clips": int,
    "scenes": dict,
    "devices": dict,
}


def _check_types(content: Any, types: Mapping[str, Any]) -> None:
    for key, kind in types.items():
        value = content.get(key, _NOTHING) if isinstance(content, dict) else _NOTHING
        number = value if isinstance(value, int | float) else 0
        if not (isinstance(value, kind) and abs(number) < 2**53):  # nor is NaN
            raise ValueError(f"{key} is {'missing' if value is _NOTHING else short(value)}")


_NOTHING = object()


def _read_output(path: Path) -> list[tuple[str, str]]:
    """Return clips and their predicted scenes, sorted by clip."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [tuple(row[:2]) for row in csv.reader(file, delimiter="\t")]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}): evaluate the run again") from error
    if rows[:1] != [("filename", "scene_label")] or min(map(len, rows)) < 2 or len(rows) < 2:
        raise UserError(
            f"{path} does not begin with the columns filename and scene_label, separated by tabs, "
            "or lists no clips: evaluate the run again"
        )
    return sorted(rows[1:])


def _check_agreement(run: RunResults, workdir: Path) -> None:
    """Raise an error unless both files give the same macro average.

    They do not where an evaluation was interrupted between them.
    """
    totals = bootstrap.cluster_totals(run.correct, run.scene, run.scene)
    counted, stated = bootstrap.macro_average(totals)[0], run.summary["macro_accuracy"]
    same_clips = len(run.scene) == run.summary["n_clips"]
    if stated is None or not same_clips or not abs(counted - stated) <= 1e-9:
        raise UserError(
            f"{workdir}: output.csv and results.json are not of one evaluation: evaluate it again"
        )
