"""The picture of `asc_jax.cli.predict`: spectrogram and predicted classes over time."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from asc_jax.errors import printable
from asc_jax.evaluation.report.figures import (
    BLUE,
    PALE,
    draw_log_mel,
    in_picture,
    write_png,
)

MAX_COLUMNS = 1200  # however long the recording: about one per pixel
MAX_CLASSES = 20  # of more the most probable are drawn
TICKS_HZ = (100, 500, 1000, 2000, 4000, 8000, 16_000)


class Timeline:
    """Spectrogram and probabilities of one recording, in memory that its length does not change.

    duration_s: of the recording, seconds, > 0. features: the run's `config.features`. classes:
    their names. clip_s: length of a window, seconds.
    """

    def __init__(
        self, duration_s: float, features: Mapping, classes: Sequence[str], clip_s: float = 1.0
    ):
        self._classes, self._clip_s = classes, clip_s
        self._duration_s, self._features = duration_s, features
        self._frame_s = features["hop_length"] / features["sample_rate"]
        n_columns = int(np.clip(duration_s / self._frame_s, 1, MAX_COLUMNS))
        self._log_mel = np.zeros((n_columns, features["n_mels"] + 1))  # sums, then how many
        self._probs = np.zeros((n_columns, len(classes) + 1))

    def add(self, starts_s: np.ndarray, log_mel: np.ndarray, probs: np.ndarray) -> None:
        """Add windows: their starts `[b]`, `[b, n_mels, n_frames]` and `[b, n_classes]`.

        Where windows overlap, their mean is drawn.
        """
        for start_s, frames, row in zip(starts_s, log_mel, probs, strict=True):
            times = start_s + self._frame_s * np.arange(frames.shape[1])
            inside = times < self._duration_s  # beyond it is the silence that fills up
            counted = np.pad(frames.T, ((0, 0), (0, 1)), constant_values=1)
            np.add.at(self._log_mel, self._column(times[inside]), counted[inside])
            end_s = start_s + self._clip_s - self._frame_s / 2
            first, last = self._column(np.array([start_s, end_s]))
            self._probs[first : last + 1] += [*row, 1]

    def write(
        self, path: str | Path, name: str, mean: np.ndarray, *, over_budget: bool = False
    ) -> None:
        """Draw to a PNG, whose folder is made if it is missing.

        name: of the recording. mean: `[n_classes]` probabilities of the whole recording.
        """

        def draw(figure) -> None:
            heard, below = figure.subplots(2, 1, sharex=True, height_ratios=[3.3, height - 3.3])
            log_mel = _means(self._log_mel).T
            axes = {key: self._features[key] for key in ("f_min", "f_max")}
            limits = np.nanpercentile(log_mel, (2, 99.8))
            draw_log_mel(heard, log_mel, limits, TICKS_HZ, duration_s=self._duration_s, **axes)
            heard.set_ylabel("frequency, Hz (mel scale)")
            self._draw_classes(below, mean)

        height = 6.2 + 0.2 * max(0, min(len(self._classes), MAX_CLASSES) - 10)
        best = in_picture(self._classes[int(mean.argmax())], 40)
        about = f"whole recording: {best}, {100 * mean.max():.1f} % · {self._duration_s:,.2f} s"
        title = printable(name)
        title = title if len(title) <= 70 else f"{title[:55]}…{title[-14:]}"
        title = title.replace("$", r"\$")  # which would begin a formula
        write_png(path, (10, height), draw, title, about, over_budget=over_budget)

    def _column(self, times_s: np.ndarray) -> np.ndarray:
        n_columns = len(self._log_mel)
        columns = np.floor(times_s / self._duration_s * n_columns).astype(int)
        return np.clip(columns, 0, n_columns - 1)

    def _draw_classes(self, axes, mean: np.ndarray) -> None:
        """Draw the probabilities over time; where there is no window, the picture stays grey."""
        drawn = np.arange(len(mean))
        if len(mean) > MAX_CLASSES:
            drawn = np.argsort(-mean, kind="stable")[:MAX_CLASSES]
        ids = np.arange(len(drawn))
        axes.set_facecolor(PALE)
        axes.imshow(
            np.ma.masked_invalid(_means(self._probs)[:, drawn].T), cmap="Blues", vmin=0, vmax=1,
            extent=(0, self._duration_s, len(ids) - 0.5, -0.5), aspect="auto",
            interpolation="nearest",
        )  # fmt: skip
        axes.set_yticks(ids, [in_picture(self._classes[i]) for i in drawn])
        axes.hlines(ids[:-1] + 0.5, 0, self._duration_s, color="white", lw=1.5)
        axes.set_xlabel("time, s · the darker, the more probable; at the right, the mean in %")
        right = axes.secondary_yaxis("right")
        right.spines.right.set_visible(False)
        right.set_yticks(ids, [f"{100 * p:.1f}" for p in mean[drawn]])
        right.get_yticklabels()[int(mean[drawn].argmax())].set(weight="bold", color=BLUE)


def _means(sums: np.ndarray) -> np.ndarray:
    """Return the means `[column, n]` of `[column, n + 1]` sums and counts, NaN without a window."""
    with np.errstate(invalid="ignore"):
        return sums[:, :-1] / sums[:, -1:]
