"""Three pictures of a run: what it confuses, how it learned, how it fares by device.

matplotlib is imported only when a picture is drawn, here and in `budget_figure`, and nothing
global is touched: `Figure` objects render themselves to PNG, without a display.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asc_jax.data.tau.taxonomy import DEVICE_GROUPS, SCENES
from asc_jax.evaluation.report.published import published
from asc_jax.machine import files

# From Okabe and Ito's palette: told apart with every kind of colour blindness.
BLUE, GREEN, RED = "#0072B2", "#009E73", "#D55E00"
INK, GREY, PALE = "#222222", "#6B6B6B", "#DDDDDD"
_LABELS = {"real": "real", "seen": "simulated, seen", "unseen": "simulated, unseen"}
_COLOURS = {"real": BLUE, "seen": GREEN, "unseen": RED}
STYLE = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.spines.left", "axes.spines.top", "axes.spines.right"), False),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 0),
    "axes.edgecolor": GREY,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "legend.frameon": False,
    "savefig.dpi": 150,
}


def write_figures(
    results: Mapping[str, Any], metrics_jsonl_path: str | Path, out_dir: str | Path
) -> list[Path]:
    """Draws `confusion.png`, `devices.png` and `learning_curve.png`.

    The pictures show the stored dtype. "over budget" is stamped on each if the network
    exceeds the task's limits.

    Args:
        results: see `report`.
        metrics_jsonl_path: the training log, one JSON object per line. Broken lines, which
            an interrupted run leaves, are skipped; without any training line, as for
            converted parameters, there is no learning curve.
        out_dir: folder, made if it is missing.

    Returns:
        The paths written.
    """
    import matplotlib

    log = read_log(metrics_jsonl_path)
    draws = {"confusion": _confusion, "devices": _devices}
    if log["train"]:
        draws["learning_curve"] = lambda r: _learning_curve(r, log)
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = []
    with matplotlib.rc_context(STYLE):
        for name, draw in draws.items():
            paths.append(out_dir / f"{name}.png")
            draw(results).savefig(paths[-1])
    return paths


def read_log(path: str | Path) -> dict[str, list[dict[str, Any]]]:
    """Lines of a training log by kind, in order; the last line of an epoch counts."""
    by_epoch: dict[str, dict[int, dict]] = {"train": {}, "test": {}, "validation": {}}
    text = Path(path).read_text("utf-8", errors="replace") if Path(path).exists() else ""
    for line in text.splitlines():
        try:
            entry = files.parse_json(line)
            by_epoch[entry["kind"]][int(entry["epoch"])] = entry
        except (ValueError, KeyError, TypeError, OverflowError):
            continue
    return {kind: [es[epoch] for epoch in sorted(es)] for kind, es in by_epoch.items()}


def _new_figure(results: Mapping[str, Any], size: tuple[float, float], title: str):
    """An empty figure, `size` in inches, with its title, which run it is, and the stamp."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size)
    macro = results[results["stored_dtype"]]["macro_accuracy"]
    average = "–" if macro is None else f"{100 * macro:.1f} %"
    run = f"{results['config']} · {results['stored_dtype']} · macro average {average}"
    if results.get("checkpoint") == "best":
        run += f" · {results['selection']}"
    figure.text(0.02, 1 - 0.16 / size[1], title, size=13, weight="bold", va="top")
    figure.text(0.02, 1 - 0.46 / size[1], run, size=9.5, color=GREY, va="top")
    if results["over_budget"]:
        box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": RED}
        look = {"size": 11, "weight": "bold", "color": RED, "bbox": box | {"lw": 1.5}}
        figure.text(0.98, 1 - 0.2 / size[1], "over budget", ha="right", va="top", **look)
    return figure


def _confusion(results: Mapping[str, Any]):
    """Rows in percent of the true scene's clips; how many those are stands at the right."""
    table = np.array(results[results["stored_dtype"]]["confusion"], float)
    clips = table.sum(1, keepdims=True)
    percent = 100 * table / np.maximum(clips, 1)
    figure = _new_figure(results, (8.2, 7.4), "Confusion between scenes, in %")
    axes = figure.add_axes((0.2, 0.19, 0.695, 0.69))
    names = [name.replace("_", " ") for name in SCENES]
    ids = np.arange(len(names))
    # always the whole range, so that the colours of two runs can be compared
    look = {"cmap": "Blues", "vmin": 0, "vmax": 100, "edgecolors": "white", "linewidth": 2}
    axes.pcolormesh(ids, ids, percent, shading="nearest", **look)
    axes.invert_yaxis()
    axes.set_xticks(ids, names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(ids, names)
    axes.set(xlabel="predicted scene", ylabel="true scene")
    axes.spines[:].set_visible(False)
    for (i, j), value in np.ndenumerate(percent):
        if value >= 0.5:
            ink = "white" if value > 55 else INK
            look = {"color": ink, "weight": "bold" if i == j else "normal"}
            axes.text(j, i, f"{value:.0f}", ha="center", va="center_baseline", **look)
    place = {"ha": "right", "va": "center_baseline", "color": GREY, "size": 9}
    axes.text(len(ids) + 0.3, -0.7, "clips", **place)
    for i in ids:
        axes.text(len(ids) + 0.3, i, f"{clips[i, 0]:,.0f}", **place)
    figure.text(0.98, 0.02, "blank: below 0.5 %", color=GREY, size=9, ha="right")
    return figure


def _devices(results: Mapping[str, Any]):
    """One bar per device in three groups, and each group's accuracy over its own clips."""
    summary = results[results["stored_dtype"]]
    known = published(results["split"]) if results["official_lists"] else None
    figure = _new_figure(results, (8.2, 4.6), "Accuracy by recording device")
    axes = figure.add_axes((0.085, 0.15, 0.89, 0.63))
    centres = {name: [4 * i + k for k in range(3)] for i, name in enumerate(DEVICE_GROUPS)}
    for group in DEVICE_GROUPS:
        _draw_group(axes, summary, group, centres[group])
    axes.plot([], [], color=INK, lw=1.4, label="all clips of the group")
    ticks = sum(centres.values(), [])
    names = sum(DEVICE_GROUPS.values(), ())
    if known:
        marks = [100 * known["baseline"]["devices"][device] for device in names]
        label = "official baseline, published"
        axes.plot(ticks, marks, "D", ms=6, color=INK, mec="white", label=label)
    axes.legend(loc="lower right", bbox_to_anchor=(1.01, 1), ncols=2, borderaxespad=0)
    axes.set_xticks(ticks, [name.upper() for name in names])
    top = max(10, axes.get_ylim()[1])
    axes.set(ylim=(0, top), xlim=(-0.8, ticks[-1] + 0.8), ylabel="accuracy, %")
    axes.grid(axis="y")
    return figure


def _draw_group(axes, summary: Mapping, group: str, centres: Sequence[int]) -> None:
    """A group's bars, a line at the accuracy over all its clips, and its name below."""
    label, colour = _LABELS[group], _COLOURS[group]
    for x, device in zip(centres, DEVICE_GROUPS[group], strict=True):
        value = summary["devices"][device]["accuracy"]
        text = "–" if value is None else f"{100 * value:.1f}"
        axes.bar(x, 100 * (value or 0), 0.74, color=colour)
        # at the foot, where neither the line nor the baseline's mark can cover it
        ink = "white" if value and value > 0.1 else INK
        axes.text(x, 1, text, ha="center", va="bottom", color=ink, weight="bold")
    mean = summary["groups"][group]["accuracy"]
    if mean is not None:
        axes.hlines(100 * mean, centres[0] - 0.5, centres[-1] + 0.5, color=INK, lw=1.4)
        label += f": {100 * mean:.1f}"
    place = {"ha": "center", "va": "top", "weight": "bold", "color": colour}
    axes.text(centres[1], -0.1, label, transform=axes.get_xaxis_transform(), **place)


def _learning_curve(results: Mapping[str, Any], log: Mapping[str, list[dict]]):
    """Accuracy, loss and, in a thin panel, the learning rate, over epochs."""
    figure = _new_figure(results, (8.2, 7.0), "Learning curve")
    axes = figure.subplots(3, 1, sharex=True, height_ratios=[3.2, 2.4, 0.9])
    figure.subplots_adjust(left=0.1, right=0.975, top=0.87, bottom=0.08, hspace=0.14)
    epochs = _column(log["train"], "epoch")
    line = {"lw": 1.8, "marker": "o" if len(epochs) < 3 else ""}  # one point has no line
    train = {"color": BLUE, "label": "training, augmented clips", **line}
    axes[0].plot(epochs, 100 * _column(log["train"], "accuracy"), **train)
    for kind in ("test", "validation"):
        if log[kind]:
            watched = {"color": RED, "label": f"{kind}, macro average", "lw": 1.8, "mec": "white"}
            accuracy = 100 * _column(log[kind], "macro_accuracy")
            axes[0].plot(_column(log[kind], "epoch"), accuracy, "o-", **watched)
    axes[0].legend(loc="lower right")
    axes[1].plot(epochs, _column(log["train"], "loss"), **train)
    axes[2].plot(epochs, 1000 * _column(log["train"], "lr"), color=GREY, **line)
    labels = ("accuracy, %", "training loss", "learning rate\n× 10⁻³")
    for panel, label in zip(axes, labels, strict=True):
        panel.set(ylabel=label, ylim=(0, 1.03 * panel.get_ylim()[1]))
        panel.grid(axis="y")
    axes[2].locator_params(axis="y", nbins=2)
    axes[2].set(xlabel="epoch", xlim=(0, 1.01 * epochs[-1]))
    axes[2].xaxis.get_major_locator().set_params(integer=True)
    figure.align_ylabels()
    return figure


def _column(entries: Sequence[Mapping], name: str) -> np.ndarray:
    """`[n]` float64, NaN where an entry lacks the number."""
    return np.array([entry.get(name) for entry in entries], float)
