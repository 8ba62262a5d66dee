"""The clips of a test split, with what each seed of a system predicted for them, and their figures.

Accuracies are fractions in [0, 1], log losses nats per clip. None stands for what cannot be said.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from asc_jax.data.labels import Group
from asc_jax.evaluation.campaign import bootstrap
from asc_jax.evaluation.campaign.runs import Answers


class Pool(NamedTuple):
    """Clips, with the answers of each seed; `columns` are the group columns that they have."""

    seeds: list[int]
    label: np.ndarray  # [n] int
    recording: np.ndarray  # [n] str, what is resampled, see `clusters`
    groups: Mapping[str, np.ndarray]  # column → [n] str
    columns: Mapping[str, Group]
    predicted: np.ndarray  # [n_seeds, n] int
    log_loss: np.ndarray  # [n_seeds], mean over the clips

    @property
    def correct(self) -> np.ndarray:
        """Return `[n_seeds, n]` bool."""
        return self.predicted == self.label

    def where(self, mask: np.ndarray) -> "Pool":
        """Return the clips of a mask `[n]` bool alone; their log loss is not known."""
        return self._replace(
            label=self.label[mask],
            recording=self.recording[mask],
            groups={column: cells[mask] for column, cells in self.groups.items()},
            predicted=self.predicted[:, mask],
            log_loss=np.full(len(self.seeds), np.nan),
        )


def pool_of_seeds(seeds: Mapping[int, Answers]) -> Pool:
    """Return the clips of one test split, with the answers of one seed or more."""
    runs = list(seeds.values())
    first = runs[0]
    return Pool(
        list(seeds),
        label=first.label,
        recording=first.recording,
        groups=first.groups,
        columns=first.labels.groups,
        predicted=np.stack([run.predicted for run in runs]),
        log_loss=np.array([run.summary["log_loss"] for run in runs], float),  # None becomes NaN
    )


def pooled(pool: Pool, classes: Sequence[str], n_replicates: int) -> dict[str, Any]:
    """Return the figures of pooled clips, of which each is tested once with each seed.

    They are `seeds`, `n_clips`, `n_recordings`; means over seeds of the figures;
    `interval` of the macro average, by recordings; `classes`: name → `n_clips`, `n_recordings`,
    `accuracy`; `groups`: column → value → `n_clips`, `accuracy`, `macro_accuracy`;
    `confusion`: `[n_classes][n_classes]` clips, rows the true class, each counted with each seed.
    """
    totals = totals_of(pool)
    confusion = np.zeros((len(classes), len(classes)), int)
    np.add.at(confusion, (np.tile(pool.label, len(pool.seeds)), pool.predicted.ravel()), 1)
    log_loss = float(pool.log_loss.mean())
    return {
        "seeds": pool.seeds,
        "n_clips": len(pool.label),
        "n_recordings": len(np.unique(pool.recording)),
        "macro_accuracy": float(bootstrap.macro_average(totals).mean()),
        "accuracy": float(pool.correct.mean()),
        "log_loss": log_loss if np.isfinite(log_loss) else None,
        "interval": bootstrap.confidence_interval(totals, n_replicates=n_replicates),
        "classes": {
            name: of_class(pool, pool.label == number) for number, name in enumerate(classes)
        },
        "groups": by_value(pool),
        "confusion": confusion.tolist(),
    }


def by_value(pool: Pool) -> dict[str, dict[str, dict[str, Any]]]:
    """Return column → value → `n_clips`, `accuracy`, `macro_accuracy`, of the values with clips."""
    return {
        column: {
            value: _of_mask(pool, cells == value)
            for value in _in_order(pool.columns[column].values, cells)
        }
        for column, cells in pool.groups.items()
    }


def by_set(pool: Pool) -> dict[str, dict[str, dict[str, Any]]]:
    """Return column → set → `n_clips`, `accuracy`, `macro_accuracy`, of the sets with clips."""
    return {
        column: {name: _of_mask(pool, mask) for name, mask in masks_of_sets(pool, column).items()}
        for column, group in pool.columns.items()
        if group.sets
    }


def masks_of_sets(pool: Pool, column: str) -> dict[str, np.ndarray]:
    """Return which clips `[n]` bool each set of values has, of the sets that have some."""
    cells = pool.groups[column]
    masks = {name: np.isin(cells, values) for name, values in pool.columns[column].sets.items()}
    return {name: mask for name, mask in masks.items() if mask.any()}


def of_class(pool: Pool, mask: np.ndarray) -> dict[str, Any]:
    """Return `n_clips`, `n_recordings` and `accuracy` of the clips of a class, `[n]` bool."""
    return {
        "n_clips": int(mask.sum()),
        "n_recordings": len(np.unique(pool.recording[mask])),
        "accuracy": float(pool.correct[:, mask].mean()) if mask.any() else None,
    }


def _of_mask(pool: Pool, mask: np.ndarray) -> dict[str, Any]:
    correct, label = pool.correct[:, mask], pool.label[mask]
    totals = bootstrap.cluster_totals(correct, label, label)
    return {
        "n_clips": int(mask.sum()),
        "accuracy": float(correct.mean()),
        "macro_accuracy": float(bootstrap.macro_average(totals).mean()),
    }


def _in_order(values: Sequence[str], cells: np.ndarray) -> list[str]:
    """Return the values that occur, in their own order and then what is not known."""
    there = set(cells.tolist())
    return [value for value in (*values, *sorted(there - {*values})) if value in there]


def difference(
    first: Pool | None, second: Pool | None, classes: Sequence[str], n_replicates: int
) -> dict[str, Any]:
    """Return `difference`, `interval`, `p` and `classes` of two pools of the same clips."""
    if first is None or second is None:
        return {"difference": None, "interval": None, "p": None, "classes": {}}
    totals = totals_of(first, second)
    macro, n_first = bootstrap.macro_average(totals), len(first.seeds)
    interval = bootstrap.confidence_interval(totals, n_first, n_replicates=n_replicates)
    p = bootstrap.paired_test(totals, n_first, n_replicates=n_replicates)
    accuracies = [
        [of_class(pool, pool.label == number)["accuracy"] for pool in (first, second)]
        for number in range(len(classes))
    ]
    return {
        "difference": float(macro[:n_first].mean() - macro[n_first:].mean()),
        "interval": interval,
        "p": interval and p,
        "classes": {
            name: None if None in pair else pair[0] - pair[1]
            for name, pair in zip(classes, accuracies, strict=True)
        },
    }


def totals_of(*pools: Pool) -> bootstrap.Totals:
    """Return clips by class and recording, of the seeds of all pools."""
    correct = np.concatenate([pool.correct for pool in pools])
    return bootstrap.cluster_totals(correct, pools[0].label, pools[0].recording)


def spread(values: Sequence[float | None]) -> dict[str, float | None]:
    """Return mean and standard deviation; None for both where a value, or every one, is None."""
    mean, sd = (None, None) if None in values or not values else bootstrap.mean_sd(values)
    return {"mean": mean, "sd": sd}
