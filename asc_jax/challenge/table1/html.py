"""The table page: one HTML file that needs no network, no script and no other file."""

from collections.abc import Mapping
from typing import Any

from asc_jax.challenge.table1.figures import accuracy_figure, difference_figure
from asc_jax.challenge.table1.grids import grids
from asc_jax.challenge.table1.notes import method, warnings
from asc_jax.evaluation.report.page import Section, figure, page, paragraph, table


def as_html(figures: Mapping[str, Any], title: str) -> str:
    """The page, for a `table1_collect.collect`."""
    first, *others = (
        table(f"grid-{number}", grid.title, grid.header, grid.rows)
        for number, grid in enumerate(grids(figures))
    )
    introduction = [paragraph(said, warning=True) for said in warnings(figures)]
    sections = [
        Section("table", "Table 1", [*first, *map(paragraph, method(figures))]),
        Section("figures", "Figures", _drawings(figures)),
        Section("details", "Intervals, tests and scenes", [line for g in others for line in g]),
    ]
    return page(title, introduction, sections)


def _drawings(figures: Mapping[str, Any]) -> list[str]:
    lines = figure(accuracy_figure(figures), "Macro average accuracy by training list")
    if figures["differences"]:
        pair = figures["differences"][0]
        ours, theirs = (figures["systems"][pair[key]] for key in ("first", "second"))
        said = f"{ours} minus {theirs}, macro average accuracy"
        lines += figure(difference_figure("differences", said, figures["differences"]), said)
    if figures["ablation"]:
        said = "One change at a time, from the baseline to the report's system"
        lines += figure(difference_figure("ablation", said, figures["ablation"]), said)
    return lines
