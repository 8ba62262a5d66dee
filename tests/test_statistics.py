"""Intervals cover the truth as often as they say, where clips of a recording are correlated."""

import numpy as np
import pytest
import scipy.stats

from asc_jax.evaluation.campaign import bootstrap

N_SCENES, N_SEGMENTS, N_CUTS = 5, 12, 10
GAP = 0.05  # between the two synthetic systems
REPLICATES = {"n_replicates": 500}


def synthetic(rng, n_seeds, *, training_sd=0.0):
    """Return two systems' correct clips, scenes and segments; both find the same segments hard."""
    scene = np.repeat(np.arange(N_SCENES), N_SEGMENTS * N_CUTS)
    segment = np.repeat(np.arange(N_SCENES * N_SEGMENTS), N_CUTS)
    easy = (
        np.linspace(0.35, 0.6, N_SCENES)[scene] + rng.uniform(-0.3, 0.3, segment.max() + 1)[segment]
    )
    right = []
    for gap in (GAP, 0):
        own = rng.uniform(-0.05, 0.05, segment.max() + 1)[segment]
        for _ in range(n_seeds):
            chance = easy + own + gap + training_sd * rng.standard_normal()
            right.append(rng.random(len(scene)) < chance)
    return np.array(right), scene, segment


TRUTH = np.linspace(0.35, 0.6, N_SCENES).mean()  # of the second system


def covers(interval, truth):
    return interval["low"] <= truth <= interval["high"]


def only(totals, runs):
    return totals._replace(correct=totals.correct[runs])


@pytest.mark.nightly
def test_intervals_cover_the_truth_where_clips_of_a_segment_go_together():
    """95 % intervals by segment do, those that take clips for independent do not."""
    rng = np.random.default_rng(0)
    hits = {"difference": [], "system": [], "naive": []}
    for seed in range(1000):
        right, scene, segment = synthetic(rng, 1)
        totals = bootstrap.cluster_totals(right, scene, segment)
        interval = bootstrap.confidence_interval(totals, 1, seed=seed, **REPLICATES)
        hits["difference"].append(covers(interval, GAP))
        interval = bootstrap.confidence_interval(only(totals, [1]), seed=seed, **REPLICATES)
        hits["system"].append(covers(interval, TRUTH))
        if seed < 100:  # clips are many, and no precision is needed to see it fail
            clips = bootstrap.cluster_totals(right[1:], scene, np.arange(len(scene)))
            interval = bootstrap.confidence_interval(clips, n_replicates=100, seed=seed)
            hits["naive"].append(covers(interval, TRUTH))
    assert 0.93 <= np.mean(hits["difference"]) <= 0.97
    assert 0.93 <= np.mean(hits["system"]) <= 0.97
    assert np.mean(hits["naive"]) < 0.85


@pytest.mark.parametrize("training_sd", [0.0, 0.01, 0.03])
def test_intervals_cover_the_truth_with_the_chance_of_training(training_sd):
    """Three seeds per system, and the truth is that of all seeds; sd as large as the rest."""
    rng = np.random.default_rng(1)
    hits = []
    for seed in range(500):
        totals = bootstrap.cluster_totals(*synthetic(rng, 3, training_sd=training_sd))
        interval = bootstrap.confidence_interval(totals, 3, seed=seed, **REPLICATES)
        assert interval["with_training"]
        hits.append(covers(interval, GAP))
    assert 0.93 <= np.mean(hits) <= 0.97


def test_paired_test_rejects_equal_systems_as_often_as_it_says():
    rng = np.random.default_rng(2)
    p = []
    for seed in range(400):
        right, scene, segment = synthetic(rng, 1)
        swap = rng.random(segment.max() + 1)[segment] < 0.5
        pair = np.where(swap, right, right[::-1])  # who answers a segment is a toss
        totals = bootstrap.cluster_totals(pair, scene, segment)
        p.append(bootstrap.paired_test(totals, 1, n_replicates=199, seed=seed))
    assert 0.03 <= np.mean(np.array(p) <= 0.05) <= 0.07


def test_paired_test_knows_equal_and_very_different_systems():
    right, scene, segment = synthetic(np.random.default_rng(3), 1)
    same = bootstrap.cluster_totals(right[[0, 0]], scene, segment)
    assert bootstrap.paired_test(same, 1) == 1
    far = bootstrap.cluster_totals(np.stack([right[0], right[0] & False]), scene, segment)
    assert bootstrap.paired_test(far, 1, n_replicates=999) == 1 / 1000


def test_paired_test_agrees_with_scipy():
    right, scene, segment = synthetic(np.random.default_rng(3), 1)
    totals = bootstrap.cluster_totals(right, scene, segment)
    gains = totals.correct[0] - totals.correct[1]  # scenes have equally many clips
    found = scipy.stats.permutation_test(
        (gains,), np.sum, permutation_type="samples", n_resamples=9999, rng=0
    )
    assert bootstrap.paired_test(totals, 1) == pytest.approx(found.pvalue, abs=0.02)
    assert 0.001 < found.pvalue < 0.5


def test_macro_average_weighs_scenes_alike():
    right = np.array([[1, 1, 1, 0], [0, 0, 1, 1]], bool)
    totals = bootstrap.cluster_totals(right, np.array([0, 0, 0, 1]), np.array(["x", "y", "y", "y"]))
    np.testing.assert_array_equal(totals.clips, [1, 2, 1])  # y is two clusters: of two scenes
    np.testing.assert_allclose(bootstrap.macro_average(totals), [0.5, (1 / 3 + 1) / 2])


def test_figures_do_not_depend_on_the_order_of_clips_and_are_repeatable():
    right, scene, segment = synthetic(np.random.default_rng(4), 2)
    order = np.random.default_rng(5).permutation(len(scene))
    a = bootstrap.cluster_totals(right, scene, segment)
    b = bootstrap.cluster_totals(right[:, order], scene[order], segment[order])
    for function in (bootstrap.confidence_interval, bootstrap.paired_test):
        assert function(a, 2, **REPLICATES) == function(b, 2, **REPLICATES)


def test_intervals_stay_within_what_averages_and_differences_can_be():
    """Few clusters make wide intervals, whose ends would be below 0 and above 1."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        right = rng.random((2, 12)) < [[0.1], [0.9]]
        totals = bootstrap.cluster_totals(right, np.repeat([0, 1], 6), np.repeat(np.arange(4), 3))
        for run in (0, 1):
            interval = bootstrap.confidence_interval(only(totals, [run]), **REPLICATES)
            assert 0 <= interval["low"] <= interval["high"] <= 1
        interval = bootstrap.confidence_interval(totals, 1, **REPLICATES)
        assert -1 <= interval["low"] <= interval["high"] <= 1


def test_interval_of_a_scene_with_one_cluster_is_none():
    totals = bootstrap.cluster_totals(np.ones((1, 3), bool), np.array([0, 0, 1]), np.arange(3))
    assert bootstrap.confidence_interval(totals) is None


def test_interval_widens_with_the_spread_over_seeds_and_says_so():
    rng = np.random.default_rng(6)
    totals = bootstrap.cluster_totals(*synthetic(rng, 3, training_sd=0.1))
    wide = bootstrap.confidence_interval(totals, 3)
    narrow = bootstrap.confidence_interval(only(totals, [0, 3]), 1)
    assert (wide["with_training"], narrow["with_training"]) == (True, False)
    assert wide["high"] - wide["low"] > narrow["high"] - narrow["low"]


def test_one_seed_has_a_mean_and_no_deviation():
    assert bootstrap.mean_sd([0.5]) == (0.5, None)
    mean, sd = bootstrap.mean_sd([0.1, 0.2, 0.4])
    assert (mean, sd) == (pytest.approx(0.7 / 3), pytest.approx(np.std([0.1, 0.2, 0.4], ddof=1)))
