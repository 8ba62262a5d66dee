"""The figures of an evaluation as tables of words, and templates that set them."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from asc_jax.data.tau.published import comparable
from asc_jax.evaluation import intervals, metrics
from asc_jax.evaluation.result_files import stored_summary

NONE = "–"
MAX_NAME = 40  # characters of a class or a value in plain text
TEMPLATES = Path(__file__).parent


class Table(NamedTuple):
    """A table of words; the first cell of a row is its heading."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def percent(fraction: float | None, sd: float | None = None) -> str:
    """Return a fraction, and its standard deviation if there is one, in percent.

    Example:
        >>> percent(0.4428), percent(0.424, 0.0042), percent(None)
        ('44.28', '42.40 ± 0.42', '–')
    """
    return decimals(*(x if x is None else 100 * x for x in (fraction, sd)), digits=2)


def decimals(value: float | None, sd: float | None = None, *, digits: int = 3) -> str:
    """Return a number, and its standard deviation if there is one; "–" for None."""
    if value is None:
        return NONE
    return f"{value:.{digits}f}" + ("" if sd is None else f" ± {sd:.{digits}f}")


def aligned(table: Table, *, markdown: bool = False) -> str:
    """Set a table in plain text or in Markdown: headings to the left, figures to the right."""
    rows = [row for row in (table.header, *table.rows) if row]
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    lines = [
        [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]  # a row may be short
        for row in rows
    ]
    if not markdown:
        return "\n".join("  ".join(line).rstrip() for line in lines)
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def without_bars(table: Table) -> Table:
    """Return a table whose cells do not end where a name has the sign that separates cells."""
    rows = [[cell.replace("|", r"\|") for cell in row] for row in (table.header, *table.rows)]
    return Table(table.title, rows[0], rows[1:])


def points(difference: float | None) -> str:
    """Return a difference of fractions in percentage points, with its sign.

    Example:
        >>> points(0.0188), points(-0.001), points(-1e-9), points(None)
        ('+1.88', '−0.10', '+0.00', '–')
    """
    if difference is None:
        return NONE
    rounded = round(100 * difference, 2) + 0.0  # no "−0.00"
    return f"{rounded:+.2f}".replace("-", "−")


def between(interval: Mapping[str, Any] | None, form: Callable = points) -> str:
    """Return an interval, whose ends `form` writes; "–" for None."""
    return NONE if interval is None else f"{form(interval['low'])} to {form(interval['high'])}"


def count(n: int) -> str:
    """Return a whole number with commas."""
    return f"{n:,}"


def shortened(name: str, width: int = MAX_NAME) -> str:
    """Return a name of at most so many characters; of a longer one the middle is left out.

    Example:
        >>> shortened("a door that is closed with force", 20)
        'a door that i… force'
    """
    if len(name) <= width:
        return name
    end = width // 3
    return f"{name[: width - end - 1]}…{name[-end:]}"


def breakable(name: str) -> str:
    """Return a name as HTML that may be broken after each underscore and slash."""
    import markupsafe

    parts = re.split(r"(?<=[_/])(?=.)", name)
    return markupsafe.Markup("<wbr>").join(parts)


FILTERS = (percent, decimals, points, between, count, aligned, shortened, breakable)  # of templates


@functools.cache
def _open(template: Path) -> Any:
    """Open a template, which may use `page.html` and `macros.html` of this folder.

    What is filled into HTML is escaped.
    """
    import jinja2  # not needed for pictures, which use the functions above

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, TEMPLATES]),
        autoescape=jinja2.select_autoescape(),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    functions = {function.__name__: function for function in FILTERS}
    environment.filters |= functions
    environment.globals |= functions
    return environment.get_template(template.name)


def fill(template: Path, **content: Any) -> str:
    """Return a filled-in template without empty lines at its ends."""
    return _open(template).render(content).strip("\n")


def fill_paragraphs(template: Path, **content: Any) -> list[str]:
    """Return the paragraphs of a filled-in template, each as one line."""
    paragraphs = fill(template, **content).split("\n\n")
    return [" ".join(lines.split("\n")).strip() for lines in paragraphs if lines.strip()]


def make(name: str, *content: Any, template: Path = TEMPLATES / "tables.txt") -> Table:
    """Return the table that the macro `name` of a template writes.

    Its lines are the title, the header, which may be empty, and the rows, with | between cells.
    """
    words = getattr(_open(template).module, name)(*content)
    title, header, *rows = words.strip("\n").split("\n")
    header = header.split(" | ") if header else ()
    return Table(title, header, [row.split(" | ") for row in rows])


def accuracy(results: Mapping[str, Any], *, with_intervals: bool = False) -> dict[str, Table]:
    """Return the accuracies as `averages`, by `classes` and by each group column.

    The key of a group column's table is `group-<column>`, and of its sets `group-<column>-sets`,
    if it has some. Published figures stand beside ours where the split has some and the clips are
    from the official lists. Log losses, in nats per clip, are those of the stored dtype.

    with_intervals: add the intervals of the stored dtype's accuracies, where the results have some.
    """
    known, stored = comparable(results), results["stored_dtype"]
    systems = {"report": known["report"], "baseline": known["baseline"]} if known else {}
    dtypes = [*dict.fromkeys(("float32", stored))]
    summaries = [results[dtype] for dtype in dtypes]
    with_intervals = with_intervals and bool(results.get("intervals"))
    level = [f"{100 * results['intervals']['level']:g} % interval"] if with_intervals else []

    def table(what: str, title: str, rows: Sequence[Sequence[str]]) -> Table:
        title = f"{title}: accuracy in %, log loss in nats per clip ({stored})"
        theirs = [f"{name}, published" for name in systems]
        return Table(title, [what, "clips", *dtypes, *level, "log loss", *theirs], rows)

    def row(label: str, *path: str, key: str = "accuracy", loss: str = "log_loss") -> list[str]:
        """Return the cells of the figures that stand at a path, such as classes, cat."""
        figures = [_at(summary, path) for summary in summaries]
        n_clips, log_loss = (figures[-1][name] for name in ("n_clips", loss))
        ours = [count(n_clips), *(percent(each[key]) for each in figures)]
        ours += [between(intervals.of(results, *(path or (key,))), percent)] * with_intervals
        ours += [decimals(log_loss)]
        theirs = [_at(system, path or (key,)) or None for system in systems.values()]
        return [label, *ours, *map(percent, theirs)]

    averages = [
        row("macro average of classes", key="macro_accuracy", loss="macro_log_loss"),
        row("all clips"),
    ]
    tables = {"averages": table("average", "Averages", averages)}
    classes = [row(name, "classes", name) for name in summaries[-1]["classes"]]
    tables["classes"] = table("class", "By class", classes)
    for column, figures in summaries[-1]["groups"].items():
        what = words(column)
        rows = [row(name, "groups", column, "values", name) for name in figures["values"]]
        tables[f"group-{column}"] = table(what, f"By {what}", rows)
        if figures["sets"]:
            members = results["labels"]["groups"][column]["sets"]
            rows = [
                row(of_members(name, members[name]), "groups", column, "sets", name)
                for name in figures["sets"]
            ]
            tables[f"group-{column}-sets"] = table(f"{what} set", f"By set of {what}", rows)
    return tables


def precision_and_recall(results: Mapping[str, Any]) -> Table:
    """Return precision, recall and F1 by class, of the stored dtype, with their means over classes.

    A mean leaves out the classes that have no such figure, which get "–".
    """
    summary = stored_summary(results)
    found = metrics.of_predicted(summary["confusion"])
    figures = [found[name] for name in metrics.OF_PREDICTED]
    rows = []
    for number, (name, row) in enumerate(summary["classes"].items()):
        cells = [count(row["n_clips"]), count(found["n_predicted"][number])]
        rows.append([name, *cells, *(percent(each[number]) for each in figures)])
    n_clips = [count(summary["n_clips"]), count(sum(found["n_predicted"]))]
    rows.append(["macro average of classes", *n_clips, *(percent(_mean(each)) for each in figures)])
    title = f"Precision, recall and F1 by class, in % ({results['stored_dtype']})"
    return Table(title, ["class", "clips", "predicted", "precision", "recall", "F1"], rows)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def words(column: str) -> str:
    """Return the name of a group column in words."""
    return column.replace("_", " ")


def of_members(name: str, members: Sequence[str]) -> str:
    """Return the name of a set with its members, or their number if they are many.

    Example:
        >>> of_members("real", ["a", "b"])
        'real (a, b)'
    """
    listed = ", ".join(members)
    return f"{name} ({listed if len(listed) <= 30 else f'{len(members):,} values'})"


def _at(tree: Mapping[str, Any], path: Sequence[str]) -> Any:
    """Return what stands at a path of a tree; an empty dict if nothing does."""
    for key in path:
        tree = tree.get(key, {}) if isinstance(tree, Mapping) else {}
    return tree


def calibrated(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the reliabilities that there are: as trained and with the temperature."""
    found = results["calibration"]
    rows = {"as trained": found["as_trained"]}
    if found["temperature"] is not None:
        rows[f"with temperature {found['temperature']:.3f}"] = found["with_temperature"]
    return {label: row for label, row in rows.items() if row is not None}
