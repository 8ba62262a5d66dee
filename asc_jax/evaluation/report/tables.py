"""The figures of an evaluation as tables of words, and templates that set them."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from asc_jax.data.tau.taxonomy import DEVICE_GROUPS
from asc_jax.evaluation.report.published import comparable
from asc_jax.evaluation.result_files import stored_summary

NONE = "–"
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


def fill(template: Path, **content: Any) -> str:
    """Return a filled-in template, which may use `page.html` and `macros.html` of this folder.

    In HTML what is filled in is escaped; `percent`, `decimals` and `aligned` are filters.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, TEMPLATES]),
        autoescape=jinja2.select_autoescape(),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "decimals": decimals, "aligned": aligned}
    return environment.get_template(template.name).render(content).strip("\n")


def fill_paragraphs(template: Path, **content: Any) -> list[str]:
    """Return the paragraphs of a filled-in template, each as one line."""
    paragraphs = fill(template, **content).split("\n\n")
    return [" ".join(lines.split("\n")).strip() for lines in paragraphs if lines.strip()]


def about(results: Mapping[str, Any]) -> Table:
    """Return what was trained, what it was evaluated on and how large it is."""
    words = fill(TEMPLATES / "about.txt", results=results, summary=stored_summary(results))
    rows = [line.split(": ", 1) for line in words.split("\n")]
    return Table("The run and its evaluation", (), rows)


def accuracy(results: Mapping[str, Any]) -> dict[str, Table]:
    """Return the accuracies by `averages`, `scenes`, `devices` and `groups`.

    Published figures stand beside them where the split has some and the clips are from the
    official lists. Log losses, in nats per clip, are those of the stored dtype.
    """
    stored = results["stored_dtype"]
    dtypes = list(dict.fromkeys(("float32", stored)))  # one or two
    summaries = [results[dtype] for dtype in dtypes]
    known = comparable(results)
    systems = [known["report"], known["baseline"]] if known else []
    header = ["clips", *dtypes, "log loss"]
    header += ["report, published", "baseline, published"][: len(systems)]
    units = f"accuracy in %, log loss in nats per clip ({stored})"

    def row(label, ours, theirs, prefix=""):
        accuracies = [percent(figures[f"{prefix}accuracy"]) for figures in ours]
        log_loss = decimals(ours[-1][f"{prefix}log_loss"])
        return [label, f"{ours[-1]['n_clips']:,}", *accuracies, log_loss, *theirs]

    averages = [percent(system["macro_accuracy"]) for system in systems]
    rows = [
        row("macro average of scenes", summaries, averages, "macro_"),
        row("all clips", summaries, [NONE] * len(systems)),
    ]
    tables = {"averages": Table(f"Averages: {units}", ["average", *header], rows)}
    for kind in ("scenes", "devices", "groups"):
        rows = [
            row(
                _label(kind, name),
                [summary[kind][name] for summary in summaries],
                [percent(system.get(kind, {}).get(name)) for system in systems],
            )
            for name in summaries[0][kind]
        ]
        tables[kind] = Table(f"By {kind[:-1]}: {units}", [kind[:-1], *header], rows)
    return tables


def _label(kind: str, name: str) -> str:
    if kind == "groups":
        return f"{name} ({' '.join(DEVICE_GROUPS[name]).upper()})"
    return name.upper() if kind == "devices" else name.replace("_", " ")


def segments(results: Mapping[str, Any]) -> Table:
    """Return the figures of clips and of the ten-second segments that they are cut from."""
    summary, segments = stored_summary(results), results["segments"]
    rows = [
        [name, f"{n:,}", percent(part["macro_accuracy"]), percent(part["accuracy"])]
        + [decimals(part["log_loss"])]
        for name, n, part in (
            ("clips", summary["n_clips"], summary),
            ("segments", segments["n_segments"], segments),
        )
    ]
    header = ["of", "number", "macro average, %", "all, %", "log loss"]
    return Table("Clips and segments", header, rows)


def calibrated(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the reliabilities that there are: as trained and with the temperature."""
    found = results["calibration"]
    rows = {"as trained": found["as_trained"]}
    if found["temperature"] is not None:
        rows[f"with temperature {found['temperature']:.3f}"] = found["with_temperature"]
    return {label: row for label, row in rows.items() if row is not None}


def calibration(results: Mapping[str, Any]) -> Table:
    """Return the calibration errors of the test clips, as trained and with a temperature."""
    header = ["probabilities", "calibration error, %", "log loss", "confidence, %", "accuracy, %"]
    rows = [
        [label, percent(row["ece"]), decimals(row["log_loss"])]
        + [percent(row["confidence"]), percent(row["accuracy"])]
        for label, row in calibrated(results).items()
    ]
    return Table("Calibration on the test clips", header, rows)


def bins(label: str, row: Mapping[str, Any]) -> Table:
    """Return the bins of a reliability diagram."""
    header = ["confidence above … to …, %", "clips", "mean confidence, %", "accuracy, %"]
    rows = [
        [f"{percent(b['low'])} to {percent(b['high'])}", f"{b['n_clips']:,}"]
        + [percent(b["confidence"]), percent(b["accuracy"])]
        for b in row["bins"]
    ]
    return Table(f"Bins, {label}", header, rows)


def formats(results: Mapping[str, Any]) -> tuple[Table, list[str]]:
    """Return what storing parameters and statistics in each dtype costs, and notes on it."""
    header = ["stored as", "bytes", "macro, %", "all, %", "log loss", "changed", "rounding"]
    notes = [
        "changed: clips that are predicted as another scene than in float32; rounding: the "
        "largest relative error of a parameter"
    ]
    rows = []
    for dtype, cost in results["formats"].items():
        if "refused" in cost:
            rows.append([dtype, *[NONE] * (len(header) - 1)])
            notes.append(f"{dtype}: {cost['refused']}")
            continue
        summary, leaves = results[dtype], cost["rounding"]
        largest = max((leaf["max_relative"] for leaf in leaves), default=0)
        n_subnormal, n_zero = (sum(leaf[k] for leaf in leaves) for k in ("n_subnormal", "n_zero"))
        rows.append(
            [dtype, f"{cost['bytes']:,}", percent(summary["macro_accuracy"])]
            + [percent(summary["accuracy"]), decimals(summary["log_loss"])]
            + [f"{cost['changed_top_scene']:,}", f"{largest:.1e}" if largest else "0"]
        )
        if n_subnormal or n_zero:
            notes.append(f"{dtype}: {n_subnormal:,} values became subnormal, {n_zero:,} zero")
    return Table("What storing the parameters in each dtype costs", header, rows), notes
