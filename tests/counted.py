"""Summaries of invented counts, for tests."""

import numpy as np

from asc_jax.data.tau.taxonomy import LABELS
from asc_jax.evaluation import metrics


def summarize(confusion, log_loss, labels=LABELS):
    """`metrics.summarize` of so many clips.

    confusion: `[n_values, true, predicted]` clips, by the value of the first group column;
    `[true, predicted]` if there is none. log_loss: `[n_values, true]` or `[true]`, summed.
    """
    columns = list(labels.groups)[:1]
    if not columns:
        confusion, log_loss = confusion[None], log_loss[None]
    value, label, predicted = np.repeat(np.argwhere(confusion), confusion[confusion > 0], axis=0).T
    losses = (log_loss / np.maximum(confusion.sum(2), 1))[value, label]
    rows = np.arange(len(label))
    log_probs = np.full((len(label), labels.n_classes), -1e6)
    log_probs[rows, predicted] = 1 - losses  # no logarithm of a probability, but the largest
    log_probs[rows, label] = -losses
    return metrics.summarize(log_probs, label, dict.fromkeys(columns, value), labels)
