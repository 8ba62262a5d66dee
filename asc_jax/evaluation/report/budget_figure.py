"""The picture of `asc_jax.cli.complexity`: a bar per layer, coloured by its budget share."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from asc_jax.complexity.budget import LayerCost
from asc_jax.evaluation.report.figures import GREY, INK, RED, write_png


def write_budget_figure(
    path: str | Path, name: str, rows: Sequence[LayerCost], totals: Mapping
) -> None:
    """Draw the layers' fractions of both limits; over budget is stamped on the picture.

    Args:
      path: PNG to write; its folder is made if it is missing.
      name: of the network, for the title.
      rows, totals: see `budget.examine`.
    """

    def draw(figure) -> None:
        import matplotlib

        shades = matplotlib.colormaps["Blues"]
        costs = {"macs": [row.macs for row in rows], "bytes": [row.n_bytes for row in rows]}
        # Both panels have one scale, so that they compare.
        largest = max(max(values) / totals[f"max_{kind}"] for kind, values in costs.items())
        panels = figure.subplots(1, 2, sharey=True)
        for panel, unit, (kind, values) in zip(
            panels, ("MACs", "bytes"), costs.items(), strict=True
        ):
            total, limit = totals[kind], totals[f"max_{kind}"]
            title = f"{total:,} of {limit:,} {unit}: {total / limit:.1%}"
            ink = INK if total <= limit else RED
            panel.set_title(title, size=10.5, loc="left", weight="bold", color=ink)
            colours = [shades(0.3 + 0.65 * value / limit / largest) for value in values]
            bars = panel.barh(
                [*range(len(rows))], [100 * v / limit for v in values], 0.74, color=colours
            )
            panel.bar_label(
                bars, [f"{value:,}" for value in values], padding=4, size=8.5, color=GREY
            )
            panel.set(xlim=(0, 122 * largest), xlabel="% of the limit")
            panel.grid(axis="x")
        panels[0].set_yticks(range(len(rows)), [row.layer for row in rows])
        panels[0].set_ylim(len(rows) - 0.4, -0.6)  # the first layer on top

    write_png(
        path,
        (9.2, 1.9 + 0.27 * len(rows)),
        draw,
        "Where the budget goes",
        f"{name} · {totals['n_params']:,} parameters in {totals['stored_dtype']}",
        over_budget=not totals["within_budget"],
    )
