"""Calibration: how well confidences match accuracies, and the temperature that corrects them.

Of the clips that a calibrated network gives its scene with 0.7, it is right about 70 %. The
expected calibration error says how far off it is on average; a temperature, which divides the
logits, changes the network's confidence and never the predicted scene. All of it in numpy,
float64: arrays in, arrays out.

Source: C. Guo, G. Pleiss, Y. Sun, K. Weinberger: "On Calibration of Modern Neural Networks",
    ICML 2017.
"""

from typing import Any

import numpy as np

N_BINS = 15  # the number the source uses
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0
_HALVINGS = 70  # of the interval between the two, in logarithms: down to the last bit


def log_probs(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """`[..., n]` logits → ln softmax(logits / temperature), float64."""
    scaled = np.asarray(logits, np.float64) / temperature
    with np.errstate(invalid="ignore"):  # infinite logits become NaN, for others to refuse
        shifted = scaled - scaled.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def reliability(log_probs: np.ndarray, labels: np.ndarray, n_bins: int = N_BINS) -> dict[str, Any]:
    """Return the network's mean confidence and its accuracy in bins of confidence.

    A clip's confidence is the probability of the scene named for it. Bin k of n holds the
    confidences in (k / n, (k + 1) / n], of equal width whatever they hold. The expected
    calibration error is the mean over clips of |accuracy - confidence| of their bin.

    Args:
        log_probs: `[n_clips, n_scenes]` float, natural logarithms of probabilities.
        labels: `[n_clips]` int, the true scenes, all known; at least one clip.
        n_bins: how many bins, at least 1.

    Returns:
        Plain Python, ready for JSON: `n_clips`, `accuracy`, `confidence` (the mean), `ece` in
        [0, 1], `log_loss` in nats per clip, and `bins`, from the least sure, each with `low`,
        `high`, `n_clips`, `confidence` and `accuracy` (means, None in an empty bin).

    Example:
        >>> result = reliability(np.log([[0.8, 0.2], [0.8, 0.2]]), np.array([0, 1]), n_bins=2)
        >>> round(result["ece"], 6), [b["n_clips"] for b in result["bins"]]
        (0.3, [0, 2])
    """
    edges = np.linspace(0, 1, n_bins + 1)
    confidence = np.exp(log_probs.max(axis=-1))  # [n_clips]
    right = log_probs.argmax(axis=-1) == labels
    bin_id = np.searchsorted(edges[1:-1], confidence)  # as scikit-learn's calibration_curve
    n, right_sum, confidence_sum = (
        np.bincount(bin_id, weights, minlength=n_bins)
        for weights in (np.ones(len(labels)), right, confidence)
    )
    return {
        "n_clips": len(labels),
        "accuracy": float(right.mean()),
        "confidence": float(confidence.mean()),
        "ece": float(np.abs(right_sum - confidence_sum).sum() / len(labels)),
        "log_loss": float(-log_probs[np.arange(len(labels)), labels].mean()),
        "bins": [
            {
                "low": float(edges[k]),
                "high": float(edges[k + 1]),
                "n_clips": int(n[k]),
                "confidence": float(confidence_sum[k] / n[k]) if n[k] else None,
                "accuracy": float(right_sum[k] / n[k]) if n[k] else None,
            }
            for k in range(n_bins)
        ],
    }


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float | None:
    """The temperature that gives the smallest log loss.

    The log loss is convex in 1 / temperature, so that halving an interval by the sign of its
    slope finds the minimum. Fit on clips that neither trained nor test the network.

    Args:
        logits: `[n_clips, n_scenes]` float, at least one clip.
        labels: `[n_clips]` int, the true scenes, all known.

    Returns:
        The temperature; None where the minimum is not between 0.01 and 100: every clip is
        named rightly, so that surer is always better, or no better than by chance.

    Example:
        >>> logits = np.log([[0.9, 0.1]] * 4)  # sure to 90 %, right in 3 of 4
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
