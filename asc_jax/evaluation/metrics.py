"""Counts per device and scene, and every figure that follows from them.

Sums are kept, never means: sums of two batches, replicas or hosts can be added, and rows
that only fill a batch up cannot bias them. Means are taken once, at the end, in float64.
"""

import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from asc_jax.data.tau.taxonomy import DEVICE_GROUPS, DEVICES, N_DEVICES, N_SCENES, SCENES
from asc_jax.types import Array, Metrics

FIGURES = ("n_clips", "accuracy", "macro_accuracy", "log_loss", "macro_log_loss")


def counts(
    logits: Array, labels: Array, device_id: Array, mask: Array, *, n_devices: int = N_DEVICES
) -> Metrics:
    """Count clips and add up log losses, per device and true scene, under jit.

    A row whose mask is False, or whose label or device id is unknown (-1) or beyond the table,
    adds nothing, whatever its logits are.

    Args:
        logits: `[b, n_scenes]` float.
        labels, device_id: `[b]` int, positions in `taxonomy.SCENES` and `taxonomy.DEVICES`.
        mask: `[b]` bool, False for rows that do not count.
        n_devices: how many devices the table has.

    Returns:
        `confusion` `[n_devices, n_scenes, n_scenes]` int32, clips by device, true scene and
        predicted scene; `log_loss` `[n_devices, n_scenes]` in the dtype of `logits`, nats.

    Example:
        >>> logits = jnp.array([[2.0, 0.0], [2.0, 0.0], [0.0, 9.0]])
        >>> labels, device_id = jnp.array([0, 1, 1]), jnp.array([0, 0, 0])
        >>> mask = jnp.array([True, True, False])
        >>> sums = counts(logits, labels, device_id, mask, n_devices=1)
        >>> sums["confusion"].tolist()
        [[[1, 0], [1, 0]]]
    """
    n_scenes = logits.shape[-1]
    known_label = (labels >= 0) & (labels < n_scenes)
    known_device = (device_id >= 0) & (device_id < n_devices)
    counted = mask.astype(bool) & known_label & known_device  # [b]
    label = jnp.where(counted, labels, 0)
    device = jnp.where(counted, device_id, 0)
    confusion = jnp.zeros((n_devices, n_scenes, n_scenes), jnp.int32)
    confusion = confusion.at[device, label, jnp.argmax(logits, -1)].add(counted.astype(jnp.int32))
    log_probs = jax.nn.log_softmax(logits)
    log_loss = -jnp.take_along_axis(log_probs, label[:, None], axis=-1)[:, 0]  # [b]
    # Selected and summed, not scattered or multiplied by one-hot rows: the order is fixed,
    # no accelerator rounds the summands, and NaN in a row that does not count stays out.
    at_device = device[:, None] == jnp.arange(n_devices)[None]  # [b, n_devices]
    at_label = label[:, None] == jnp.arange(n_scenes)[None]  # [b, n_scenes]
    cell = at_device[:, :, None] & at_label[:, None, :] & counted[:, None, None]
    log_loss = jnp.where(cell, log_loss[:, None, None], jnp.zeros((), logits.dtype)).sum(0)
    return {"confusion": confusion, "log_loss": log_loss}


def tally(log_probs: np.ndarray, labels: np.ndarray, device_id: np.ndarray) -> Metrics:
    """Return the sums of `counts` by numpy, int64 and float64: exact to the last digits.

    log_probs: `[n, n_scenes]` float, natural logarithms of probabilities.
    """
    known = (labels >= 0) & (labels < N_SCENES) & (device_id >= 0) & (device_id < N_DEVICES)
    log_probs, label, device = log_probs[known], labels[known], device_id[known]
    confusion = np.zeros((N_DEVICES, N_SCENES, N_SCENES), np.int64)
    log_loss = np.zeros((N_DEVICES, N_SCENES))
    np.add.at(confusion, (device, label, log_probs.argmax(-1)), 1)
    np.add.at(log_loss, (device, label), -log_probs[np.arange(len(label)), label])
    return {"confusion": confusion, "log_loss": log_loss}


def add(a: Metrics, b: Metrics) -> Metrics:
    """Add what `counts` returned twice; a ValueError if the two have not the same entries."""
    return jax.tree.map(operator.add, dict(a), dict(b))


def summarize(sums: Metrics) -> dict[str, Any]:
    """Turn what `counts` returns into the figures people read: plain Python, ready for JSON.

    Macro averages are plain means over the scenes that have clips, so that a scene weighs
    the same however many clips it has; the challenge ranks by this. What has no clips gets
    None, not zero.

    Returns:
        `n_clips`, `accuracy`, `macro_accuracy`, `log_loss`, `macro_log_loss` of all clips;
        `scenes`: name → `n_clips`, `accuracy`, `log_loss`;
        `devices` and `groups`: name → `n_clips`, `accuracy`, `macro_accuracy`, `log_loss`;
        `confusion`: `[n_scenes][n_scenes]` clips, rows the true scene.
        Accuracies are fractions in [0, 1], log losses nats per clip.

    Raises:
        ValueError: the arrays do not have the shape of the taxonomy.

    Source: the metrics of DCASE 2024 Task 1, macro average accuracy and log loss.
    """
    confusion = np.asarray(sums["confusion"], np.int64)  # [device, true, predicted]
    log_loss = np.asarray(sums["log_loss"], np.float64)  # [device, true]
    expected = (N_DEVICES, N_SCENES, N_SCENES)
    if confusion.shape != expected or log_loss.shape != expected[:2]:
        raise ValueError(
            f"expected a confusion of shape {expected} and a log_loss of shape "
            f"{expected[:2]}, got {confusion.shape} and {log_loss.shape}"
        )
    # [figure, device, true scene]: clips, those classified correctly, log loss
    table = np.stack([confusion.sum(2), np.einsum("dss->ds", confusion), log_loss])
    by_scene = ("n_clips", "accuracy", "log_loss")
    by_device = (*by_scene, "macro_accuracy")
    ids = {group: [DEVICES.index(name) for name in names] for group, names in DEVICE_GROUPS.items()}
    return _describe(table.sum(1)) | {
        "scenes": {
            name: _describe(table[:, :, [i]].sum(1), by_scene) for i, name in enumerate(SCENES)
        },
        "devices": {name: _describe(table[:, i], by_device) for i, name in enumerate(DEVICES)},
        "groups": {name: _describe(table[:, ids[name]].sum(1), by_device) for name in ids},
        "confusion": confusion.sum(0).tolist(),
    }


def _describe(table: np.ndarray, names: Sequence[str] = FIGURES) -> dict[str, Any]:
    """Return figures of `table [3, n]`: by scene the clips, the correct ones and the log loss."""
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
