"""A cross-validation for people and for programs: JSON, CSV, Markdown, text and an HTML page.

All are pure functions of what `collect.collect` returns, so equal runs give equal bytes.
"""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asc_jax.crossval.collect import FIGURES
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
    shortened,
)
from asc_jax.machine import files

HERE = Path(__file__).parent
WIDTH = 440  # narrow, so that its words stay legible on a phone
MARKS = ((BLUE, "o"), (RED, "s"))  # told apart by colour and by shape
MAX_LABEL = 18  # characters of a system's label in a column's heading
MAX_ROWS = 60  # of a group column that is printed


def write(collected: Mapping[str, Any], out_dir: str | Path) -> list[Path]:
    """Write `crossval.json`, `.csv`, `.md` and `.html` into a folder, and return their paths.

    The folder is made if needed; a `UserError` says why it cannot be written.
    """
    contents = {
        "crossval.json": json.dumps(collected, indent=1, ensure_ascii=False) + "\n",
        "crossval.csv": as_csv(collected),
        **{f"crossval.{x}": as_words(collected, x) + "\n" for x in ("md", "html")},
    }
    return files.write_folder(out_dir, contents)


def as_words(collected: Mapping[str, Any], suffix: str) -> str:
    """Return the tables with the notes that they need to be read.

    suffix: "md"; "html", a page with drawings that needs no other file; "txt", what is printed,
    without the table of runs.
    """
    made = tables(collected)
    if suffix == "md":
        made = {name: words.without_bars(table) for name, table in made.items()}
    return words.fill(
        HERE / f"crossval.{suffix}",
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
        pooled=_pooled(collected),
        drawings=drawings,
        heat=heat,
        max_numbered=MAX_NUMBERED,
    )


def title(collected: Mapping[str, Any]) -> str:
    """Return the heading: what is cross-validated."""
    return "Cross-validation of " + " and ".join(collected["systems"].values())


def as_csv(collected: Mapping[str, Any]) -> str:
    """Return one line per run; accuracies as fractions, log losses in nats per clip."""
    columns = ("system", "fold", "seed", "n_clips", *FIGURES, "workdir")
    rows = [[run[column] for column in columns] for run in collected["runs"]]
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([columns, *rows])
    return out.getvalue()


def tables(collected: Mapping[str, Any]) -> dict[str, Table]:
    """Return all tables, the most important first; those of group columns as `group-<column>`."""
    made = {"over_folds": _over_folds(collected)}
    if _pooled(collected):
        made["pooled"] = _pooled_table(collected)
    if collected["comparison"]:
        made["comparison"] = _comparison(collected)
    made |= {"folds": _folds(collected), "classes": _classes(collected)}
    columns = dict.fromkeys(
        column for row in _pooled(collected).values() for column in row["pooled"]["groups"]
    )
    made |= {f"group-{column}": _group(collected, column) for column in columns}
    return made | {"runs": _runs(collected)}


def _pooled(collected: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the results of the systems whose folds can be pooled."""
    return {name: row for name, row in collected["results"].items() if row["pooled"]}


def _intervals(collected: Mapping[str, Any]) -> list[Mapping[str, Any] | None]:
    """Return all intervals that there might be."""
    found = [row["pooled"]["interval"] for row in _pooled(collected).values()]
    return found + [(collected["comparison"] or {}).get("interval")]


def _labels(collected: Mapping[str, Any]) -> dict[str, str]:
    """Return the labels of the systems that have results, as they fit above a column."""
    systems = collected["systems"]
    return {name: shortened(systems[name], MAX_LABEL) for name in collected["results"]}


def _mean_sd(figure: Mapping[str, float | None]) -> str:
    return percent(figure["mean"], figure["sd"])


def _over_folds(collected: Mapping[str, Any]) -> Table:
    rows = [
        [
            collected["systems"][name],
            f"{len(row['folds'])} of {len(collected['folds'])}",
            _mean_sd(row["over_folds"]["macro_accuracy"]),
            _mean_sd(row["over_folds"]["accuracy"]),
            decimals(*(row["over_folds"]["log_loss"][key] for key in ("mean", "sd"))),
        ]
        for name, row in collected["results"].items()
    ]
    header = ["system", "folds", "macro average, %", "all clips, %", "log loss"]
    return Table("Mean ± standard deviation over folds", header, rows)


def _pooled_table(collected: Mapping[str, Any]) -> Table:
    rows = [
        [
            collected["systems"][name],
            count(row["pooled"]["n_clips"]),
            count(row["pooled"]["n_recordings"]),
            percent(row["pooled"]["macro_accuracy"]),
            between(row["pooled"]["interval"], percent),
            percent(row["pooled"]["accuracy"]),
            decimals(row["pooled"]["log_loss"]),
        ]
        for name, row in _pooled(collected).items()
    ]
    level = f"{100 * collected['level']:g} % interval"
    header = ["system", "clips", collected["clusters"], "macro average, %", level, "all clips, %"]
    return Table("The clips of the folds that are done, together", [*header, "log loss"], rows)


def _comparison(collected: Mapping[str, Any]) -> Table:
    found = collected["comparison"]
    first, second = (collected["systems"][found[key]] for key in ("first", "second"))
    over_folds = found["over_folds"]
    sd = "" if over_folds["sd"] is None else f" ± {percent(over_folds['sd'])}"
    p = NONE if found["p"] is None else f"{found['p']:.4f}"
    rows = [
        ["all folds together", points(found["difference"]), between(found["interval"]), p],
        ["mean ± sd over folds", points(over_folds["mean"]) + sd, NONE, NONE],
    ]
    heading = f"{first} minus {second}: macro average accuracy, percentage points"
    return Table(
        heading, ["of", "difference", f"{100 * collected['level']:g} % interval", "p"], rows
    )


def _folds(collected: Mapping[str, Any]) -> Table:
    results, compared = collected["results"], collected["comparison"]
    rows = []
    for fold in collected["folds"]:
        found = [row["folds"].get(fold) for row in results.values()]
        clips = next(filter(None, found), None)
        sizes = [count(clips[key]) if clips else NONE for key in ("n_clips", "n_recordings")]
        cells = [percent(each and each["macro_accuracy"]) for each in found]
        if compared:
            cells += [points(compared["by_fold"].get(fold))]
        rows.append([fold, *sizes, *cells])
    header = ["tested on", "clips", collected["clusters"], *_labels(collected).values()]
    header += ["difference"] * bool(compared)
    return Table("Macro average accuracy by fold, %", header, rows)


def _classes(collected: Mapping[str, Any]) -> Table:
    results, compared = collected["results"], collected["comparison"]
    pools = _pooled(collected)
    header = ["class"] + ["clips", collected["clusters"]] * bool(pools)
    for name, label in _labels(collected).items():
        header += [f"{label}, by fold"] + [f"{label}, together"] * (name in pools)
    header += ["difference"] * bool(compared)
    rows = []
    for name in collected["classes"]:
        cells = [name]
        if pools:
            largest = max((row["pooled"]["classes"][name] for row in pools.values()), key=_n_clips)
            cells += [count(largest["n_clips"]), count(largest["n_recordings"])]
        for system, row in results.items():
            cells += [_mean_sd(row["classes"][name])]
            if system in pools:
                cells += [percent(row["pooled"]["classes"][name]["accuracy"])]
        if compared:
            cells += [points(compared["classes"].get(name))]
        rows.append(cells)
    return Table("Accuracy by class, %: mean ± sd over folds, and all folds together", header, rows)


def _n_clips(figures: Mapping[str, Any]) -> int:
    return figures["n_clips"]


def _group(collected: Mapping[str, Any], column: str) -> Table:
    pools = {name: row["pooled"]["groups"][column] for name, row in _pooled(collected).items()}
    rows = []
    for value in dict.fromkeys(value for figures in pools.values() for value in figures):
        found = [figures.get(value) for figures in pools.values()]
        cells = [count(max(each["n_clips"] for each in found if each))]
        for each in found:
            cells += [percent(each and each[key]) for key in ("macro_accuracy", "accuracy")]
        rows.append([value, *cells])
    labels = [_labels(collected)[name] for name in pools]
    header = [words.words(column), "clips"]
    header += [f"{label}, {kind}" for label in labels for kind in ("macro", "all")]
    return Table(f"Accuracy by {words.words(column)}, %, all folds together", header, rows)


def _runs(collected: Mapping[str, Any]) -> Table:
    rows = [
        [
            collected["systems"][run["system"]],
            run["fold"],
            str(run["seed"]),
            percent(run["macro_accuracy"]),
            percent(run["accuracy"]),
            decimals(run["log_loss"]),
        ]
        for run in collected["runs"]
    ]
    header = ["system", "tested on", "seed", "macro average, %", "all clips, %", "log loss"]
    return Table("The runs", header, rows)


def drawings(collected: Mapping[str, Any]) -> list[Drawing]:
    """Return the drawings that the figures allow."""
    compared = collected["comparison"]
    found = [fold_figure(collected)]
    if compared and compared["folds"]:
        found.append(difference_figure(collected))
    return found


def fold_figure(collected: Mapping[str, Any]) -> Drawing:
    """Return the macro averages: a row for each fold, a mark for each run, a line for each mean."""
    folds, systems = collected["folds"], _labels(collected)

    def draw(figure) -> None:
        axes = figure.subplots()
        for number, (system, (colour, marker)) in enumerate(zip(systems, MARKS, strict=False)):
            shift = 0.3 * (number - (len(systems) - 1) / 2)
            runs = [run for run in collected["runs"] if run["system"] == system]
            y = [folds.index(run["fold"]) + shift for run in runs]
            x = [100 * run["macro_accuracy"] for run in runs]
            axes.plot(x, y, marker, ms=8, color=colour, label=systems[system])
            mean = collected["results"][system]["over_folds"]["macro_accuracy"]["mean"]
            axes.axvline(100 * mean, color=colour, lw=1.5, ls=("-", "--")[number])
        axes.plot([], [], color=INK, lw=1.5, label="mean over folds")
        figure.legend(loc="outside upper left")
        name_rows(axes, folds)
        axes.set(xlabel="macro average accuracy, %")

    description = "; ".join(
        f"{collected['systems'][run['system']]}, {run['fold']}, seed {run['seed']}: "
        f"{percent(run['macro_accuracy'])}"
        for run in collected["runs"]
    )
    size = WIDTH, 110 + 20 * len(systems) + 40 * len(folds)
    return Drawing("Macro average accuracy by fold, in %", description, svg("folds", size, draw))


def difference_figure(collected: Mapping[str, Any]) -> Drawing:
    """Return the differences by fold and of all folds together, with the interval."""
    found = collected["comparison"]
    folds, interval = found["folds"], found["interval"]
    rows = [*folds, "together"]

    def draw(figure) -> None:
        axes = figure.subplots()
        axes.axvline(0, color=INK, lw=1)
        x = [100 * found["by_fold"][fold] for fold in folds]
        axes.plot(x, range(len(folds)), "o", ms=8, color=BLUE)
        if found["difference"] is not None:
            axes.plot(100 * found["difference"], len(folds), "D", ms=9, color=RED)
        if interval:
            ends = 100 * interval["low"], 100 * interval["high"]
            axes.hlines(len(folds), *ends, color=RED, lw=3)
        name_rows(axes, rows)
        reach = 1.05 * max(0.5, *map(abs, axes.get_xlim()))
        axes.set(xlim=(-reach, reach), xlabel="difference, percentage points")
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:+g}".replace("-", "−") if x else "0")

    parts = [f"{fold}: {points(found['by_fold'][fold])}" for fold in folds]
    parts += [f"together: {points(found['difference'])}, interval {between(interval)}"]
    pair = " minus ".join(collected["systems"][found[key]] for key in ("first", "second"))
    picture = svg("differences", (WIDTH, 80 + 40 * len(rows)), draw)
    return Drawing(f"{pair}, macro average accuracy", "; ".join(parts), picture)
