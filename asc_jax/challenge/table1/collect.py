"""Finished runs → the figures of Table 1: one dict, plain Python, ready for JSON.

`collect` returns

`splits` (percents), `systems` (name → label), `test_split`, `n_test_clips`, `n_segments`,
`n_locations`, `official_lists`, `code_versions`, `stored_dtypes`, `over_budget` (titles of
runs), `level`, `n_replicates`;
`results`, one per system and split: `system`, `percent`, `seeds`, `complexity`; of
`macro_accuracy`, `accuracy` and `log_loss` the `mean`, `sd` and `runs` (a figure per seed);
`interval` (`segments` and `locations`, each `low`, `high`, `with_training`, or None) of the
macro average; `scenes` and `devices` (name → `mean`, `sd`); `published` (see `table1`);
`differences`: `first`, `second`, `percent`, `mean` (macro average of the first minus that of
the second), `scenes` (name → difference), `tests` (`segments` and `locations`, each an
interval with `p`, or None), `published`;
`ablation`: the same, with `change`, what tells the first from the second;
`missing`: title of each run that is not there → why.

Accuracies are fractions in [0, 1], log losses nats per clip. None stands for what cannot be
said: a standard deviation of one run, an interval of one cluster.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from asc_jax.challenge.table1 import bootstrap
from asc_jax.challenge.table1.results import RunResults, read_run
from asc_jax.challenge.table1.runs import Run, unfinished
from asc_jax.challenge.table1.statistics import Cell, difference, result
from asc_jax.errors import UserError


def collect(
    runs: Sequence[Run],
    labels: Mapping[str, str],
    comparisons: Sequence[tuple[str, str]],
    changes: Sequence[tuple[str, str, str]] = (),
    *,
    n_replicates: int = bootstrap.N_REPLICATES,
) -> dict[str, Any]:
    """The figures of all runs that are done.

    Args:
      runs: of the whole table.
      labels: system → what to call it.
      comparisons: pairs of systems; the difference is the first minus the second.
      changes: steps of an ablation: what is changed, the system with it, the one without.
      n_replicates: of each interval and test.

    Raises:
      UserError: no run is done, runs were tested on different clips, or a workdir belongs to
        a run with another config.
    """
    reasons = {run: unfinished(run) for run in runs}
    cells = _read([run for run, reason in reasons.items() if reason is None])
    if not cells:
        run, reason = next(iter(reasons.items()))
        raise UserError(f"no table: none of the {len(runs)} runs is done: {run.title}: {reason}")
    percents = sorted({run.percent for run in runs})

    def compare(first: str, second: str) -> list[dict]:
        pairs = [((first, percent), (second, percent)) for percent in percents]
        return [
            difference(a, b, cells[a], cells[b], n_replicates)
            for a, b in pairs
            if a in cells and b in cells
        ]

    return {
        "splits": percents,
        "systems": {name: labels[name] for name in dict.fromkeys(run.system for run in runs)},
        **_about([run for cell in cells.values() for run in cell]),
        "level": bootstrap.LEVEL,
        "n_replicates": n_replicates,
        "results": [result(cell, cells[cell], n_replicates) for cell in cells],
        "differences": [row for pair in comparisons for row in compare(*pair)],
        "ablation": [
            {"change": change, **row} for change, *pair in changes for row in compare(*pair)
        ],
        "missing": {run.title: reason for run, reason in reasons.items() if reason is not None},
    }


def _read(runs: Sequence[Run]) -> dict[Cell, list[RunResults]]:
    """The runs by system and split; all share the first one's arrays of names."""
    cells: dict[Cell, list[RunResults]] = {}
    first = None
    for run in runs:
        read = read_run(run.workdir)
        first = first or read
        if not np.array_equal(read.filenames, first.filenames):
            raise UserError(
                f"{_name(read)} and {_name(first)} were tested on different clips: evaluate both "
                "on one data set, with eval.py"
            )
        shared = first._replace(results=read.results, right=read.right)
        cells.setdefault((run.system, run.percent), []).append(shared)
    return cells


def _about(runs: Sequence[RunResults]) -> dict[str, Any]:
    """What all runs have in common, and where they differ although they should not."""
    first = runs[0]
    versions = {run.results[key] for run in runs for key in ("code_version", "evaluated_with")}
    return {
        "test_split": first.results["test_split"],
        "n_test_clips": len(first.filenames),
        "n_segments": len(np.unique(first.segment)),
        "n_locations": len(np.unique(first.location)),
        "official_lists": all(run.results["official_lists"] for run in runs),
        "code_versions": sorted(versions),
        "stored_dtypes": sorted({run.results["stored_dtype"] for run in runs}),
        "over_budget": [_name(run) for run in runs if run.results["over_budget"]],
    }


def _name(run: RunResults) -> str:
    return f"{run.results['config']} ({run.results['split']}, seed {run.results['seed']})"
