"""One evaluation for people: plain text, and `report.html`, one file that opens anywhere."""

import base64
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asc_jax.complexity.limits import OVER_BUDGET, TEACHER
from asc_jax.data.tau.published import comparable, left_out
from asc_jax.evaluation import intervals
from asc_jax.evaluation.calibration import N_BINS
from asc_jax.evaluation.report import figures, tables
from asc_jax.evaluation.report.sounds import Sound
from asc_jax.evaluation.report.tables import Table, percent, shortened, words
from asc_jax.evaluation.result_files import stored_summary

_WIDTH = 92  # columns
MAX_ROWS = 100  # of a group column in plain text


def results_table(results: Mapping[str, Any]) -> str:
    """Return the whole evaluation as aligned plain text, at most 92 columns wide.

    Published figures stand beside ours when the split's name has some and the clips were TAU's
    own lists. On other clips they cannot be compared: they are left out, and a line says so.

    Accuracies are in percent; log losses, of the stored dtype, in nats per clip; "–" stands for
    what has no clips or was not published.
    """
    known = comparable(results)
    text = tables.fill(
        tables.TEMPLATES / "results.txt",
        results=results,
        summary=stored_summary(results),
        tables=tables,
        accuracy=_accuracy(results, known),
        known=known,
        published_left_out=left_out(results),
        over_budget=OVER_BUDGET,
        teacher=TEACHER,
        interval=intervals.of,
    )
    return "\n".join(textwrap.fill(line, _WIDTH) for line in text.split("\n"))


def _accuracy(results: Mapping[str, Any], known: Mapping[str, Any] | None) -> Table:
    """Return all accuracies as one table, with the published ones in `known`."""
    found = tables.accuracy(results)
    averages = found.pop("averages")
    rows = list(averages.rows)
    if known:
        rows[0] = [*rows[0], f"± {percent(known['baseline']['spread'])}"]
    for table in found.values():
        rows += [[""], [table.title.partition(":")[0].lower()]]
        if len(table.rows) > MAX_ROWS:
            rows += [[f"  {len(table.rows):,} rows: see results.json"]]
            continue
        rows += [[f"  {shortened(label)}", *cells] for label, *cells in table.rows]
    header = ["", *(head.removesuffix(", published") for head in averages.header[1:])]
    return Table("", header, rows)


def as_html(
    results: Mapping[str, Any],
    log_mels: Sequence[np.ndarray],
    axes: Mapping[str, float],
    *,
    metrics_jsonl_path: str | Path,
    learning_curve: Path | None,
    sounds: Sequence[Sound] = (),
) -> str:
    """Return the page.

    Args:
      results: see `result_files`, with `segments`, `calibration` and `most_confused`.
      log_mels, axes: of `most_confused`, see `figures.spectrograms`.
      metrics_jsonl_path: the training log.
      learning_curve: a PNG drawn of it, or None.
      sounds: of `most_confused`, or none.
    """
    log_mels = np.asarray(log_mels)
    return tables.fill(
        tables.TEMPLATES / "report.html",
        results=results,
        summary=stored_summary(results),
        tables=tables,
        pictures=figures,
        classes=[*stored_summary(results)["classes"]],
        words=words,
        interval=intervals.of,
        no_width=intervals.no_width,
        sounds=sounds,
        max_numbered=figures.MAX_NUMBERED,
        n_bins=N_BINS,
        heat=heat,
        over_budget=OVER_BUDGET,
        teacher=TEACHER,
        trained_and_tested=trained_and_tested,
        published_left_out=left_out(results),
        mistakes=_mistakes(stored_summary(results)),
        spectrograms=figures.spectrograms(results["most_confused"], log_mels, axes),
        curve=learning_curve and base64.b64encode(learning_curve.read_bytes()).decode(),
        log=learning_curve and figures.read_log(metrics_jsonl_path)["train"],
    )


def trained_and_tested(results: Mapping[str, Any]) -> str:
    """Return the warning that the network was trained on clips it is tested on."""
    both = results["trained_and_tested"]
    return (
        f"{both['n_clips']:,} of the test clips, such as {both['first']}, are training clips too: "
        "these results are better than those on other clips would be."
    )


def heat(share: float) -> str:
    """Return the CSS of a cell: white at 0, dark blue at 1, words in the ink that is legible."""
    red, green, blue = (255 + share * (end - 255) for end in (0, 64, 110))
    ink = "#fff" if share > 0.695 else "#000"  # there both have a contrast of 4.5
    return f"background:rgb({red:.0f},{green:.0f},{blue:.0f});color:{ink}"


def _mistakes(summary: Mapping[str, Any]) -> list[tuple[str, str, int, int]]:
    """Return true class, predicted class, clips and all clips of the class, most frequent first."""
    confusion, classes = np.array(summary["confusion"]), [*summary["classes"]]
    wrong = confusion - np.diag(np.diag(confusion))
    n = 5 if len(classes) <= figures.MAX_NUMBERED else 20  # where no cell has a number
    worst = [np.unravel_index(i, wrong.shape) for i in np.argsort(-wrong, axis=None)[:n]]
    return [
        (classes[i], classes[j], int(wrong[i, j]), int(confusion[i].sum()))
        for i, j in worst
        if wrong[i, j]
    ]
