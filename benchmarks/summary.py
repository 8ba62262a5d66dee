"""Medians, quartiles, and ratios to ours."""

import statistics
from collections.abc import Mapping, Sequence

from benchmarks.contestants import OURS


def summarise(values: Mapping[str, Sequence[float]], first: Mapping[str, float]) -> dict[str, dict]:
    """Medians and quartiles of what was measured (smaller is better).

    Args:
      values: contestant → its values, round by round.
      first: contestant → seconds of its first run, which compiles.

    Returns:
      Contestant → `values`, `median`, `q1`, `q3`, `first_s`, and but for ours `ratio` [q1,
      median, q3]: how many times ours it took, each round compared with ours of that round.
    """
    summary = {}
    for name, series in values.items():
        low, middle, high = _quartiles(series)
        summary[name] = {"values": list(series), "median": middle, "q1": low, "q3": high}
        summary[name]["first_s"] = first.get(name)
        if name != OURS and OURS in values:
            pairs = zip(series, values[OURS], strict=True)
            summary[name]["ratio"] = _quartiles([theirs / ours for theirs, ours in pairs])
    return summary


def _quartiles(values: Sequence[float]) -> list[float]:
    if len(values) == 1:
        return [values[0]] * 3
    return statistics.quantiles(values, n=4, method="inclusive")
