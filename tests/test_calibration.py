"""Calibration against scikit-learn, by-hand cases and brute force."""

import numpy as np
import pytest

from asc_jax.evaluation import calibration

CLOSE = {"rtol": 0, "atol": 1e-9}


def random_clips(n=400, seed=0, sharpness=3.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, n)
    logits = rng.normal(scale=sharpness, size=(n, 10)) + 2 * np.eye(10)[labels]
    return logits.astype(np.float32), labels


def ece_by_loop(probs, labels, n_bins):
    """Of bins (low, high], each clip looked up on its own."""
    bins = [[] for _ in range(n_bins)]
    for row, label in zip(probs, labels, strict=True):
        k = next(k for k in range(n_bins) if row.max() <= (k + 1) / n_bins)
        bins[k].append((row.max(), row.argmax() == label))
    gaps = [abs(sum(c for c, _ in b) - sum(r for _, r in b)) for b in bins]
    return sum(gaps) / len(labels)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n_bins", [1, 10, calibration.N_BINS])
def test_reliability_equals_scikit_learn_and_a_loop(seed, n_bins):
    sklearn = pytest.importorskip("sklearn")
    from sklearn import calibration as reference
    from sklearn import metrics

    assert sklearn
    logits, labels = random_clips(seed=seed)
    log_probs = calibration.log_probs(logits)
    probs = np.exp(log_probs)
    ours = calibration.reliability(log_probs, labels, n_bins)
    right, confidence = probs.argmax(1) == labels, probs.max(1)
    accuracies, means = reference.calibration_curve(right, confidence, n_bins=n_bins)
    filled = [b for b in ours["bins"] if b["n_clips"]]
    np.testing.assert_allclose([b["accuracy"] for b in filled], accuracies, **CLOSE)
    np.testing.assert_allclose([b["confidence"] for b in filled], means, **CLOSE)
    shares = np.array([b["n_clips"] for b in filled]) / len(labels)
    ece = np.sum(shares * np.abs(accuracies - means))
    np.testing.assert_allclose(ours["ece"], ece, **CLOSE)
    np.testing.assert_allclose(ours["ece"], ece_by_loop(probs, labels, n_bins), **CLOSE)
    log_loss = metrics.log_loss(labels, probs, labels=range(10))
    np.testing.assert_allclose(ours["log_loss"], log_loss, **CLOSE)
    np.testing.assert_allclose(ours["accuracy"], metrics.accuracy_score(labels, probs.argmax(1)))


def test_reliability_of_a_case_done_by_hand():
    """Two clips at 0.6 of which one is right, two at 0.9, both right: (0.2 + 0.2) / 4."""
    probs = np.array([[0.6, 0.4], [0.6, 0.4], [0.9, 0.1], [0.1, 0.9]])
    result = calibration.reliability(np.log(probs), np.array([0, 1, 0, 1]), n_bins=5)
    assert result["ece"] == pytest.approx(0.1, abs=1e-12)
    assert result["confidence"] == pytest.approx(0.75, abs=1e-12)
    assert [b["n_clips"] for b in result["bins"]] == [0, 0, 2, 0, 2]  # 0.6 is in (0.4, 0.6]
    assert result["bins"][0]["accuracy"] is None
    assert result["bins"][4]["accuracy"] == 1


def test_bins_hold_the_sure_and_the_unsure():
    sure = calibration.log_probs(np.array([[900.0, 0.0], [0.0, 0.0]]))
    result = calibration.reliability(sure, np.array([0, 0]))
    assert result["bins"][-1]["n_clips"] == 1
    assert result["bins"][7]["n_clips"] == 1  # 0.5 is in (7/15, 8/15]
    assert np.isfinite(result["log_loss"])


def test_log_loss_of_a_hopeless_clip_is_finite():
    log_probs = calibration.log_probs(np.array([[2000.0, 0.0]]))
    assert calibration.reliability(log_probs, np.array([1]))["log_loss"] == 2000


@pytest.mark.parametrize("truth", [0.3, 1.0, 2.5])
def test_temperature_is_found_again(truth):
    """Labels drawn from the network's own probabilities need none; scaled logits need the scale."""
    rng = np.random.default_rng(1)
    logits = rng.normal(scale=2, size=(20_000, 10))
    probs = np.exp(calibration.log_probs(logits))
    labels = (probs.cumsum(1) > rng.random((len(probs), 1))).argmax(1)
    assert calibration.fit_temperature(logits * truth, labels) == pytest.approx(truth, rel=0.03)


def test_temperature_has_the_smallest_log_loss():
    scipy = pytest.importorskip("scipy.optimize")
    logits, labels = random_clips()

    def log_loss(temperature):
        log_probs = calibration.log_probs(logits, temperature)
        return calibration.reliability(log_probs, labels)["log_loss"]

    ours = calibration.fit_temperature(logits, labels)
    found = scipy.minimize_scalar(log_loss, bounds=(0.1, 10), method="bounded").x
    assert ours == pytest.approx(found, rel=1e-4)
    assert log_loss(ours) <= log_loss(found)


def test_temperature_by_hand():
    """Three of four right at one confidence: softmax must give 3/4, so logits 2 become ln 3."""
    logits = np.array([[2.0, 0.0]] * 4)
    temperature = calibration.fit_temperature(logits, np.array([0, 0, 0, 1]))
    assert temperature == pytest.approx(2 / np.log(3), rel=1e-12)


@pytest.mark.parametrize("label", [0, 1])
def test_no_temperature_where_every_clip_is_right_or_wrong(label):
    assert calibration.fit_temperature(np.array([[2.0, 0.0]] * 3), np.full(3, label)) is None


def test_temperature_changes_no_scene():
    logits, _ = random_clips()
    cold, hot = (calibration.log_probs(logits, t).argmax(1) for t in (0.5, 20.0))
    np.testing.assert_array_equal(cold, hot)
