"""What is said beside Table 1: what is wrong with it, and how it was made."""

from collections.abc import Iterator, Mapping
from typing import Any

from asc_jax.evaluation.report.published import published


def warnings(table: Mapping[str, Any]) -> list[str]:
    """What is wrong with the table, a sentence each; what forbids a comparison comes first."""
    out = []
    if not table["official_lists"]:
        out.append(
            "Not comparable with the published figures: some of these runs were not made on the "
            "official lists of TAU 2022 Mobile. Published figures are left out beside those."
        )
    if table["missing"]:
        missing = "; ".join(f"{title} ({why})" for title, why in table["missing"].items())
        out.append(f"Missing: {missing}.")
    if table["over_budget"]:
        out.append(f"OVER BUDGET: {', '.join(table['over_budget'])}.")
    if len(table["code_versions"]) > 1:
        out.append(
            f"The runs were made by several versions of the code: "
            f"{', '.join(table['code_versions'])}."
        )
    return out


def method(table: Mapping[str, Any]) -> Iterator[str]:
    """How the figures were made, and what they do not say, a paragraph each."""
    yield (
        f"Macro average accuracy on {table['n_test_clips']:,} clips of the {table['test_split']} "
        f"list ({table['n_segments']:,} segments, {table['n_locations']:,} locations), in %, with "
        f"the parameters stored in {' and '.join(table['stored_dtypes'])}; differences in "
        "percentage points. ± is the standard deviation over seeds, – what cannot be said, such "
        "as that of a single seed."
    )
    yield (
        f"Intervals hold {100 * table['level']:g} % and come from {table['n_replicates']:,} "
        "bootstrap replicates of whole 10-second segments, or of whole locations, within each "
        "scene: the clips of one recording are right or wrong together. "
        + (
            "Where there are several seeds, the chance of training is part of the interval, from "
            "the spread over seeds."
            if any(len(result["seeds"]) > 1 for result in table["results"])
            else "There is one seed, so the chance of training is not part of them."
        )
    )
    for split in table["splits"]:
        known = published(f"train_{split}pct")
        if known and known["note"] and table["official_lists"]:
            yield f"{split} %: {known['note']}."
    if table["differences"] or table["ablation"]:
        yield (
            "p is that of a paired randomisation test, which swaps the two systems' answers to "
            "whole segments or locations; it is about these trained networks, not about other "
            "seeds, and is not corrected for the number of tests."
        )
    if table["ablation"]:
        yield (
            "Each change is made on top of those before it, so the gains add up to the whole "
            "difference; in another order they may be shared out differently. Batch and rate "
            "keep the baseline's share of warm-up steps."
        )
