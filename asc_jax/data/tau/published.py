"""Published accuracies on TAU's splits, to stand beside our own results."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asc_jax.data.tau.taxonomy import DEVICE_GROUPS, SCENES

_FILE = Path(__file__).with_name("published.json")  # accuracies in percent, as printed


def published(split: str) -> dict[str, Any] | None:
    """Return published accuracies on TAU 2022 Mobile's development test split.

    Args:
        split: the training split's name, such as "train_5pct".

    Returns:
        `split_percent`, `note`, and of the `report` and the `baseline` accuracies as fractions in
        [0, 1] under the keys of `metrics.summarize`: `macro_accuracy`, `classes` (name → accuracy)
        and, of the baseline, `groups`, column → `values` and `sets`, name → accuracy; that of a
        set is the plain mean of its devices. The baseline's are means of five runs, `spread` is
        their standard deviation; of the report the number of runs is not stated. None for a split
        without published figures.

    Source: Gao & Lee, DCASE 2024 Task 1 technical report, Table 1 (both systems, by scene); the
        official baseline's README (averages, spread, by device).

    Example:
        >>> published("train_5pct")["report"]["macro_accuracy"]
        0.4428
    """

    def fraction(percent: str) -> float:
        return round(float(percent) / 100, 6)  # 44.28 / 100 is 0.44280000000000003

    known = json.loads(_FILE.read_text("utf-8"), parse_float=fraction).get(split)
    if known is not None:
        devices = known["baseline"].pop("devices")
        means = {
            name: math.fsum(devices[device] for device in members) / len(members)
            for name, members in DEVICE_GROUPS.items()
        }
        known["baseline"]["groups"] = {"device": {"values": devices, "sets": means}}
    return known


def comparable(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the figures published for a run's split; None unless it is of the official lists."""
    return published(results["split"]) if results["official_lists"] else None


def left_out(results: Mapping[str, Any]) -> bool:
    """Return whether figures are published for TAU's split of that name, but not for these clips.

    For other classes than TAU's nobody expects them.
    """
    of_tau = {*results["labels"]["classes"]} == {*SCENES}
    return of_tau and not results["official_lists"] and published(results["split"]) is not None
