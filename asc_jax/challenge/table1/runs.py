"""One run of many: its workdir, why it is not done, and what its evaluation left, clip by clip."""

import contextlib
import csv
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from asc_jax.challenge.table1 import bootstrap
from asc_jax.data.clip_names import NAME_FORM
from asc_jax.data.tau.taxonomy import DEVICES, SCENES
from asc_jax.errors import UserError, short
from asc_jax.evaluation.result_files import stored_summary
from asc_jax.machine import files
from asc_jax.training.workdir import checkpoints, run_config

_FIGURE = (float, int, type(None))
# The fields that a table is made from: of `results.json`, and of the summary in it.
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
    **dict.fromkeys(("scenes", "devices"), dict),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of many, at a place in the table: system, percent and seed."""

    system: str
    percent: int
    seed: int
    config_name: str  # for `train.py`
    overrides: tuple[str, ...]
    config: ml_collections.ConfigDict = dataclasses.field(compare=False, repr=False)  # of both
    workdir: Path
    n_clips: int  # of its training split

    @property
    def title(self) -> str:
        return f"{self.system}, {self.percent} %, seed {self.seed}"

    @property
    def work(self) -> int:
        """Number of clips that it trains on, over all epochs."""
        return self.n_clips * self.config.train.n_epochs


class RunResults(NamedTuple):
    """One evaluated run; simultaneous recordings of several devices are one segment."""

    results: Mapping[str, Any]  # the content of `results.json`, see `result_files`
    filenames: np.ndarray  # [n], in rising order
    scene: np.ndarray  # [n] int, the true scene
    correct: np.ndarray  # [n] bool, whether the run predicted it, with its parameters as stored
    segment: np.ndarray  # [n] str
    location: np.ndarray  # [n] str

    @property
    def summary(self) -> Mapping[str, Any]:
        """Accuracies and log losses with the parameters as stored."""
        return stored_summary(self.results)


def unfinished(run: Run) -> str | None:
    """Return why a run is not done; None if it is trained to its end and evaluated since.

    Raises:
      UserError: the workdir belongs to a run with another config.
    """
    if not (run.workdir / "config.json").exists():
        return "not begun"
    run_config.check(run.workdir, run.config, flag="--out", same_data=True)
    step = None
    if (run.workdir / "checkpoints").is_dir():
        with contextlib.closing(checkpoints.Checkpoints(run.workdir)) as manager:
            step = manager.latest_step()
    if step is None or not (run.workdir / "results.json").exists():
        return "not trained and evaluated to the end"
    try:
        results = read_run(run.workdir).results
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
    totals = bootstrap.cluster_totals(run.correct, run.scene, run.scene)
    counted, stated = bootstrap.macro_average(totals)[0], run.summary["macro_accuracy"]
    same_clips = len(run.scene) == run.summary["n_clips"]
    # They differ where an evaluation was interrupted between the two files.
    if stated is None or not same_clips or not abs(counted - stated) <= 1e-9:
        raise UserError(
            f"{workdir}: output.csv and results.json are not of one evaluation: evaluate it again"
        )
    return run


def _read_json(path: Path) -> dict[str, Any]:
    try:
        results = files.parse_json(files.read_text(path))
        _check_types(results, _RUN)
        summary = results.get(results["stored_dtype"])
        _check_types(summary, _SUMMARY)
        for group, names in (("scenes", SCENES), ("devices", DEVICES)):
            if {*summary[group]} != {*names}:
                raise ValueError(f"its {group} are not {', '.join(names)}")
            for figures in summary[group].values():
                _check_types(figures, {"accuracy": _FIGURE})
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: evaluate the run with asc-jax eval") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): evaluate the run again") from error
    return results


def _check_types(content: Any, types: Mapping[str, Any]) -> None:
    for key, kind in types.items():
        if not isinstance(content, dict) or key not in content:
            raise ValueError(f"{key} is missing")
        value = content[key]
        number = value if isinstance(value, int | float) else 0
        if not (isinstance(value, kind) and abs(number) < 2**53):  # nor is NaN
            raise ValueError(f"{key} is {short(value)}")


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
