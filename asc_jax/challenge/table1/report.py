"""Table 1 for people and for programs: Markdown, LaTeX, CSV, JSON and an HTML page.

All are pure functions of what `collect.collect` returns, so equal runs give equal bytes.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from asc_jax.challenge.table1.figures import accuracy_figure, difference_figure
from asc_jax.challenge.table1.tables import compared, find, method, tables, warnings
from asc_jax.evaluation.report.html import render
from asc_jax.evaluation.report.tables import aligned
from asc_jax.machine import files

TITLE = "Acoustic scenes with little training data: Table 1"
CSV_COLUMNS = (
    *("system", "split_percent", "measure", "name", "unit", "mean", "sd", "n_seeds"),
    *("segments_low", "segments_high", "segments_p"),
    *("locations_low", "locations_high", "locations_p", "published"),
)


def write(collected: Mapping[str, Any], out_dir: str | Path) -> list[Path]:
    """Write `table1.json`, `.csv`, `.md`, `.tex` and `.html`, each all or nothing.

    Args:
      collected: see `collect`.
      out_dir: made if it is missing.

    Raises:
      UserError: the folder cannot be written.
    """
    contents = {
        "json": json.dumps(collected, indent=1, ensure_ascii=False) + "\n",
        "csv": as_csv(collected),
        "md": as_markdown(collected),
        "tex": as_latex(collected),
        "html": as_html(collected, TITLE),
    }
    paths = [Path(out_dir) / f"table1.{suffix}" for suffix in contents]
    with files.writing_to(out_dir):
        Path(out_dir).mkdir(parents=True, exist_ok=True)
        for path, content in zip(paths, contents.values(), strict=True):
            files.write_atomically(path, content)
    return paths


def as_text(collected: Mapping[str, Any]) -> str:
    """Return the tables without the scenes, and the notes that they need to be read."""
    shown = [table for table in tables(collected) if "by scene" not in table.title]
    blocks = [f"{table.title}\n\n{aligned(table)}" for table in shown]
    return "\n\n".join([*blocks, *warnings(collected), *method(collected)])


def as_markdown(collected: Mapping[str, Any]) -> str:
    """Return the notes and all tables, columns aligned."""
    notes = (f"- {note}" for note in (*warnings(collected), *method(collected)))
    blocks = [f"# {TITLE}", "\n".join(notes)]
    blocks += [
        f"## {table.title}\n\n{aligned(table, markdown=True)}" for table in tables(collected)
    ]
    return "\n\n".join(blocks) + "\n"


def as_html(collected: Mapping[str, Any], title: str) -> str:
    """Return the page: one file that needs no network, no script and no other file."""
    drawings = [accuracy_figure(collected)]
    if rows := collected["differences"]:
        pair = " minus ".join(collected["systems"][rows[0][key]] for key in ("first", "second"))
        drawings.append(difference_figure("differences", f"{pair}, macro average accuracy", rows))
    if rows := collected["ablation"]:
        title_of_steps = "One change at a time, from the baseline to the report's system"
        drawings.append(difference_figure("ablation", title_of_steps, rows))
    return render(
        Path(__file__).with_name("table1.html"),
        title=title,
        warnings=warnings(collected),
        tables=tables(collected),
        method=list(method(collected)),
        drawings=drawings,
    )


def as_latex(collected: Mapping[str, Any]) -> str:
    """Return the report's layout: a row per scene, and under each split its systems; in percent."""
    systems, splits = compared(collected), collected["splits"]
    results = [find(collected, name, split) for split in splits for name in systems]
    heads = [rf"\multicolumn{{{len(systems)}}}{{c}}{{{split}\,\%}}" for split in splits]
    labels = [{"baseline": "Baseline", "report": "Ours"}[name] for name in systems]

    def row(head: str, figure) -> list[str]:
        values = [result and figure(result) for result in results]
        return [head, *("--" if x is None else f"{100 * x:.2f}" for x in values)]

    scenes = [
        row(scene.replace("_", " ").capitalize(), lambda r, scene=scene: r["scenes"][scene]["mean"])
        for scene in collected["results"][0]["scenes"]
    ]
    averages = [
        row("Macro average", lambda r: r["macro_accuracy"]["mean"]),
        row("Standard deviation over seeds", lambda r: r["macro_accuracy"]["sd"]),
    ]
    lines = [f"% {note}" for note in (*warnings(collected), *method(collected))]
    lines += [r"\begin{table*}"]
    lines += [r"\caption{Class-wise accuracy in percent on the development test split.}"]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(results)}}}"]
    for rows in ([["Class", *heads], ["", *labels * len(splits)]], scenes, averages):
        lines += [r"\hline", *(" & ".join(cells) + r" \\" for cells in rows)]
    return "\n".join([*lines, r"\hline", r"\end{tabular}", r"\end{table*}", ""])


def as_csv(collected: Mapping[str, Any]) -> str:
    """Return one line per figure; accuracies as fractions, log losses in nats."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for result in collected["results"]:
        writer.writerows(_csv_result(result))
    measures = {"differences": "macro_accuracy_difference", "ablation": "macro_accuracy_gain"}
    for key, measure in measures.items():
        for row in collected[key]:
            line = {"system": f"{row['first']} - {row['second']}", "split_percent": row["percent"]}
            line |= {"measure": measure, "name": row.get("change"), "unit": "fraction"}
            line |= {"mean": row["mean"], "published": row["published"]}
            writer.writerow(line | _bounds(row["tests"]))
    return out.getvalue()


def _csv_result(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    place = {"system": result["system"], "split_percent": result["percent"]}
    place["n_seeds"], known = len(result["seeds"]), result["published"] or {}
    for name in ("macro_accuracy", "accuracy", "log_loss"):
        line = place | {"measure": name, "unit": "nats" if name == "log_loss" else "fraction"}
        line |= {key: result[name][key] for key in ("mean", "sd")} | {"published": known.get(name)}
        yield line | (_bounds(result["interval"]) if name == "macro_accuracy" else {})
    for kind in ("scenes", "devices"):
        line = place | {"measure": f"{kind[:-1]}_accuracy", "unit": "fraction"}
        for name, figure in result[kind].items():
            yield line | figure | {"name": name, "published": known.get(kind, {}).get(name)}


def _bounds(tests: Mapping[str, Mapping | None]) -> dict[str, float]:
    return {
        f"{cluster}_{key}": test[key]
        for cluster, test in tests.items()
        for key in ("low", "high", "p")
        if test and key in test
    }
