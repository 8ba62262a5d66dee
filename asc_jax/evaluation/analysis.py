"""Analyse predictions beyond accuracies: segments, calibration, misclassified clips."""

from typing import Any

import numpy as np

from asc_jax.data.labels import UNKNOWN_NAME
from asc_jax.data.tau import clip_names
from asc_jax.errors import UserError
from asc_jax.evaluation import calibration, metrics
from asc_jax.evaluation.evaluate import Predictions

NO_VALIDATION = (
    "no clips to fit one on: train with --config.data.validation_locations=0.2, which holds "
    "training locations or recordings out; the test split is not for fitting"
)
NO_MINIMUM = (
    "on the held-out locations the log loss has no minimum between the temperatures "
    f"{calibration.MIN_TEMPERATURE:g} and {calibration.MAX_TEMPERATURE:g}"
)


def by_segment(predictions: Predictions) -> dict[str, Any]:
    """Return figures of whole recordings, from the mean probabilities of their clips.

    A recording of TAU is a ten-second segment by one device; parts of a recording that have
    different labels count each by itself. The figures are `n_segments` and the averages of
    `metrics.summarize`; or `missing` alone, the reason why there are none.
    """
    try:
        names = _recordings(predictions)
    except UserError as error:
        return {"missing": str(error)}
    first, probs = clip_names.means(names, np.exp(calibration.log_probs(predictions.logits)))
    with np.errstate(divide="ignore"):  # a probability may be 0; its log loss is infinite
        log_probs = np.log(probs)
    groups = {column: ids[first] for column, ids in predictions.groups.items()}
    summary = metrics.summarize(log_probs, predictions.label[first], groups, predictions.labels)
    averages = {name: summary[name] for name in metrics.FIGURES[1:]}
    return {"n_segments": summary["n_clips"]} | averages


def describe_held_out(held_out: Predictions) -> dict[str, Any]:
    """Return the `locations` that were held out, `n_clips`, and the figures on those clips."""
    names = held_out.recordings
    if names is None:
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

    Each has its `number` in the split, `filename`, true `class`, `groups` (column → value), the
    class `predicted`, its `probability` and the `true_probability`.
    """
    classes, groups = predictions.labels.classes, predictions.labels.groups
    probs = np.exp(calibration.log_probs(predictions.logits))
    predicted, label = probs.argmax(-1), predictions.label
    wrong = np.flatnonzero((label >= 0) & (predicted != label))
    clips: dict[str, dict] = {}  # by recording
    for i in wrong[np.argsort(-probs[wrong, predicted[wrong]], kind="stable")].tolist():
        filename = predictions.filenames[i]
        clip = {
            "number": i,
            "filename": filename,
            "class": classes[label[i]],
            "groups": {
                column: _value(group.values, predictions.groups[column][i])
                for column, group in groups.items()
            },
            "predicted": classes[predicted[i]],
            "probability": float(probs[i, predicted[i]]),
            "true_probability": float(probs[i, label[i]]),
        }
        clips.setdefault(_sound(predictions, i), clip)
        if len(clips) == n:
            break
    return list(clips.values())


def truth(predictions: Predictions) -> dict[str, list[str]]:
    """Return what is known of each clip, in words: `filename`, `label`, `recording` and groups.

    What is not known is "unknown"; a clip whose recording is not known is one of its own.
    """
    try:
        recordings = predictions.recordings
        if recordings is None:
            recordings = clip_names.segment_names(predictions.filenames)
    except UserError:
        recordings = np.array(predictions.filenames)
    labels = predictions.labels
    return {
        "filename": [name.removeprefix("audio/") for name in predictions.filenames],
        "label": [_value(labels.classes, i) for i in predictions.label.tolist()],
        "recording": recordings.tolist(),
    } | {
        column: [_value(group.values, i) for i in predictions.groups[column].tolist()]
        for column, group in labels.groups.items()
    }


def _recordings(predictions: Predictions) -> np.ndarray:
    """Return what each clip was cut from, `[n_clips]` str.

    Raises:
      UserError: the clips' names do not say it.
    """
    if predictions.recordings is None:
        return clip_names.segment_names(predictions.filenames)
    pairs = zip(predictions.label.tolist(), predictions.recordings.tolist(), strict=True)
    return np.array([f"{label} {recording}" for label, recording in pairs])


def _sound(predictions: Predictions, i: int) -> str:
    """Return a name that all clips of the same sound share; the clip's own if none is known."""
    if predictions.recordings is not None:
        return predictions.recordings[i]
    try:  # simultaneous recordings by several devices are of the same sound
        return clip_names.segment_names([predictions.filenames[i]])[0].rpartition("-")[0]
    except UserError:
        return predictions.filenames[i]


def _value(values: tuple[str, ...], number: int) -> str:
    return values[number] if 0 <= number < len(values) else UNKNOWN_NAME


def _labelled(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and labels of the clips that `metrics` counts."""
    counted = predictions.label >= 0
    return predictions.logits[counted], predictions.label[counted]
