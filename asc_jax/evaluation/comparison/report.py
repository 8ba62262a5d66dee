"""A comparison for people and for programs: JSON, text and an HTML page.

All are pure functions of what `collect.collect` returns, so equal runs give equal bytes.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asc_jax.evaluation.comparison.curves import WIDTH, curves_figure
from asc_jax.evaluation.intervals import no_width
from asc_jax.evaluation.report import tables as words
from asc_jax.evaluation.report.figures import (
    BLUE,
    INK,
    MAX_BARS,
    MAX_NUMBERED,
    RED,
    Drawing,
    in_picture,
    name_rows,
    svg,
)
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
MAX_LABEL = 18  # characters of a system's label in a column's heading
MAX_ROWS = 60  # of a table that is printed
FULL = 0.3  # difference of two cells of a confusion that has the full colour


def write(collected: Mapping[str, Any], out_dir: str | Path) -> list[Path]:
    """Write `compare.json`, `.txt` and `.html` into a folder, and return their paths.

    The folder is made if needed; a `UserError` says why it cannot be written.
    """
    contents = {
        "compare.json": json.dumps(collected, indent=1, ensure_ascii=False) + "\n",
        "compare.txt": as_words(collected, "txt") + "\n",
        "compare.html": as_words(collected, "html", out_dir) + "\n",
    }
    return files.write_folder(out_dir, contents)


def as_words(collected: Mapping[str, Any], suffix: str, out_dir: str | Path = ".") -> str:
    """Return the tables with the notes that they need to be read.

    suffix: "txt"; "html", a page with drawings that needs no other file and links the runs' pages,
    as they lie from `out_dir`.
    """
    return words.fill(
        HERE / f"compare.{suffix}",
        title=" compared with ".join(collected["systems"]),
        collected=collected,
        warnings=words.fill_paragraphs(HERE / "warnings.txt", **collected),
        method=words.fill_paragraphs(
            HERE / "method.txt",
            **collected,
            several_seeds=len(collected["runs"]) > 2,
            no_width=no_width(collected["difference"]),
        ),
        tables=tables(collected),
        drawings=drawings,
        curves=lambda: curves_figure(collected["runs"], [*collected["systems"]]),
        max_rows=MAX_ROWS,
        shade=shade,
        numbered=len(collected["classes"]) <= MAX_NUMBERED,
        pages=pages_of([run["workdir"] for run in collected["runs"]], out_dir),
    )


def pages_of(workdirs: Sequence[str], out_dir: str | Path) -> dict[str, str]:
    """Return workdir → address of its report page from a page in `out_dir`, where it has one."""
    found = {}
    for workdir in workdirs:
        page = Path(workdir, "report.html")
        if page.is_file():
            found[workdir] = address(page, out_dir)
    return found


def address(page: Path, out_dir: str | Path) -> str:
    """Return the address of a file for a link in a page that lies in `out_dir`."""
    from urllib.parse import quote

    try:
        relative = os.path.relpath(page.absolute(), Path(out_dir).absolute())
    except ValueError:  # on another drive
        return page.absolute().as_uri()
    return quote(Path(relative).as_posix())


def shade(difference: float) -> str:
    """Return the CSS of a cell: white at 0, blue above and orange below, legible words."""
    share = min(abs(difference) / FULL, 1)
    end = (110, 170, 225) if difference > 0 else (240, 160, 80)
    red, green, blue = (255 + share * (value - 255) for value in end)
    return f"background:rgb({red:.0f},{green:.0f},{blue:.0f});color:#000"


def tables(collected: Mapping[str, Any]) -> dict[str, Table]:
    """Return all tables, the most important first; those of group columns as `group-<column>`."""
    made = {
        "systems": _systems(collected),
        "difference": _whole(collected),
        "answers": _answers(collected),
        "classes": _classes(collected),
    }
    for column in next(iter(collected["systems"].values()))["groups"]:
        made[f"group-{column}"] = _group(collected, column)
    if collected["configs"]:
        header = ["value", *_labels(collected)]
        rows = [
            [name, *(NONE if value is None else f"{value}" for value in values)]
            for name, values in collected["configs"].items()
        ]
        made["configs"] = Table("Where the configs differ", header, rows)
    made["runs"] = _runs(collected)
    return made


def _labels(collected: Mapping[str, Any]) -> list[str]:
    return [shortened(label, MAX_LABEL) for label in collected["systems"]]


def _level(collected: Mapping[str, Any]) -> str:
    return f"{100 * collected['level']:g} % interval"


def _p(figures: Mapping[str, Any]) -> str:
    return NONE if figures["p"] is None else f"{figures['p']:.4f}"


def _systems(collected: Mapping[str, Any]) -> Table:
    rows = [
        [
            label,
            str(len(row["seeds"])),
            percent(*row["over_seeds"]["macro_accuracy"].values()),
            between(row["interval"], percent),
            percent(*row["over_seeds"]["accuracy"].values()),
            decimals(*row["over_seeds"]["log_loss"].values()),
            count(row["complexity"]["n_params"]),
            count(row["complexity"]["macs"]),
        ]
        for label, row in collected["systems"].items()
    ]
    header = ["system", "seeds", "macro average, %", _level(collected), "all clips, %", "log loss"]
    heading = f"The systems on {count(collected['n_clips'])} clips of {collected['test_split']}"
    return Table(heading, [*header, "parameters", "MACs"], rows)


def _whole(collected: Mapping[str, Any]) -> Table:
    found = collected["difference"]
    first, second = _labels(collected)
    loss = found["log_loss"]
    rows = [
        [
            "macro average, points",
            points(found["macro_accuracy"]),
            between(found["interval"]),
            _p(found),
        ],
        ["all clips, points", points(found["accuracy"]), NONE, NONE],
        [
            "log loss, nats per clip",
            NONE if loss is None else f"{loss:+.3f}".replace("-", "−"),
            NONE,
            NONE,
        ],
    ]
    for column, sets in found["sets"].items():
        members = collected["members"][column]
        rows += [
            [
                f"{words.words(column)} {words.of_members(name, members[name])}, points",
                points(row["difference"]),
                between(row["interval"]),
                _p(row),
            ]
            for name, row in sets.items()
        ]
    header = ["of", "difference", _level(collected), "p"]
    return Table(f"{first} minus {second}", header, rows)


def _answers(collected: Mapping[str, Any]) -> Table:
    found = collected["difference"]["answers"]
    first, second = _labels(collected)
    titles = {"both": "both", "only_first": f"only {first}", "only_second": f"only {second}"}
    titles["neither"] = "neither"
    rows = [[title, percent(found[name])] for name, title in titles.items()]
    return Table("Clips that were classified correctly by …, %", [], rows)


def _classes(collected: Mapping[str, Any]) -> Table:
    first, second = collected["systems"].values()
    rows = []
    for name in collected["classes"]:
        figures = [each["classes"][name] for each in (first, second)]
        found = collected["difference"]["classes"][name]
        rows.append(
            [
                name,
                *(count(figures[0][key]) for key in ("n_clips", "n_recordings")),
                *(percent(each["accuracy"]) for each in figures),
                points(found["difference"]),
                between(found["interval"]),
            ]
        )
    header = ["class", "clips", collected["clusters"], *_labels(collected)]
    return Table("Accuracy by class, %", [*header, "difference", _level(collected)], rows)


def _group(collected: Mapping[str, Any], column: str) -> Table:
    first, second = (each["groups"][column] for each in collected["systems"].values())
    found = collected["difference"]["groups"].get(column, {})
    rows = []
    for value, figures in first.items():
        pair = [each[value]["macro_accuracy"] for each in (first, second)]
        row = found.get(value, {"difference": pair[0] - pair[1], "interval": None, "p": None})
        cells = [points(row["difference"]), between(row["interval"]), _p(row)]
        rows.append([value, count(figures["n_clips"]), *map(percent, pair), *cells])
    what = words.words(column)
    header = [what, "clips", *_labels(collected), "difference", _level(collected), "p"]
    return Table(f"Macro average accuracy by {what}, %", header, rows)


def _runs(collected: Mapping[str, Any]) -> Table:
    rows = [
        [
            run["workdir"],
            run["system"],
            str(run["seed"]),
            percent(run["macro_accuracy"]),
            percent(run["accuracy"]),
            decimals(run["log_loss"]),
        ]
        for run in collected["runs"]
    ]
    header = ["run", "system", "seed", "macro average, %", "all clips, %", "log loss"]
    return Table("The runs", header, rows)


def drawings(collected: Mapping[str, Any]) -> list[Drawing]:
    """Return the drawings that the figures allow."""
    found = [system_figure(collected)]
    difference = collected["difference"]
    parts = {"class": difference["classes"]}
    parts |= {words.words(column): rows for column, rows in difference["groups"].items()}
    whole = {"difference": difference["macro_accuracy"], "interval": difference["interval"]}
    for what, rows in parts.items():
        if 1 <= len(rows) <= MAX_BARS:
            found.append(difference_figure(collected, what, rows | {"all clips": whole}))
    return found


def system_figure(collected: Mapping[str, Any]) -> Drawing:
    """Return the macro averages: a row for each system, a mark for each run, with the interval."""
    systems = collected["systems"]

    def draw(figure) -> None:
        axes = figure.subplots()
        for y, ((label, row), colour) in enumerate(zip(systems.items(), (BLUE, RED), strict=True)):
            if row["interval"]:
                ends = 100 * row["interval"]["low"], 100 * row["interval"]["high"]
                axes.hlines(y, *ends, color=colour, lw=2)
            runs = [run for run in collected["runs"] if run["system"] == label]
            x = [100 * run["macro_accuracy"] for run in runs]
            axes.plot(x, [y] * len(x), "o", ms=7, color=colour, mfc="white")
            axes.plot(100 * row["macro_accuracy"], y, "D", ms=8, color=colour)
        axes.plot([], [], "o", ms=7, color=INK, mfc="white", label="a run")
        axes.plot([], [], "D", ms=8, color=INK, label="mean over seeds")
        axes.plot([], [], color=INK, lw=2, label=_level(collected))
        figure.legend(loc="outside upper left")
        name_rows(axes, [in_picture(label) for label in systems])
        axes.set(xlabel="macro average accuracy, %")

    description = "; ".join(
        f"{label}: {percent(row['macro_accuracy'])}, interval {between(row['interval'], percent)}"
        for label, row in systems.items()
    )
    picture = svg("systems", (WIDTH, 200), draw)
    return Drawing("Macro average accuracy, in %", description, picture)


def difference_figure(
    collected: Mapping[str, Any], what: str, rows: Mapping[str, Mapping[str, Any]]
) -> Drawing:
    """Return the differences of parts of the clips, with their intervals, and that of all."""
    known = {name: row for name, row in rows.items() if row["difference"] is not None}
    names = [in_picture(name) for name in known]

    def draw(figure) -> None:
        axes = figure.subplots()
        axes.axvline(0, color=INK, lw=1)
        for y, (name, row) in enumerate(known.items()):
            whole = name == "all clips" and y == len(known) - 1
            colour = RED if whole else BLUE
            if row["interval"]:
                ends = 100 * row["interval"]["low"], 100 * row["interval"]["high"]
                axes.hlines(y, *ends, color=colour, lw=3 if whole else 2)
            axes.plot(100 * row["difference"], y, "D" if whole else "o", ms=8, color=colour)
        name_rows(axes, names)
        reach = 1.05 * max(0.5, *map(abs, axes.get_xlim()))
        axes.set(xlim=(-reach, reach), xlabel="difference, percentage points")
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:+g}".replace("-", "−") if x else "0")

    description = "; ".join(
        f"{name}: {points(row['difference'])}, interval {between(row['interval'])}"
        for name, row in known.items()
    )
    first, second = collected["systems"]
    title = f"{first} minus {second} by {what}, with {_level(collected)}s"
    picture = svg(f"difference-{what}", (WIDTH, 70 + 26 * len(known)), draw)
    return Drawing(title, description, picture)
