"""The figures of Table 1 as tables of words, and the notes that they need to be read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asc_jax.evaluation.report.published import published
from asc_jax.evaluation.report.tables import NONE, Table, fill_paragraphs, make, percent, points

HERE = Path(__file__).parent
CLUSTERS = {"segments": "10-second segments", "locations": "locations"}


def tables(collected: Mapping[str, Any]) -> list[Table]:
    """Return all tables of what `collect.collect` returns, the most important first."""
    template, systems = HERE / "tables.txt", collected["systems"]
    rows = {"differences": collected["differences"], "ablation": collected["ablation"]}
    rows["runs"] = collected["results"]
    return [
        _overview(collected),
        *(make(name, rows[name], systems, template=template) for name in rows if rows[name]),
        *(_scenes(collected, split) for split in collected["splits"]),
    ]


def find(collected: Mapping[str, Any], system: str, split: int) -> Mapping[str, Any] | None:
    """Return the result of one system on one split, or None where there is none."""
    results = {(result["system"], result["percent"]): result for result in collected["results"]}
    return results.get((system, split))


def compared(collected: Mapping[str, Any]) -> dict[str, str]:
    """Return name and label of the systems to compare: all but those inside the ablation."""
    systems = collected["systems"].items()
    return {name: label for name, label in systems if not name.startswith("ablation")}


def _mean_sd(figure: Mapping[str, Any]) -> str:
    return percent(figure["mean"], figure["sd"])


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
