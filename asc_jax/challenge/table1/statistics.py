"""The statistics of Table 1: a system on a split over its seeds, and one system minus another.

`table1_collect` says what the dicts hold.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from asc_jax.challenge.table1 import bootstrap, clusters
from asc_jax.challenge.table1.results import RunResults
from asc_jax.evaluation.report.published import published

CLUSTERS = {"segments": "segment", "locations": "location"}
Cell = tuple[str, int]  # system, percent


def result(cell: Cell, runs: Sequence[RunResults], n_replicates: int) -> dict[str, Any]:
    """One system on one split, over its seeds."""
    system, percent = cell
    known = _comparable(percent, runs)
    summaries = [run.summary for run in runs]
    figures = ("macro_accuracy", "accuracy", "log_loss")
    return {
        "system": system,
        "percent": percent,
        "seeds": [run.results["seed"] for run in runs],
        "complexity": runs[0].results["complexity"],
        **{name: _spread([s[name] for s in summaries]) for name in figures},
        "interval": {
            name: _interval(_totals(runs, field), None, n_replicates)
            for name, field in CLUSTERS.items()
        },
        **{
            kind: {
                name: _spread([s[kind][name]["accuracy"] for s in summaries], with_runs=False)
                for name in summaries[0][kind]
            }
            for kind in ("scenes", "devices")
        },
        "published": known.get(system),
    }


def difference(
    first: Cell,
    second: Cell,
    ours: Sequence[RunResults],
    theirs: Sequence[RunResults],
    n_replicates: int,
) -> dict[str, Any]:
    """The first system minus the second, on one split."""
    a, b = (_result_means(runs) for runs in (ours, theirs))
    tests = {}
    for name, field in CLUSTERS.items():
        totals = _totals([*ours, *theirs], field)
        interval = _interval(totals, len(ours), n_replicates)
        p = bootstrap.paired_test(totals, len(ours), n_replicates=n_replicates)
        tests[name] = interval and interval | {"p": p}
    known = _comparable(first[1], [*ours, *theirs])
    printed = [known.get(system, {}).get("macro_accuracy") for system, _ in (first, second)]
    return {
        "first": first[0],
        "second": second[0],
        "percent": first[1],
        "mean": a["macro"] - b["macro"],
        "scenes": {
            name: None if None in (a[name], b[name]) else a[name] - b[name]
            for name in a
            if name != "macro"
        },
        "tests": tests,
        "published": None if None in printed else round(printed[0] - printed[1], 6),
    }


def _comparable(percent: int, runs: Sequence[RunResults]) -> dict[str, Any]:
    """The published figures of a split; {} where a run was not made on the official lists."""
    official = all(run.results["official_lists"] for run in runs)
    return (official and published(f"train_{percent}pct")) or {}


def _spread(values: Sequence[float | None], *, with_runs: bool = True) -> dict[str, Any]:
    """Mean and standard deviation over seeds; None throughout for what has no clips."""
    mean, sd = (None, None) if None in values else bootstrap.mean_sd(values)
    return {"mean": mean, "sd": sd} | ({"runs": list(values)} if with_runs else {})


def _totals(runs: Sequence[RunResults], field: str) -> clusters.Totals:
    right = np.stack([run.right for run in runs])
    return clusters.cluster_totals(right, runs[0].scene, getattr(runs[0], field))


def _interval(totals: clusters.Totals, n_first: int | None, n_replicates: int) -> dict | None:
    interval = bootstrap.confidence_interval(totals, n_first, n_replicates=n_replicates)
    return interval and interval._asdict()


def _result_means(runs: Sequence[RunResults]) -> dict[str, float | None]:
    """Scene → its accuracy, and `macro`, their average: means over seeds."""
    summaries = [run.summary for run in runs]
    means = {
        name: _spread([s["scenes"][name]["accuracy"] for s in summaries])["mean"]
        for name in summaries[0]["scenes"]
    }
    return {**means, "macro": _spread([s["macro_accuracy"] for s in summaries])["mean"]}
