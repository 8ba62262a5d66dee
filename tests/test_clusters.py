"""Say what intervals draw as a whole: recordings, TAU's moments, or a group column's value."""

import evaluated_runs
import numpy as np
import pytest

from asc_jax.errors import UserError
from asc_jax.evaluation.campaign import bootstrap, pools
from asc_jax.evaluation.campaign.clusters import clusters_of
from asc_jax.evaluation.campaign.runs import clustered, read_answers

N_REPLICATES = 500


def width(interval):
    return interval["high"] - interval["low"]


def test_devices_that_recorded_one_moment_are_one_cluster(tmp_path):
    """Four devices hear the same: their intervals are as wide as those of one device."""
    one = read_answers(evaluated_runs.write(tmp_path / "one", 0.6, devices="a"))
    all_ = read_answers(evaluated_runs.write(tmp_path / "all", 0.6))
    assert all_.clusters == "moments"
    assert {*all_.recording} == {*one.recording}
    found = [
        pools.pooled(pools.pool_of_seeds({0: each}), each.labels.classes, N_REPLICATES)
        for each in (one, all_)
    ]
    assert [each["n_recordings"] for each in found] == [30, 30]
    assert found[0]["interval"] == pytest.approx(found[1]["interval"])
    by_device = np.char.add(all_.recording, all_.groups["device"])
    totals = bootstrap.cluster_totals(all_.correct[None], all_.label, by_device)
    narrow = bootstrap.confidence_interval(totals, n_replicates=N_REPLICATES)
    assert width(found[1]["interval"]) > 1.5 * width(narrow)


def test_other_recordings_stay_as_they_are():
    names = ["a-b-c-d-0-e.wav", "a-b-c-d-1-e.wav", "x.wav"]
    found, word = clusters_of(names, ["r1", "r1", "x"], {})
    assert (found.tolist(), word) == (["r1", "r1", "x"], "recordings")


def test_a_group_column_can_be_what_goes_together(tmp_path):
    answers = clustered(read_answers(evaluated_runs.write(tmp_path, 0.6)), "device")
    assert answers.clusters == "values of device"
    assert len({*answers.recording}) == 4
    found, _ = clusters_of(["x", "y", "z"], ["x", "y", "z"], {"room": ["hall", "hall", "unknown"]},
                           "room")  # fmt: skip
    assert found[0] == found[1] != found[2]
    with pytest.raises(UserError, match="--cluster city: no such group column; the data set has d"):
        clustered(answers, "city")
