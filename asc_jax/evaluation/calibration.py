"""Calibration: how well confidences match accuracies, and the temperature that corrects them.

Of the clips that a calibrated network predicts with a confidence of 0.7, 70 % are correct. A
temperature divides the logits, which changes the confidence and never the predicted scene.
Everything is numpy in float64.

Source: C. Guo, G. Pleiss, Y. Sun, K. Weinberger: "On Calibration of Modern Neural Networks",
    ICML 2017.
"""

from typing import Any

import numpy as np

N_BINS = 15  # the number the source uses
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0
_HALVINGS = 70  # of the interval between the two, in logarithms: down to the last bit


def log_probs(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return ln softmax(logits / temperature) of `[..., n]` logits, float64."""
    scaled = np.asarray(logits, np.float64) / temperature
    with np.errstate(invalid="ignore"):  # infinite logits become NaN, for others to reject
        shifted = scaled - scaled.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def reliability(log_probs: np.ndarray, labels: np.ndarray, n_bins: int = N_BINS) -> dict[str, Any]:
    """Return the network's mean confidence and its accuracy in bins of confidence.

    A clip's confidence is the probability of its predicted scene; bin k of n holds those in
    (k / n, (k + 1) / n]. The expected calibration error, `ece`, is the mean over clips of
    |accuracy - confidence| of their bin.

    Args:
        log_probs: `[n_clips, n_scenes]` float, natural logarithms of probabilities.
        labels: `[n_clips]` int, the true scenes, all known; at least one clip.
        n_bins: how many bins, at least 1.

    Returns:
        Plain Python, ready for JSON: `n_clips`, `accuracy`, `confidence`, `ece`, `log_loss` in
        nats per clip, and `bins` from low to high confidence, each with `low`, `high`, `n_clips`,
        `confidence` and `accuracy` (means, None in an empty bin).

    Example:
        >>> result = reliability(np.log([[0.8, 0.2], [0.8, 0.2]]), np.array([0, 1]), n_bins=2)
        >>> round(result["ece"], 6), [b["n_clips"] for b in result["bins"]]
        (0.3, [0, 2])
    """
    edges = np.linspace(0, 1, n_bins + 1)
    confidence = np.exp(log_probs.max(axis=-1))  # [n_clips]
    correct = log_probs.argmax(axis=-1) == labels
    bin_id = np.searchsorted(edges[1:-1], confidence)  # as scikit-learn's calibration_curve
    n = np.bincount(bin_id, minlength=n_bins)
    confidences, accuracies = (
        np.bincount(bin_id, values, minlength=n_bins) for values in (confidence, correct)
    )  # sums
    return {
        "n_clips": len(labels),
        "accuracy": float(correct.mean()),
        "confidence": float(confidence.mean()),
        "ece": float(np.abs(accuracies - confidences).sum() / len(labels)),
        "log_loss": float(-log_probs[np.arange(len(labels)), labels].mean()),
        "bins": [
            {
                "low": float(edges[k]),
                "high": float(edges[k + 1]),
                "n_clips": int(n[k]),
                "confidence": float(confidences[k] / n[k]) if n[k] else None,
                "accuracy": float(accuracies[k] / n[k]) if n[k] else None,
            }
            for k in range(n_bins)
        ],
    }


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float | None:
    """Return the temperature that gives the smallest log loss, which is convex in its inverse.

    Args:
        logits: `[n_clips, n_scenes]` float, of clips that neither train nor test the network.
        labels: `[n_clips]` int, the true scenes, all known; at least one clip.

    Returns:
        The temperature; None where the minimum is not between 0.01 and 100: every clip is
        classified correctly, or they are no better classified than by chance.

    Example:
        >>> logits = np.log([[0.9, 0.1]] * 4)  # a confidence of 0.9, correct in 3 of 4
        >>> t = fit_temperature(logits, np.array([0, 0, 0, 1]))
        >>> [round(float(p), 6) for p in np.exp(log_probs(logits, t))[0]]
        [0.75, 0.25]
    """
    logits = np.asarray(logits, np.float64)
    at_label = logits[np.arange(len(labels)), labels]

    def slope(log_inverse: float) -> float:  # of the log loss, against 1 / temperature
        probs = np.exp(log_probs(logits, np.exp(-log_inverse)))
        return float(np.mean((probs * logits).sum(-1) - at_label))

    low, high = -np.log(MAX_TEMPERATURE), -np.log(MIN_TEMPERATURE)
    if not slope(low) < 0 < slope(high):
        return None
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return float(np.exp(-(low + high) / 2))
