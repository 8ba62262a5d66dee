"""Analyse predictions beyond accuracies: segments, calibration, misclassified clips."""

from typing import Any

import numpy as np

from asc_jax.data import clip_names
from asc_jax.data.tau.taxonomy import DEVICES, SCENES
from asc_jax.errors import UserError
from asc_jax.evaluation import calibration, metrics
from asc_jax.evaluation.evaluate import Predictions

NO_VALIDATION = (
    "no clips to fit one on: train with --config.data.validation_locations=0.2, which holds "
    "training locations out; the test split is not for fitting"
)
NO_MINIMUM = (
    "on the held-out locations the log loss has no minimum between the temperatures "
    f"{calibration.MIN_TEMPERATURE:g} and {calibration.MAX_TEMPERATURE:g}"
)


def by_segment(predictions: Predictions) -> dict[str, Any]:
    """Return figures of ten-second recordings, from the mean probabilities of their clips.

    Each device's recording counts as one segment. The figures are `n_segments` and the averages
    of `metrics.summarize`; or `missing` alone, the reason why there are none.
    """
    try:
        names = clip_names.segment_names(predictions.filenames)
    except UserError as error:
        return {"missing": str(error)}
    first, probs = clip_names.means(names, np.exp(calibration.log_probs(predictions.logits)))
    with np.errstate(divide="ignore"):  # a probability may be 0; its log loss is infinite
        sums = metrics.tally(np.log(probs), predictions.label[first], predictions.device_id[first])
    summary = metrics.summarize(sums)
    averages = {name: summary[name] for name in metrics.FIGURES[1:]}
    return {"n_segments": summary["n_clips"]} | averages


def describe_held_out(held_out: Predictions) -> dict[str, Any]:
    """Return the `locations` that were held out, `n_clips`, and the figures on those clips."""
    names = clip_names.location_names(held_out.filenames)
    figures = ("n_clips", "accuracy", "macro_accuracy", "log_loss")
    locations = {"locations": sorted(set(names.tolist()))}
    return locations | {name: held_out.summary[name] for name in figures}


def calibrate(predictions: Predictions, held_out: Predictions | None = None) -> dict[str, Any]:
    """Return the calibration of the test clips' probabilities, as they are and with a temperature.

    held_out: of clips that were neither trained nor tested on, to fit the temperature on.

    Returns:
      `as_trained` and `with_temperature`, each a `calibration.reliability` of the test clips
      with a label, or None; `temperature`, or None; `fitted_on`: `n_clips` and the log
      losses on them, `before` and `after`, or None; `why_not`, the reason why there is no
      temperature, or None.
    """
    logits, labels = _labelled(predictions)
    temperature, fitted_on, why_not = None, None, NO_VALIDATION
    if held_out is not None:
        fit_logits, fit_labels = _labelled(held_out)
        if len(fit_labels):
            temperature = calibration.fit_temperature(fit_logits, fit_labels)
        why_not = NO_MINIMUM if temperature is None else None
    if temperature is not None:
        before, after = (_reliability(fit_logits, fit_labels, t) for t in (1.0, temperature))
        fitted_on = {"n_clips": len(fit_labels), "before": before["log_loss"]}
        fitted_on["after"] = after["log_loss"]
    return {
        "as_trained": _reliability(logits, labels, 1.0),
        "with_temperature": _reliability(logits, labels, temperature),
        "temperature": temperature,
        "fitted_on": fitted_on,
        "why_not": why_not,
    }


def _reliability(logits: np.ndarray, labels: np.ndarray, temperature: float | None) -> dict | None:
    """Return the reliability with a temperature; None without one, or without a clip."""
    if temperature is None or not len(labels):
        return None
    return calibration.reliability(calibration.log_probs(logits, temperature), labels)


def most_confused(predictions: Predictions, n: int = 12) -> list[dict[str, Any]]:
    """Return `n` misclassified clips of the highest confidence, one of a recording at most.

    Each has its `number` in the split, `filename`, true `scene` and `device`, the scene
    `predicted`, its `probability` and the `true_probability`.
    """
    probs = np.exp(calibration.log_probs(predictions.logits))
    predicted, label = probs.argmax(-1), predictions.label
    wrong = np.flatnonzero((label >= 0) & (predictions.device_id >= 0) & (predicted != label))
    clips: dict[str, dict] = {}  # by recording
    for i in wrong[np.argsort(-probs[wrong, predicted[wrong]], kind="stable")].tolist():
        filename = predictions.filenames[i]
        clip = {
            "number": i,
            "filename": filename,
            "scene": SCENES[label[i]],
            "device": DEVICES[predictions.device_id[i]],
            "predicted": SCENES[predicted[i]],
            "probability": float(probs[i, predicted[i]]),
            "true_probability": float(probs[i, label[i]]),
        }
        clips.setdefault(_recording(filename), clip)
        if len(clips) == n:
            break
    return list(clips.values())


def _recording(filename: str) -> str:
    """Return the name that simultaneous recordings share; the clip's own if it follows no form."""
    try:
        return clip_names.segment_names([filename])[0].rpartition("-")[0]
    except UserError:
        return filename


def _labelled(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and labels of the clips that `metrics` counts."""
    counted = (predictions.label >= 0) & (predictions.device_id >= 0)
    return predictions.logits[counted], predictions.label[counted]
