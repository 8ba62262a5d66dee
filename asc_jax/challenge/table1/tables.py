"""The figures of Table 1 as tables of words, and the notes that they need to be read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asc_jax.evaluation.report.published import published
from asc_jax.evaluation.report.tables import NONE, Table, decimals, fill_paragraphs, percent

HERE = Path(__file__).parent
CLUSTERS = {"segments": "10-second segments", "locations": "locations"}


def tables(collected: Mapping[str, Any]) -> list[Table]:
    """Return all tables of what `collect.collect` returns, the most important first."""
    out = [_overview(collected)]
    if collected["differences"]:
        out.append(_differences("Differences between the systems", "differences", collected))
    if collected["ablation"]:
        out.append(_differences("One change at a time", "ablation", collected))
    return [*out, _runs(collected), *(_scenes(collected, split) for split in collected["splits"])]


def points(difference: float | None) -> str:
    """Return a difference of fractions in percentage points, with its sign.

    Example:
        >>> points(0.0188), points(-0.001), points(-1e-9), points(None)
        ('+1.88', '−0.10', '+0.00', '–')
    """
    if difference is None:
        return NONE
    rounded = round(100 * difference, 2) + 0.0  # no "−0.00"
    return f"{rounded:+.2f}".replace("-", "−")


def between(interval: Mapping[str, Any] | None, form=points) -> str:
    """Return an interval in words; `form` writes its ends."""
    return NONE if interval is None else f"{form(interval['low'])} to {form(interval['high'])}"


def find(collected: Mapping[str, Any], system: str, split: int) -> Mapping[str, Any] | None:
    """Return the result of one system on one split, or None where there is none."""
    results = {(result["system"], result["percent"]): result for result in collected["results"]}
    return results.get((system, split))


def compared(collected: Mapping[str, Any]) -> dict[str, str]:
    """Return name and label of the systems to compare: all but those inside the ablation."""
    systems = collected["systems"].items()
    return {name: label for name, label in systems if not name.startswith("ablation")}


def _mean_sd(figure: Mapping[str, Any], form=percent) -> str:
    return form(figure["mean"], figure["sd"])


def _overview(collected: Mapping[str, Any]) -> Table:
    """Return a row per split: each system here and as published, and their differences."""
    splits, differences = collected["splits"], collected["differences"]
    columns = {"training split": [f"{split} %" for split in splits]}
    for name, label in compared(collected).items():
        results = [find(collected, name, split) for split in splits]
        columns[label] = [_mean_sd(r["macro_accuracy"]) if r else NONE for r in results]
        known = [(r or {}).get("published") for r in results]
        if any(known):
            columns[f"{label}, published"] = [
                percent(k["macro_accuracy"], k.get("spread")) if k else NONE for k in known
            ]
    if differences:
        by_split = {row["percent"]: row for row in differences}
        for head, key in (("difference", "mean"), ("published", "published")):
            columns[head] = [points(by_split.get(split, {}).get(key)) for split in splits]
    return Table("Macro average accuracy, %", [*columns], [*zip(*columns.values(), strict=True)])


def _differences(title: str, key: str, collected: Mapping[str, Any]) -> Table:
    """Return a row per split and pair of systems, or per change and split."""
    header = ["change" if key == "ablation" else "systems", "training split", "gain"]
    header += [head for name in CLUSTERS.values() for head in (f"by {name}", "p")]
    rows = []
    for row in collected[key]:
        pair = " − ".join(collected["systems"][row[place]] for place in ("first", "second"))
        cells = [row.get("change", pair), f"{row['percent']} %", points(row["mean"])]
        for test in row["tests"].values():
            cells += [between(test), NONE if test is None else f"{test['p']:.4f}"]
        rows.append(cells)
    return Table(f"{title}: macro average accuracy, percentage points", header, rows)


def _runs(collected: Mapping[str, Any]) -> Table:
    """Return a row per system and split: seeds, log loss and intervals."""
    header = ["system", "training split", "seeds", "macro average, %", "all clips, %", "log loss"]
    header += [f"by {name}" for name in CLUSTERS.values()]
    rows = [
        [collected["systems"][result["system"]], f"{result['percent']} %"]
        + [_seeds(result["seeds"])]
        + [_mean_sd(result["macro_accuracy"]), _mean_sd(result["accuracy"])]
        + [_mean_sd(result["log_loss"], decimals)]
        + [between(result["interval"][name], percent) for name in CLUSTERS]
        for result in sorted(collected["results"], key=lambda result: result["percent"])
    ]
    return Table("The runs, and confidence intervals of their macro averages", header, rows)


def _scenes(collected: Mapping[str, Any], split: int) -> Table:
    """Return a row per scene: each system here and as published."""
    found = [find(collected, system, split) for system in compared(collected)]
    results = [result for result in found if result]
    scenes = list(results[0]["scenes"]) if results else []
    columns = {"scene": [scene.replace("_", " ") for scene in scenes]}
    for result in results:
        label, known = collected["systems"][result["system"]], result["published"]
        columns[label] = [_mean_sd(result["scenes"][scene]) for scene in scenes]
        if known:
            columns[f"{label}, published"] = [percent(known["scenes"][scene]) for scene in scenes]
    for row in collected["differences"]:
        if row["percent"] == split:
            columns["difference"] = [points(row["scenes"][scene]) for scene in scenes]
    title = f"Accuracy by scene, trained on {split} %"
    return Table(title, [*columns], [*zip(*columns.values(), strict=True)])


def _seeds(seeds: Sequence[int]) -> str:
    """
    >>> _seeds([0, 1, 2]), _seeds([0, 1, 2, 3, 4]), _seeds([0, 2, 4, 6])
    ('0, 1, 2', '0 to 4', '0, 2, 4, 6')
    """
    if len(seeds) > 3 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def warnings(collected: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each flaw; what forbids a comparison comes first."""
    return fill_paragraphs(HERE / "warnings.txt", **collected)


def method(collected: Mapping[str, Any]) -> list[str]:
    """Return a paragraph for each point of how the figures were made and what they do not say."""
    known = [published(f"train_{split}pct") for split in collected["splits"]]
    return fill_paragraphs(
        HERE / "method.txt",
        **collected,
        known=[row for row in known if row and collected["official_lists"]],
        several_seeds=any(len(result["seeds"]) > 1 for result in collected["results"]),
    )
