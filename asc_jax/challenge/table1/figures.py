"""The figures of the table page: small SVG drawings, each with its text alternative."""

from collections.abc import Mapping, Sequence
from typing import Any

from asc_jax.challenge.table1.grids import CLUSTERS, between, find, percent, points
from asc_jax.evaluation.report.figures import BLUE, GREEN, GREY, INK, PALE, RED
from asc_jax.evaluation.report.svg import drawing, line, text

WIDTH = 440  # narrow, so that its words stay legible on a phone
# Told apart by colour and by shape: a circle, a square, a diamond.
LOOKS = ((BLUE, "circle"), (RED, "square"), (GREEN, "diamond"), (GREY, "circle"), (INK, "square"))


def accuracy_figure(table: Mapping[str, Any]) -> str:
    """Macro average by split: each system here, with its interval, and as published."""
    results, splits = table["results"], table["splits"]
    values = [x for r in results for x in _extent(r)]
    low, high = 0.0, min(1.0, 1.08 * max(values))
    left, top, bottom = 52, 12 + 20 * len(table["systems"]), 300 + 20 * len(table["systems"])
    step = (WIDTH - left - 20) / len(splits)
    apart = min(26, step / (len(table["systems"]) + 1))

    def y(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - top)

    parts, told = [], []
    for tick in _ticks(high):
        parts.append(line((left, y(tick)), (WIDTH - 8, y(tick)), PALE))
        parts.append(text((left - 8, y(tick) + 5), f"{100 * tick:g}", "end"))
    for column, split in enumerate(splits):
        centre = left + step * (column + 0.5)
        parts.append(text((centre, bottom + 22), f"{split} %"))
        for place, (system, look) in enumerate(zip(table["systems"], LOOKS, strict=False)):
            result = find(table, system, split)
            if result is None:
                continue
            x = centre + (place - (len(table["systems"]) - 1) / 2) * apart
            parts += _accuracy_mark(result, (x, x + min(9, apart / 2)), y, look)
            told.append(f"{split} %, {table['systems'][system]}: {_told(result)}")
    parts.append(text(((left + WIDTH) / 2, bottom + 46), "share of the training list"))
    for row, (label, look) in enumerate(zip(table["systems"].values(), LOOKS, strict=False)):
        parts.append(_mark(left + 8, 10 + 20 * row, look))
        parts.append(text((left + 22, 15 + 20 * row), label, "start"))
    if any(result["published"] for result in results):
        parts.append(_mark(WIDTH - 108, 10, (INK, "circle"), hollow=True))
        parts.append(text((WIDTH - 94, 15), "as published", "start"))
    title = "Macro average accuracy in %, with intervals by segment"
    return drawing("accuracy", (WIDTH, bottom + 58), title, "; ".join(told) + ".", parts)


def difference_figure(name: str, title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Differences with both intervals, a pair of bars for each row, and the line of no gain."""
    tests = [test for row in rows for test in row["tests"].values() if test]
    values = [test[end] for test in tests for end in ("low", "high")]
    values += [row["mean"] for row in rows]
    reach = 1.12 * max(0.005, *map(abs, values))
    left = 176 if any("change" in row for row in rows) else 72
    right, height = WIDTH - 14, 44
    top = 58
    bottom = top + height * len(rows)

    def x(value: float) -> float:
        return (left + right) / 2 + value / reach * (right - left) / 2

    parts, told = [], []
    for tick in _ticks(reach, n=2):
        for value in {tick, -tick}:
            parts.append(line((x(value), top - 6), (x(value), bottom), PALE if value else INK))
            sign = "" if not value else "+" if value > 0 else "−"
            parts.append(text((x(value), bottom + 20), f"{sign}{100 * abs(value):g}"))
    for number, (cluster, look) in enumerate(zip(CLUSTERS, LOOKS, strict=False)):
        begin = 8 + 216 * number
        parts.append(line((begin, 14), (begin + 24, 14), look[0], 3))
        parts.append(text((begin + 32, 19), f"by {CLUSTERS[cluster]}", "start"))
    for number, row in enumerate(rows):
        middle = top + height * (number + 0.5)
        label = " · ".join(filter(None, (row.get("change"), f"{row['percent']} %")))
        parts.append(text((left - 10, middle + 5), label, "end"))
        for k, (cluster, look) in enumerate(zip(CLUSTERS, LOOKS, strict=False)):
            level, interval = middle - 7 + 14 * k, row["tests"][cluster]
            if interval:
                ends = (x(interval["low"]), level), (x(interval["high"]), level)
                parts.append(line(*ends, look[0], 3))
            parts.append(_mark(x(row["mean"]), level, look))
        spans = ", ".join(f"{between(row['tests'][c])} by {CLUSTERS[c]}" for c in CLUSTERS)
        told.append(f"{label}: {points(row['mean'])}, {spans}")
    parts.append(text(((left + right) / 2, bottom + 42), "gain, percentage points"))
    return drawing(name, (WIDTH, bottom + 54), title, "; ".join(told) + ".", parts)


def _extent(result: Mapping[str, Any]) -> list[float]:
    interval, known = result["interval"]["segments"], result["published"]
    values = [result["macro_accuracy"]["mean"], interval and interval["high"]]
    return [v for v in [*values, known and known["macro_accuracy"]] if v is not None] + [0.1]


def _accuracy_mark(result: Mapping[str, Any], xs: tuple[float, float], y, look) -> list[str]:
    """Ours with its interval at the first x, the published at the second."""
    x, beside = xs
    interval, known = result["interval"]["segments"], result["published"]
    parts = []
    if interval:
        parts.append(line((x, y(interval["low"])), (x, y(interval["high"])), look[0], 2))
    parts.append(_mark(x, y(result["macro_accuracy"]["mean"]), look))
    if known:
        parts.append(_mark(beside, y(known["macro_accuracy"]), look, hollow=True))
    return parts


def _told(result: Mapping[str, Any]) -> str:
    interval, known = result["interval"]["segments"], result["published"]
    said = percent(result["macro_accuracy"]["mean"])
    said += f", interval {between(interval, percent)}" if interval else ""
    return said + (f", published {percent(known['macro_accuracy'])}" if known else "")


def _ticks(reach: float, n: int = 5) -> list[float]:
    """0 and about `n` round steps up to `reach`.

    >>> [round(tick, 3) for tick in _ticks(0.62)]
    [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    """
    steps = [m * 10.0**e for e in range(-4, 1) for m in (1, 2, 5)]
    step = next((s for s in steps if reach / s <= n + 1.5), 1.0)
    return [0, *(step * k for k in range(1, int(reach / step + 1e-9) + 1))]


def _mark(x: float, y: float, look: tuple[str, str], *, hollow: bool = False) -> str:
    colour, shape = look
    paint = f'fill="{"#fff" if hollow else colour}" stroke="{colour}" stroke-width="1.5"'
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" {paint}/>'
    turn = f' transform="rotate(45 {x:.1f} {y:.1f})"' if shape == "diamond" else ""
    return f'<rect x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9" {paint}{turn}/>'
