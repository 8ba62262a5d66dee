"""Confidence intervals of one evaluated run, and its accuracies by class and group value."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from asc_jax.data.labels import UNKNOWN_NAME
from asc_jax.evaluation import analysis
from asc_jax.evaluation.campaign import bootstrap
from asc_jax.evaluation.campaign.clusters import clusters_of
from asc_jax.evaluation.evaluate import Predictions

MAX_VALUES = 40  # of a group column that has intervals and a table by class
N_OF_PARTS = 2_000  # replicates of each interval of a class or of a group value
MANY = 5_000  # clusters, above which the averages' intervals have no more replicates than these


def of_predictions(
    predictions: Predictions,
    cluster: str | None = None,
    *,
    n_replicates: int = bootstrap.N_REPLICATES,
) -> dict[str, Any]:
    """Return the intervals of a run's accuracies, by bootstrap over clusters within each class.

    They say how other clips would change the figures of this trained network; what another seed
    would change is not part of them. Group columns of more than `MAX_VALUES` values are left out.

    Args:
      predictions: of the test clips; those without a label do not count.
      cluster: group column whose values are resampled; None: recordings or moments, see
        `campaign.clusters`.
      n_replicates: of the averages' intervals; those of parts, and all where there are more than
        `MANY` clusters, take at most `N_OF_PARTS`.

    Returns:
      `clusters`, a word for what is resampled, `n_clusters`, `level`, `n_replicates`; and, each
      `low` and `high` as fractions, or None where a class has a single cluster: `macro_accuracy`,
      `accuracy`, `classes` (name → …) and `groups` (column → `values` and `sets`, name → …), the
      last two of the plain accuracies.

    Raises:
      UserError: there is no such group column.
    """
    known = analysis.truth(predictions)
    columns = {name: np.array(known[name]) for name in predictions.labels.groups}
    names, word = clusters_of(known["filename"], known["recording"], columns, cluster)
    counted = predictions.label >= 0
    n_clusters = len(np.unique(names[counted]))
    parts = min(n_replicates, N_OF_PARTS)
    n_replicates = n_replicates if n_clusters <= MANY else parts
    correct, label = predictions.logits.argmax(-1) == predictions.label, predictions.label

    def interval(mask: np.ndarray, n: int, *, macro: bool = False) -> dict[str, float] | None:
        mask = mask & counted
        if not mask.any():
            return None
        totals = bootstrap.cluster_totals(correct[None, mask], label[mask], names[mask])
        totals = totals if macro else bootstrap.weighed_by_clips(totals)
        found = bootstrap.confidence_interval(totals, n_replicates=n)
        return found and {end: found[end] for end in ("low", "high")}

    return {
        "clusters": word,
        "n_clusters": n_clusters,
        "level": bootstrap.LEVEL,
        "n_replicates": n_replicates,
        "macro_accuracy": interval(counted, n_replicates, macro=True),
        "accuracy": interval(counted, n_replicates),
        "classes": {
            name: interval(label == number, parts)
            for number, name in enumerate(predictions.labels.classes)
        },
        "groups": {
            column: {
                "values": {
                    value: interval(cells == value, parts) for value in _values(predictions, column)
                },
                "sets": {
                    name: interval(np.isin(cells, members), parts)
                    for name, members in predictions.labels.groups[column].sets.items()
                },
            }
            for column, cells in columns.items()
            if len(predictions.labels.groups[column].values) <= MAX_VALUES
        },
    }


def by_class_and_value(predictions: Predictions) -> dict[str, dict[str, Any]]:
    """Return the accuracies of each class in each value of a group column.

    Returns:
      column → `values` (names, in their order), `n_clips` and `accuracy`, each
      `[n_classes][n_values]`, the accuracy None where there are no clips; columns of more than
      `MAX_VALUES` values are left out.
    """
    labels, label = predictions.labels, predictions.label
    correct = predictions.logits.argmax(-1) == label
    found = {}
    for column, group in labels.groups.items():
        values = _values(predictions, column)
        if not 1 <= len(group.values) <= MAX_VALUES:
            continue
        ids = np.where(
            predictions.groups[column] < 0, len(group.values), predictions.groups[column]
        )
        counts = np.zeros((2, labels.n_classes, len(group.values) + 1), int)
        kept = label >= 0
        np.add.at(counts[0], (label[kept], ids[kept]), 1)
        np.add.at(counts[1], (label[kept], ids[kept]), correct[kept])
        n_clips, n_correct = counts[:, :, : len(values)].tolist()
        found[column] = {
            "values": values,
            "n_clips": n_clips,
            "accuracy": [
                [right / n if n else None for right, n in zip(*pair, strict=True)]
                for pair in zip(n_correct, n_clips, strict=True)
            ],
        }
    return found


def _values(predictions: Predictions, column: str) -> list[str]:
    """Return the values of a column, and "unknown" where some clips have none."""
    cells = predictions.groups[column][predictions.label >= 0]
    return [*predictions.labels.groups[column].values, *[UNKNOWN_NAME] * bool((cells < 0).any())]


def no_width(found: Any) -> bool:
    """Return whether a tree of figures has an interval whose ends are equal, at any depth.

    Example:
      >>> no_width({"classes": {"bus": {"low": 1.0, "high": 1.0}, "park": None}})
      True
    """
    if not isinstance(found, Mapping):
        return False
    if {"low", "high"} <= found.keys():
        return found["low"] == found["high"]
    return any(map(no_width, found.values()))


def of(results: Mapping[str, Any], *path: str) -> Mapping[str, float] | None:
    """Return the interval at a path of a run's results; None where it has none, as older ones."""
    found: Any = results.get("intervals") or {}
    for key in path:
        found = (found or {}).get(key)
    return found or None
