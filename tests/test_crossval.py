"""The figures of a cross-validation, from finished runs, and every form they take."""

import csv
import io
import json
from html.parser import HTMLParser

import numpy as np
import pytest
from browser import Browser
from crossval_runs import FOLDS, LABELS, N_CUTS, answers_of, clips_of, evaluate, finish, plan

from asc_jax.crossval import report
from asc_jax.crossval.collect import collect
from asc_jax.crossval.runs import folds_among, others
from asc_jax.errors import UserError
from asc_jax.evaluation.campaign import bootstrap
from asc_jax.evaluation.campaign.runs import read_answers, unfinished

SYSTEMS = {"first": "with loss", "second": "without"}
SKILL = {"first": 0.7, "second": 0.45}
N_REPLICATES = 500


def collected(runs, labels=SYSTEMS):
    return collect(runs, labels, n_replicates=N_REPLICATES)


def make_runs(out, systems=tuple(SYSTEMS), folds=FOLDS, seeds=(0, 1)):
    return [
        finish(plan(out, system, fold, seed), SKILL[system])
        for seed in seeds
        for fold in folds
        for system in systems
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return make_runs(tmp_path_factory.mktemp("crossval"))


@pytest.fixture(scope="module")
def compared(runs):
    return collected(runs)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One system, one seed."""
    runs = make_runs(tmp_path_factory.mktemp("alone"), ("first",), seeds=(0,))
    return collected(runs, {"first": "base"})


def right(fold, system, seed):
    """Which clips of a fold are predicted correctly."""
    return answers_of(fold, SKILL[system], seed) == clips_of(fold)[1]


def macro(label, correct):
    """The mean over classes of their accuracies, by hand."""
    return np.mean([correct[label == number].mean() for number in np.unique(label)])


def together(system, seed):
    """Labels, correct answers and recordings of all folds."""
    label = np.concatenate([clips_of(fold)[1] for fold in FOLDS])
    recording = np.concatenate([clips_of(fold)[2] for fold in FOLDS])
    return label, np.concatenate([right(fold, system, seed) for fold in FOLDS]), recording


def test_seeds_are_averaged_within_a_fold_before_folds_are(compared):
    by_fold = [
        np.mean([macro(clips_of(fold)[1], right(fold, "first", seed)) for seed in (0, 1)])
        for fold in FOLDS
    ]
    found = compared["results"]["first"]
    np.testing.assert_allclose([found["folds"][fold]["macro_accuracy"] for fold in FOLDS], by_fold)
    spread = found["over_folds"]["macro_accuracy"]
    np.testing.assert_allclose(
        [spread["mean"], spread["sd"]], [np.mean(by_fold), np.std(by_fold, ddof=1)]
    )
    birds = [
        np.mean([right(fold, "first", seed)[clips_of(fold)[1] == 0].mean() for seed in (0, 1)])
        for fold in FOLDS
    ]
    row = found["classes"]["bird"]
    np.testing.assert_allclose([row["mean"], row["sd"]], [np.mean(birds), np.std(birds, ddof=1)])
    assert row["n_folds"] == 3


def test_pooled_figures_count_the_clips_of_all_folds(compared):
    found = compared["results"]["second"]["pooled"]
    label, _, recording = together("second", 0)
    correct = [together("second", seed)[1] for seed in (0, 1)]
    assert found["n_clips"] == len(label) == 24 * N_CUTS
    assert found["n_recordings"] == len({*recording}) == 24
    assert found["macro_accuracy"] == pytest.approx(np.mean([macro(label, c) for c in correct]))
    assert found["accuracy"] == pytest.approx(np.mean(correct))
    loss = -np.log(np.where(np.array(correct), 0.6, 0.2))
    assert found["log_loss"] == pytest.approx(loss.mean())
    assert found["classes"]["car"] == {
        "n_clips": 8 * N_CUTS,
        "n_recordings": 8,
        "accuracy": pytest.approx(np.mean([c[label == 1].mean() for c in correct])),
    }
    confusion = np.array(found["confusion"])
    np.testing.assert_array_equal(confusion.sum(1), 2 * np.bincount(label))  # with two seeds
    assert np.trace(confusion) == np.sum(correct)


def test_mean_over_folds_and_pooled_average_differ_where_folds_are_uneven(compared):
    found = compared["results"]["first"]
    over_folds = found["over_folds"]["macro_accuracy"]["mean"]
    assert abs(over_folds - found["pooled"]["macro_accuracy"]) > 1e-3


def test_intervals_and_p_are_those_of_the_pooled_recordings(compared):
    label, _, recording = together("first", 0)
    of_system = {name: np.array([together(name, seed)[1] for seed in (0, 1)]) for name in SYSTEMS}
    totals = bootstrap.cluster_totals(of_system["first"], label, recording)
    options = {"n_replicates": N_REPLICATES}
    expected = bootstrap.confidence_interval(totals, **options)
    assert compared["results"]["first"]["pooled"]["interval"] == pytest.approx(expected)
    totals = bootstrap.cluster_totals(np.concatenate([*of_system.values()]), label, recording)
    found = compared["comparison"]
    assert found["interval"] == pytest.approx(bootstrap.confidence_interval(totals, 2, **options))
    assert found["p"] == bootstrap.paired_test(totals, 2, **options)
    means = [np.mean([macro(label, c) for c in of_system[name]]) for name in SYSTEMS]
    assert found["difference"] == pytest.approx(means[0] - means[1])
    assert found["interval"]["low"] < found["difference"] < found["interval"]["high"]
    birds = [of_system[name][:, label == 0].mean() for name in SYSTEMS]
    assert found["classes"]["bird"] == pytest.approx(birds[0] - birds[1])


def test_differences_by_fold_are_those_of_the_folds(compared):
    found, results = compared["comparison"], compared["results"]
    values = [
        results["first"]["folds"][fold]["macro_accuracy"]
        - results["second"]["folds"][fold]["macro_accuracy"]
        for fold in FOLDS
    ]
    np.testing.assert_allclose(list(found["by_fold"].values()), values)
    assert found["over_folds"]["sd"] == pytest.approx(np.std(values, ddof=1))


def test_groups_are_counted_over_all_folds(compared):
    site = np.concatenate([clips_of(fold)[3] for fold in FOLDS])
    label = together("first", 0)[0]
    correct = np.array([together("first", seed)[1] for seed in (0, 1)])
    found = compared["results"]["first"]["pooled"]["groups"]["site"]
    assert list(found) == ["hall", "yard", "unknown"]
    for value, number in zip(found, (0, 1, -1), strict=True):
        assert found[value] == {
            "n_clips": (site == number).sum(),
            "accuracy": pytest.approx(correct[:, site == number].mean()),
            "macro_accuracy": pytest.approx(
                np.mean([macro(label[site == number], c[site == number]) for c in correct])
            ),
        }


def test_fold_that_a_system_lacks_is_left_out_of_the_comparison_and_named(tmp_path):
    runs = make_runs(tmp_path, seeds=(0,))
    (lost,) = (run for run in runs if (run.system, run.fold) == ("second", "fold2"))
    (lost.workdir / "results.json").unlink()
    table = collected(runs)
    assert table["missing"] == {"second, fold2, seed 0": "not trained and evaluated to the end"}
    found = table["comparison"]
    assert (found["folds"], found["left_out"]) == (["fold1", "fold3"], ["fold2"])
    label = np.concatenate([clips_of(fold)[1] for fold in found["folds"]])
    means = [
        macro(label, np.concatenate([right(fold, name, 0) for fold in found["folds"]]))
        for name in SYSTEMS
    ]
    assert found["difference"] == pytest.approx(means[0] - means[1])
    assert table["results"]["first"]["pooled"]["folds"] == list(FOLDS)
    text = report.as_words(table, "txt")
    assert "Missing: second, fold2, seed 0 (not trained and evaluated to the end)." in text
    assert "Left out of the comparison, because one system or both lack it: fold2." in text
    assert "2 of 3" in text


def test_only_seeds_of_every_fold_are_pooled(tmp_path):
    runs = make_runs(tmp_path, ("first",))
    (runs[-1].workdir / "results.json").unlink()  # seed 1 of fold3
    table = collected(runs, {"first": "base"})
    assert table["results"]["first"]["folds"]["fold1"]["seeds"] == [0, 1]
    assert table["results"]["first"]["pooled"]["seeds"] == [0]
    assert "are of the seeds that are done in every fold, 0." in report.as_words(table, "txt")
    (runs[0].workdir / "results.json").unlink()  # seed 0 of fold1
    table = collected(runs, {"first": "base"})
    assert table["results"]["first"]["pooled"] is None
    assert "no seed is done in all of them" in report.as_words(table, "txt")
    assert 'id="matrix' not in report.as_words(table, "html")


def test_what_cannot_be_said_is_none(tmp_path):
    single = {fold: (1, 0, 0) if fold == "fold1" else (0, 2, 2) for fold in FOLDS}
    runs = [
        finish(plan(tmp_path, system, fold), SKILL[system], single)
        for system in SYSTEMS
        for fold in ("fold1", "fold2")
    ]
    table = collected(runs)
    assert table["comparison"]["interval"] is None  # birds have one recording
    assert table["comparison"]["p"] is None
    assert table["results"]["first"]["pooled"]["interval"] is None
    assert table["lacking"] == {"fold1": ["car", "dog"], "fold2": ["bird"]}
    assert table["results"]["first"]["classes"]["bird"]["n_folds"] == 1
    assert table["results"]["first"]["classes"]["bird"]["sd"] is None
    text = report.as_words(table, "txt")
    assert "Classes without a clip in a fold" in text
    one = collected(runs[:1], {"first": "base"})
    assert one["results"]["first"]["over_folds"]["macro_accuracy"]["sd"] is None
    assert one["comparison"] is None


def test_runs_on_different_clips_are_refused(tmp_path):
    runs = make_runs(tmp_path, folds=("fold1", "fold2"), seeds=(0,))
    evaluate(runs[1], 0.5, {"fold1": (2, 3, 5)})
    with pytest.raises(UserError, match="were tested on different clips or classes: evaluate both"):
        collected(runs)


def test_nothing_done_is_an_error_that_says_why(tmp_path):
    with pytest.raises(UserError, match=r"none of the 1 runs is done: first, fold1, seed 0: not b"):
        collected([plan(tmp_path)])


def spoil(run, name, change):
    path = run.workdir / name
    path.write_text(change(path.read_text()))


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("truth.csv", lambda text: "", "truth.csv does not begin with the columns filename and"),
        ("truth.csv", lambda text: text.replace("\tbird\t", "\tcow\t"), "'cow', which is none of"),
        ("truth.csv", lambda text: text.replace("dog/", "cat/"), "different evaluations"),
        ("truth.csv", lambda text: text.replace("\tdog\t", "\tcar\t"), "different evaluations"),
        ("output.csv", lambda text: text.replace("\tbird\t", "\tcar\t"), "different evaluations"),
        ("output.csv", lambda text: text.partition("\n")[0], "output.csv does not begin with"),
        ("results.json", lambda text: text.replace('"classes"', '"c"'), "results.json cannot be"),
    ],
)  # fmt: skip
def test_damaged_files_make_a_run_undone_and_are_named(tmp_path, name, change, expected):
    run = finish(plan(tmp_path), 0.5)
    assert unfinished(run) is None
    spoil(run, name, change)
    assert expected in unfinished(run)


def test_missing_truth_is_named(tmp_path):
    run = finish(plan(tmp_path), 0.5)
    (run.workdir / "truth.csv").unlink()
    assert "truth.csv is missing: evaluate the run with asc-jax eval" in unfinished(run)


def test_answers_are_those_that_were_written_in_order_of_names(tmp_path):
    answers = read_answers(finish(plan(tmp_path), 0.5).workdir)
    names, label, recording, _ = clips_of("fold1")
    order = np.argsort(names)
    assert answers.labels == LABELS
    np.testing.assert_array_equal(answers.filenames, np.array(names)[order])
    np.testing.assert_array_equal(answers.label, label[order])
    np.testing.assert_array_equal(answers.predicted, answers_of("fold1", 0.5)[order])
    np.testing.assert_array_equal(answers.recording, np.array(recording)[order])


def test_recordings_in_several_folds_or_classes_are_counted_and_told(tmp_path):
    runs = [finish(plan(tmp_path, fold=fold), 0.5) for fold in FOLDS]
    spoil(runs[0], "truth.csv", lambda text: text.replace("\tcar/fold1-0\t", "\tbird/fold1-0\t"))
    spoil(runs[1], "truth.csv", lambda text: text.replace("\tdog/fold2-0\t", "\tdog/fold1-0\t"))
    table = collected(runs, {"first": "base"})
    assert (table["in_several_classes"], table["in_several_folds"]) == (1, 1)
    text = report.as_words(table, "txt")
    assert "1 recordings have clips of several classes" in text
    assert "1 recordings have clips in several folds" in text


def test_trained_and_tested_and_over_budget_are_told(tmp_path):
    both = {"n_clips": 3, "first": "bird/a.wav"}
    run = finish(plan(tmp_path), 0.5, trained_and_tested=both, over_budget=True)
    text = report.as_words(collected([run], {"first": "base"}), "txt")
    assert "first, fold1, seed 0 (3 clips, such as bird/a.wav)" in text
    assert "OVER BUDGET: first, fold1, seed 0." in text


def test_csv_has_a_line_for_each_run(compared, runs):
    rows = list(csv.DictReader(io.StringIO(report.as_csv(compared))))
    assert len(rows) == len(runs) == 12
    assert rows[0]["system"] == "first"
    assert float(rows[0]["macro_accuracy"]) == pytest.approx(
        macro(clips_of("fold1")[1], right("fold1", "first", 0))
    )


def test_equal_runs_give_equal_files(compared, runs, tmp_path):
    paths = report.write(compared, tmp_path / "a")
    assert [path.name for path in paths] == [f"crossval.{x}" for x in ("json", "csv", "md", "html")]
    again = report.write(collected(runs), tmp_path / "b")
    assert [p.read_bytes() for p in paths] == [p.read_bytes() for p in again]
    assert json.loads(paths[0].read_text()) == compared


def test_names_neither_break_tables_nor_the_page(runs):
    table = collected(runs, {"first": "a|b <i>", "second": "c & d"})
    text = report.as_words(table, "md")
    assert r"a\|b <i>" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in lines)
    page = report.as_words(table, "html")
    assert "a|b &lt;i&gt;" in page
    assert "<i>" not in page


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


@pytest.mark.parametrize(("which", "n_figures", "n_tables"), [("compared", 2, 9), ("alone", 1, 7)])
def test_page_is_one_file_whose_figures_and_tables_can_be_read_out(
    which, n_figures, n_tables, request
):
    page = Page(report.as_words(request.getfixturevalue(which), "html"))
    figures = [attrs for _, attrs in page.tags if attrs.get("role") == "img"]
    assert len(figures) == n_figures
    assert all("fold1" in attrs["aria-label"] for attrs in figures)
    names = [tag for tag, _ in page.tags]
    assert names.count("table") == names.count("caption") == n_tables
    assert "script" not in names
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len({*ids})
    links = [v for _, attrs in page.tags for k, v in attrs.items() if k in ("src", "href")]
    assert {link.removeprefix("#") for link in links} <= {*ids, "data:,"}


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("which", ["compared", "alone"])
def test_page_is_whole_and_legible_in_a_browser(browser, which, width, request, tmp_path):
    path = report.write(request.getfixturevalue(which), tmp_path)[-1]
    page = browser.open(path, width=width)
    assert page.errors() == []
    assert page.cut_off() == []
    assert page.pale_words() == []
    page.print_preview()
    assert page.cut_off() == []


def test_folds_are_found_and_ordered_by_their_numbers():
    assert folds_among(["train", "fold10", "fold2", "fold1x", "Fold3"]) == ["fold2", "fold10"]
    assert others(FOLDS, "fold2") == "fold1+fold3"


def test_interval_of_no_width_is_not_taken_for_certainty(tmp_path):
    runs = [finish(plan(tmp_path, fold=fold), 2.0) for fold in FOLDS]  # all right
    table = collected(runs, {"first": "base"})
    assert table["results"]["first"]["pooled"]["interval"]["low"] == 1
    assert "does not say that the figure is certain" in report.as_words(table, "txt")
