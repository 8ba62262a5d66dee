"""One run of Table 1, and what its evaluation left, clip by clip: TAU's names say the rest."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from asc_jax.data.tau.clip_names import NAME_FORM
from asc_jax.data.tau.taxonomy import DEVICES, SCENES
from asc_jax.errors import UserError
from asc_jax.evaluation.campaign import runs
from asc_jax.evaluation.result_files import stored_summary


@dataclasses.dataclass(frozen=True)
class Run(runs.Run):
    """One run of many, at a place in the table: system, percent and seed."""

    system: str
    percent: int

    @property
    def title(self) -> str:
        return f"{self.system}, {self.percent} %, seed {self.seed}"

    def read(self) -> "RunResults":
        return read_run(self.workdir)


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


def read_run(workdir: Path) -> RunResults:
    """Read `results.json` and `output.csv`.

    Raises:
      UserError: a file is missing or damaged, a clip's name does not follow the data set's
        form, or the two files come from different evaluations.
    """
    results = runs.read_results(workdir / "results.json")
    _check_names(workdir / "results.json", stored_summary(results))
    path = workdir / "output.csv"
    predicted = sorted(runs.read_output(path))
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
    runs.require_same(workdir, run.summary, run.correct, run.scene)
    return run


def _check_names(path: Path, summary: Mapping[str, Any]) -> None:
    """Raise a `UserError` unless a summary has figures of all scenes and devices."""
    try:
        runs.check_types(summary["groups"].get("device"), {"values": dict})
        devices = summary["groups"]["device"]["values"]
        for found, names in ((summary["classes"], SCENES), (devices, DEVICES)):
            if {*found} != {*names}:
                raise ValueError(f"its classes or devices are not {', '.join(names)}")
            for figures in found.values():
                runs.check_types(figures, {"accuracy": runs.FIGURE})
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({error}): evaluate the run again") from error
