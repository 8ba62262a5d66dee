"""The plain text that an evaluation prints."""

import textwrap
from collections.abc import Mapping
from typing import Any

from asc_jax.complexity.limits import OVER_BUDGET
from asc_jax.evaluation.report import tables
from asc_jax.evaluation.report.published import comparable, published
from asc_jax.evaluation.report.tables import Table, percent
from asc_jax.evaluation.result_files import stored_summary

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
    text = tables.fill(
        tables.TEMPLATES / "results.txt",
        results=results,
        summary=stored_summary(results),
        tables=tables,
        accuracy=_accuracy(results, known),
        known=known,
        published_left_out=published(results["split"]) and not known,
        over_budget=OVER_BUDGET,
    )
    return "\n".join(textwrap.fill(line, _WIDTH) for line in text.split("\n"))


def _accuracy(results: Mapping[str, Any], known: Mapping[str, Any] | None) -> Table:
    """Return all accuracies as one table, with the published ones in `known`."""
    averages, *others = tables.accuracy(results).values()
    rows = list(averages.rows)
    if known:
        rows[0] = [*rows[0], f"± {percent(known['baseline']['spread'])}"]
    for table in others:
        rows += [[""], [f"{table.header[0]}s"]]
        rows += [[f"  {label}", *cells] for label, *cells in table.rows]
    header = ["", *(head.removesuffix(", published") for head in averages.header[1:])]
    return Table("", header, rows)
