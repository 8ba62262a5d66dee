"""Open the runs of a submission, one for each training split, and check their results."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asc_jax.data.tau.taxonomy import TRAIN_PERCENTS
from asc_jax.errors import UserError
from asc_jax.evaluation import evaluate, result_files
from asc_jax.experiment import Experiment
from asc_jax.machine import files
from asc_jax.training.workdir import run_config
from asc_jax.types import Params

_PERCENTS = {f"train_{percent}pct": percent for percent in TRAIN_PERCENTS}


@dataclasses.dataclass(frozen=True)
class EvaluatedRun:
    """A finished and evaluated run."""

    workdir: Path
    percent: int  # of the training split it was trained on
    experiment: Experiment  # with the stored dtype that it was evaluated in
    variables: Params  # `{"params", "batch_stats"}` as trained
    results: Mapping[str, Any]  # the content of `results.json`

    @property
    def summary(self) -> Mapping[str, Any]:
        """Return accuracies and log losses with the parameters as stored."""
        return result_files.stored_summary(self.results)


def open_runs(
    workdirs: Sequence[str | os.PathLike], *, practice: bool = False
) -> list[EvaluatedRun]:
    """Open and check five runs, and return them by rising size of their training splits.

    Args:
      workdirs: one for each training split, in any order.
      practice: accept runs on other splits than TAU's own.

    Raises:
      UserError: a split has no run or two, or a run is not trained to its end, not evaluated,
        evaluated in another state, or over the budget.
    """
    found = {}
    for workdir in map(Path, workdirs):
        split = run_config.load(workdir)[1].data.train_split
        if split not in _PERCENTS:
            raise UserError(
                f"{workdir} was trained on {split!r}, a submission takes {', '.join(_PERCENTS)}"
            )
        if split in found:
            raise UserError(f"{found[split]} and {workdir} were both trained on {split}: give one")
        found[split] = workdir
    missing = [split for split in _PERCENTS if split not in found]
    if missing:
        raise UserError(
            f"no run trained on {', '.join(missing)}: a submission holds a run for each of "
            f"{', '.join(_PERCENTS)}"
        )
    return [_open_run(found[split], practice) for split in _PERCENTS]


def _open_run(workdir: Path, practice: bool) -> EvaluatedRun:
    again = f"evaluate it: python eval.py --workdir {workdir}"
    results = _read_results(workdir / "results.json", again)
    run = evaluate.open_run(workdir, stored=results["stored_dtype"])
    cost = run.experiment.cost
    if not run.experiment.within_budget:
        raise UserError(
            f"{workdir} is over the budget: {cost['macs']:,} MACs of {cost['max_macs']:,}, "
            f"{cost['bytes']:,} bytes of {cost['max_bytes']:,}. It cannot be handed in"
        )
    # `results.json` must describe the run as it is now, and the code it was evaluated with.
    current = evaluate.describe(run.experiment, run.name, run.extra, run.step)
    for key, value in json.loads(json.dumps(current)).items():
        if results.get(key) != value:
            raise UserError(
                f"{workdir} is stale: {key} is {results.get(key)!r} in results.json, but now "
                f"{value!r}; {again}"
            )
    epoch, n_epochs = results["epoch"], results["n_epochs"]
    if epoch < n_epochs and "converted_from" not in results:
        raise UserError(
            f"{workdir} is trained for {epoch} of {n_epochs} epochs: resume it with train.py "
            "and the same --workdir"
        )
    if not practice and not results.get("official_lists"):
        raise UserError(
            f"{workdir} was not trained and tested on TAU's own lists: --practice makes a package "
            "of it that cannot be handed in"
        )
    percent = _PERCENTS[run.experiment.config.data.train_split]
    return EvaluatedRun(workdir, percent, run.experiment, run.variables, results)


def _read_results(path: Path, again: str) -> dict[str, Any]:
    try:
        results = files.parse_json(path.read_text("utf-8"))
        result_files.stored_summary(results)["macro_accuracy"]
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; {again}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error!r}); {again}") from error
    return results
