"""Published accuracies on the same splits, to stand beside our own results."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asc_jax.data.tau.taxonomy import DEVICE_GROUPS, TRAIN_PERCENTS

# Macro average accuracy by split, in percent, as printed: the baseline's mean of five runs,
# its standard deviation over them, and the report's system.
_MACRO_AVERAGES = {
    5: (42.40, 0.42, 44.28),
    10: (45.29, 1.01, 47.89),
    25: (50.29, 0.87, 53.12),
    50: (53.19, 0.68, 56.26),
    100: (56.99, 1.11, 59.58),
}
_NOTES = {10: "the report prints 45.23 for the baseline; its ten scenes average 45.29"}


def published(split: str) -> dict[str, Any] | None:
    """Return published accuracies on TAU 2022 Mobile's development test split.

    Args:
        split: the training split's name, such as "train_5pct".

    Returns:
        None for a split without published figures. Otherwise
        `split_percent`, int;
        `baseline`, the official baseline: `macro_accuracy` (mean of five runs), `spread`
        (its standard deviation), and `scenes`, `devices`, `groups` (name → accuracy; a
        group is the plain mean of its three devices);
        `report`, the report's system (number of runs not stated): `macro_accuracy` and `scenes`;
        `note`, a sentence about numbers that disagree, or None.
        Accuracies are fractions in [0, 1].

    Source: Gao & Lee, DCASE 2024 Task 1 technical report, Table 1 (both systems, by scene); the
        official baseline's README (averages, spread, by device).

    Example:
        >>> published("train_5pct")["report"]["macro_accuracy"]
        0.4428
    """
    percent = {f"train_{percent}pct": percent for percent in TRAIN_PERCENTS}.get(split)
    if percent is None:
        return None
    baseline, spread, report = (_fraction(value) for value in _MACRO_AVERAGES[percent])
    scenes = _rows("table1.csv", percent)
    by_scene = {
        system: {r["scene_label"]: _fraction(r[f"{system}_accuracy_percent"]) for r in scenes}
        for system in ("baseline", "report")
    }
    devices = {
        r["device"]: _fraction(r["baseline_accuracy_percent"])
        for r in _rows("table1_devices.csv", percent)
    }
    groups = {
        name: math.fsum(devices[device] for device in members) / len(members)
        for name, members in DEVICE_GROUPS.items()
    }
    return {
        "split_percent": percent,
        "baseline": {
            "macro_accuracy": baseline,
            "spread": spread,
            "scenes": by_scene["baseline"],
            "devices": devices,
            "groups": groups,
        },
        "report": {"macro_accuracy": report, "scenes": by_scene["report"]},
        "note": _NOTES.get(percent),
    }


def comparable(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the figures published for a run's split; None unless it is of the official lists."""
    return published(results["split"]) if results["official_lists"] else None


def _fraction(percent: str | float) -> float:
    return round(float(percent) / 100, 6)  # 44.28 / 100 is 0.44280000000000003


def _rows(name: str, percent: int) -> list[dict[str, str]]:
    """Return the rows about one split of a csv file beside this module."""
    with open(Path(__file__).with_name(name), newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if int(row["split_percent"]) == percent]
