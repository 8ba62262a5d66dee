"""Format predictions as lines: a table for people, CSV and JSON Lines for programs.

Each format is a class with the same methods, called in this order: `start` once; for each
recording `head`, `window` for each window, `whole`. They return text without the last newline, or
None.
"""

import csv
import dataclasses
import io
import json
from collections.abc import Sequence

import numpy as np

from asc_jax.complexity.limits import OVER_BUDGET
from asc_jax.data.recordings import OpenRecording
from asc_jax.errors import printable
from asc_jax.evaluation.report.tables import shortened

MAX_NAME = 24  # characters of a class in a table


@dataclasses.dataclass(frozen=True)
class Lines:
    """The base of the formats.

    classes: of the network, in the order of its logits. k: number of them in a line. over_budget:
    stamp the lines with it.
    """

    classes: Sequence[str]
    k: int
    over_budget: bool = False

    def top(self, probs: np.ndarray) -> list[tuple[str, float]]:
        """Return the `k` most probable classes with their probabilities."""
        return [(self.classes[i], p) for i, p in top_k(probs, self.k)]

    def start(self) -> str | None:
        """Return the text before the first recording."""
        return None

    def head(self, name: str) -> str | None:
        """Return the text before the windows of a recording."""
        return None


class Table(Lines):
    """Format as aligned columns, probabilities in percent."""

    def start(self):
        return OVER_BUDGET if self.over_budget else None

    def head(self, name):
        return printable(name)

    def window(self, name, start_s, end_s, probs):
        return f"{start_s:>9.2f} –{end_s:>9.2f} s  {self._classes(probs)}"

    def whole(self, name, duration_s, n_windows, probs, notes: Sequence[str]):
        lines = [f"  note: {note}" for note in notes]
        mean = "the only window" if n_windows == 1 else f"mean of {n_windows:,}"
        return "\n".join([*lines, f"  {mean:<20}  {self._classes(probs)}", ""])

    def _classes(self, probs) -> str:
        width = min(MAX_NAME, max(map(len, self.classes)))
        cells = [(shortened(name, MAX_NAME), p) for name, p in self.top(probs)]
        return "  ".join(f"{name:<{width}} {100 * p:5.1f} %" for name, p in cells)


class Csv(Lines):
    """Format as a line for each window and one (what = recording) for each recording."""

    def start(self):
        ranks = [f"{what}_{i}" for i in range(1, self.k + 1) for what in ("class", "p")]
        columns = ["recording", "what", "start_s", "end_s", *ranks]
        return _csv_line(columns + ["budget"] * self.over_budget)

    def window(self, name, start_s, end_s, probs, what="window"):
        cells = [cell for name, p in self.top(probs) for cell in (name, f"{p:.9g}")]
        stamp = ["over budget"] * self.over_budget
        return _csv_line(
            [printable(name), what, f"{start_s:.10g}", f"{end_s:.10g}", *cells, *stamp]
        )

    def whole(self, name, duration_s, n_windows, probs, notes):
        return self.window(name, 0, duration_s, probs, what="recording")


class Json(Lines):
    """Format as one object a line, with the most probable class first in `top`.

    All of it is ASCII: whoever reads it has a name back by `json.loads`, even one that is no UTF-8.
    """

    def window(self, name, start_s, end_s, probs, what="window", **more):
        top = [{"class": name, "p": float(f"{p:.9g}")} for name, p in self.top(probs)]
        entry = {"recording": name, "what": what, "start_s": start_s, "end_s": end_s, "top": top}
        stamp = {"over_budget": True} if self.over_budget else {}
        return json.dumps(entry | more | stamp)

    def whole(self, name, duration_s, n_windows, probs, notes):
        more = {"n_windows": n_windows, "notes": list(notes)}
        return self.window(name, 0.0, duration_s, probs, what="recording", **more)


KINDS = {"table": Table, "csv": Csv, "json": Json}


def make_notes(
    recording: OpenRecording, n_heard: int, peak: float, sample_rate: int, clip_s: float = 1.0
) -> list[str]:
    """Return what was done to a recording, and what about it makes its class doubtful."""
    rate, notes = recording.rate, list(recording.notes)
    if recording.n_channels > 1:
        notes.append(f"{recording.n_channels} channels averaged to one")
    if rate != sample_rate:
        notes.append(f"resampled from {rate:,} to {sample_rate:,} Hz")
    if rate < sample_rate:
        notes.append(f"holds nothing above {rate / 2:,.0f} Hz, which the network was trained on")
    if n_heard < round(rate * clip_s):
        window = "one second" if clip_s == 1 else f"{clip_s:g} seconds"
        notes.append(f"only {n_heard / rate:.2f} s long: filled up to {window} with silence")
    if recording.n_samples is not None and n_heard != recording.n_samples:
        notes.append(f"{n_heard:,} samples read, its header says {recording.n_samples:,}")
    if peak == 0:
        notes.append("silent: every sample is zero")
    if peak > 1:
        notes.append(f"loudest sample {peak:.3g}, expected at most 1: is it scaled correctly?")
    return notes


def top_k(probs: np.ndarray, k: int) -> list[tuple[int, float]]:
    """Return the `k` most probable classes of `[n_classes]`, as (id, probability), the best first.

    Example:
      >>> top_k(np.array([0.2, 0.5, 0.3]), 2)
      [(1, 0.5), (2, 0.3)]
    """
    order = np.argsort(-probs, kind="stable")[:k]
    return [(int(i), float(probs[i])) for i in order]


def _csv_line(cells: Sequence[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(cells)
    return out.getvalue()
