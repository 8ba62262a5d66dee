"""The figures of a set of predictions: accuracy and log loss by class and by group."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from asc_jax.data.labels import UNKNOWN_NAME, Group, Labels

FIGURES = ("n_clips", "accuracy", "macro_accuracy", "log_loss", "macro_log_loss")
BY_CLASS = ("n_clips", "accuracy", "log_loss")
BY_GROUP = ("n_clips", "accuracy", "log_loss", "macro_accuracy")
OF_PREDICTED = ("precision", "recall", "f1")


def summarize(
    log_probs: np.ndarray, label: np.ndarray, groups: Mapping[str, np.ndarray], labels: Labels
) -> dict[str, Any]:
    """Return the figures of predictions, counted exactly and ready for JSON.

    Clips without a label are not counted. Clips whose group value is not known count in the row
    "unknown" of that group. Macro averages are plain means over the classes that have clips, so
    that a class weighs the same however many clips it has; the challenge ranks by this. What has
    no clips gets None, not zero.

    Args:
      log_probs: `[n, n_classes]` float, natural logarithms of probabilities.
      label: `[n]` int, the true class, -1 where it is not known.
      groups: column → `[n]` int, numbers of values, -1 where unknown.
      labels: names of classes and values.

    Returns:
      `n_clips`, `accuracy`, `macro_accuracy`, `log_loss`, `macro_log_loss` of all clips;
      `classes`: name → `n_clips`, `accuracy`, `log_loss`;
      `groups`: column → `values` and `sets`, each name → `n_clips`, `accuracy`, `macro_accuracy`,
      `log_loss`; `confusion`: `[n_classes][n_classes]` clips, rows the true class.
      Accuracies are fractions in [0, 1], log losses nats per clip.

    Source: the metrics of DCASE 2024 Task 1, macro average accuracy and log loss.

    Example:
      >>> labels = Labels(("cat", "dog"))
      >>> summarize(np.log([[0.5, 0.5], [0.75, 0.25]]), np.array([0, 1]), {}, labels)["accuracy"]
      0.5
    """
    n_classes = labels.n_classes
    known = (label >= 0) & (label < n_classes)
    log_probs, label = log_probs[known], label[known]
    predicted = log_probs.argmax(-1)
    loss = -log_probs[np.arange(len(label)), label]

    def count(ids: np.ndarray, n: int) -> np.ndarray:
        """Return clips, correct ones and log loss by value and true class, `[3, n, n_classes]`."""
        table = np.zeros((3, n, n_classes))
        np.add.at(table[0], (ids, label), 1)
        np.add.at(table[1], (ids, label), predicted == label)
        np.add.at(table[2], (ids, label), loss)
        return table

    by_group = {}
    for column, group in labels.groups.items():
        ids = groups.get(column, np.full(len(known), -1))[known]
        unknown = (ids < 0) | (ids >= len(group.values))
        by_group[column] = count(np.where(unknown, len(group.values), ids), len(group.values) + 1)
    # Summed over the values of the first group, in the order that gives results their last bits.
    table = next(iter(by_group.values()), None)
    if table is None:
        table = count(np.zeros(len(label), int), 1)
    confusion = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(confusion, (label, predicted), 1)
    return _describe(table.sum(1)) | {
        "classes": {
            name: _describe(table[:, :, [i]].sum(1), BY_CLASS)
            for i, name in enumerate(labels.classes)
        },
        "groups": {
            column: _describe_group(by_group[column], group)
            for column, group in labels.groups.items()
        },
        "confusion": confusion.tolist(),
    }


def _describe_group(table: np.ndarray, group: Group) -> dict[str, Any]:
    """Return the figures of `table [3, n_values + 1, n_classes]` by value and by set of values."""
    values = {name: _describe(table[:, i], BY_GROUP) for i, name in enumerate(group.values)}
    unknown = _describe(table[:, -1], BY_GROUP)
    if unknown["n_clips"]:
        values[UNKNOWN_NAME] = unknown
    sets = {
        name: _describe(table[:, [group.values.index(v) for v in members]].sum(1), BY_GROUP)
        for name, members in group.sets.items()
    }
    return {"values": values, "sets": sets}


def _describe(table: np.ndarray, names: Sequence[str] = FIGURES) -> dict[str, Any]:
    """Return figures of `table [3, n]`: by class the clips, the correct ones and the log loss."""
    clips, correct, log_loss = table[:, table[0] > 0]  # [n_present] each
    if not clips.size:
        return dict.fromkeys(names) | {"n_clips": 0}
    figures = {
        "n_clips": int(clips.sum()),
        "accuracy": float(correct.sum() / clips.sum()),
        "macro_accuracy": float((correct / clips).mean()),
        "log_loss": float(log_loss.sum() / clips.sum()),
        "macro_log_loss": float((log_loss / clips).mean()),
    }
    return {name: figures[name] for name in names}


def of_predicted(confusion: Sequence[Sequence[int]]) -> dict[str, list[float | None]]:
    """Return precision, recall and F1 of each class; recall is what is called its accuracy.

    Precision is the fraction of the clips predicted as a class that are of it, F1 the harmonic
    mean of both. What has no clips gets None: the precision of a class that was never predicted,
    the recall of one without clips, and F1 where both hold.

    Args:
      confusion: `[n_classes][n_classes]` clips, rows the true class.

    Returns:
      `n_predicted`, and `precision`, `recall` and `f1`, fractions in [0, 1]: `[n_classes]` each.

    Source: D. M. W. Powers, "Evaluation: from precision, recall and F-measure to ROC,
      informedness, markedness and correlation", Journal of Machine Learning Technologies 2011.

    Example:
      >>> of_predicted([[3, 1], [0, 0]])["precision"], of_predicted([[3, 1], [0, 0]])["recall"]
      ([1.0, 0.0], [0.75, None])
    """
    table = np.asarray(confusion, np.int64)
    correct, n_clips, n_predicted = table.diagonal(), table.sum(1), table.sum(0)

    def fractions(parts: np.ndarray, wholes: np.ndarray) -> list[float | None]:
        pairs = zip(parts.tolist(), wholes.tolist(), strict=True)
        return [part / whole if whole else None for part, whole in pairs]

    return {
        "n_predicted": n_predicted.tolist(),
        "precision": fractions(correct, n_predicted),
        "recall": fractions(correct, n_clips),
        "f1": fractions(2 * correct, n_clips + n_predicted),
    }
