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
    """Return accuracies of ten-second recordings, from the mean probabilities of their clips.

    Each device's recording counts as one segment.

    Returns:
      `n_segments`, `accuracy`, `macro_accuracy`, `log_loss` and `macro_log_loss`, as
      `metrics.summarize` defines them; or `missing` alone, the reason why there are none.
    """
    try:
        names = clip_names.segment_names(predictions.filenames)
    except UserError as error:
        return {"missing": str(error)}
    first, probs = clip_names.means(names, np.exp(calibration.log_probs(predictions.logits)))
    with np.errstate(divide="ignore"):  # a probability may be 0; its log loss is infinite
        sums = metrics.tally(np.log(probs), predictions.label[first], predictions.device_id[first])
    summary = metrics.summarize(sums)
    figures = ("accuracy", "macro_accuracy", "log_loss", "macro_log_loss")
    return {"n_segments": summary["n_clips"]} | {name: summary[name] for name in figures}


def describe_held_out(held_out: Predictions) -> dict[str, Any]:
    """Return the `locations` that were held out, `n_clips`, and the figures on those clips."""
    names = clip_names.location_names(held_out.filenames)
    figures = ("n_clips", "accuracy", "macro_accuracy", "log_loss")
    locations = {"locations": sorted(set(names.tolist()))}
    return locations | {name: held_out.summary[name] for name in figures}


def calibrate(predictions: Predictions, held_out: Predictions | None = None) -> dict[str, Any]:
    """Return the calibration of the probabilities, as they are and with a temperature.

    Args:
      predictions: of the test clips.
      held_out: of clips that were neither trained nor tested on, to fit the temperature on.

    Returns:
      `as_trained` and `with_temperature`, each a `calibration.reliability` of the test clips
      with a label, or None; `temperature`, or None; `fitted_on`: `n_clips` and the log
      losses on them, `before` and `after`, or None; `why_not`, the reason why there is no
      temperature, or None.
    """
    logits, labels = _labelled(predictions)
    as_trained, temperature, fitted_on, why_not = None, None, None, NO_VALIDATION
    if len(labels):
        as_trained = calibration.reliability(calibration.log_probs(logits), labels)
    if held_out is not None:
        temperature, fitted_on = _fit(*_labelled(held_out))
        why_not = NO_MINIMUM if temperature is None else None
    scaled = None
    if temperature is not None and as_trained is not None:
        log_probs = calibration.log_probs(logits, temperature)
        scaled = calibration.reliability(log_probs, labels)
    return {
        "as_trained": as_trained,
        "with_temperature": scaled,
        "temperature": temperature,
        "fitted_on": fitted_on,
        "why_not": why_not,
    }


def most_confused(predictions: Predictions, n: int = 12) -> list[dict[str, Any]]:
    """Return the misclassified clips of the highest confidence, one of a recording at most.

    Returns:
      In falling order, at most `n`: `number` (position in the split), `filename`, `scene` and
      `device` (the true ones), `predicted`, `probability` (of that) and `true_probability`.
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


def _fit(logits: np.ndarray, labels: np.ndarray) -> tuple[float | None, dict | None]:
    temperature = calibration.fit_temperature(logits, labels) if len(labels) else None
    if temperature is None:
        return None, None
    before, after = (
        calibration.reliability(calibration.log_probs(logits, t), labels)["log_loss"]
        for t in (1.0, temperature)
    )
    return temperature, {"n_clips": len(labels), "before": before, "after": after}


def _labelled(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and labels of the clips that `metrics` counts."""
    counted = (predictions.label >= 0) & (predictions.device_id >= 0)
    return predictions.logits[counted], predictions.label[counted]
