"""Collect the figures of Table 1 from finished runs: one dict, plain Python, ready for JSON.

`collect` returns

`splits` (percents), `systems` (name → label), `test_split`, `n_test_clips`, `n_segments`,
`n_locations`, `official_lists`, `code_versions`, `stored_dtypes`, `over_budget` (titles of
runs), `level`, `n_replicates`;
`results`, one per system and split: `system`, `percent`, `seeds`, `complexity`; of
`macro_accuracy`, `accuracy` and `log_loss` the `mean`, `sd` and `runs` (a figure per seed);
`interval` (`segments` and `locations`, each `low`, `high`, `with_training`, or None) of the
macro average; `scenes` and `devices` (name → `mean`, `sd`); `published` (see `published`);
`differences`: `first`, `second`, `percent`, `mean` (macro average of the first minus that of
the second), `scenes` (name → difference), `tests` (`segments` and `locations`, each an
interval with `p`, or None), `published`;
`ablation`: the same, with `change`, what distinguishes the first from the second;
`missing`: title of each run that is not there → why.

Accuracies are fractions in [0, 1], log losses nats per clip. None stands for what cannot be
said: a standard deviation of one run, an interval of one cluster.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from asc_jax.challenge.table1.runs import Run, RunResults
from asc_jax.data.tau.published import published
from asc_jax.errors import UserError
from asc_jax.evaluation.campaign import bootstrap
from asc_jax.evaluation.campaign.runs import unfinished

CLUSTER_FIELDS = {"segments": "segment", "locations": "location"}
Cell = tuple[str, int]  # system, percent


def collect(
    runs: Sequence[Run],
    labels: Mapping[str, str],
    comparisons: Sequence[tuple[str, str]],
    changes: Sequence[tuple[str, str, str]] = (),
    *,
    n_replicates: int = bootstrap.N_REPLICATES,
) -> dict[str, Any]:
    """Return the figures of all runs that are done.

    Args:
      runs: of the whole table.
      labels: system → its label.
      comparisons: pairs of systems; the difference is the first minus the second.
      changes: steps of an ablation: the change, the system with it, the system without it.
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
    results = {cell: result(cell, cells[cell], n_replicates) for cell in cells}

    def compare(first: str, second: str) -> list[dict]:
        pairs = [((first, percent), (second, percent)) for percent in percents]
        return [
            difference(results[a], results[b], cells[a], cells[b], n_replicates)
            for a, b in pairs
            if a in cells and b in cells
        ]

    return {
        "splits": percents,
        "systems": {name: labels[name] for name in dict.fromkeys(run.system for run in runs)},
        **_about([run for cell in cells.values() for run in cell]),
        "level": bootstrap.LEVEL,
        "n_replicates": n_replicates,
        "results": [*results.values()],
        "differences": [row for pair in comparisons for row in compare(*pair)],
        "ablation": [
            {"change": change, **row} for change, *pair in changes for row in compare(*pair)
        ],
        "missing": {run.title: reason for run, reason in reasons.items() if reason is not None},
    }


def _read(runs: Sequence[Run]) -> dict[Cell, list[RunResults]]:
    """Return the runs by system and split; all share the first run's arrays of names."""
    cells: dict[Cell, list[RunResults]] = {}
    first = None
    for run in runs:
        read = run.read()
        first = first or read
        if not np.array_equal(read.filenames, first.filenames):
            raise UserError(
                f"{_name(read)} and {_name(first)} were tested on different clips: evaluate both "
                "on one data set, with asc-jax eval"
            )
        shared = first._replace(results=read.results, correct=read.correct)
        cells.setdefault((run.system, run.percent), []).append(shared)
    return cells


def _about(runs: Sequence[RunResults]) -> dict[str, Any]:
    """Return what all runs have in common, and where they differ although they should not."""
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


def result(cell: Cell, runs: Sequence[RunResults], n_replicates: int) -> dict[str, Any]:
    """Return the figures of a system on a split, over its seeds."""
    system, percent = cell
    official = all(run.results["official_lists"] for run in runs)
    known = (official and published(f"train_{percent}pct")) or {}
    summaries = [by_scene(run.summary) for run in runs]
    printed = known.get(system)
    figures = ("macro_accuracy", "accuracy", "log_loss")
    return {
        "system": system,
        "percent": percent,
        "seeds": [run.results["seed"] for run in runs],
        "complexity": runs[0].results["complexity"],
        **{name: _spread([s[name] for s in summaries]) for name in figures},
        "interval": {
            name: bootstrap.confidence_interval(_totals(runs, field), n_replicates=n_replicates)
            for name, field in CLUSTER_FIELDS.items()
        },
        **{
            kind: {
                name: _spread([s[kind][name]["accuracy"] for s in summaries], with_runs=False)
                for name in summaries[0][kind]
            }
            for kind in ("scenes", "devices")
        },
        "published": printed and by_scene(printed),
    }


def by_scene(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return figures of TAU under the names of the challenge: `scenes` and `devices`."""
    rest = {key: value for key, value in figures.items() if key not in ("classes", "groups")}
    device = figures.get("groups", {}).get("device", {"values": {}})
    return rest | {"scenes": figures["classes"], "devices": device["values"]}


def difference(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    first_runs: Sequence[RunResults],
    second_runs: Sequence[RunResults],
    n_replicates: int,
) -> dict[str, Any]:
    """Return the figures of the first system, as `result` gives them, minus the second's."""
    tests = {}
    for name, field in CLUSTER_FIELDS.items():
        pair = _totals([*first_runs, *second_runs], field), len(first_runs)
        interval = bootstrap.confidence_interval(*pair, n_replicates=n_replicates)
        p = bootstrap.paired_test(*pair, n_replicates=n_replicates)
        tests[name] = interval and interval | {"p": p}
    scenes = {
        name: (figure["mean"], second["scenes"][name]["mean"])
        for name, figure in first["scenes"].items()
    }
    printed = [(row["published"] or {}).get("macro_accuracy") for row in (first, second)]
    return {
        "first": first["system"],
        "second": second["system"],
        "percent": first["percent"],
        "mean": first["macro_accuracy"]["mean"] - second["macro_accuracy"]["mean"],
        "scenes": {
            name: None if None in means else means[0] - means[1] for name, means in scenes.items()
        },
        "tests": tests,
        "published": None if None in printed else round(printed[0] - printed[1], 6),
    }


def _spread(values: Sequence[float | None], *, with_runs: bool = True) -> dict[str, Any]:
    """Return mean and standard deviation over seeds; None for both where there are no clips."""
    mean, sd = (None, None) if None in values else bootstrap.mean_sd(values)
    return {"mean": mean, "sd": sd} | ({"runs": list(values)} if with_runs else {})


def _totals(runs: Sequence[RunResults], field: str) -> bootstrap.Totals:
    correct = np.stack([run.correct for run in runs])
    return bootstrap.cluster_totals(correct, runs[0].scene, getattr(runs[0], field))
