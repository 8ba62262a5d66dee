"""Table 1 from finished runs: the figures, what is said of them, and every form they take."""

import csv
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from browser import Browser
from finished_runs import NAMES, evaluate, finish, plan
from synthetic_results import STEP

from asc_jax.challenge.table1 import report as table1_report
from asc_jax.challenge.table1.collect import collect
from asc_jax.data.tau.taxonomy import SCENES
from asc_jax.errors import UserError
from asc_jax.evaluation.campaign.runs import unfinished

SKILL = {"report": 0.6, "baseline": 0.5, "ablation_loss": 0.55}
LABELS = {"report": "Gao & Lee", "baseline": "official baseline", "ablation_loss": "b + loss"}
COMPARISONS = [("report", "baseline")]
CHANGES = [("loss", "ablation_loss", "baseline")]


def collected(runs, comparisons=COMPARISONS, changes=()):
    return collect(runs, LABELS, comparisons, changes, n_replicates=500)


def make_runs(out, systems=("report", "baseline"), percents=(5, 10), seeds=(0, 1, 2)):
    runs = [plan(out, system, p, seed) for seed in seeds for p in percents for system in systems]
    for run in runs:
        finish(run, SKILL[run.system] + run.percent / 100)
    return runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return make_runs(tmp_path_factory.mktemp("table1"))


@pytest.fixture(scope="module")
def table(runs):
    return collected(runs)


@pytest.fixture(scope="module")
def ablation(tmp_path_factory):
    """One seed, one split, and a step between the systems."""
    runs = make_runs(tmp_path_factory.mktemp("ablation"), [*SKILL], (5,), (0,))
    return collected(runs, changes=CHANGES)


def accuracies(runs, system, percent):
    """Macro averages of its seeds, by hand: every scene has as many clips."""
    out = []
    for run in runs:
        if (run.system, run.percent) == (system, percent):
            lines = (run.workdir / "output.csv").read_text().splitlines()[1:]
            named = [line.split("\t")[:2] for line in lines]
            out.append(np.mean([name.split("-")[0] == scene for name, scene in named]))
    return out


def test_results_are_means_over_seeds_beside_the_published(runs, table):
    for result in table["results"]:
        ours = accuracies(runs, result["system"], result["percent"])
        macro = result["macro_accuracy"]
        assert macro["runs"] == pytest.approx(ours)
        assert macro["mean"] == pytest.approx(np.mean(ours))
        assert macro["sd"] == pytest.approx(np.std(ours, ddof=1))
        assert tuple(result["scenes"]) == SCENES
        for interval in result["interval"].values():
            assert interval["low"] < macro["mean"] < interval["high"]
            assert interval["with_training"]
    published = {(r["system"], r["percent"]): r["published"] for r in table["results"]}
    assert published["report", 5]["macro_accuracy"] == 0.4428
    assert published["baseline", 10]["macro_accuracy"] == 0.4529


def test_difference_is_that_of_the_means_with_intervals_and_tests(runs, table):
    assert [row["percent"] for row in table["differences"]] == [5, 10]
    for row in table["differences"]:
        ours, theirs = (np.mean(accuracies(runs, s, row["percent"])) for s in COMPARISONS[0])
        assert row["mean"] == pytest.approx(ours - theirs)
        assert np.mean(list(row["scenes"].values())) == pytest.approx(row["mean"])
        for test in row["tests"].values():
            assert test["low"] < row["mean"] < test["high"]
            assert 0 < test["p"] <= 1
    assert [row["published"] for row in table["differences"]] == [0.0188, 0.026]


def test_one_seed_has_no_deviation_and_the_notes_say_what_the_interval_lacks(ablation):
    for result in ablation["results"]:
        assert result["macro_accuracy"]["sd"] is None
        assert not result["interval"]["segments"]["with_training"]
    text = table1_report.as_words(ablation, "txt")
    assert "There is one seed, so seed variance is not part of them." in text
    row = next(line for line in text.splitlines() if line.startswith("5 %"))
    assert re.search(r"\d ± 0.42", row)  # the published deviation only
    assert row.count("±") == 1


def test_ablation_attributes_the_gain_and_has_no_published_figures(ablation):
    (step,) = ablation["ablation"]
    assert (step["change"], step["first"], step["second"]) == ("loss", "ablation_loss", "baseline")
    means = {r["system"]: r["macro_accuracy"]["mean"] for r in ablation["results"]}
    assert step["mean"] == pytest.approx(means["ablation_loss"] - means["baseline"])
    assert step["published"] is None
    assert "One change at a time" in table1_report.as_words(ablation, "txt")


def test_one_system_alone_has_no_differences(runs):
    table = collected([run for run in runs if run.system == "report"], comparisons=())
    assert table["differences"] == []
    for suffix in ("txt", "md", "tex"):
        words = table1_report.as_words(table, suffix)
        assert "difference" not in words.replace("differences in percentage points", "")


def test_missing_runs_are_named_and_the_rest_is_there(tmp_path):
    runs = [plan(tmp_path, system, 5, 0) for system in ("report", "baseline")]
    with pytest.raises(UserError, match="none of the 2 runs is done: report, 5 %, seed 0: not be"):
        collected(runs)
    finish(runs[1], 0.5)
    table = collected(runs)
    assert table["missing"] == {"report, 5 %, seed 0": "not begun"}
    assert table["differences"] == []
    assert "Missing: report, 5 %, seed 0 (not begun)." in table1_report.as_words(table, "txt")
    assert " -- & " in table1_report.as_words(table, "tex")


def test_run_is_done_when_its_results_are_of_its_last_checkpoint(tmp_path):
    run = plan(tmp_path, "report", 5, 0)
    assert unfinished(run) == "not begun"
    finish(run, 0.5)
    assert unfinished(run) is None
    evaluate(run, 0.5, step=STEP - 4, epoch=149)
    assert f"step {STEP - 4}, expected {STEP}; epoch 149, expected 150" in unfinished(run)
    evaluate(run, 0.5, checkpoint="best")
    assert "checkpoint 'best', expected 'last'" in unfinished(run)
    (run.workdir / "results.json").write_text("{")
    assert "results.json cannot be read" in unfinished(run)
    (run.workdir / "results.json").unlink()
    assert unfinished(run) == "not trained and evaluated to the end"


def test_results_of_two_evaluations_are_no_run(tmp_path):
    run = plan(tmp_path, "report", 5, 0)
    finish(run, 0.5)
    before = (run.workdir / "output.csv").read_text()
    evaluate(run, 0.9)
    (run.workdir / "output.csv").write_text(before)
    assert "come from different evaluations: evaluate it again" in unfinished(run)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda text: "", "does not begin with the columns filename and scene_label"),
        (lambda text: text.replace("airport-", "airfield-"), "the clip 'airfield-barcelona-0-0-0"),
        (lambda text: text.replace("-a.wav", ".wav"), "is not named <scene>-<city>-<location>"),
    ],
    ids=["empty", "unknown scene", "five fields"],
)
def test_damaged_output_is_named(tmp_path, spoil, expected):
    run = plan(tmp_path, "report", 5, 0)
    finish(run, 0.5)
    path = run.workdir / "output.csv"
    path.write_text(spoil(path.read_text()))
    assert expected in unfinished(run)
    assert str(path) in unfinished(run)


def test_run_with_another_config_is_refused(tmp_path):
    run = plan(tmp_path, "report", 5, 0)
    finish(run, 0.5)
    run.config.unlock().schedule.peak_lr = 0.01
    with pytest.raises(UserError, match=r"peak_lr was 0.005, now 0.01. Choose another --out"):
        collected([run])


def test_runs_tested_on_different_clips_are_refused(tmp_path):
    runs = [plan(tmp_path, system, 5, 0) for system in ("report", "baseline")]
    finish(runs[0], 0.5)
    finish(runs[1], 0.5, names=NAMES[1:])
    with pytest.raises(UserError, match="were tested on different clips: evaluate both on one"):
        collected(runs)


def test_what_forbids_a_comparison_is_said_first(tmp_path):
    run = plan(tmp_path, "report", 5, 0)
    finish(run, 0.5, official_lists=False, over_budget=True, evaluated_with="1.1")
    table = collected([run], comparisons=())
    text = table1_report.as_words(table, "txt")
    said = [
        "Not comparable with the published figures",
        "OVER BUDGET: report/5pct.py (train_5pct, seed 0).",
        "several versions of the code: 1.0, 1.1",
        "Macro average accuracy on 120 clips of the test split (40 segments, 20 locations)",
    ]
    places = [text.index(sentence) for sentence in said]
    assert places == sorted(places)
    assert table["results"][0]["published"] is None
    assert ", published" not in text
    page = table1_report.as_words(table, "html")
    assert page.index("Not comparable with") < page.index("<table>")


def test_markdown_tables_are_rectangular_and_hold_the_figures(table):
    text = table1_report.as_words(table, "md")
    blocks = [b.splitlines() for b in text.split("\n\n") if b.startswith("|")]
    assert len(blocks) == 5  # overview, differences, runs, scenes of two splits
    for lines in blocks:
        assert len({line.count("|") for line in lines}) == 1
        assert len({len(line) for line in lines}) == 1
    macro = table["results"][0]["macro_accuracy"]
    assert f"{100 * macro['mean']:.2f} ± {100 * macro['sd']:.2f}" in text
    assert "42.40 ± 0.42" in text


def test_latex_has_the_reports_layout(table):
    lines = table1_report.as_words(table, "tex").splitlines()
    rows = [line.removesuffix(r" \\").split(" & ") for line in lines if line.endswith(r"\\")]
    assert rows[0] == ["Class", r"\multicolumn{2}{c}{5\,\%}", r"\multicolumn{2}{c}{10\,\%}"]
    assert rows[1] == ["", "Ours", "Baseline", "Ours", "Baseline"]
    assert [row[0].lower().replace(" ", "_") for row in rows[2:12]] == list(SCENES)
    assert all(len(row) == 5 for row in rows[1:])
    shown = {(r["system"], r["percent"]): r["macro_accuracy"] for r in table["results"]}
    cells = [("report", 5), ("baseline", 5), ("report", 10), ("baseline", 10)]
    for row, key in ((rows[12], "mean"), (rows[13], "sd")):
        assert row[1:] == [f"{100 * shown[cell][key]:.2f}" for cell in cells]
    percents = [line for line in lines if re.search(r"(?<!\\)%", line)]
    assert all(line.startswith("%") for line in percents)  # or the rest of the row is lost


def test_csv_holds_what_json_holds(table):
    rows = list(csv.DictReader(io.StringIO(table1_report.as_csv(table))))
    by_place = {tuple(row[k] for k in list(row)[:4]): row for row in rows}
    assert len(by_place) == len(rows)
    for result in table["results"]:
        place = result["system"], str(result["percent"])
        row = by_place[(*place, "macro_accuracy", "")]
        assert float(row["mean"]) == result["macro_accuracy"]["mean"]
        assert float(row["locations_low"]) == result["interval"]["locations"]["low"]
        assert float(row["published"]) == result["published"]["macro_accuracy"]
        row = by_place[(*place, "scene_accuracy", "tram")]
        assert float(row["sd"]) == result["scenes"]["tram"]["sd"]
    row = by_place[("report - baseline", "5", "macro_accuracy_difference", "")]
    assert float(row["segments_p"]) == table["differences"][0]["tests"]["segments"]["p"]


class Page(HTMLParser):
    """Tags with their attributes, and the text inside each kind of tag."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self._open = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if self._open and data.strip():
            self.texts.setdefault(self._open[-1], []).append(data)


@pytest.mark.parametrize(("which", "n_figures", "n_tables"), [("table", 2, 5), ("ablation", 3, 5)])
def test_page_is_self_contained_and_every_figure_and_table_can_be_read_out(
    which, n_figures, n_tables, request
):
    page = Page(table1_report.as_words(request.getfixturevalue(which), "html"))
    figures = [attrs for _, attrs in page.tags if attrs.get("role") == "img"]
    assert len(figures) == n_figures == [tag for tag, _ in page.tags].count("svg")
    assert all("5 %" in attrs["aria-label"] for attrs in figures)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len({*ids})
    assert len(page.texts["title"]) == 1
    assert [tag for tag, _ in page.tags].count("table") == n_tables
    assert [tag for tag, _ in page.tags].count("caption") == n_tables
    assert all(attrs["scope"] in ("col", "row") for tag, attrs in page.tags if tag == "th")
    links = [v for _, attrs in page.tags for k, v in attrs.items() if k in ("src", "href")]
    assert links.count("data:,") == 1
    assert {link.removeprefix("#") for link in links} <= {*ids, "data:,"}
    assert not any(tag == "script" for tag, _ in page.tags)


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("which", ["table", "ablation"])
def test_page_is_whole_and_legible_in_a_browser(browser, which, width, request, tmp_path):
    (path,) = (
        path
        for path in table1_report.write(request.getfixturevalue(which), tmp_path)
        if path.suffix == ".html"
    )
    page = browser.open(path, width=width)
    assert page.errors() == []
    assert page.cut_off() == []
    assert page.pale_words() == []
    pictures = [name for role, name in page.spoken() if role in ("image", "img")]
    assert len(pictures) == {"table": 2, "ablation": 3}[which]
    assert all(pictures)
    page.print_preview()
    assert page.cut_off() == []


def test_all_splits_fit_on_a_printed_page(browser, table, tmp_path):
    """Every figure as wide as it gets, and more seeds than there is room to name."""
    wide = {"mean": 1.0, "sd": 0.1234, "runs": [1.0] * 10}
    every = [
        row
        | {"percent": percent, "seeds": list(range(10)), "macro_accuracy": wide, "accuracy": wide}
        for percent in (5, 10, 25, 50, 100)
        for row in table["results"][:2]
    ]
    widest = {**table, "results": every, "splits": [5, 10, 25, 50, 100]}
    (tmp_path / "page.html").write_text(table1_report.as_words(widest, "html"), "utf-8")
    page = browser.open(tmp_path / "page.html", width=1280)
    assert page.cut_off() == []
    page.print_preview()
    assert page.cut_off() == []


def test_written_files_are_equal_for_equal_runs(runs, table, tmp_path):
    paths = table1_report.write(table, tmp_path)
    assert [path.suffix for path in paths] == [".json", ".csv", ".md", ".tex", ".html"]
    again = table1_report.write(collected(runs), tmp_path / "again")
    for first, second in zip(paths, again, strict=True):
        assert first.read_bytes() == second.read_bytes()
    assert json.loads(paths[0].read_text()) == table
