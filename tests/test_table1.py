"""The published figures that stand beside ours agree with each other."""

import numpy as np
import pytest

from asc_jax.data.tau.published import published
from asc_jax.data.tau.taxonomy import DEVICE_GROUPS, DEVICES, SCENES

# The averages as printed: report of Gao & Lee, Table 1, and the official baseline's README.
MACRO_PERCENT = {
    5: (42.40, 44.28),
    10: (45.29, 47.89),
    25: (50.29, 53.12),
    50: (53.19, 56.26),
    100: (56.99, 59.58),
}


@pytest.mark.parametrize("percent", MACRO_PERCENT)
def test_published_scenes_average_to_the_published_averages(percent):
    known = published(f"train_{percent}pct")
    assert known["split_percent"] == percent
    for system, macro in zip(("baseline", "report"), MACRO_PERCENT[percent], strict=True):
        assert tuple(known[system]["classes"]) == SCENES
        average = np.mean(list(known[system]["classes"].values()))
        assert known[system]["macro_accuracy"] == pytest.approx(macro / 100)
        # scenes and average are each rounded to 0.01 %: half a unit from either
        assert average == pytest.approx(macro / 100, abs=1.01e-4)


@pytest.mark.parametrize("percent", MACRO_PERCENT)
def test_published_devices_average_to_the_baselines_average(percent):
    """The nine devices have nearly equal numbers of clips, so their mean is close to it."""
    baseline = published(f"train_{percent}pct")["baseline"]
    assert tuple(baseline["groups"]["device"]["values"]) == DEVICES
    average = np.mean(list(baseline["groups"]["device"]["values"].values()))
    assert average == pytest.approx(MACRO_PERCENT[percent][0] / 100, abs=5e-4)
    assert tuple(baseline["groups"]["device"]["sets"]) == tuple(DEVICE_GROUPS)
    assert np.mean(list(baseline["groups"]["device"]["sets"].values())) == pytest.approx(average)


def test_published_knows_other_splits_as_none():
    assert published("train_7pct") is None
    assert published("test") is None


def test_only_the_10_percent_split_has_a_note():
    notes = {p: published(f"train_{p}pct")["note"] for p in MACRO_PERCENT}
    assert "45.23" in notes.pop(10)
    assert set(notes.values()) == {None}
