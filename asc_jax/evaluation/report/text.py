"""The plain text that an evaluation prints."""

import textwrap
from collections.abc import Mapping
from typing import Any

from asc_jax.complexity.limits import OVER_BUDGET
from asc_jax.evaluation.report import tables
from asc_jax.evaluation.report.published import comparable, published
from asc_jax.evaluation.report.tables import Table, aligned, percent

_WIDTH = 92  # columns


def results_table(results: Mapping[str, Any]) -> str:
    """Return the whole evaluation as aligned plain text, at most 92 columns wide.

    Published figures stand beside ours when the split's name has some and the clips were TAU's
    own lists. On other clips they cannot be compared: they are left out, and a line says so.

    Args:
        results: see `result_files`.

    Returns:
        Lines without a newline at the end. Accuracies in percent; log losses, of the stored
        dtype, in nats per clip; "–" for what has no clips or was not published.
    """
    known = comparable(results)
    blocks = ["\n".join(f"{name:<12}{value}" for name, value in tables.about(results).rows)]
    blocks += [OVER_BUDGET] * bool(results["over_budget"])
    if published(results["split"]) and not known:
        blocks.append("no published figures: they hold for TAU's official lists, these are others")
    title = f"accuracy in %, log loss in nats per clip ({results['stored_dtype']})"
    title += "\nreport and baseline: published, on TAU 2022 Mobile" if known else ""
    blocks.append(f"{title}\n{_accuracy(results, known)}")
    if "segments" in results:
        missing, why_not = results["segments"].get("missing"), results["calibration"]["why_not"]
        blocks.append(f"no segments: {missing}" if missing else aligned(tables.segments(results)))
        blocks.append(aligned(tables.calibration(results)))
        blocks += [f"no temperature: {why_not}"] * bool(why_not)
    table, notes = tables.formats(results)
    blocks.append("\n".join([aligned(table), *notes]))
    if known and known["note"]:
        blocks.append(f"note: {known['note']}")
    return "\n".join(textwrap.fill(line, _WIDTH) for line in "\n\n".join(blocks).split("\n"))


def _accuracy(results: Mapping[str, Any], known: Mapping[str, Any] | None) -> str:
    """Set all accuracies as one table, with the published ones in `known`."""
    averages, *others = tables.accuracy(results).values()
    rows = list(averages.rows)
    if known:
        rows[0] = [*rows[0], f"± {percent(known['baseline']['spread'])}"]
    for table in others:
        rows += [[""], [f"{table.header[0]}s"]]
        rows += [[f"  {label}", *cells] for label, *cells in table.rows]
    header = ["", *(head.removesuffix(", published") for head in averages.header[1:])]
    return aligned(Table("", header, rows))
