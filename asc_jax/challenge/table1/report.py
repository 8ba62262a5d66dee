"""Table 1 for people and for programs: Markdown, LaTeX, CSV, JSON and an HTML page.

All are pure functions of what `table1_collect.collect` returns, so equal runs give equal bytes.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from asc_jax.challenge.table1.grids import Grid, compared, find, grids
from asc_jax.challenge.table1.html import as_html
from asc_jax.challenge.table1.notes import method, warnings
from asc_jax.machine import files

TITLE = "Acoustic scenes with little training data: Table 1"
CSV_COLUMNS = (
    *("system", "split_percent", "measure", "name", "unit", "mean", "sd", "n_seeds"),
    *("segments_low", "segments_high", "segments_p"),
    *("locations_low", "locations_high", "locations_p", "published"),
)


def write(table: Mapping[str, Any], out_dir: str | Path) -> list[Path]:
    """Write `table1.json`, `.csv`, `.md`, `.tex` and `.html`, each all or nothing.

    Args:
      table: see `table1_collect`.
      out_dir: made if it is missing.

    Raises:
      UserError: the folder cannot be written.
    """
    contents = {
        "json": json.dumps(table, indent=1, ensure_ascii=False) + "\n",
        "csv": as_csv(table),
        "md": as_markdown(table),
        "tex": as_latex(table),
        "html": as_html(table, TITLE),
    }
    paths = [Path(out_dir) / f"table1.{suffix}" for suffix in contents]
    with files.writing_to(out_dir):
        Path(out_dir).mkdir(parents=True, exist_ok=True)
        for path, content in zip(paths, contents.values(), strict=True):
            files.write_atomically(path, content)
    return paths


def as_text(table: Mapping[str, Any]) -> str:
    """What the terminal shows: the tables without the scenes, and what they need to be read."""
    shown = [grid for grid in grids(table) if "by scene" not in grid.title]
    parts = [f"{grid.title}\n\n{_aligned(grid)}" for grid in shown]
    return "\n\n".join([*parts, *warnings(table), *method(table)])


def as_markdown(table: Mapping[str, Any]) -> str:
    """All tables, columns aligned, and the notes."""
    parts = [f"# {TITLE}", "\n".join(f"- {note}" for note in (*warnings(table), *method(table)))]
    parts += [f"## {grid.title}\n\n{_aligned(grid, rule='|')}" for grid in grids(table)]
    return "\n\n".join(parts) + "\n"


def _aligned(grid: Grid, rule: str = " ") -> str:
    """Headings to the left, figures to the right; `rule` "|" makes it Markdown."""
    rows = [list(grid.header), *map(list, grid.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for number, row in enumerate(rows):
        cells = [
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"{rule} " + f" {rule} ".join(cells) + f" {rule}")
        if not number and rule == "|":
            dashes = ["-" * width + ":" * bool(column) for column, width in enumerate(widths)]
            lines.append("| " + " | ".join(dashes).replace("-:", ":") + " |")
    return "\n".join(line.strip() for line in lines)


def as_latex(table: Mapping[str, Any]) -> str:
    """The report's layout: a row per scene, and under each split its systems; in percent."""
    systems = compared(table)
    cells = [(percent, name) for percent in table["splits"] for name in systems]
    results = [find(table, name, percent) for percent, name in cells]
    n = len(systems)
    labels = {"baseline": "Baseline", "report": "Ours"}
    heads = [rf"\multicolumn{{{n}}}{{c}}{{{percent}\,\%}}" for percent in table["splits"]]
    rows = [["Class", *heads], ["", *(labels[name] for _, name in cells)]]
    body = []
    for scene in table["results"][0]["scenes"]:
        means = [result and result["scenes"][scene]["mean"] for result in results]
        body.append([scene.replace("_", " ").capitalize(), *map(_latex_figure, means)])
    for key, head in (("mean", "Macro average"), ("sd", "Standard deviation over seeds")):
        figures = [result and result["macro_accuracy"][key] for result in results]
        body.append([head, *map(_latex_figure, figures)])
    lines = [" & ".join(row) + r" \\" for row in rows + body]
    notes_as_comments = [f"% {note}" for note in (*warnings(table), *method(table))]
    lines = [r"\hline", *lines[:2], r"\hline", *lines[2:-2], r"\hline", *lines[-2:], r"\hline"]
    caption = "Class-wise accuracy in percent on the development test list."
    return "\n".join(
        [
            *notes_as_comments,
            r"\begin{table*}",
            rf"\caption{{{caption}}}",
            rf"\begin{{tabular}}{{l{'r' * len(cells)}}}",
            *lines,
            r"\end{tabular}",
            r"\end{table*}",
            "",
        ]
    )


def _latex_figure(value: float | None) -> str:
    return "--" if value is None else f"{100 * value:.2f}"


def as_csv(table: Mapping[str, Any]) -> str:
    """One line per figure; accuracies as fractions, log losses in nats."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for result in table["results"]:
        writer.writerows(_csv_result(result))
    for key in ("differences", "ablation"):
        writer.writerows(_csv_difference(key, row) for row in table[key])
    return out.getvalue()


def _csv_result(result: Mapping[str, Any]) -> Iterator[Sequence]:
    place = result["system"], result["percent"]
    known = result["published"] or {}
    n_seeds = len(result["seeds"])
    for name in ("macro_accuracy", "accuracy", "log_loss"):
        unit = "nats" if name == "log_loss" else "fraction"
        ends = _tests(result["interval"]) if name == "macro_accuracy" else [None] * 6
        figures = result[name]["mean"], result[name]["sd"], n_seeds, *ends, known.get(name)
        yield *place, name, "", unit, *figures
    for kind in ("scenes", "devices"):
        for name, figure in result[kind].items():
            figures = figure["mean"], figure["sd"], n_seeds, *[None] * 6
            theirs = known.get(kind, {}).get(name)
            yield *place, f"{kind[:-1]}_accuracy", name, "fraction", *figures, theirs


def _csv_difference(key: str, row: Mapping[str, Any]) -> Sequence:
    name = row.get("change", "")
    pair = f"{row['first']} - {row['second']}"
    figures = row["mean"], None, None, *_tests(row["tests"]), row["published"]
    measure = "macro_accuracy_difference" if key == "differences" else "macro_accuracy_gain"
    return pair, row["percent"], measure, name, "fraction", *figures


def _tests(tests: Mapping[str, Mapping | None]) -> list[float | None]:
    return [(test or {}).get(key) for test in tests.values() for key in ("low", "high", "p")]
