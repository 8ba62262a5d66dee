"""The figures against loops written out, against scikit-learn, and against cases done by hand."""

import json
import math

import counted
import numpy as np
import pytest

from asc_jax.data.labels import Group, Labels
from asc_jax.data.tau.taxonomy import (
    DEVICE_GROUPS,
    DEVICES,
    LABELS,
    N_DEVICES,
    N_SCENES,
    SCENES,
)
from asc_jax.evaluation import metrics
from asc_jax.evaluation.calibration import log_probs as log_softmax

# Three classes and two group columns, one of them without sets.
ROOMS = Labels(
    ("cat", "dog", "no one"),
    {
        "room": Group(("hall", "yard", "attic", "roof"), {"inside": ("hall", "attic")}),
        "microphone": Group(("left", "right")),
    },
)


def random_clips(n=64, seed=0, labels=LABELS):
    """Log probabilities, true classes and group values, of which some are not known."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=3, size=(n, labels.n_classes)).astype(np.float32)
    label = rng.integers(-1, labels.n_classes, n)
    groups = {
        column: rng.integers(-1, len(group.values), n) for column, group in labels.groups.items()
    }
    return log_softmax(logits), label, groups


def figures_by_loop(log_probs, label, counts):
    """The figures of the clips that count, one after the other."""
    clips, right, losses = {}, {}, {}
    for row, truth, counted_in in zip(log_probs.tolist(), label.tolist(), counts, strict=True):
        if truth >= 0 and counted_in:
            clips[truth] = clips.get(truth, 0) + 1
            right[truth] = right.get(truth, 0) + (row.index(max(row)) == truth)
            losses[truth] = losses.get(truth, 0.0) - row[truth]
    if not clips:
        return dict.fromkeys(metrics.FIGURES) | {"n_clips": 0}
    n = sum(clips.values())
    return {
        "n_clips": n,
        "accuracy": sum(right.values()) / n,
        "macro_accuracy": sum(right[c] / clips[c] for c in clips) / len(clips),
        "log_loss": sum(losses.values()) / n,
        "macro_log_loss": sum(losses[c] / clips[c] for c in clips) / len(clips),
    }


def assert_figures(found, expected):
    assert found == pytest.approx({name: expected[name] for name in found}, rel=1e-9, nan_ok=False)


@pytest.mark.parametrize("labels", [LABELS, ROOMS, Labels(("a", "b"))], ids=["tau", "rooms", "two"])
@pytest.mark.parametrize("seed", range(3))
def test_summary_equals_explicit_loops(seed, labels):
    log_probs, label, groups = random_clips(300, seed, labels)
    found = metrics.summarize(log_probs, label, groups, labels)
    everything = np.full(len(label), True)
    overall = {name: found[name] for name in metrics.FIGURES}
    assert_figures(overall, figures_by_loop(log_probs, label, everything))
    for number, name in enumerate(labels.classes):
        assert_figures(found["classes"][name], figures_by_loop(log_probs, label, label == number))
    assert tuple(found["groups"]) == tuple(labels.groups)
    for column, group in labels.groups.items():
        rows = {name: groups[column] == number for number, name in enumerate(group.values)}
        rows["unknown"] = groups[column] == -1
        assert tuple(found["groups"][column]["values"]) == tuple(rows)
        for name, counts in rows.items():
            expected = figures_by_loop(log_probs, label, counts)
            assert_figures(found["groups"][column]["values"][name], expected)
        for name, members in group.sets.items():
            counts = np.any([rows[member] for member in members], axis=0)
            expected = figures_by_loop(log_probs, label, counts)
            assert_figures(found["groups"][column]["sets"][name], expected)
    confusion = np.zeros((labels.n_classes, labels.n_classes), int)
    for row, truth in zip(log_probs, label, strict=True):
        confusion[truth, row.argmax()] += truth >= 0
    assert found["confusion"] == confusion.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_summary_equals_scikit_learn_value_by_value(seed):
    reference = pytest.importorskip("sklearn.metrics")
    log_probs, label, groups = random_clips(500, seed)
    probs = np.exp(log_probs.astype(float))
    probs /= probs.sum(1, keepdims=True)
    found = metrics.summarize(np.log(probs), label, groups, LABELS)
    for number, device in enumerate(DEVICES):
        rows = (label >= 0) & (groups["device"] == number)
        truth, named = label[rows], probs[rows].argmax(1)
        ours = found["groups"]["device"]["values"][device]
        assert ours["n_clips"] == rows.sum()
        recalls = reference.recall_score(truth, named, average=None, labels=np.unique(truth))
        assert ours["macro_accuracy"] == pytest.approx(recalls.mean(), rel=0, abs=1e-9)
    for number, scene in enumerate(SCENES):
        rows = label == number
        expected = reference.log_loss(label[rows], probs[rows], labels=range(N_SCENES))
        assert found["classes"][scene]["log_loss"] == pytest.approx(expected, rel=0, abs=1e-9)
    known = label >= 0
    matrix = reference.confusion_matrix(label[known], probs[known].argmax(1), labels=range(10))
    assert found["confusion"] == matrix.tolist()


def test_clips_of_no_class_count_nowhere_even_if_nan():
    log_probs = np.full((3, N_SCENES), np.nan)
    label = np.array([-1, N_SCENES, -1])
    assert metrics.summarize(log_probs, label, {}, LABELS)["n_clips"] == 0


def test_a_group_column_that_clips_lack_is_unknown():
    log_probs, label, _ = random_clips()
    found = metrics.summarize(log_probs, label, {}, LABELS)
    assert found["groups"]["device"]["values"]["unknown"]["n_clips"] == found["n_clips"] > 0
    assert found["groups"]["device"]["values"]["a"]["n_clips"] == 0


def test_log_loss_of_undecided_logits_is_ln_of_the_number_of_classes():
    log_probs = log_softmax(np.zeros((3, N_SCENES), np.float32))
    found = metrics.summarize(log_probs, np.zeros(3, int), {}, LABELS)
    assert found["log_loss"] == pytest.approx(math.log(N_SCENES), rel=1e-6)


def test_log_loss_of_huge_logits_is_finite():
    logits = np.full((1, N_SCENES), -1e4, np.float32)
    logits[0, 0] = 1e4
    found = metrics.summarize(log_softmax(logits), np.ones(1, int), {}, LABELS)
    assert found["log_loss"] == pytest.approx(2e4, rel=1e-6)


def summary_by_hand():
    """Airport on device a: 3 of 4 right; tram on device s4: 1 of 12 right; nothing else."""
    confusion = np.zeros((N_DEVICES, N_SCENES, N_SCENES), np.int32)
    log_loss = np.zeros((N_DEVICES, N_SCENES))
    airport, tram = SCENES.index("airport"), SCENES.index("tram")
    a, s4 = DEVICES.index("a"), DEVICES.index("s4")
    confusion[a, airport, airport], confusion[a, airport, tram] = 3, 1
    confusion[s4, tram, tram], confusion[s4, tram, airport] = 1, 11
    log_loss[a, airport], log_loss[s4, tram] = 2, 24
    return counted.summarize(confusion, log_loss)


def test_summary_of_two_classes_by_hand():
    summary = summary_by_hand()
    device = summary["groups"]["device"]
    assert summary["n_clips"] == 16
    assert summary["accuracy"] == 4 / 16
    assert summary["macro_accuracy"] == pytest.approx((3 / 4 + 1 / 12) / 2)
    assert summary["log_loss"] == 26 / 16
    assert summary["macro_log_loss"] == (2 / 4 + 24 / 12) / 2
    assert summary["classes"]["airport"] == {"n_clips": 4, "accuracy": 0.75, "log_loss": 0.5}
    assert device["values"]["s4"]["accuracy"] == 1 / 12
    assert device["sets"]["real"] == device["values"]["a"]
    assert device["sets"]["unseen"] == device["values"]["s4"]
    assert summary["confusion"][0] == [3, 0, 0, 0, 0, 0, 0, 0, 0, 1]


def test_summary_says_none_where_there_are_no_clips():
    summary = summary_by_hand()
    none = {"n_clips": 0, "accuracy": None, "log_loss": None}
    assert summary["classes"]["bus"] == none
    assert summary["groups"]["device"]["values"]["s1"] == none | {"macro_accuracy": None}
    assert summary["groups"]["device"]["sets"]["seen"] == none | {"macro_accuracy": None}


def test_summary_of_nothing_is_none_throughout():
    empty = np.zeros((0, N_SCENES)), np.zeros(0, int), {"device": np.zeros(0, int)}
    summary = metrics.summarize(*empty, LABELS)
    assert summary["n_clips"] == 0
    names = ("accuracy", "macro_accuracy", "log_loss", "macro_log_loss")
    assert {summary[name] for name in names} == {None}
    assert "unknown" not in summary["groups"]["device"]["values"]


def test_summary_is_plain_json_and_names_everything():
    summary = metrics.summarize(*random_clips(), LABELS)
    assert json.loads(json.dumps(summary)) == summary
    assert tuple(summary["classes"]) == SCENES
    assert tuple(summary["groups"]["device"]["values"]) == (*DEVICES, "unknown")
    assert tuple(summary["groups"]["device"]["sets"]) == tuple(DEVICE_GROUPS)
