"""Collect the figures of two systems and of their difference: one dict, ready for JSON.

`collect` returns

`test_split`, `n_clips`, `n_clusters`, `clusters` (a word for what is resampled), `classes`,
`members` (column → set → its values), `level`, `n_replicates`, `n_replicates_of_parts`;
`systems`: label → `config`, `complexity`, `stored_dtypes`, `over_seeds` (`macro_accuracy`,
`accuracy` and `log_loss`, each `mean` and `sd`), and what `pools.pooled` returns;
`runs`: one dict per run: `system`, `seed`, `workdir`, `config`, `split`, `epoch`, `code_version`,
the figures, and `curves`, see `curves.read_curves`;
`difference`: `macro_accuracy`, `accuracy` and `log_loss` of the first system minus the second;
`interval` and `p` of the macro average; `answers`, the fractions of clips (means over pairs of
seeds) that `both`, `only_first`, `only_second` and `neither` classified correctly; `classes`:
name → `difference`, `interval`; `groups` and `sets`: column → name → `difference`, `interval`, `p`
of the macro average; `confusion`: `[n_classes][n_classes]`, fractions of the true class's clips;
`configs`: names of the config's values that differ → the two values;
`different_splits`, `code_versions`, `over_budget`, `trained_and_tested`, `selected` (workdirs or
names): what may make a comparison unfair.

Accuracies are fractions in [0, 1], log losses nats per clip. None stands for what cannot be said.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asc_jax.evaluation.campaign import bootstrap, pools
from asc_jax.evaluation.campaign.pools import Pool
from asc_jax.evaluation.campaign.runs import Answers
from asc_jax.evaluation.comparison.curves import read_curves
from asc_jax.evaluation.comparison.systems import System
from asc_jax.evaluation.intervals import MAX_VALUES, N_OF_PARTS

FIGURES = ("macro_accuracy", "accuracy", "log_loss")


def collect(
    systems: Sequence[System], *, n_replicates: int = bootstrap.N_REPLICATES
) -> dict[str, Any]:
    """Return the figures of two systems, as `systems.read_systems` reads them.

    n_replicates: of the averages' intervals and test; those of parts take at most `N_OF_PARTS`.
    """
    pair = [
        pools.pool_of_seeds({each.results["seed"]: each for each in system.answers.values()})
        for system in systems
    ]
    answers = [each for system in systems for each in system.answers.values()]
    first = answers[0]
    classes = first.labels.classes
    n_of_parts = min(n_replicates, N_OF_PARTS)
    results = {
        system.label: _of_system(system, pool, classes, n_replicates)
        for system, pool in zip(systems, pair, strict=True)
    }
    return {
        "test_split": first.results["test_split"],
        "n_clips": len(first.label),
        "n_clusters": len(np.unique(first.recording)),
        "clusters": first.clusters,
        "classes": list(classes),
        "members": {
            column: {name: list(values) for name, values in group.sets.items()}
            for column, group in first.labels.groups.items()
        },
        "level": bootstrap.LEVEL,
        "n_replicates": n_replicates,
        "n_replicates_of_parts": n_of_parts,
        "systems": results,
        "runs": [
            _of_run(system.label, workdir, each)
            for system in systems
            for workdir, each in system.answers.items()
        ],
        "difference": _difference(pair, [*results.values()], classes, n_replicates, n_of_parts),
        "configs": differing(*(system.config for system in systems)),
        **_flaws(systems),
    }


def _of_system(
    system: System, pool: Pool, classes: Sequence[str], n_replicates: int
) -> dict[str, Any]:
    runs = list(system.answers.values())
    return {
        "config": runs[0].results["config"],
        "complexity": runs[0].results["complexity"],
        "stored_dtypes": sorted({each.results["stored_dtype"] for each in runs}),
        "over_seeds": {
            name: pools.spread([each.summary[name] for each in runs]) for name in FIGURES
        },
        **pools.pooled(pool, classes, n_replicates),
    }


def _of_run(label: str, workdir: Path, answers: Answers) -> dict[str, Any]:
    results = answers.results
    about = ("seed", "config", "split", "epoch", "code_version")
    return {
        "system": label,
        "workdir": str(workdir),
        **{name: results.get(name) for name in about},
        **{name: answers.summary[name] for name in FIGURES},
        "curves": read_curves(workdir),
    }


def _difference(
    pair: Sequence[Pool],
    results: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    n_replicates: int,
    n_of_parts: int,
) -> dict[str, Any]:
    """Return the figures of the first system minus the second's."""
    first, second = pair
    whole = pools.difference(first, second, classes, n_replicates)
    found = {name: _minus(*(each[name] for each in results)) for name in FIGURES}
    return found | {
        "interval": whole["interval"],
        "p": whole["p"],
        "answers": _answers(first, second),
        "classes": {
            name: {
                "difference": whole["classes"][name],
                "interval": _interval(pair, first.label == number, n_of_parts),
            }
            for number, name in enumerate(classes)
        },
        "groups": {
            column: {
                value: _of_mask(pair, first.groups[column] == value, classes, n_of_parts)
                for value in values
            }
            for column, values in pools.by_value(first).items()
            if len(values) <= MAX_VALUES
        },
        "sets": {
            column: {
                name: _of_mask(pair, mask, classes, n_of_parts)
                for name, mask in pools.masks_of_sets(first, column).items()
            }
            for column, group in first.columns.items()
            if group.sets
        },
        "confusion": (np.subtract(*map(_shares, results))).tolist(),
    }


def _minus(first: float | None, second: float | None) -> float | None:
    return None if None in (first, second) else first - second


def _shares(result: Mapping[str, Any]) -> np.ndarray:
    """Return `[n_classes, n_classes]`, fractions of the true class's clips."""
    confusion = np.array(result["confusion"], float)
    return confusion / np.maximum(confusion.sum(1, keepdims=True), 1)


def _answers(first: Pool, second: Pool) -> dict[str, float]:
    """Return which fractions of the clips one of the systems, both or none classified correctly."""
    a, b = first.correct.mean(0), second.correct.mean(0)  # [n], fractions of the seeds
    return {
        "both": float((a * b).mean()),
        "only_first": float((a * (1 - b)).mean()),
        "only_second": float(((1 - a) * b).mean()),
        "neither": float(((1 - a) * (1 - b)).mean()),
    }


def _interval(pair: Sequence[Pool], mask: np.ndarray, n: int) -> dict[str, Any] | None:
    if not mask.any():
        return None
    totals = pools.totals_of(*(pool.where(mask) for pool in pair))
    return bootstrap.confidence_interval(totals, len(pair[0].seeds), n_replicates=n)


def _of_mask(
    pair: Sequence[Pool], mask: np.ndarray, classes: Sequence[str], n: int
) -> dict[str, Any]:
    found = pools.difference(*(pool.where(mask) for pool in pair), classes, n)
    return {name: found[name] for name in ("difference", "interval", "p")}


def differing(first: Mapping[str, Any], second: Mapping[str, Any], prefix: str = "config") -> dict:
    """Return the full names of the values that differ → both values; None where one lacks it.

    Example:
      >>> differing({"loss": {"gamma": 2.0}, "seed": 0}, {"loss": {"gamma": 0.0}, "seed": 0})
      {'config.loss.gamma': [2.0, 0.0]}
    """
    if not (first and second):
        return {}
    found = {}
    for key in [*first, *(key for key in second if key not in first)]:
        a, b, name = first.get(key), second.get(key), f"{prefix}.{key}"
        if isinstance(a, Mapping) and isinstance(b, Mapping) and a and b:
            found |= differing(a, b, name)
        elif a != b:
            found[name] = [a, b]
    return found


def _flaws(systems: Sequence[System]) -> dict[str, Any]:
    """Return what may make a comparison unfair, of all runs."""
    runs = {path: each.results for system in systems for path, each in system.answers.items()}
    versions = {each[key] for each in runs.values() for key in ("code_version", "evaluated_with")}
    splits = [
        sorted({each.results["split"] for each in system.answers.values()}) for system in systems
    ]

    def those(condition) -> list[str]:
        return [str(path) for path, each in runs.items() if condition(each)]

    return {
        "different_splits": splits if splits[0] != splits[1] else [],
        "code_versions": sorted(versions),
        "over_budget": those(lambda each: each["over_budget"]),
        "trained_and_tested": those(lambda each: each.get("trained_and_tested")),
        "selected": those(
            lambda each: each.get("checkpoint") == "best" and not each.get("validation")
        ),
    }
