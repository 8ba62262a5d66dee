"""Table 1 for people and for programs: Markdown, LaTeX, CSV, JSON, text and an HTML page.

All are pure functions of what `collect.collect` returns, so equal runs give equal bytes.
"""

import csv
import functools
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asc_jax.data.tau.published import published
from asc_jax.evaluation.report.figures import BLUE, GREEN, GREY, INK, RED, Drawing, svg
from asc_jax.evaluation.report.tables import (
    Table,
    between,
    fill,
    fill_paragraphs,
    make,
    percent,
    points,
)
from asc_jax.machine import files

HERE = Path(__file__).parent
TITLE = "Acoustic scenes with little training data: Table 1"
CLUSTERS = {"segments": "10-second segments", "locations": "locations"}
WIDTH = 440  # narrow, so that its words stay legible on a phone
# Told apart by colour and by shape: a circle, a square, a diamond.
MARKS = ((BLUE, "o"), (RED, "s"), (GREEN, "D"), (GREY, "o"), (INK, "s"))


def write(collected: Mapping[str, Any], out_dir: str | Path) -> list[Path]:
    """Write `table1.json`, `.csv`, `.md`, `.tex` and `.html` into a folder, and return their paths.

    The folder is made if needed; a `UserError` says why it cannot be written.
    """
    contents = {
        "table1.json": json.dumps(collected, indent=1, ensure_ascii=False) + "\n",
        "table1.csv": as_csv(collected),
        **{f"table1.{x}": as_words(collected, x) + "\n" for x in ("md", "tex", "html")},
    }
    return files.write_folder(out_dir, contents)


def as_words(collected: Mapping[str, Any], suffix: str) -> str:
    """Return the tables with the notes that they need to be read.

    suffix: "md"; "tex", the scenes alone; "html", a page with drawings that needs no other file;
    "txt", what is printed, without the scenes.
    """
    systems = compared(collected)
    return fill(
        HERE / f"table1.{suffix}",
        title=TITLE,
        collected=collected,
        warnings=warnings(collected),
        method=method(collected),
        tables=tables(collected),
        results=[find(collected, name, split) for split in collected["splits"] for name in systems],
        latex_labels=[{"baseline": "Baseline", "report": "Ours"}[name] for name in systems],
        drawings=drawings,
    )


def as_csv(collected: Mapping[str, Any]) -> str:
    """Return one line per figure; accuracies as fractions, log losses in nats."""
    table = make("csv", collected, template=HERE / "tables.txt")
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([table.header, *table.rows])
    return out.getvalue()


def tables(collected: Mapping[str, Any]) -> list[Table]:
    """Return all tables of what `collect.collect` returns, the most important first."""
    make_table = functools.partial(make, template=HERE / "tables.txt")
    splits, systems, rows = collected["splits"], collected["systems"], collected["differences"]
    out = [make_table("overview", collected, compared(collected), find)]
    pairs = [name for name in ("differences", "ablation") if collected[name]]
    out += [make_table(name, collected[name], systems) for name in pairs]
    out += [make_table("runs", collected["results"], systems)]
    for split in splits:
        results = [find(collected, system, split) for system in compared(collected)]
        difference = next((row for row in rows if row["percent"] == split), None)
        out += [make_table("scenes", split, [r for r in results if r], difference, systems)]
    return out


def find(collected: Mapping[str, Any], system: str, split: int) -> Mapping[str, Any] | None:
    """Return the result of one system on one split, or None where there is none."""
    results = {(result["system"], result["percent"]): result for result in collected["results"]}
    return results.get((system, split))


def compared(collected: Mapping[str, Any]) -> dict[str, str]:
    """Return name and label of the systems to compare: all but those inside the ablation."""
    systems = collected["systems"].items()
    return {name: label for name, label in systems if not name.startswith("ablation")}


def warnings(collected: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each flaw; what forbids a comparison comes first."""
    return fill_paragraphs(HERE / "warnings.txt", **collected)


def method(collected: Mapping[str, Any]) -> list[str]:
    """Return a paragraph for each point of how the figures were made and what they do not say."""
    known = [published(f"train_{split}pct") for split in collected["splits"]]
    return fill_paragraphs(
        HERE / "method.txt",
        **collected,
        known=[row for row in known if row and collected["official_lists"]],
        several_seeds=any(len(result["seeds"]) > 1 for result in collected["results"]),
    )


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
