"""The drawings of `report.html`: bars by device, calibration, learning curve, spectrograms."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from asc_jax.data.tau.taxonomy import DEVICE_GROUPS
from asc_jax.evaluation.report import svg
from asc_jax.evaluation.report.figures import BLUE, GREEN, GREY, INK, PALE, RED
from asc_jax.evaluation.report.page import png_address
from asc_jax.evaluation.report.text import percent

_COLOURS = {"real": BLUE, "seen": GREEN, "unseen": RED}


def device_bars(summary: Mapping[str, Any]) -> str:
    """A bar per device, in its group's colour, with the accuracy written beside it."""
    rows = [(group, device) for group, members in DEVICE_GROUPS.items() for device in members]
    left, right, step, top = 92, 330, 26, 8
    bottom, parts, told = top + step * len(rows), [], []
    for tick in range(0, 101, 25):
        x = left + tick / 100 * (right - left)
        parts.append(svg.line((x, top), (x, bottom), PALE))
        parts.append(svg.text((x, bottom + 18), str(tick)))
    for number, (group, device) in enumerate(rows):
        value, y = summary["devices"][device]["accuracy"], top + step * number
        width = (value or 0) * (right - left)
        parts.append(svg.text((left - 8, y + 17), f"{device.upper()}, {group}", "end"))
        parts.append(svg.box((left, y + 4), (width, step - 8), _COLOURS[group]))
        parts.append(svg.text((left + width + 6, y + 17), percent(value), "start"))
        told.append(f"{device.upper()} ({group}): {percent(value)}")
    parts.append(svg.text(((left + right) / 2, bottom + 38), "accuracy, %"))
    size = 390, bottom + 46
    return svg.drawing("device-bars", size, "Accuracy by device, in %", "; ".join(told), parts)


def reliability_diagram(name: str, title: str, row: Mapping[str, Any]) -> str:
    """Accuracy against confidence, bin by bin, above how many clips each bin holds."""
    left, right, top, bottom, floor = 46, 346, 10, 310, 392
    most = max(b["n_clips"] for b in row["bins"])

    def at(confidence: float, accuracy: float) -> tuple[float, float]:
        return left + confidence * (right - left), bottom - accuracy * (bottom - top)

    parts, told = [], []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts += [
            svg.line(at(0, tick), at(1, tick), PALE),
            svg.line(at(tick, 0), at(tick, 1), PALE),
        ]
        parts.append(svg.text((left - 6, at(0, tick)[1] + 5), f"{100 * tick:g}", "end"))
        parts.append(svg.text((at(tick, 0)[0], floor + 18), f"{100 * tick:g}"))
    parts.append(svg.line(at(0, 0), at(1, 1), GREY, 1.5, "5 4"))
    for b in row["bins"]:
        if not b["n_clips"]:
            continue
        (x, y), height = at(b["low"], b["accuracy"]), 56 * b["n_clips"] / most
        width = (b["high"] - b["low"]) * (right - left) - 1.5
        parts.append(svg.box((x, y), (width, bottom - y), BLUE))
        point = at(b["confidence"], b["confidence"])
        parts.append(svg.line((point[0], y), point, RED, 2))
        parts.append(svg.dot(point, RED))
        parts.append(svg.box((x, floor - height), (width, height), GREY))
        told.append(
            f"sure to {percent(b['confidence'])} %, right in {percent(b['accuracy'])} % of "
            f"{b['n_clips']:,} clips"
        )
    parts.append(svg.line((left, floor), (right, floor), INK))
    parts.append(svg.text((left, bottom + 20), f"clips (highest bar: {most:,})", "start"))
    parts.append(svg.text(((left + right) / 2, floor + 38), "confidence, %"))
    turn = f'transform="rotate(-90 12 {(top + bottom) / 2})"'
    parts.append(svg.text((12, (top + bottom) / 2), "accuracy, %", look=turn))
    return svg.drawing(name, (360, floor + 46), title, "; ".join(told), parts)


def heat(share: float) -> str:
    """CSS of a cell of the confusion matrix: white at 0, dark blue at 1, legible throughout."""
    red, green, blue = (255 + share * (end - 255) for end in (0, 64, 110))
    linear = [(c / 255 / 12.92) if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4
              for c in (red, green, blue)]  # fmt: skip
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    ink = "#000" if luminance + 0.05 > math.sqrt(1.05 * 0.05) else "#fff"
    return f"background:rgb({red:.0f},{green:.0f},{blue:.0f});color:{ink}"


def spectrogram(
    name: str,
    title: str,
    log_mel: np.ndarray,
    limits: tuple[float, float],
    *,
    duration_s: float,
    f_min: float,
    f_max: float,
) -> str:
    """A log-mel spectrogram with its axes.

    Args:
      name: unique on the page.
      title: whose it is; its text alternative.
      log_mel: `[n_mels, n_frames]` float, natural logarithm.
      limits: the values drawn darkest and brightest.
      duration_s: of the clip, seconds.
      f_min, f_max: of the mel filters, Hz.
    """
    left, top, width, height = 40, 6, 240, 170
    source = png_address(_png(log_mel, limits))
    parts = [svg.picture((left, top), (width, height), source)]
    low, high = _mel(f_min), _mel(f_max)
    for hertz in (500, 2000, 8000):
        if f_min < hertz < f_max:
            y = top + height * (1 - (_mel(hertz) - low) / (high - low))
            parts.append(svg.line((left - 4, y), (left, y), INK))
            parts.append(svg.text((left - 7, y + 5), f"{hertz / 1000:g}", "end"))
    for share in (0, 0.5, 1):
        x = left + share * width
        parts.append(svg.line((x, top + height), (x, top + height + 4), INK))
        anchor = ("start", "middle", "end")[round(2 * share)]
        parts.append(svg.text((x, top + height + 18), f"{share * duration_s:g} s", anchor))
    parts.append(svg.text((left - 7, top + 10), "kHz", "end"))
    return svg.drawing(name, (left + width + 8, top + height + 24), title, _told(log_mel), parts)


def spectrogram_limits(log_mels: Sequence[np.ndarray]) -> tuple[float, float]:
    """One scale for all, without the rarest values."""
    low, high = np.percentile(np.stack(log_mels), [2, 99.8])
    return float(low), float(max(high, low + 1e-3))


def _told(log_mel: np.ndarray) -> str:
    """Where a spectrogram is loudest, in words: the mean of each third of its mel bins."""
    thirds = [float(part.mean()) for part in np.array_split(log_mel, 3)]
    loudest = ("low", "middle", "high")[int(np.argmax(thirds))]
    steady = float(log_mel.mean(0).std())
    return (
        f"Spectrogram: loudest in the {loudest} third of the mel bins; its level over time varies "
        f"with a standard deviation of {steady:.2f}."
    )


def _png(log_mel: np.ndarray, limits: tuple[float, float]) -> bytes:
    import matplotlib.image

    file = io.BytesIO()
    look = {"cmap": "magma", "vmin": limits[0], "vmax": limits[1], "origin": "lower"}
    matplotlib.image.imsave(file, log_mel, format="png", **look)
    return file.getvalue()


def _mel(hertz: float) -> float:
    """The scale `filters.mel_filterbank` divides evenly."""
    return 2595.0 * math.log10(1.0 + hertz / 700.0)
