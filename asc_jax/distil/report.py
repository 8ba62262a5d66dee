"""A distillation campaign for people and for programs: JSON, CSV, Markdown, text, an HTML page.

All are pure functions of what `collect.collect` returns, so equal runs give equal bytes.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asc_jax.distil.collect import FIGURES
from asc_jax.distil.runs import STUDENTS
from asc_jax.evaluation.report import tables as words
from asc_jax.evaluation.report.figures import (
    BLUE,
    INK,
    MAX_NUMBERED,
    RED,
    Drawing,
    name_rows,
    svg,
)
from asc_jax.evaluation.report.report import heat
from asc_jax.evaluation.report.tables import (
    NONE,
    Table,
    between,
    count,
    decimals,
    percent,
    points,
)
from asc_jax.machine import files

HERE = Path(__file__).parent
WIDTH = 440  # narrow, so that its words stay legible on a phone
MAX_ROWS = 60  # of a group column that is printed
ENSEMBLE = "teachers together"


def write(collected: Mapping[str, Any], out_dir: str | Path) -> list[Path]:
    """Write `distil.json`, `.csv`, `.md`, `.txt` and `.html` into a folder; return their paths.

    The folder is made if needed; a `UserError` says why it cannot be written.
    """
    contents = {
        "distil.json": json.dumps(collected, indent=1, ensure_ascii=False) + "\n",
        "distil.csv": as_csv(collected),
        **{f"distil.{x}": as_words(collected, x) + "\n" for x in ("md", "txt", "html")},
    }
    return files.write_folder(out_dir, contents)


def as_words(collected: Mapping[str, Any], suffix: str) -> str:
    """Return the tables with the notes that they need to be read.

    suffix: "md"; "html", a page with a drawing that needs no other file; "txt", what is printed,
    without the table of runs.
    """
    made = tables(collected)
    if suffix == "md":
        made = {name: words.without_bars(table) for name, table in made.items()}
    return words.fill(
        HERE / f"distil.{suffix}",
        title=title(collected),
        collected=collected,
        warnings=words.fill_paragraphs(HERE / "warnings.txt", **collected),
        method=words.fill_paragraphs(
            HERE / "method.txt",
            **collected,
            several_seeds=len(collected["seeds"]) > 1,
            no_width=any(ends and ends["low"] == ends["high"] for ends in _intervals(collected)),
        ),
        tables=made,
        max_rows=MAX_ROWS,
        students=[name for name in STUDENTS if name in collected["results"]],
        drawing=system_figure,
        heat=heat,
        max_numbered=MAX_NUMBERED,
    )


def title(collected: Mapping[str, Any]) -> str:
    """Return the heading: which student is distilled."""
    return f"Distillation of {collected['student']} from {' and '.join(collected['teachers'])}"


def as_csv(collected: Mapping[str, Any]) -> str:
    """Return one line per run; accuracies as fractions, log losses in nats per clip."""
    columns = ("system", "seed", "n_clips", *FIGURES, "workdir")
    rows = [[run[column] for column in columns] for run in collected["runs"]]
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([columns, *rows])
    return out.getvalue()


def tables(collected: Mapping[str, Any]) -> dict[str, Table]:
    """Return all tables, the most important first; those of group columns as `group-<column>`."""
    made = {}
    if any(name in collected["results"] for name in STUDENTS):
        made["students"] = _systems(collected, "student", _students(collected))
    if collected["comparison"]:
        made["comparison"] = _comparison(collected)
    if teachers := [name for name in collected["results"] if name not in STUDENTS]:
        made["teachers"] = _systems(collected, "teacher", teachers)
    made["classes"] = _classes(collected)
    columns = dict.fromkeys(
        column for figures in _columns(collected).values() for column in figures["groups"]
    )
    made |= {f"group-{column}": _group(collected, column) for column in columns}
    return made | {"runs": _runs(collected)}


def _students(collected: Mapping[str, Any]) -> list[str]:
    return [name for name in STUDENTS if name in collected["results"]]


def _intervals(collected: Mapping[str, Any]) -> list[Mapping[str, Any] | None]:
    """Return all intervals that there might be."""
    compared = collected["comparison"] or {}
    of_sets = [row for sets in compared.get("sets", {}).values() for row in sets.values()]
    rows = [*collected["results"].values(), collected["ensemble"] or {}, compared, *of_sets]
    return [row.get("interval") for row in rows]


def _columns(collected: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the figures that stand beside each other by class and group, by their headings."""
    found = {ENSEMBLE: collected["ensemble"]} if collected["ensemble"] else {}
    return found | {name: collected["results"][name] for name in _students(collected)}


def _level(collected: Mapping[str, Any]) -> str:
    return f"{100 * collected['level']:g} % interval"


def _systems(collected: Mapping[str, Any], what: str, names: Sequence[str]) -> Table:
    """Return the figures of some systems; below those of the teachers all of them together."""
    of_teachers = what == "teacher"
    n_seeds = len(collected["teacher_seeds" if of_teachers else "seeds"])
    rows = []
    for name in names:
        row = collected["results"][name]
        figures = row["over_seeds"]
        rows.append(
            [
                collected["systems"][name],
                count(row["complexity"]["n_params"]),
                f"{len(row['seeds'])} of {n_seeds}",
                percent(*figures["macro_accuracy"].values()),
                between(row["interval"], percent),
                percent(*figures["accuracy"].values()),
                decimals(*figures["log_loss"].values()),
            ]
        )
    together = collected["ensemble"]
    if of_teachers and together:
        rows.append(
            [
                f"all {len(collected['teachers_used'])} together",
                *(NONE, NONE),
                percent(together["macro_accuracy"]),
                between(together["interval"], percent),
                percent(together["accuracy"]),
                decimals(together["log_loss"]),
            ]
        )
    header = [what, "parameters", "seeds", "macro average, %", _level(collected), "all clips, %"]
    heading = "The teachers" if of_teachers else "The student without and with teachers"
    if len(names) == 1 and not of_teachers:
        heading = "The student"
    heading = f"{heading}: mean ± standard deviation over seeds"
    return Table(heading, [*header, "log loss"], rows)


def _comparison(collected: Mapping[str, Any]) -> Table:
    found = collected["comparison"]
    sd = found["over_seeds"]["sd"]
    sd = "" if sd is None else f" ± {percent(sd)}"
    rows = [
        ["all clips and seeds", *_tested(found)],
        ["mean ± sd over seeds", points(found["over_seeds"]["mean"]) + sd, NONE, NONE],
    ]
    for column, sets in found["sets"].items():
        members = collected["members"][column]
        rows += [
            [f"{words.words(column)}: {words.of_members(name, members[name])}", *_tested(row)]
            for name, row in sets.items()
        ]
    heading = "Distilled minus undistilled: macro average accuracy, percentage points"
    return Table(heading, ["of", "difference", _level(collected), "p"], rows)


def _tested(figures: Mapping[str, Any]) -> list[str]:
    """Return a difference, its interval and p."""
    p = NONE if figures["p"] is None else f"{figures['p']:.4f}"
    return [points(figures["difference"]), between(figures["interval"]), p]


def _classes(collected: Mapping[str, Any]) -> Table:
    columns, compared = _columns(collected), collected["comparison"]
    columns = columns or dict(list(collected["results"].items())[:1])
    first = next(iter(columns.values()))
    rows = []
    for name in collected["classes"]:
        cells = [count(first["classes"][name][key]) for key in ("n_clips", "n_recordings")]
        cells += [percent(figures["classes"][name]["accuracy"]) for figures in columns.values()]
        if compared:
            cells += [points(compared["classes"][name])]
        rows.append([name, *cells])
    header = ["class", "clips", collected["clusters"], *columns] + ["difference"] * bool(compared)
    return Table("Accuracy by class, %, all seeds", header, rows)


def _group(collected: Mapping[str, Any], column: str) -> Table:
    columns, compared = _columns(collected), collected["comparison"]
    rows = []
    for kind in ("sets", "groups"):
        found = [figures[kind].get(column, {}) for figures in columns.values()]
        for value in dict.fromkeys(value for figures in found for value in figures):
            of_value = [figures.get(value) for figures in found]
            cells = [count(max(each["n_clips"] for each in of_value if each))]
            cells += [percent(each and each["macro_accuracy"]) for each in of_value]
            there = (compared or {}).get(kind, {}).get(column, {}).get(value)
            name = value
            if kind == "sets":
                name = words.of_members(value, collected["members"][column][value])
                there = there and there["difference"]
            rows.append([name, *cells, *[points(there)] * bool(compared)])
    what = words.words(column)
    header = [what, "clips", *columns] + ["difference"] * bool(compared)
    return Table(f"Macro average accuracy by {what}, %, all seeds", header, rows)


def _runs(collected: Mapping[str, Any]) -> Table:
    rows = [
        [
            collected["systems"][run["system"]],
            str(run["seed"]),
            percent(run["macro_accuracy"]),
            percent(run["accuracy"]),
            decimals(run["log_loss"]),
        ]
        for run in collected["runs"]
    ]
    header = ["network", "seed", "macro average, %", "all clips, %", "log loss"]
    return Table("The runs", header, rows)


def system_figure(collected: Mapping[str, Any]) -> Drawing:
    """Return the macro averages: a row for each system, a mark for each run, with the interval."""
    results = collected["results"]
    names = [name for name in results if name not in STUDENTS]
    rows = [(collected["systems"][name], results[name], INK) for name in names]
    if collected["ensemble"]:
        rows.append((ENSEMBLE, collected["ensemble"], INK))
    colours = dict(zip(STUDENTS, (BLUE, RED), strict=True))
    rows += [
        (collected["systems"][name], results[name], colours[name]) for name in _students(collected)
    ]
    marks = {
        label: [run["macro_accuracy"] for run in collected["runs"] if run["system"] == name]
        for name, label in collected["systems"].items()
    }

    def draw(figure) -> None:
        axes = figure.subplots()
        for y, (label, row, colour) in enumerate(rows):
            if row["interval"]:
                ends = 100 * row["interval"]["low"], 100 * row["interval"]["high"]
                axes.hlines(y, *ends, color=colour, lw=2)
            x = [100 * value for value in marks.get(label, [])]
            axes.plot(x, [y] * len(x), "o", ms=7, color=colour, mfc="white")
            axes.plot(100 * row["macro_accuracy"], y, "D", ms=8, color=colour)
        axes.plot([], [], "o", ms=7, color=INK, mfc="white", label="a run")
        axes.plot([], [], "D", ms=8, color=INK, label="mean over seeds")
        axes.plot([], [], color=INK, lw=2, label=_level(collected))
        figure.legend(loc="outside upper left")
        name_rows(axes, [label for label, _, _ in rows])
        axes.set(xlabel="macro average accuracy, %")

    description = "; ".join(
        f"{label}: {percent(row['macro_accuracy'])}, interval {between(row['interval'], percent)}"
        for label, row, _ in rows
    )
    picture = svg("systems", (WIDTH, 130 + 34 * len(rows)), draw)
    return Drawing("Macro average accuracy, in %", description, picture)
