"""The figures of a distillation campaign, from finished runs, and every form they take."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
from browser import Browser
from distil_runs import CLASSES, LABELS, N_CUTS, TRAIN, clips, finish, plan, probs_of, write_logits

from asc_jax.data.clips import from_arrays
from asc_jax.data.store import reader as stored
from asc_jax.data.teacher_logits import with_teachers_of
from asc_jax.distil import report
from asc_jax.distil.collect import collect
from asc_jax.distil.runs import in_file
from asc_jax.errors import UserError
from asc_jax.evaluation.campaign import bootstrap
from asc_jax.evaluation.campaign import runs as campaign_runs
from asc_jax.evaluation.campaign.runs import read_answers, read_probs, unfinished
from asc_jax.training.workdir import checkpoints

SYSTEMS = {name: name for name in ("big", "wide", "undistilled", "distilled")}
DISTILL = {"weight": 0.02, "temperature": 2.0, "reduction": "mean", "average": "logits"}
ABOUT = {
    "student": "small",
    "teachers": ["big", "wide"],
    "train_split": TRAIN,
    "test_split": "fold2",
    "distill": DISTILL,
    "impulse_responses": None,
}
N_REPLICATES = 300


def collected(runs, used=None, **changes):
    return collect(runs, SYSTEMS, ABOUT | changes, used, n_replicates=N_REPLICATES)


def make_runs(out, seeds=(0, 1)):
    return [finish(plan(out, system, seed)) for seed in seeds for system in SYSTEMS]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return make_runs(tmp_path_factory.mktemp("distil"))


@pytest.fixture(scope="module")
def whole(runs):
    return collected(runs)


def right(system, seed):
    return probs_of(system, seed).argmax(1) == clips()[1]


def macro(correct, mask=None):
    """The mean over classes of their accuracies, by hand."""
    label = clips()[1]
    mask = np.ones(len(label), bool) if mask is None else mask
    return np.mean([correct[mask & (label == n)].mean() for n in np.unique(label[mask])])


def test_figures_of_a_system_are_means_over_its_seeds(whole):
    by_seed = [macro(right("undistilled", seed)) for seed in (0, 1)]
    row = whole["results"]["undistilled"]
    np.testing.assert_allclose(
        list(row["over_seeds"]["macro_accuracy"].values()),
        [np.mean(by_seed), np.std(by_seed, ddof=1)],
    )
    assert row["macro_accuracy"] == pytest.approx(np.mean(by_seed))
    assert row["interval"]["low"] < row["macro_accuracy"] < row["interval"]["high"]
    losses = [
        -np.log(probs_of("undistilled", seed)[range(len(clips()[1])), clips()[1]]).mean()
        for seed in (0, 1)
    ]
    assert row["log_loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    assert len(whole["runs"]) == 8


def test_comparison_is_of_macro_averages_by_seed_class_and_group(whole):
    found = whole["comparison"]
    correct = {
        name: [right(name, seed) for seed in (0, 1)] for name in ("distilled", "undistilled")
    }
    by_seed = [
        macro(distilled) - macro(without)
        for distilled, without in zip(correct["distilled"], correct["undistilled"], strict=True)
    ]
    np.testing.assert_allclose(list(found["by_seed"].values()), by_seed)
    assert found["difference"] == pytest.approx(np.mean(by_seed))
    assert found["over_seeds"]["sd"] == pytest.approx(np.std(by_seed, ddof=1))
    _, label, recording, site = clips()
    both = np.concatenate([correct["distilled"], correct["undistilled"]])
    totals = bootstrap.cluster_totals(both, label, np.array(recording))
    expected = bootstrap.confidence_interval(totals, 2, n_replicates=N_REPLICATES)
    assert found["interval"] == expected
    assert found["p"] == bootstrap.paired_test(totals, 2, n_replicates=N_REPLICATES)

    def gain(mask):
        return np.mean([macro(c, mask) for c in correct["distilled"]]) - np.mean(
            [macro(c, mask) for c in correct["undistilled"]]
        )

    assert found["classes"]["car"] == pytest.approx(gain(label == 1))
    values = {"hall": 0, "yard": 1, "unknown": -1}
    assert found["groups"]["site"] == pytest.approx(
        {name: gain(site == number) for name, number in values.items()}
    )
    assert found["sets"]["site"]["inside"]["difference"] == pytest.approx(gain(site == 0))
    assert {*found["sets"]["site"]["inside"]} == {"difference", "interval", "p"}


@pytest.mark.parametrize("average", ["logits", "probs"])
def test_teachers_together_predict_what_the_students_are_told(runs, average):
    found = collected(runs, distill=DISTILL | {"average": average})["ensemble"]
    label = clips()[1]
    probs = np.stack([probs_of(system, seed) for system in ("big", "wide") for seed in (0, 1)])

    def together(temperature):
        if average == "logits":
            mixed = np.exp(np.log(probs).mean(0) / temperature)
            return mixed / mixed.sum(1, keepdims=True)
        soft = probs ** (1 / temperature)
        return (soft / soft.sum(2, keepdims=True)).mean(0)

    assert found["macro_accuracy"] == pytest.approx(macro(together(2.0).argmax(1) == label))
    expected = -np.log(together(1.0)[range(len(label)), label]).mean()
    assert found["log_loss"] == pytest.approx(expected, rel=1e-5)


def test_only_the_teachers_of_the_logits_are_in_the_ensemble(runs):
    found = collected(runs, used=[run for run in runs if run.system == "wide"])
    assert found["teachers_used"] == ["teacher wide, seed 0", "teacher wide, seed 1"]
    assert found["teachers_left_out"] == ["teacher big, seed 0", "teacher big, seed 1"]
    text = report.as_words(found, "txt")
    assert "do not learn from these teachers" in text
    assert "all 2 together" in text
    probs = np.stack([probs_of("wide", seed) for seed in (0, 1)])
    expected = macro(np.log(probs).mean(0).argmax(1) == clips()[1])
    assert found["ensemble"]["macro_accuracy"] == pytest.approx(expected)


def test_runs_that_are_missing_or_learned_nothing_are_named(tmp_path):
    runs = make_runs(tmp_path, seeds=(0,))
    runs += [plan(tmp_path, system, 1) for system in SYSTEMS]
    finish(runs[6])  # undistilled, seed 1
    names = clips()[0]
    path = runs[0].workdir / "output.csv"
    header = path.read_text().splitlines()[0]
    rows = ["\t".join([name, "bird", "0.6", "0.2", "0.2"]) for name in names]
    path.write_text("\n".join([header, *rows]) + "\n")
    results = json.loads((runs[0].workdir / "results.json").read_text())
    results["float16"]["macro_accuracy"] = 1 / 3
    (runs[0].workdir / "results.json").write_text(json.dumps(results))
    found = collected(runs)
    assert found["one_class"] == {"teacher big, seed 0": "bird"}
    assert found["comparison"]["seeds"] == [0]
    assert found["comparison"]["left_out"] == [1]
    assert {*found["missing"]} == {
        "teacher big, seed 1",
        "teacher wide, seed 1",
        "distilled student, seed 1",
    }
    text = report.as_words(found, "txt")
    assert "learned nothing: teacher big, seed 0 (bird)" in text
    assert "left out of the comparison: 1." in text


def test_without_students_or_teachers_there_are_the_tables_that_there_can_be(tmp_path):
    teachers = [finish(plan(tmp_path, "big"))]
    found = collected([*teachers, plan(tmp_path, "distilled")])
    assert (found["comparison"], {*found["results"]}) == (None, {"big"})
    assert {*report.tables(found)} >= {"teachers", "classes", "runs"}
    assert "students" not in report.tables(found)
    students = [finish(plan(tmp_path, "undistilled")), plan(tmp_path, "wide")]
    found = collected(students)
    assert found["ensemble"] is None
    assert "The student: mean" in report.as_words(found, "html")
    with pytest.raises(UserError, match="none of the 1 runs is done: teacher wide, seed 0: not b"):
        collected([plan(tmp_path, "wide")])


def test_probabilities_are_those_of_the_clips_in_order(runs):
    answers = read_answers(runs[0].workdir)
    order = np.argsort(clips()[0], kind="stable")
    found = read_probs(runs[0].workdir, answers)
    np.testing.assert_allclose(found, probs_of("big", 0)[order], rtol=1e-8)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("\t0.", "\t7.", "numbers that are no probabilities"),
        ("\t0.", "\tx", "could not convert"),
        ("bird/0-0.wav", "b", "it lacks 1 clips, such as bird/0-0.wav"),
    ],
)
def test_damaged_probabilities_are_told(tmp_path, old, new, expected):
    run = finish(plan(tmp_path, "big"))
    answers = read_answers(run.workdir)
    path = run.workdir / "output.csv"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match=f"output.csv cannot be read .*{expected}"):
        read_probs(run.workdir, answers)


def test_file_of_logits_knows_its_checkpoints(tmp_path):
    teachers = [finish(plan(tmp_path, "big", seed)) for seed in (0, 1)]
    path = tmp_path / "teacher_logits.npz"
    assert in_file(path, teachers, TRAIN) is None
    write_logits(path, teachers)
    assert in_file(path, teachers, TRAIN) == teachers
    assert in_file(path, teachers[::-1], TRAIN) == teachers
    assert in_file(path, teachers[:1], TRAIN) is None  # of another teacher too
    assert in_file(path, teachers, "fold2") is None
    path.write_bytes(path.read_bytes()[:100])
    assert in_file(path, teachers, TRAIN) is None


def test_distilled_run_of_other_logits_is_rejected(tmp_path, monkeypatch):
    """The identity of the clips that a checkpoint is of has the logits in it."""
    clips_there = from_arrays(np.zeros((1, 8)), np.zeros(1), filenames=["a.wav"])
    clips_there.identity = "stored"
    monkeypatch.setattr(stored, "identity", lambda folder, split: "stored")
    monkeypatch.setattr(campaign_runs, "open_for", lambda config, split: clips_there)
    run = plan(tmp_path, "distilled")
    config = run.config.copy_and_resolve_references().unlock()
    config.labels = LABELS.to_dict()
    run = dataclasses.replace(run, config=config.lock())
    teacher = finish(plan(tmp_path, "big"))
    write_logits(tmp_path / "teacher_logits.npz", [teacher])
    identity = with_teachers_of(config, clips_there).identity
    finish(run)
    manager = checkpoints.Checkpoints(run.workdir)
    manager.save(601, {"x": np.zeros(1)}, {"train_data": identity})
    manager.close()
    finish(run, step=601)
    assert unfinished(run) is None
    write_logits(tmp_path / "teacher_logits.npz", [teacher, teacher])
    with pytest.raises(UserError, match="was trained with other logits of teachers than .*npz now"):
        unfinished(run)


def test_every_form_says_how_the_figures_were_made(whole, tmp_path):
    paths = report.write(whole, tmp_path / "out")
    assert [path.name for path in paths] == [
        f"distil.{x}" for x in ("json", "csv", "md", "txt", "html")
    ]
    assert json.loads(paths[0].read_text()) == whole
    rows = list(csv.reader(io.StringIO(paths[1].read_text())))
    assert (len(rows), rows[1][:2]) == (9, ["big", "0"])
    for path in paths[2:]:
        text = " ".join(path.read_text().split())
        assert "Nothing is chosen by the test split" in text
        assert "Distilled minus undistilled: macro average accuracy" in text
        for name in (*CLASSES, "site: inside (hall)", "yard", "unknown"):
            assert name in text
    assert f"{100 * whole['ensemble']['macro_accuracy']:.2f}" in paths[3].read_text()
    assert paths[4].read_text().count("<svg") == 1
    before = [path.read_bytes() for path in paths]
    assert before == [path.read_bytes() for path in report.write(whole, tmp_path / "out")]


def test_impulse_responses_are_described(whole):
    section = {"dir": "irs", "p": 0.6, "column": "site", "column_values": "hall", "students": False}
    text = report.as_words(whole | {"impulse_responses": section}, "txt")
    assert "those in irs, on site hall, with probability 0.6" in text
    assert "the students without" in text


def test_clips_are_counted_once(whole):
    assert whole["results"]["big"]["n_clips"] == 12 * N_CUTS
    assert np.sum(whole["results"]["distilled"]["confusion"]) == 2 * 12 * N_CUTS


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


@pytest.mark.parametrize("width", [360, 1280])
def test_page_is_whole_and_legible_in_a_browser(browser, width, whole, tmp_path):
    path = report.write(whole, tmp_path)[-1]
    page = browser.open(path, width=width)
    assert page.errors() == []
    assert page.cut_off() == []
    assert page.pale_words() == []
    page.print_preview()
    assert page.cut_off() == []
