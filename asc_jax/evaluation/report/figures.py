"""All pictures of a run or a network: PNG files, and drawings for pages with their words.

matplotlib is imported only when a picture is drawn, and nothing global is touched: `Figure`
objects render themselves, without a display. A picture is a function that draws on a `Figure`.
"""

import contextlib
import functools
import io
import math
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from asc_jax.complexity.budget import LayerCost
from asc_jax.data.tau.published import comparable
from asc_jax.errors import UserError
from asc_jax.evaluation import intervals
from asc_jax.evaluation.report.tables import NONE, percent, shortened, words
from asc_jax.evaluation.result_files import stored_summary
from asc_jax.machine import files

# From Okabe and Ito's palette, which stays distinct with every kind of colour blindness.
BLUE, GREEN, RED = "#0072B2", "#009E73", "#D55E00"
INK, GREY, PALE = "#222222", "#6B6B6B", "#DDDDDD"
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
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_BARS = 40  # values of a group column that has a picture
MAX_NUMBERED = 30  # classes, up to which the cells of the confusion have numbers
MAX_NAME = 24  # characters of a name in a picture
MAX_ROW_NAME = 18  # of one beside a row of a narrow picture


@contextlib.contextmanager
def _style(more: Mapping[str, Any]):
    """Draw in our own style, whatever a person's `matplotlibrc` says."""
    matplotlib = _matplotlib()
    with matplotlib.rc_context(), warnings.catch_warnings():
        # A letter that the font lacks is a box.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE | more)
        yield


def _matplotlib():
    """Return matplotlib, also where MPLBACKEND names a backend that this Python has not.

    The kernel of a notebook sets it for all that it starts. A value that is accepted stays.
    """
    try:
        import matplotlib
    except ValueError:
        name = os.environ.pop("MPLBACKEND", "")
        try:
            import matplotlib
        finally:
            os.environ["MPLBACKEND"] = name
    return matplotlib


def in_picture(name: str, width: int = MAX_NAME) -> str:
    r"""Return a name as matplotlib shows it: short, in words, with no formula in it.

    Example:
        >>> in_picture("front_door"), in_picture("a $ b")
        ('front door', 'a \\$ b')
    """
    return shortened(name.replace("_", " "), width).replace("$", r"\$")


def require_png(path: str | Path) -> None:
    """Raise a `UserError` if a picture written to `path` would replace a file that is none."""
    path = Path(path)
    with contextlib.suppress(FileNotFoundError):
        if path.is_file() and path.stat().st_size and path.read_bytes()[:8] != PNG_SIGNATURE:
            raise UserError(
                f"--png {path}: there is a file already that is no PNG picture; give another name"
            )


def write_png(
    path: str | Path,
    size: tuple[float, float],
    draw: Callable,
    title: str,
    subtitle: str,
    *,
    over_budget: bool,
) -> None:
    """Write a picture with a heading.

    Args:
        path: PNG to write; its folder is made if it is missing.
        size: width and height, inches.
        draw: draws on the figure, below the heading.
        title, subtitle: first and second line of the heading.
        over_budget: mark the picture as that of a network beyond the task's limits.
    """
    with _style({}):
        from matplotlib.figure import Figure

        figure, height = Figure(figsize=size, layout="constrained"), size[1]
        figure.get_layout_engine().set(rect=(0, 0, 1, 1 - 0.75 / height))
        figure.text(0.02, 1 - 0.16 / height, title, size=13, weight="bold", va="top")
        figure.text(0.02, 1 - 0.46 / height, subtitle, size=9.5, color=GREY, va="top")
        if over_budget:
            box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": RED, "lw": 1.5}
            font = {"size": 11, "weight": "bold", "color": RED, "ha": "right", "va": "top"}
            figure.text(0.98, 1 - 0.2 / height, "over budget", bbox=box, **font)
        draw(figure)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png")


def svg(name: str, size: tuple[float, float], draw: Callable) -> str:
    """Return a picture as an `<svg>` element to stand inside a page; equal ones have equal bytes.

    name: unique on the page. size: width and height in units in which letters are 13 high.
    """
    style = {"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 13, "legend.fontsize": 13}
    with _style(style):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(size[0] / 72, size[1] / 72), layout="constrained")
        figure.patch.set_visible(False)
        draw(figure)
        file = io.StringIO()
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=no_metadata)
    content = file.getvalue()
    # Groups are numbered alike in every picture, and a page may have an id only once.
    return re.sub(r' id="[\w.]+_\d+"', "", content[content.index("<svg") :])


def name_rows(axes, names: Sequence[str]) -> None:
    """Write a name beside each row of a picture, the first on top."""
    axes.set_yticks(np.arange(len(names)), [shortened(name, MAX_ROW_NAME) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x")


def draw_log_mel(
    axes,
    log_mel: np.ndarray,
    limits: tuple[float, float],
    ticks_hz: Sequence[int],
    *,
    duration_s: float,
    f_min: float,
    f_max: float,
) -> None:
    """Draw a log-mel spectrogram over seconds and the mel scale.

    Args:
        log_mel: `[n_mels, n_frames]` float, natural logarithm; NaN stays grey.
        limits: the values drawn darkest and brightest.
        ticks_hz: frequencies to mark, those within the filters.
        f_min, f_max: of the mel filters, Hz.
    """
    low, high = limits
    axes.set_facecolor(PALE)
    axes.imshow(
        np.ma.masked_invalid(log_mel), cmap="magma", vmin=low, vmax=max(high, low + 1e-3),
        extent=(0, duration_s, _mel(f_min), _mel(f_max)),
        aspect="auto", origin="lower", interpolation="none",
    )  # fmt: skip
    axes.set_yticks([_mel(hz) for hz in ticks_hz if f_min <= hz <= f_max])
    axes.set_yticklabels([f"{hz:,}" for hz in ticks_hz if f_min <= hz <= f_max])


def _mel(hz: float) -> float:
    """Return the place on the scale that `filters.mel_filterbank` divides evenly."""
    return 2595 * math.log10(1 + hz / 700)


def write_figures(
    results: Mapping[str, Any], metrics_jsonl_path: str | Path, out_dir: str | Path
) -> list[Path]:
    """Write `confusion.png`, `by_<column>.png` and `learning_curve.png`, and return their paths.

    A group column has a picture if it has at most `MAX_BARS` values.

    Args:
        results: see `result_files`; the pictures show the stored dtype.
        metrics_jsonl_path: the training log, see `read_log`; without any training line, as for
            converted parameters, there is no learning curve.
        out_dir: folder, made if it is missing.
    """
    log = read_log(metrics_jsonl_path)
    more = max(0, len(stored_summary(results)["classes"]) - 12)
    size = 8.2 + 0.15 * more, 7.4 + 0.15 * more
    pictures = {"confusion": ("Confusion between classes, in %", size, draw_confusion, results)}
    for column in drawn_columns(results):
        draw = functools.partial(draw_group, column)
        size = 8.2, 2 + 0.29 * _height(results, column)
        title = f"Accuracy by {words(column)}, in %"
        pictures[f"by_{column}"] = title, size, draw, results
    if log["train"]:
        pictures["learning_curve"] = ("Learning curve", (8.2, 7.0), draw_learning_curve, log)
    macro = stored_summary(results)["macro_accuracy"]
    average = NONE if macro is None else f"{100 * macro:.1f} %"
    subtitle = f"{results['config']} · {results['stored_dtype']} · macro average {average}"
    if results.get("checkpoint") == "best":
        subtitle += f" · {results['selection']}"
    paths = []
    for name, (title, size, draw, content) in pictures.items():
        paths.append(Path(out_dir) / f"{name}.png")
        draw, over_budget = functools.partial(draw, content), results["over_budget"]
        write_png(paths[-1], size, draw, title, subtitle, over_budget=over_budget)
    return paths


def read_log(path: str | Path) -> dict[str, list[dict[str, Any]]]:
    """Return the lines of a training log by kind, in order; the last line of an epoch counts.

    Broken lines, which an interrupted run leaves, are skipped.
    """
    by_epoch: dict[str, dict[int, dict]] = {"train": {}, "test": {}, "validation": {}}
    text = Path(path).read_text("utf-8", errors="replace") if Path(path).exists() else ""
    for line in text.splitlines():
        try:
            entry = files.parse_json(line)
            by_epoch[entry["kind"]][int(entry["epoch"])] = entry
        except (ValueError, KeyError, TypeError, OverflowError):
            continue
    return {kind: [es[epoch] for epoch in sorted(es)] for kind, es in by_epoch.items()}


def draw_confusion(results: Mapping[str, Any], figure) -> None:
    """Draw rows in percent of the true class's clips, whose number stands at the right."""
    summary = stored_summary(results)
    table = np.array(summary["confusion"], float)
    clips = table.sum(1, keepdims=True)
    shares = 100 * table / np.maximum(clips, 1)
    axes = figure.subplots()
    names = [in_picture(name) for name in summary["classes"]]
    ids, numbered = np.arange(len(names)), len(names) <= MAX_NUMBERED
    font = {"size": 10 if len(names) <= 20 else 8 if numbered else 6.5}
    # always the whole range, so that the colours of two runs can be compared
    colours = {"cmap": "Blues", "vmin": 0, "vmax": 100, "edgecolors": "white"}
    edge = 2 if len(names) <= 12 else 1 if numbered else 0.3
    image = axes.pcolormesh(ids, ids, shares, shading="nearest", linewidth=edge, **colours)
    axes.invert_yaxis()
    rotation = 40 if len(names) <= 12 else 90
    anchor = {"rotation": rotation, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(ids, names, **(anchor if rotation == 40 else {"rotation": 90}), **font)
    axes.set_yticks(ids, names, **font)
    blank = "; blank: below 0.5 %" if numbered else ""
    axes.set(xlabel=f"predicted class{blank}", ylabel="true class")
    axes.spines[:].set_visible(False)
    right = axes.secondary_yaxis("right")
    right.set_yticks(ids, [f"{n:,.0f}" for n in clips[:, 0]], **font)
    right.set_ylabel("clips")
    right.spines.right.set_visible(False)
    if not numbered:
        place = {"location": "bottom", "shrink": 0.3, "aspect": 40, "pad": 0.01}
        figure.colorbar(image, ax=axes, label="% of the true class's clips", **place)
        return
    for (i, j), value in np.ndenumerate(shares):
        if value >= 0.5:
            ink = "white" if value > 55 else INK
            style = font | {"color": ink, "weight": "bold" if i == j else "normal"}
            axes.text(j, i, f"{value:.0f}", ha="center", va="center_baseline", **style)


def drawn_columns(results: Mapping[str, Any]) -> list[str]:
    """Return the group columns that have a picture."""
    groups = stored_summary(results)["groups"]
    return [name for name, found in groups.items() if 1 <= len(found["values"]) <= MAX_BARS]


def draw_group(column: str, results: Mapping[str, Any], figure) -> None:
    """Draw a bar for each value, by set where there are some, and each set's own accuracy."""
    found = stored_summary(results)["groups"][column]
    known = (comparable(results) or {}).get("baseline", {}).get("groups", {}).get(column)
    axes = figure.subplots()
    ticks, marks, y, has_intervals = {}, {}, 0, False
    for number, (title, accuracy, names) in enumerate(_blocks(results, column)):
        places, values = y + np.arange(len(names)), [found["values"][n]["accuracy"] for n in names]
        colour = (BLUE, GREEN, RED, GREY)[number % 4]
        axes.barh(places, [100 * (value or 0) for value in values], 0.74, color=colour)
        for place, name in zip(places, names, strict=True):
            if ends := intervals.of(results, "groups", column, "values", name):
                whisker = {"color": "white", "lw": 3.4}, {"color": INK, "lw": 1.4}
                for style in whisker:  # seen on a bar and beside it
                    axes.hlines(place, 100 * ends["low"], 100 * ends["high"], **style)
                has_intervals = True
        for place, name, value in zip(places, names, values, strict=True):
            ticks[place] = f"{in_picture(name)}  {percent(value)}"
            if known:
                marks[place] = 100 * known["values"].get(name, np.nan)
        if title:
            share = "" if accuracy is None else f": {percent(accuracy)}"
            axes.text(0, y - 0.5, f"{in_picture(title)}{share}", va="bottom")
        if accuracy is not None:
            axes.vlines(100 * accuracy, y - 0.45, places[-1] + 0.45, color=INK, lw=1.4)
        y += len(names) + 1
    mean = "all clips of the set" if found["sets"] else "mean"
    axes.plot([], [], "|", color=INK, mew=1.4, ms=14, label=mean)
    if has_intervals:
        axes.plot([], [], color=INK, lw=1.4, label=f"{_level(results)} interval")
    if known:
        style = {"ms": 6, "color": INK, "mec": "white", "label": "official baseline, published"}
        axes.plot(list(marks.values()), list(marks), "D", **style)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    axes.set_yticks(list(ticks), list(ticks.values()))
    top = -1.2 if found["sets"] else -0.7
    axes.set(xlim=(0, max(10, axes.get_xlim()[1])), ylim=(y - 1.4, top), xlabel="accuracy, %")
    axes.grid(axis="x")


def _blocks(results: Mapping[str, Any], column: str) -> list[tuple[str, float | None, list[str]]]:
    """Return title, accuracy and values of each set, then of the values that are in none."""
    summary = stored_summary(results)
    found = summary["groups"][column]
    members = results["labels"]["groups"][column]["sets"]
    blocks = [(n, figures["accuracy"], [*members[n]]) for n, figures in found["sets"].items()]
    inside = {value for _, _, names in blocks for value in names}
    others = [name for name in found["values"] if name not in inside]
    if blocks:
        return blocks + ([("others", None, others)] if others else [])
    return [("", summary["accuracy"], others)]


def _level(results: Mapping[str, Any]) -> str:
    return f"{100 * results['intervals']['level']:g} %"


def _height(results: Mapping[str, Any], column: str) -> float:
    """Return the height of the picture of a column, in bars."""
    return sum(len(names) + 1 for _, _, names in _blocks(results, column))


def draw_learning_curve(log: Mapping[str, list[dict]], figure) -> None:
    """Draw accuracy, loss and, in a thin panel, the learning rate, over epochs."""
    axes = figure.subplots(3, 1, sharex=True, height_ratios=[3.2, 2.4, 0.9])
    epochs = _column(log["train"], "epoch")
    line = {"lw": 1.8, "marker": "o" if len(epochs) < 3 else ""}  # one point has no line
    train = {"color": BLUE, "label": "training, augmented clips", **line}
    axes[0].plot(epochs, 100 * _column(log["train"], "accuracy"), **train)
    for kind in ("test", "validation"):
        if log[kind]:
            style = {"color": RED, "label": f"{kind}, macro average", "lw": 1.8, "mec": "white"}
            accuracy = 100 * _column(log[kind], "macro_accuracy")
            axes[0].plot(_column(log[kind], "epoch"), accuracy, "o-", **style)
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


def _column(entries: Sequence[Mapping], name: str) -> np.ndarray:
    """Return `[n]` float64, NaN where an entry lacks the number."""
    return np.array([entry.get(name) for entry in entries], float)


def write_budget_figure(
    path: str | Path, name: str, rows: Sequence[LayerCost], totals: Mapping, *, note: str = ""
) -> None:
    """Draw the fractions of both limits that the layers of the network `name` take.

    rows, totals: see `budget.examine`. note: the end of the line below the title.
    """

    def draw(figure) -> None:
        import matplotlib

        shades = matplotlib.colormaps["Blues"]
        costs = {"macs": [row.macs for row in rows], "bytes": [row.n_bytes for row in rows]}
        # Both panels have one scale, so that they compare.
        largest = max(max(values) / totals[f"max_{kind}"] for kind, values in costs.items())
        panels = figure.subplots(1, 2, sharey=True)
        units = {"macs": "MACs", "bytes": "bytes"}
        for panel, (kind, values) in zip(panels, costs.items(), strict=True):
            total, limit, unit = totals[kind], totals[f"max_{kind}"], units[kind]
            title = f"{total:,} of {limit:,} {unit}: {total / limit:.1%}"
            ink = INK if total <= limit else RED
            panel.set_title(title, size=10.5, loc="left", weight="bold", color=ink)
            colours = [shades(0.3 + 0.65 * value / limit / largest) for value in values]
            percents = [100 * value / limit for value in values]
            bars = panel.barh(range(len(rows)), percents, 0.74, color=colours)
            labels = [f"{value:,}" for value in values]
            panel.bar_label(bars, labels, padding=4, size=8.5, color=GREY)
            panel.set(xlim=(0, 122 * largest), xlabel="% of the limit")
            panel.grid(axis="x")
        panels[0].set_yticks(range(len(rows)), [row.layer for row in rows])
        panels[0].set_ylim(len(rows) - 0.4, -0.6)  # the first layer on top

    size, title = (9.2, 1.9 + 0.27 * len(rows)), "Where the budget goes"
    subtitle = f"{name} · {totals['n_params']:,} parameters in {totals['stored_dtype']}{note}"
    write_png(path, size, draw, title, subtitle, over_budget=not totals["within_budget"])


class Drawing(NamedTuple):
    """A picture for a page: its title, a text that says what it shows, and an `<svg>` element."""

    title: str
    description: str
    svg: str


def group_bars(results: Mapping[str, Any], column: str) -> Drawing:
    """Return a bar for each value of a group column, with the accuracy written beside it."""
    values = stored_summary(results)["groups"][column]["values"]
    description = "; ".join(
        f"{name}{f' ({title})' if title else ''}: {percent(values[name]['accuracy'])}"
        for title, _, names in _blocks(results, column)
        for name in names
    )
    size = 390, 60 + 30 * _height(results, column)
    picture = svg(f"bars-{column}", size, functools.partial(draw_group, column, results))
    return Drawing(f"Accuracy by {words(column)}, in %", description, picture)


def reliability_diagram(name: str, title: str, row: Mapping[str, Any]) -> Drawing:
    """Return accuracy against confidence by bin, above the number of clips in each bin."""
    bins = [b for b in row["bins"] if b["n_clips"]]
    low, high, confidence, accuracy = (
        100 * np.array([b[key] for b in bins]) for key in ("low", "high", "confidence", "accuracy")
    )
    n_clips = [b["n_clips"] for b in bins]

    def draw(figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        bars = {"width": high - low - 0.4, "align": "edge"}
        upper.plot([0, 100], [0, 100], "--", color=GREY)
        upper.bar(low, accuracy, color=BLUE, **bars)
        upper.vlines(confidence, accuracy, confidence, color=RED, lw=2)
        upper.plot(confidence, confidence, "o", color=RED, mec="white", ms=7)
        lower.bar(low, n_clips, color=GREY, **bars)
        ticks = (0, 25, 50, 75, 100)
        upper.set(ylabel="accuracy, %", xlim=(0, 100), ylim=(0, 100), yticks=ticks, xticks=ticks)
        lower.set(xlabel="confidence, %", ylabel="clips", yticks=(0, max(n_clips)))
        upper.grid()

    description = "; ".join(
        f"confidence {percent(b['confidence'])} %, accuracy {percent(b['accuracy'])} % of "
        f"{b['n_clips']:,} clips"
        for b in bins
    )
    return Drawing(title, description, svg(name, (360, 440), draw))


def spectrograms(
    clips: Sequence[Mapping[str, Any]], log_mels: np.ndarray, axes: Mapping[str, float]
) -> list[Drawing]:
    """Return the spectrograms of `analysis.most_confused` clips, on one scale for all.

    Args:
      log_mels: `[n, n_mels, n_frames]` float, natural logarithm.
      axes: `duration_s`, seconds; `f_min` and `f_max` of the mel filters, Hz.
    """
    limits = np.percentile(log_mels, [2, 99.8]) if len(clips) else None

    def draw(log_mel: np.ndarray, figure) -> None:
        panel = figure.subplots()
        draw_log_mel(panel, log_mel, limits, (500, 2000, 8000), **axes)
        panel.set(xlabel="time, s", ylabel="frequency, Hz")
        panel.locator_params(axis="x", nbins=2)

    out = []
    for clip, log_mel in zip(clips, log_mels, strict=True):
        groups = [f"{words(column)} {value}" for column, value in clip["groups"].items()]
        thirds = [part.mean() for part in np.array_split(log_mel, 3)]
        description = (
            f"Spectrogram: loudest in the {('low', 'middle', 'high')[np.argmax(thirds)]} third of "
            "the mel bins; its level over time varies with a standard deviation of "
            f"{log_mel.mean(0).std():.2f}."
        )
        title = ", ".join([f"{clip['class']} misclassified as {clip['predicted']}", *groups])
        picture = svg(f"clip-{len(out)}", (300, 220), functools.partial(draw, log_mel))
        out.append(Drawing(title, description, picture))
    return out
