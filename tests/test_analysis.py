"""Predictions → segments, calibration and mistakes; `test_cli` holds the files to scikit-learn."""

import numpy as np
import pytest

from asc_jax.data.tau.taxonomy import DEVICES, LABELS, SCENES
from asc_jax.evaluation import analysis, evaluate


def predictions(n=200, seed=0, sharpness=2.0, known=True):
    """Invented predictions of `n` clips, ten to a segment, the last ten without a label."""
    rng = np.random.default_rng(seed)
    segment = np.arange(n) // 10
    label, device_id = rng.integers(0, 10, n)[10 * segment], rng.integers(0, 9, n)[10 * segment]
    logits = rng.normal(scale=sharpness, size=(n, 10)) + 2 * np.eye(10)[label]
    names = [
        f"audio/{SCENES[s]}-lyon-{1000 + k}-{k}-{i % 10}-{DEVICES[d]}.wav"
        for i, (s, d, k) in enumerate(zip(label, device_id, segment, strict=True))
    ]
    label = np.where(known | (np.arange(n) < n - 10), label, -1)
    groups = {"device": device_id}
    return evaluate.Predictions({}, names, logits.astype(np.float32), label, groups, None, LABELS)


def test_segments_equal_a_loop_over_recordings():
    given = predictions()
    probs, right = evaluate.softmax(given.logits), []
    for k in range(20):
        ten = slice(10 * k, 10 * k + 10)
        right.append(probs[ten].mean(0).argmax() == given.label[10 * k])
    found = analysis.by_segment(given)
    assert found["n_segments"] == 20
    assert found["accuracy"] == np.mean(right)
    assert found["accuracy"] > (given.logits.argmax(1) == given.label).mean()


def test_clips_without_a_label_count_nowhere():
    given = predictions(known=False)
    assert (given.label == -1).sum() == 10
    assert analysis.by_segment(given)["n_segments"] == 19
    labelled = analysis.calibrate(given)["as_trained"]
    assert labelled["n_clips"] == 190
    assert labelled["accuracy"] == (given.logits.argmax(1) == given.label)[:190].mean()


def test_segments_say_why_there_are_none():
    given = predictions()._replace(filenames=["0.wav"] * 200)
    assert analysis.by_segment(given)["missing"].startswith("the clip '0.wav' is not named")


def test_temperature_comes_from_the_clips_held_out_alone():
    held_out = predictions(2000, seed=1, sharpness=4.0)
    first, second = (analysis.calibrate(predictions(seed=s), held_out) for s in (2, 3))
    assert first["temperature"] == second["temperature"] > 1
    assert first["fitted_on"]["after"] < first["fitted_on"]["before"]
    assert first["with_temperature"]["accuracy"] == first["as_trained"]["accuracy"]
    assert first["why_not"] is None


def test_without_clips_held_out_there_is_no_temperature_and_it_says_how_to_get_one():
    found = analysis.calibrate(predictions())
    assert found["temperature"] is found["with_temperature"] is found["fitted_on"] is None
    assert "--config.data.validation_locations=0.2" in found["why_not"]


def test_most_confused_are_the_surest_mistakes_one_of_a_recording():
    given = predictions()
    probs = evaluate.softmax(given.logits)
    found = analysis.most_confused(given, 5)
    assert len(found) == 5
    sure = [clip["probability"] for clip in found]
    assert sure == sorted(sure, reverse=True)
    mistakes = given.logits.argmax(1) != given.label
    assert sure[0] == pytest.approx(probs.max(1)[mistakes].max())
    for clip in found:
        i = clip["number"]
        assert clip["filename"] == given.filenames[i]
        assert clip["class"] == SCENES[given.label[i]]
        assert clip["groups"] == {"device": DEVICES[given.groups["device"][i]]}
        assert clip["predicted"] != clip["class"]
        assert clip["true_probability"] == pytest.approx(probs[i, given.label[i]])
    assert len({clip["number"] // 10 for clip in found}) == 5


def test_clips_without_a_label_are_not_confused():
    given = predictions()
    assert analysis.most_confused(given._replace(label=np.full(200, -1))) == []
