"""The drawings inside pages, each with its text alternative."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from asc_jax.data.tau.taxonomy import DEVICE_GROUPS
from asc_jax.evaluation.report import figures
from asc_jax.evaluation.report.figures import BLUE, GREY, RED
from asc_jax.evaluation.report.tables import percent
from asc_jax.evaluation.result_files import stored_summary


class Drawing(NamedTuple):
    """A picture for a page: its title, a text that says what it shows, and an `<svg>` element."""

    title: str
    description: str
    svg: str


def device_bars(results: Mapping[str, Any]) -> Drawing:
    """Return a bar per device, with the accuracy written into it."""
    devices = stored_summary(results)["devices"]
    description = "; ".join(
        f"{device.upper()} ({group}): {percent(devices[device]['accuracy'])}"
        for group, members in DEVICE_GROUPS.items()
        for device in members
    )
    picture = figures.svg("device-bars", (390, 420), partial(figures.draw_devices, results))
    return Drawing("Accuracy by device, in %", description, picture)


def reliability_diagram(name: str, title: str, row: Mapping[str, Any]) -> Drawing:
    """Return accuracy against confidence by bin, above the number of clips in each bin."""
    bins = [b for b in row["bins"] if b["n_clips"]]
    low, high, confidence, accuracy = (
        100 * np.array([b[key] for b in bins]) for key in ("low", "high", "confidence", "accuracy")
    )
    n_clips = [b["n_clips"] for b in bins]

    def draw(figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        bars = {"width": high - low - 0.4, "align": "edge"}
        upper.plot([0, 100], [0, 100], "--", color=GREY)
        upper.bar(low, accuracy, color=BLUE, **bars)
        upper.vlines(confidence, accuracy, confidence, color=RED, lw=2)
        upper.plot(confidence, confidence, "o", color=RED, mec="white", ms=7)
        lower.bar(low, n_clips, color=GREY, **bars)
        ticks = (0, 25, 50, 75, 100)
        upper.set(ylabel="accuracy, %", xlim=(0, 100), ylim=(0, 100), yticks=ticks, xticks=ticks)
        lower.set(xlabel="confidence, %", ylabel="clips", yticks=(0, max(n_clips)))
        upper.grid()

    description = "; ".join(
        f"confidence {percent(b['confidence'])} %, accuracy {percent(b['accuracy'])} % of "
        f"{b['n_clips']:,} clips"
        for b in bins
    )
    return Drawing(title, description, figures.svg(name, (360, 440), draw))


def spectrograms(
    clips: Sequence[Mapping[str, Any]], log_mels: np.ndarray, axes: Mapping[str, float]
) -> list[Drawing]:
    """Return the spectrograms of misclassified clips, on one scale without the rarest values.

    Args:
      clips: see `analysis.most_confused`.
      log_mels: `[n, n_mels, n_frames]` float, natural logarithm.
      axes: `duration_s`, seconds; `f_min` and `f_max` of the mel filters, Hz.
    """
    limits = np.percentile(log_mels, [2, 99.8]) if len(clips) else None

    def draw(log_mel: np.ndarray, figure) -> None:
        panel = figure.subplots()
        figures.draw_log_mel(panel, log_mel, limits, (500, 2000, 8000), **axes)
        panel.set(xlabel="time, s", ylabel="frequency, Hz")
        panel.locator_params(axis="x", nbins=2)

    out = []
    for clip, log_mel in zip(clips, log_mels, strict=True):
        truth, predicted = (clip[key].replace("_", " ") for key in ("scene", "predicted"))
        thirds = [part.mean() for part in np.array_split(log_mel, 3)]
        description = (
            f"Spectrogram: loudest in the {('low', 'middle', 'high')[np.argmax(thirds)]} third of "
            "the mel bins; its level over time varies with a standard deviation of "
            f"{log_mel.mean(0).std():.2f}."
        )
        title = f"{truth} misclassified as {predicted}, device {clip['device'].upper()}"
        svg = figures.svg(f"clip-{len(out)}", (300, 220), partial(draw, log_mel))
        out.append(Drawing(title, description, svg))
    return out
