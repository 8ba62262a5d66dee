"""The drawings of the table's page: accuracies and differences with their intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from asc_jax.challenge.table1.tables import CLUSTERS, find
from asc_jax.evaluation.report.drawings import Drawing
from asc_jax.evaluation.report.figures import BLUE, GREEN, GREY, INK, RED, svg
from asc_jax.evaluation.report.tables import between, percent, points

WIDTH = 440  # narrow, so that its words stay legible on a phone
# Told apart by colour and by shape: a circle, a square, a diamond.
MARKS = ((BLUE, "o"), (RED, "s"), (GREEN, "D"), (GREY, "o"), (INK, "s"))


def drawings(collected: Mapping[str, Any]) -> list[Drawing]:
    """Return the drawings that the figures allow."""
    found = [accuracy_figure(collected)]
    if rows := collected["differences"]:
        pair = " minus ".join(collected["systems"][rows[0][key]] for key in ("first", "second"))
        found.append(difference_figure("differences", f"{pair}, macro average accuracy", rows))
    if rows := collected["ablation"]:
        title = "One change at a time, from the baseline to the report's system"
        found.append(difference_figure("ablation", title, rows))
    return found


def accuracy_figure(collected: Mapping[str, Any]) -> Drawing:
    """Return the macro averages by split: each system with its interval, and as published."""
    systems, splits, described = collected["systems"], collected["splits"], []

    def draw(figure) -> None:
        axes = figure.subplots()
        apart = min(0.15, 0.8 / len(systems))
        for place, (system, (colour, marker)) in enumerate(zip(systems, MARKS, strict=False)):
            axes.plot([], [], marker, ms=8, color=colour, label=systems[system])
            for column, split in enumerate(splits):
                if (result := find(collected, system, split)) is None:
                    continue
                x = column + (place - (len(systems) - 1) / 2) * apart
                interval, known = result["interval"]["segments"], result["published"]
                text = percent(result["macro_accuracy"]["mean"])
                if interval:
                    ends = 100 * interval["low"], 100 * interval["high"]
                    axes.vlines(x, *ends, color=colour, lw=2)
                    text += f", interval {between(interval, percent)}"
                axes.plot(x, 100 * result["macro_accuracy"]["mean"], marker, ms=8, color=colour)
                if known:
                    value = 100 * known["macro_accuracy"]
                    axes.plot(x + apart / 3, value, marker, ms=8, mec=colour, mfc="white")
                    text += f", published {percent(known['macro_accuracy'])}"
                described.append(f"{split} %, {systems[system]}: {text}")
        if any(result["published"] for result in collected["results"]):
            axes.plot([], [], "o", ms=8, mec=INK, mfc="white", label="as published")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
        axes.set_xticks(range(len(splits)), [f"{split} %" for split in splits])
        axes.set(xlabel="fraction of the training data", ylabel="macro average accuracy, %")
        axes.set(xlim=(-0.5, len(splits) - 0.5), ylim=(0, min(100, 1.05 * axes.get_ylim()[1])))
        axes.grid(axis="y")

    picture = svg("accuracy", (WIDTH, 340 + 20 * len(systems)), draw)
    title = "Macro average accuracy in %, with intervals by segment"
    return Drawing(title, "; ".join(described), picture)


def difference_figure(name: str, title: str, rows: Sequence[Mapping[str, Any]]) -> Drawing:
    """Return differences with both intervals, a pair of lines for each row, and that of no gain."""
    labels = [" · ".join(filter(None, (row.get("change"), f"{row['percent']} %"))) for row in rows]

    def draw(figure) -> None:
        axes = figure.subplots()
        axes.axvline(0, color=INK, lw=1)
        for number, (cluster, (colour, marker)) in enumerate(zip(CLUSTERS, MARKS, strict=False)):
            y = np.arange(len(rows)) - 0.16 + 0.32 * number
            axes.plot([], [], color=colour, lw=3, label=f"by {CLUSTERS[cluster]}")
            axes.plot([100 * row["mean"] for row in rows], y, marker, ms=8, color=colour)
            for place, row in zip(y, rows, strict=True):
                if interval := row["tests"][cluster]:
                    ends = 100 * interval["low"], 100 * interval["high"]
                    axes.hlines(place, *ends, color=colour, lw=3)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
        axes.set_yticks(range(len(rows)), labels)
        reach = max(0.5, *map(abs, axes.get_xlim()))
        axes.set(xlim=(-reach, reach), ylim=(len(rows) - 0.5, -0.5))
        axes.set(xlabel="gain, percentage points")
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:+g}".replace("-", "−") if x else "0")
        axes.grid(axis="x")

    description = "; ".join(
        f"{label}: {points(row['mean'])}, "
        + ", ".join(f"{between(row['tests'][c])} by {CLUSTERS[c]}" for c in CLUSTERS)
        for label, row in zip(labels, rows, strict=True)
    )
    return Drawing(title, description, svg(name, (WIDTH, 110 + 44 * len(rows)), draw))
