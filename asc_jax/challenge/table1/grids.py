"""The figures of Table 1 as tables of text, to be set in Markdown, HTML or on a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

NONE = "–"
_MEAN_SD = ("mean", "sd")
CLUSTERS = {"segments": "10-second segments", "locations": "locations"}


class Grid(NamedTuple):
    """A table; the first cell of a row is its heading, the others are figures."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def grids(table: Mapping[str, Any]) -> list[Grid]:
    """All tables of a `table1_collect.collect`, the most important first."""
    out = [_overview(table)]
    if table["differences"]:
        out.append(_differences("Differences between the systems", table["differences"], table))
    if table["ablation"]:
        out.append(_differences("One change at a time", table["ablation"], table))
    return [*out, _runs(table), *(_scenes(table, percent) for percent in table["splits"])]


def percent(value: float | None, sd: float | None = None) -> str:
    """
    >>> percent(0.4428), percent(0.424, 0.0042), percent(None)
    ('44.28', '42.40 ± 0.42', '–')
    """
    if value is None:
        return NONE
    return f"{100 * value:.2f}" + ("" if sd is None else f" ± {100 * sd:.2f}")


def points(value: float | None) -> str:
    """
    >>> points(0.0188), points(-0.001), points(-1e-9), points(None)
    ('+1.88', '−0.10', '+0.00', '–')
    """
    if value is None:
        return NONE
    rounded = round(100 * value, 2) + 0.0  # no "−0.00"
    return f"{rounded:+.2f}".replace("-", "−")


def between(interval: Mapping[str, Any] | None, form=points) -> str:
    """An interval in words, `form` writes its ends."""
    return NONE if interval is None else f"{form(interval['low'])} to {form(interval['high'])}"


def find(table: Mapping[str, Any], system: str, percent: int) -> Mapping[str, Any] | None:
    """The result of one system on one split, if it is there."""
    same = (r for r in table["results"] if (r["system"], r["percent"]) == (system, percent))
    return next(same, None)


def compared(table: Mapping[str, Any]) -> dict[str, str]:
    """The systems to be set side by side, without the ablation's between them: name → label."""
    systems = table["systems"].items()
    return {name: label for name, label in systems if not name.startswith("ablation")}


def _overview(table: Mapping[str, Any]) -> Grid:
    """A row per split: each system here and as published, and their differences."""
    header, rows = ["training list"], []
    for name, label in compared(table).items():
        header += [label] + ([f"{label}, published"] if _was_published(table, name) else [])
    header += ["difference", "published"] if table["differences"] else []
    differences = {row["percent"]: row for row in table["differences"]}
    for split in table["splits"]:
        row = [f"{split} %"]
        for name in compared(table):
            result = find(table, name, split)
            row.append(percent(*_mean_sd(result)))
            if _was_published(table, name):
                row.append(_published(result))
        if table["differences"]:
            known = differences.get(split, {})
            row += [points(known.get("mean")), points(known.get("published"))]
        rows.append(row)
    return Grid("Macro average accuracy, %", header, rows)


def _mean_sd(result: Mapping[str, Any] | None) -> tuple[float | None, float | None]:
    return (None, None) if result is None else tuple(result["macro_accuracy"][k] for k in _MEAN_SD)


def _published(result: Mapping[str, Any] | None) -> str:
    known = (result or {}).get("published")
    return percent(known["macro_accuracy"], known.get("spread")) if known else NONE


def _was_published(table: Mapping[str, Any], system: str) -> bool:
    return any(r["published"] for r in table["results"] if r["system"] == system)


def _differences(title: str, differences: Sequence[Mapping], table: Mapping[str, Any]) -> Grid:
    """A row per split and pair, or per change and split."""
    header = ["change" if "change" in differences[0] else "systems", "training list", "gain"]
    header += [text for name in CLUSTERS.values() for text in (f"by {name}", "p")]
    rows = []
    for row in differences:
        first, second = (table["systems"][row[key]] for key in ("first", "second"))
        cells = [row.get("change", f"{first} − {second}"), f"{row['percent']} %"]
        cells.append(points(row["mean"]))
        for test in row["tests"].values():
            cells += [between(test), NONE if test is None else f"{test['p']:.4f}"]
        rows.append(cells)
    return Grid(f"{title}: macro average accuracy, percentage points", header, rows)


def _runs(table: Mapping[str, Any]) -> Grid:
    """A row per system and split: seeds, log loss and intervals."""
    header = ["system", "training list", "seeds", "macro average, %", "all clips, %", "log loss"]
    header += [f"by {name}" for name in CLUSTERS.values()]
    rows = []
    for r in sorted(table["results"], key=lambda r: r["percent"]):
        loss = r["log_loss"]
        spread = "" if loss["sd"] is None else f" ± {loss['sd']:.3f}"
        cells = [table["systems"][r["system"]], f"{r['percent']} %"]
        cells.append(_listed(r["seeds"]))
        cells += [percent(r[key]["mean"], r[key]["sd"]) for key in ("macro_accuracy", "accuracy")]
        cells.append(f"{loss['mean']:.3f}{spread}")
        rows.append(cells + [between(r["interval"][name], percent) for name in CLUSTERS])
    return Grid("The runs, and confidence intervals of their macro averages", header, rows)


def _scenes(table: Mapping[str, Any], split: int) -> Grid:
    """A row per scene: each system here and as published."""
    found = (find(table, system, split) for system in compared(table))
    results = [result for result in found if result]
    header = ["scene"]
    for r in results:
        label = table["systems"][r["system"]]
        header += [label] + ([f"{label}, published"] if r["published"] else [])
    gains = [row["scenes"] for row in table["differences"] if row["percent"] == split]
    header += ["difference"] * bool(gains)
    rows = []
    for scene in results[0]["scenes"] if results else ():
        row = [scene.replace("_", " ")]
        for r in results:
            row.append(percent(*(r["scenes"][scene][key] for key in _MEAN_SD)))
            row += [percent(r["published"]["scenes"][scene])] if r["published"] else []
        rows.append(row + [points(gain[scene]) for gain in gains])
    return Grid(f"Accuracy by scene, trained on {split} %", header, rows)


def _listed(seeds: Sequence[int]) -> str:
    """
    >>> _listed([0, 1, 2]), _listed([0, 1, 2, 3, 4]), _listed([0, 2, 4, 6])
    ('0, 1, 2', '0 to 4', '0, 2, 4, 6')
    """
    if len(seeds) > 3 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))
