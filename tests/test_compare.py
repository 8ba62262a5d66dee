"""`asc-jax compare`: two systems on the same clips, and the index of a folder of runs."""

import json
import re

import evaluated_runs
import numpy as np
import pytest
from browser import Browser
from commands import call
from test_figures import write_log

from asc_jax.errors import UserError
from asc_jax.evaluation.campaign import bootstrap
from asc_jax.evaluation.campaign.runs import read_answers
from asc_jax.evaluation.comparison import index, report
from asc_jax.evaluation.comparison.collect import collect, differing
from asc_jax.evaluation.comparison.systems import read_systems, runs_in

N_REPLICATES = 300
SKILL = {"new": 0.8, "old": 0.45}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two systems of two seeds each."""
    home = tmp_path_factory.mktemp("compare")
    for name, skill in SKILL.items():
        for seed in (0, 1):
            gamma = 2.0 if name == "new" else 0.0
            evaluated_runs.write(
                home / name / f"seed{seed}", skill, seed, config=f"{name}.py", loss__gamma=gamma
            )
    for seed in (0, 1):
        write_log(home / "new" / f"seed{seed}" / "metrics.jsonl", kind="validation")
    return home


@pytest.fixture(scope="module")
def compared(home):
    systems = read_systems([str(home / name) for name in SKILL])
    return collect(systems, n_replicates=N_REPLICATES)


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


def test_difference_interval_and_p_are_those_of_the_moments(home, compared):
    answers = [read_answers(home / name / f"seed{seed}") for name in SKILL for seed in (0, 1)]
    totals = bootstrap.cluster_totals(
        np.stack([each.correct for each in answers]), answers[0].label, answers[0].recording
    )
    found = compared["difference"]
    macro = bootstrap.macro_average(totals)
    assert found["macro_accuracy"] == pytest.approx(macro[:2].mean() - macro[2:].mean())
    expected = bootstrap.confidence_interval(totals, 2, n_replicates=N_REPLICATES)
    assert found["interval"] == pytest.approx(expected)
    assert found["interval"]["with_training"]
    assert found["p"] == bootstrap.paired_test(totals, 2, n_replicates=N_REPLICATES)
    assert (compared["clusters"], compared["n_clusters"]) == ("moments", 30)
    assert sum(found["answers"].values()) == pytest.approx(1)
    assert found["answers"]["only_first"] > found["answers"]["only_second"]


def test_classes_groups_and_sets_have_differences_of_their_own(compared):
    found, (first, second) = compared["difference"], compared["systems"].values()
    bus = found["classes"]["bus"]
    pair = [each["classes"]["bus"]["accuracy"] for each in (first, second)]
    assert bus["difference"] == pytest.approx(pair[0] - pair[1])
    device = found["groups"]["device"]["a"]
    assert device["interval"]["low"] <= device["difference"] <= device["interval"]["high"]
    assert {*found["sets"]["device"]} == {"real", "seen"}
    confusion = np.array(found["confusion"])
    np.testing.assert_allclose(confusion.sum(1), 0, atol=1e-12)
    assert np.trace(confusion) == pytest.approx(10 * found["macro_accuracy"])


def test_what_differs_between_the_configs_is_told(compared):
    assert compared["configs"] == {"config.loss.gamma": [2.0, 0.0]}
    assert "config.loss.gamma" in report.as_words(compared, "txt")
    assert differing({"a": {"b": 1}}, {"a": {}}) == {"config.a": [{"b": 1}, {}]}
    assert differing({}, {"a": 1}) == {}  # no config to compare with


def test_more_runs_than_two_are_two_systems_by_their_configs(home):
    words = [str(home / name / f"seed{seed}") for seed in (0, 1) for name in SKILL]
    systems = read_systems(words)
    assert [system.label for system in systems] == ["new", "old"]
    assert [len(system.answers) for system in systems] == [2, 2]
    one = read_systems(words[:2])
    assert [system.label for system in one] == ["new/seed0", "old/seed0"]
    assert read_systems(words[:2], labels=["x", "y"])[0].label == "x"


def test_systems_whose_runs_lie_in_one_folder_are_named_by_their_runs(tmp_path):
    runs = [tmp_path / name for name in ("a0", "a1", "b0", "b1")]
    for run in runs:
        gamma, seed = float(run.name[0] == "a"), int(run.name[1])
        evaluated_runs.write(run, 0.6, seed, loss__gamma=gamma)
    systems = read_systems([*map(str, runs)])
    assert [each.label for each in systems] == ["a0+a1", "b0+b1"]


def test_one_seed_each_says_that_seed_variance_is_missing(home):
    systems = read_systems([str(home / name / "seed0") for name in SKILL])
    text = report.as_words(collect(systems, n_replicates=50), "txt")
    assert "another seed may change the order" in text
    assert "of whole moments" in text


def test_wrong_runs_are_named(home, tmp_path):
    new, old = (str(home / name / "seed0") for name in SKILL)
    with pytest.raises(UserError, match="expected two systems"):
        read_systems([new, new])
    with pytest.raises(UserError, match="these runs are of 1 configs"):
        read_systems([new, str(home / "new" / "seed1"), str(home / "new")])
    with pytest.raises(UserError, match="is no run and holds none in folders seed<k>"):
        runs_in(tmp_path)
    other = evaluated_runs.write(tmp_path / "other", 0.5, devices="ab")
    with pytest.raises(UserError, match="were tested on different clips or classes"):
        read_systems([new, str(other)])
    (other / "results.json").unlink()
    with pytest.raises(UserError, match="results.json is missing: evaluate the run"):
        read_systems([new, str(other)])
    with pytest.raises(UserError, match="expected two different names"):
        read_systems([new, old], labels=["x", "x"])


def test_flaws_are_warnings(home, tmp_path):
    both = {"n_clips": 3, "first": "x.wav"}
    bad = evaluated_runs.write(
        tmp_path / "bad", 0.5, trained_and_tested=both, over_budget=True, split="train_5pct",
        checkpoint="best", evaluated_with="2.0",
    )  # fmt: skip
    systems = read_systems([str(home / "new" / "seed0"), str(bad)])
    page = report.as_words(collect(systems, n_replicates=50), "html")
    warnings = re.findall(r'class="warning" role="note">(.*?)</p>', page)
    assert len(warnings) == 5
    assert "Test clips are training clips too" in warnings[0]


def test_command_prints_and_writes_the_comparison(home, tmp_path):
    done = call("compare", home / "new" / "seed0", home / "old" / "seed0", "--out=c", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "new/seed0 minus old/seed0" in done.stdout
    assert {path.name for path in (tmp_path / "c").iterdir()} == {
        f"compare.{suffix}" for suffix in ("json", "txt", "html")
    }
    content = json.loads((tmp_path / "c" / "compare.json").read_text())
    assert content["n_replicates"] == bootstrap.N_REPLICATES
    alone = call("compare", home / "new" / "seed0", cwd=tmp_path)
    assert alone.returncode == 2
    assert "which runs? For example" in alone.stderr


def test_equal_runs_give_equal_files_and_names_inject_nothing(home, compared, tmp_path):
    first, second = (report.write(compared, tmp_path / name) for name in "ab")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    systems = read_systems([str(home / name) for name in SKILL], labels=["<b>x", "y & z"])
    page = report.as_words(collect(systems, n_replicates=50), "html")
    assert "&lt;b&gt;x" in page
    assert "<b>" not in page


def make_index(home):
    (home / "new" / "seed0" / "report.html").write_text("<title>x</title>")
    evaluated_runs.write(home / "two devices", 0.5, devices="ab")
    (home / "begun").mkdir(exist_ok=True)
    (home / "begun" / "config.json").write_text("{}")
    (home / "broken").mkdir(exist_ok=True)
    (home / "broken" / "results.json").write_text("{")
    (home / "compare.html").write_text("<title>x</title>")


def test_index_lists_runs_by_their_test_clips_and_links_their_pages(home):
    make_index(home)
    done = call("compare", "--index", home, cwd=home)
    assert done.returncode == 0, done.stderr
    assert "5 runs, 2 without figures" in done.stdout
    page = (home / "index.html").read_text("utf-8")
    assert page.count("<table") == 2
    assert page.index("new/<wbr>seed0") < page.index("old/<wbr>seed0")
    links = re.findall(r'<a href="([^#"]+)"', page)
    assert links == ["new/seed0/report.html", "compare.html"]
    assert "begun: not evaluated" in page
    assert "results.json cannot be read" in page
    assert call("compare", "--index", home / "new" / "seed0", cwd=home).returncode == 0
    with pytest.raises(UserError, match="no run in"):
        index.collect(home / "nowhere")


def test_learning_curves_are_of_every_run_with_a_log(home, compared, tmp_path):
    curves = {(run["system"], run["seed"]): run["curves"] for run in compared["runs"]}
    assert curves["old", 0] == {}
    assert curves["new", 1] == {
        "train": [[epoch, 0.1 * epoch] for epoch in (1, 2, 3, 4)],
        "validation": [[epoch, 0.1] for epoch in (1, 2, 3, 4)],
    }
    page = report.as_words(compared, "html")
    assert "new, seed 1: training 10.00 to 40.00 at epoch 4, validation 10.00 to 10.00" in page
    systems = read_systems([str(home / "old" / f"seed{seed}") for seed in (0, 1)])
    assert "Learning curves" not in report.as_words(collect(systems, n_replicates=50), "html")


@pytest.mark.parametrize(("width", "dark"), [(400, False), (400, True), (1200, False)])
def test_pages_are_whole_and_legible_in_a_browser(browser, home, compared, width, dark, tmp_path):
    make_index(home)
    for path in (report.write(compared, tmp_path)[-1], index.write(home)[0]):
        page = browser.open(path, width=width, dark=dark)
        assert (max(page.ground()) < 40) is dark
        assert page.errors() == []
        assert page.cut_off() == []
        assert page.pale_words() == []
        page.print_preview()
        assert page.cut_off() == []
