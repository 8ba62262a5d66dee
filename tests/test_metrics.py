"""Counts against loops written out, and the figures against cases done by hand."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asc_jax.data.tau.taxonomy import DEVICE_GROUPS, DEVICES, N_DEVICES, N_SCENES, SCENES
from asc_jax.evaluation import metrics

counts_jit = jax.jit(metrics.counts, static_argnames="n_devices")


def random_clips(n=64, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=3, size=(n, N_SCENES)).astype(np.float32)
    labels = rng.integers(0, N_SCENES, n).astype(np.int32)
    device_id = rng.integers(0, N_DEVICES, n).astype(np.int32)
    return logits, labels, device_id, rng.random(n) < 0.8


def counts_by_loop(logits, labels, device_id, mask):
    confusion = np.zeros((N_DEVICES, N_SCENES, N_SCENES), int)
    log_loss = np.zeros((N_DEVICES, N_SCENES))
    for row, label, device, counted in zip(logits, labels, device_id, mask, strict=True):
        if counted and label >= 0 and device >= 0:
            confusion[device, label, row.argmax()] += 1
            probs = np.exp(row.astype(float)) / np.exp(row.astype(float)).sum()
            log_loss[device, label] -= math.log(probs[label])
    return confusion, log_loss


def assert_same(a, b):
    np.testing.assert_array_equal(a["confusion"], b["confusion"])
    np.testing.assert_allclose(a["log_loss"], b["log_loss"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_counts_equal_explicit_loops(seed):
    logits, labels, device_id, mask = random_clips(seed=seed)
    labels[::7], device_id[::11] = -1, -1
    sums = counts_jit(logits, labels, device_id, mask)
    confusion, log_loss = counts_by_loop(logits, labels, device_id, mask)
    np.testing.assert_array_equal(sums["confusion"], confusion)
    np.testing.assert_allclose(sums["log_loss"], log_loss, rtol=1e-5, atol=1e-6)


def test_counts_are_the_same_without_jit():
    clips = [jnp.asarray(part) for part in random_clips()]
    assert_same(metrics.counts(*clips), counts_jit(*clips))


def test_counts_vmap_over_models_equals_one_by_one():
    logits, *rest = random_clips()
    both = np.stack([logits, -logits])
    mapped = jax.vmap(metrics.counts, in_axes=(0, None, None, None))(both, *rest)
    for i in range(2):
        assert_same({k: v[i] for k, v in mapped.items()}, counts_jit(both[i], *rest))


def test_counts_of_two_halves_add_up_to_the_whole():
    clips = random_clips()
    halves = [counts_jit(*(part[i::2] for part in clips)) for i in range(2)]
    assert_same(metrics.add(*halves), counts_jit(*clips))


def test_add_refuses_different_entries():
    with pytest.raises(ValueError, match="log_loss"):
        metrics.add({"confusion": 1}, {"confusion": 1, "log_loss": 2})


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_counts_dtypes_are_int32_and_the_logits_own(dtype):
    logits, *rest = random_clips(8)
    sums = counts_jit(jnp.asarray(logits, dtype), *rest)
    assert sums["confusion"].dtype == jnp.int32
    assert sums["log_loss"].dtype == dtype


def test_rows_that_do_not_count_add_nothing_even_if_nan():
    logits = np.full((4, N_SCENES), np.nan, np.float32)
    labels = np.array([1, -1, 2, N_SCENES], np.int32)
    device_id = np.array([0, 0, -1, 0], np.int32)
    sums = counts_jit(logits, labels, device_id, np.array([False, True, True, True]))
    assert int(sums["confusion"].sum()) == 0
    assert float(sums["log_loss"].sum()) == 0


def test_log_loss_of_undecided_logits_is_ln_of_n_scenes():
    zeros = np.zeros(3, np.int32)
    sums = counts_jit(np.zeros((3, N_SCENES), np.float32), zeros, zeros, zeros == 0)
    np.testing.assert_allclose(sums["log_loss"][0, 0], 3 * math.log(N_SCENES), rtol=1e-6)


def test_log_loss_of_huge_logits_is_finite():
    logits = np.full((1, N_SCENES), -1e4, np.float32)
    logits[0, 0] = 1e4
    one = np.ones(1, np.int32)
    np.testing.assert_allclose(
        counts_jit(logits, one, one, one == 1)["log_loss"][1, 1], 2e4, rtol=1e-6
    )


def summary_by_hand():
    """Airport on device a: 3 of 4 right; tram on device s4: 1 of 12 right; nothing else."""
    confusion = np.zeros((N_DEVICES, N_SCENES, N_SCENES), np.int32)
    log_loss = np.zeros((N_DEVICES, N_SCENES), np.float32)
    airport, tram = SCENES.index("airport"), SCENES.index("tram")
    a, s4 = DEVICES.index("a"), DEVICES.index("s4")
    confusion[a, airport, airport], confusion[a, airport, tram] = 3, 1
    confusion[s4, tram, tram], confusion[s4, tram, airport] = 1, 11
    log_loss[a, airport], log_loss[s4, tram] = 2, 24
    return metrics.summarize({"confusion": confusion, "log_loss": log_loss})


def test_summary_of_two_scenes_by_hand():
    summary = summary_by_hand()
    assert summary["n_clips"] == 16
    assert summary["accuracy"] == 4 / 16
    assert summary["macro_accuracy"] == pytest.approx((3 / 4 + 1 / 12) / 2)
    assert summary["log_loss"] == 26 / 16
    assert summary["macro_log_loss"] == (2 / 4 + 24 / 12) / 2
    assert summary["scenes"]["airport"] == {"n_clips": 4, "accuracy": 0.75, "log_loss": 0.5}
    assert summary["devices"]["s4"]["accuracy"] == 1 / 12
    assert summary["groups"]["real"] == summary["devices"]["a"]
    assert summary["groups"]["unseen"] == summary["devices"]["s4"]
    assert summary["confusion"][0] == [3, 0, 0, 0, 0, 0, 0, 0, 0, 1]


def test_summary_says_none_where_there_are_no_clips():
    summary = summary_by_hand()
    none = {"n_clips": 0, "accuracy": None, "log_loss": None}
    assert summary["scenes"]["bus"] == none
    assert summary["devices"]["s1"] == none | {"macro_accuracy": None}
    assert summary["groups"]["seen"] == none | {"macro_accuracy": None}


def test_summary_of_nothing_is_none_throughout():
    shape = (N_DEVICES, N_SCENES, N_SCENES)
    summary = metrics.summarize({"confusion": np.zeros(shape), "log_loss": np.zeros(shape[:2])})
    assert summary["n_clips"] == 0
    names = ("accuracy", "macro_accuracy", "log_loss", "macro_log_loss")
    assert {summary[name] for name in names} == {None}


def test_summary_is_plain_json_and_names_everything():
    summary = metrics.summarize(counts_jit(*random_clips()))
    assert json.loads(json.dumps(summary)) == summary
    assert tuple(summary["scenes"]) == SCENES
    assert tuple(summary["devices"]) == DEVICES
    assert tuple(summary["groups"]) == tuple(DEVICE_GROUPS)


def test_summary_groups_are_the_sums_of_their_devices():
    summary = metrics.summarize(counts_jit(*random_clips(500)))
    for group, members in DEVICE_GROUPS.items():
        entries = [summary["devices"][device] for device in members]
        right = sum(entry["accuracy"] * entry["n_clips"] for entry in entries)
        n_clips = sum(entry["n_clips"] for entry in entries)
        assert summary["groups"][group]["accuracy"] == pytest.approx(right / n_clips)


def test_summary_refuses_other_shapes():
    zeros = np.zeros((3, N_SCENES, N_SCENES))
    with pytest.raises(ValueError, match=r"\(3, 10, 10\)"):
        metrics.summarize({"confusion": zeros, "log_loss": zeros[:, 0]})


@pytest.mark.parametrize("seed", range(3))
def test_tally_equals_scikit_learn_device_by_device(seed):
    reference = pytest.importorskip("sklearn.metrics")
    logits, labels, device_id, known = random_clips(500, seed)
    labels = np.where(known, labels, -1)
    log_probs = np.asarray(jax.nn.log_softmax(logits))
    found = metrics.summarize(metrics.tally(log_probs, labels, device_id))
    probs = np.exp(log_probs.astype(float))
    probs /= probs.sum(1, keepdims=True)
    for number, device in enumerate(DEVICES):
        rows = known & (device_id == number)
        truth, named = labels[rows], probs[rows].argmax(1)
        ours = found["devices"][device]
        assert ours["n_clips"] == rows.sum()
        recalls = reference.recall_score(truth, named, average=None, labels=np.unique(truth))
        assert ours["macro_accuracy"] == pytest.approx(recalls.mean(), rel=0, abs=1e-9)
    found = metrics.summarize(metrics.tally(np.log(probs), labels, device_id))
    for number, scene in enumerate(SCENES):
        rows = labels == number
        expected = reference.log_loss(labels[rows], probs[rows], labels=range(N_SCENES))
        assert found["scenes"][scene]["log_loss"] == pytest.approx(expected, rel=0, abs=1e-9)


def test_tally_counts_what_counts_counts():
    logits, labels, device_id, mask = random_clips()
    labels[::7], device_id[::11], labels[~mask] = -1, -1, -1
    log_probs = np.asarray(jax.nn.log_softmax(logits))
    assert_same(
        metrics.tally(log_probs, labels, device_id),
        counts_jit(logits, labels, device_id, np.ones_like(mask)),
    )
