"""The picture of `asc_jax.cli.complexity`: a bar per layer, coloured by its budget share."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from asc_jax.complexity.budget import LayerCost
from asc_jax.evaluation.report.figures import GREY, INK, RED, STYLE


def write_budget_figure(
    path: str | Path, name: str, rows: Sequence[LayerCost], totals: Mapping
) -> None:
    """Draw the layers' shares of both limits; over budget is stamped on it.

    Args:
      path: PNG to write; its folder is made if it is missing.
      name: what the network is called, for the title.
      rows: as `budget.examine` gives them.
      totals: likewise.
    """
    import matplotlib
    from matplotlib.figure import Figure

    height = 1.9 + 0.27 * len(rows)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.2, height))
        figure.text(
            0.02, 1 - 0.16 / height, "Where the budget goes", size=13, weight="bold", va="top"
        )
        about = f"{name} · {totals['n_params']:,} parameters in {totals['stored_dtype']}"
        figure.text(0.02, 1 - 0.46 / height, about, size=9.5, color=GREY, va="top")
        if not totals["within_budget"]:
            box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": RED, "lw": 1.5}
            look = {"size": 11, "weight": "bold", "color": RED, "bbox": box}
            figure.text(0.98, 1 - 0.2 / height, "over budget", ha="right", va="top", **look)
        panels = figure.subplots(1, 2, sharey=True)
        figure.subplots_adjust(
            left=0.13, right=0.975, top=1 - 1.2 / height, bottom=0.5 / height, wspace=0.08
        )
        kinds = (("macs", "MACs"), ("bytes", "bytes"))
        costs = ([row.macs for row in rows], [row.n_bytes for row in rows])
        limits = [totals[f"max_{kind}"] for kind, _ in kinds]
        largest = max(
            cost / limit for values, limit in zip(costs, limits, strict=True) for cost in values
        )
        for panel, (kind, unit), values, limit in zip(panels, kinds, costs, limits, strict=True):
            total = f"{totals[kind]:,} of {limit:,} {unit}: {totals[kind] / limit:.1%}"
            panel.set_title(total, size=10.5, loc="left", weight="bold", color=_ink(totals, kind))
            _bars(panel, values, limit, largest)
        panels[0].set_yticks(range(len(rows)), [row.layer for row in rows])
        panels[0].set_ylim(len(rows) - 0.4, -0.6)  # the first layer on top
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png")


def _ink(totals: Mapping, kind: str) -> str:
    return INK if totals[kind] <= totals[f"max_{kind}"] else RED


def _bars(panel, values: Sequence[int], limit: int, largest: float) -> None:
    """Length and colour are the share; both panels have one scale, so that they compare."""
    import matplotlib

    shades = matplotlib.colormaps["Blues"]
    for y, value in enumerate(values):
        share = value / limit
        panel.barh(y, 100 * share, 0.74, color=shades(0.3 + 0.65 * share / largest))
        look = {"size": 8.5, "color": GREY, "bbox": {"fc": "white", "ec": "none", "pad": 0.8}}
        panel.text(100 * share + 1.4 * largest, y, f"{value:,}", va="center_baseline", **look)
    panel.set(xlim=(0, 122 * largest), xlabel="% of the limit")
    panel.grid(axis="x")
