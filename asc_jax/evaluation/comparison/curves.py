"""Learning curves of compared runs: accuracy by epoch, read from their training logs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asc_jax.evaluation.report.figures import (
    BLUE,
    INK,
    RED,
    Drawing,
    in_picture,
    read_log,
    svg,
)
from asc_jax.evaluation.report.tables import percent

WIDTH = 440  # narrow, so that its words stay legible on a phone


def read_curves(workdir: str | Path) -> dict[str, list[list[float]]]:
    """Return the accuracies in the log of a run: kind → `[n][2]`, epochs and fractions in [0, 1].

    `train` is the accuracy on augmented training clips; `test` or `validation` the macro average on
    those clips. A kind without an epoch is left out, and so is all where there is no log.
    """
    found = {}
    for kind, entries in read_log(Path(workdir) / "metrics.jsonl").items():
        key = "accuracy" if kind == "train" else "macro_accuracy"
        points = [
            [entry["epoch"], entry[key]]
            for entry in entries
            if isinstance(entry.get(key), float | int)
        ]
        if points:
            found[kind] = points
    return found


def curves_figure(runs: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> Drawing | None:
    """Return the curves of all runs, one colour for a system; None where no run has a log.

    Args:
      runs: dicts with `system`, `workdir` and `curves`, see `read_curves`.
      labels: names of the two systems.
    """
    runs = [run for run in runs if run["curves"]]
    if not runs:
        return None
    colours = dict(zip(labels, (BLUE, RED), strict=True))
    tested = sorted({kind for run in runs for kind in run["curves"]} - {"train"})

    def draw(figure) -> None:
        axes = figure.subplots()
        for run in runs:
            for kind, points in run["curves"].items():
                epochs, accuracies = zip(*points, strict=True)
                style = _style_of(kind, one_point=len(points) == 1)
                y = [100 * value for value in accuracies]
                axes.plot(epochs, y, color=colours[run["system"]], **style)
        for label, colour in colours.items():
            axes.plot([], [], color=colour, lw=3, label=in_picture(label))
        axes.plot([], [], color=INK, label="training, augmented clips", **_style_of("train"))
        for kind in tested:
            axes.plot([], [], color=INK, label=f"{kind}, macro average", **_style_of(kind))
        figure.legend(loc="outside upper left")
        last = max(
            epoch for run in runs for points in run["curves"].values() for epoch, _ in points
        )
        axes.set(xlabel="epoch", ylabel="accuracy, %", xlim=(0, 1.02 * last), ylim=(0, None))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y")

    title = "Accuracy by epoch, in %: a line for each run"
    height = 300 + 20 * (len(labels) + len(tested))
    picture = svg("curves", (WIDTH, height), draw)
    return Drawing(title, "; ".join(map(_in_words, runs)), picture)


def _style_of(kind: str, *, one_point: bool = False) -> dict[str, Any]:
    if kind == "train":
        return {"lw": 1.3, "ls": "--", "marker": "o" if one_point else "", "ms": 4}
    if kind == "test":
        return {"lw": 1.8, "marker": "o", "ms": 6, "mec": "white"}
    return {"lw": 1.8, "marker": "s", "ms": 6, "mec": "white"}


def _in_words(run: Mapping[str, Any]) -> str:
    parts = [
        f"{'training' if kind == 'train' else kind} {percent(points[0][1])} to "
        f"{percent(points[-1][1])} at epoch {points[-1][0]}"
        for kind, points in run["curves"].items()
    ]
    return f"{run['system']}, seed {run['seed']}: {', '.join(parts)}"
