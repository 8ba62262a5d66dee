"""The picture of `asc_jax.cli.predict`: what was heard, and the scenes told from it, over time."""

import math
import textwrap
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from asc_jax.complexity.limits import OVER_BUDGET
from asc_jax.data.tau.taxonomy import N_SCENES, SCENES
from asc_jax.evaluation.report.figures import BLUE, GREY, INK, PALE, RED, STYLE

MAX_COLUMNS = 1200  # however long the recording: about one a pixel
TICKS_HZ = (100, 500, 1000, 2000, 4000, 8000, 16_000)


class Timeline:
    """Spectrogram and probabilities of one recording, in memory that its length does not change.

    Args:
      duration_s: of the recording, seconds, > 0.
      features: the run's `config.features`.
    """

    def __init__(self, duration_s: float, features: Mapping):
        self._duration_s, self._features = duration_s, features
        self._frame_s = features["hop_length"] / features["sample_rate"]
        n_columns = int(np.clip(duration_s / self._frame_s, 1, MAX_COLUMNS))
        self._heard = np.zeros((n_columns, features["n_mels"] + 1))  # sums, then how many
        self._scenes = np.zeros((n_columns, N_SCENES + 1))

    def add(self, starts_s: np.ndarray, log_mel: np.ndarray, probs: np.ndarray) -> None:
        """Add windows: their starts `[b]`, `[b, n_mels, n_frames]` and `[b, n_scenes]`.

        Where windows overlap, their mean is drawn.
        """
        for start_s, frames, row in zip(starts_s, log_mel, probs, strict=True):
            times = start_s + self._frame_s * np.arange(frames.shape[1])
            inside = times < self._duration_s  # beyond it is the silence that fills up
            counted = np.pad(frames.T, ((0, 0), (0, 1)), constant_values=1)
            np.add.at(self._heard, self._column(times[inside]), counted[inside])
            first, last = self._column(np.array([start_s, start_s + 1 - self._frame_s / 2]))
            self._scenes[first : last + 1] += [*row, 1]

    def write(
        self, path: str | Path, name: str, mean: np.ndarray, *, over_budget: bool = False
    ) -> None:
        """Draw to a PNG, whose folder is made if it is missing.

        Args:
          path: the file.
          name: of the recording, for the title.
          mean: `[n_scenes]` probabilities of the whole recording.
          over_budget: stamp it on the picture.
        """
        import matplotlib
        from matplotlib.figure import Figure

        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(10, 6.2))
            title = textwrap.shorten(name, 70, placeholder=" …")
            figure.text(0.02, 0.975, title, size=13, weight="bold", va="top")
            best = SCENES[int(mean.argmax())].replace("_", " ")
            about = f"whole recording: {best}, {100 * mean.max():.1f} % · {self._duration_s:,.2f} s"
            figure.text(0.02, 0.925, about, size=9.5, color=GREY, va="top")
            if over_budget:
                look = {"size": 11, "weight": "bold", "color": RED, "ha": "right", "va": "top"}
                figure.text(0.98, 0.975, OVER_BUDGET, **look)
            heard, scenes = figure.subplots(2, 1, sharex=True, height_ratios=[1.15, 1])
            figure.subplots_adjust(left=0.15, right=0.9, top=0.86, bottom=0.085, hspace=0.08)
            self._draw_heard(heard)
            self._draw_scenes(scenes, mean)
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, format="png")

    def _column(self, times_s: np.ndarray) -> np.ndarray:
        n_columns = len(self._heard)
        columns = np.floor(times_s / self._duration_s * n_columns).astype(int)
        return np.clip(columns, 0, n_columns - 1)

    def _draw_heard(self, axes) -> None:
        values = _means(self._heard)
        low, high = np.nanpercentile(values, (2, 99.8))
        look = {"cmap": "magma", "vmin": low, "vmax": max(high, low + 1e-3)}
        self._draw(axes, values, **look)
        n_mels, f_min, f_max = (self._features[key] for key in ("n_mels", "f_min", "f_max"))
        bottom, top = _mel(f_min), _mel(f_max)
        ticks = [hz for hz in TICKS_HZ if f_min <= hz <= f_max]
        places = [(_mel(hz) - bottom) / (top - bottom) * n_mels - 0.5 for hz in ticks]
        axes.set_yticks(places, [f"{hz:,}" for hz in ticks])
        axes.set_ylabel("frequency, Hz (mel scale)")

    def _draw_scenes(self, axes, mean: np.ndarray) -> None:
        self._draw(axes, _means(self._scenes)[:, ::-1], cmap="Blues", vmin=0, vmax=1)
        ids = np.arange(N_SCENES)
        axes.set_yticks(ids, [name.replace("_", " ") for name in reversed(SCENES)])
        axes.hlines(ids[:-1] + 0.5, 0, self._duration_s, color="white", lw=1.5)
        axes.set_xlabel("time, s · the darker, the more probable; at the right, the mean in %")
        for y, p in zip(ids, mean[::-1], strict=True):
            top = p == mean.max()
            look = {"weight": "bold", "color": BLUE} if top else {"color": INK}
            place = {"transform": axes.get_yaxis_transform(), "ha": "right"}
            axes.text(1.07, y, f"{100 * p:.1f}", size=9.5, va="center_baseline", **place, **look)

    def _draw(self, axes, values: np.ndarray, **look) -> None:
        """`[column, row]`, the first row at the bottom; what was not heard stays grey."""
        extent = (0, self._duration_s, -0.5, values.shape[1] - 0.5)
        axes.set_facecolor(PALE)
        axes.imshow(
            np.ma.masked_invalid(values.T), extent=extent, aspect="auto", origin="lower",
            interpolation="nearest", **look,
        )  # fmt: skip


def _means(sums: np.ndarray) -> np.ndarray:
    """`[column, n + 1]` sums and counts → `[column, n]`, NaN where nothing was added."""
    with np.errstate(invalid="ignore"):
        return sums[:, :-1] / sums[:, -1:]


def _mel(hz: float) -> float:
    return 2595 * math.log10(1 + hz / 700)
