"""A package passes both sets of rules and our check; what is corrupted is rejected by name."""

import json
import re
import shutil

import numpy as np
import pytest
import yaml
from small_submission import (
    LABEL,
    PERCENTS,
    change_json,
    evaluation_clips,
    write_author,
    write_runs,
)
from submission_rules import check_made, check_package, validator_problems

from asc_jax.challenge.submission import package
from asc_jax.challenge.submission.author import read_author
from asc_jax.challenge.submission.check import check
from asc_jax.challenge.submission.package import open_runs, rank_score, write_package
from asc_jax.errors import UserError

N_CLIPS = 12


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    return write_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def made(tmp_path_factory, workdirs):
    """The folder of a package, and its runs, given in another order.

    Packages made later in this file reuse the compiled network.
    """
    home = tmp_path_factory.mktemp("made")
    predict = package._make_predict()
    author = read_author(write_author(home / "author.yaml"))
    runs = open_runs(workdirs[::-1])
    out = home / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package, "_make_predict", lambda: predict)
        folder = write_package(author, runs, [evaluation_clips(N_CLIPS)] * 5, out, practice=True)
        assert folder == out / "task1" / LABEL
        yield out, runs


def test_package_keeps_the_rules_of_the_challenge(made):
    check_made(made[0], N_CLIPS)
    assert check(made[0], practice=True) == []
    problems = check(made[0])
    assert len(problems) == 5
    assert all("12 clips, the evaluation split has 135,730" in problem for problem in problems)


def test_runs_are_put_in_order_and_each_predicts_its_own(made):
    out, runs = made
    assert [run.percent for run in runs] == list(PERCENTS)
    first, *others = [
        (out / "task1" / LABEL / f"{LABEL}.output.split_{percent}.csv").read_text()
        for percent in PERCENTS
    ]
    assert len({*others}) == 1, "copies of one network"
    assert first not in others


def test_meta_file_says_what_the_runs_say(made):
    out, runs = made
    meta = yaml.safe_load(next(out.rglob("*.yaml")).read_text("utf-8"))
    cost = runs[0].experiment.cost
    assert meta["system"]["complexity"] == {
        "total_model_size": cost["bytes"], "total_parameters": cost["n_params"],
        "macs": cost["macs"],
    }  # fmt: skip
    summary = json.loads((runs[1].workdir / "results.json").read_text())["float16"]
    split = meta["results"]["development_dataset"]["split_10"]
    for given, entry in [
        (split["overall"]["accuracy"], 100 * summary["macro_accuracy"]),
        (split["overall"]["logloss"], summary["macro_log_loss"]),
        (split["class_wise"]["metro"]["accuracy"], 100 * summary["classes"]["metro"]["accuracy"]),
        (split["class_wise"]["tram"]["logloss"], summary["classes"]["tram"]["log_loss"]),
        (
            split["device_wise"]["s6"]["accuracy"],
            100 * summary["groups"]["device"]["values"]["s6"]["accuracy"],
        ),
        (
            split["device_wise"]["a"]["logloss"],
            summary["groups"]["device"]["values"]["a"]["log_loss"],
        ),
    ]:
        assert given == pytest.approx(entry, abs=1e-4)
    assert rank_score(runs) == pytest.approx(summary["macro_accuracy"])
    description = meta["system"]["description"]
    assert description["data_augmentation"] == "time rolling, frequency masking, freq-mixstyle"
    assert description["system_adaptations"] == "softmax focal loss (gamma 2)"
    assert description["split_adaptations"] == (
        "data.batch_size: 78 (5, 10, 25 %), 130 (50, 100 %)"
    )
    assert "&" not in next(out.rglob("*.yaml")).read_text(), "no aliases, which people trip over"


def edit_rows(change):
    """Return a function that changes the lines of a file, of which the first is the header."""

    def spoil(path):
        lines = path.read_text().splitlines(keepends=True)
        change(lines)
        path.write_text("".join(lines))

    return spoil


def edit_meta(change):
    """Return a function that changes the content of a meta file."""

    def spoil(path):
        content = yaml.safe_load(path.read_text("utf-8"))
        change(content)
        path.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")

    return spoil


def split_50(content):
    return content["results"]["development_dataset"]["split_50"]


def set_cells(lines, row, **cells):
    columns = lines[0].rstrip("\n").split("\t")
    values = lines[row].rstrip("\n").split("\t")
    for name, value in cells.items():
        values[columns.index(name)] = value
    lines[row] = "\t".join(values) + "\n"


def mislabel(lines):
    probs = np.array(lines[5].split("\t")[2:], float)
    set_cells(lines, 5, scene_label=lines[0].split("\t")[2 + probs.argmin()].strip())


def halve(lines):
    name, label, *probs = lines[3].split("\t")
    lines[3] = "\t".join([name, label, *(f"{float(p) / 2}" for p in probs)]) + "\n"


def reverse_splits(meta):
    results = meta["results"]
    results["development_dataset"] = dict(reversed(results["development_dataset"].items()))


def second_corresponding(meta):
    meta["submission"]["authors"][1]["corresponding"] = True


CSV = f"{LABEL}.output.split_25.csv"
META = f"{LABEL}.meta.yaml"
OTHER_LABEL = "Doe_UNI_task1_2"
SPOILT = {
    "missing file": (CSV, lambda path: path.unlink(), f"{CSV}: missing"),
    "stray file": ("notes.txt", lambda path: path.write_text("x"),
                   "notes.txt: not part of a submission"),
    "row twice": (CSV, edit_rows(lambda lines: lines.append(lines[3])),
                  f"{CSV}: clip 2.wav is listed more than once"),
    "row missing": (CSV, edit_rows(lambda lines: lines.pop(4)),
                    f"{CSV}: other clips than in {LABEL}.output.split_5.csv; lacks 3.wav"),
    "clips in another order": (CSV, edit_rows(lambda lines: lines.append(lines.pop(4))),
                               f"{CSV}: other clips than in {LABEL}.output.split_5.csv; lacks "
                               "none, their order differs"),
    "sum": (CSV, edit_rows(halve), f"{CSV}, row 4: probabilities sum to 0.5, expected 1"),
    "no probability": (CSV, edit_rows(lambda lines: set_cells(lines, 3, tram="nan")),
                       f"{CSV}, row 4: a probability is not in [0, 1]"),
    "label": (CSV, edit_rows(mislabel), f"{CSV}, row 6: scene_label is .*, but "),
    "folder in a name": (CSV, edit_rows(lambda lines: set_cells(lines, 1, filename="audio/0.wav")),
                         f"{CSV}, row 2: clip 'audio/0.wav', expected a file name"),
    "columns": (CSV, edit_rows(lambda lines: lines.pop(0)), f"{CSV}: columns "),
    "empty file": (CSV, lambda path: path.write_text(""), f"{CSV}: columns [], expected"),
    "no clips": (CSV, edit_rows(lambda lines: lines.__delitem__(slice(1, None))),
                 f"{CSV}: holds no clips"),
    "broken meta file": (META, lambda path: path.write_text("a: ["), f"{META}: cannot be read: "),
    "over budget": (META, edit_meta(lambda m: m["system"]["complexity"].update(macs=30000001)),
                    f"{META}: system.complexity.macs is 30,000,001, over the budget of 30,000,000"),
    "order of splits": (META, edit_meta(reverse_splits),
                        "results.development_dataset holds split_100, split_50, split_25, "
                        "split_10, split_5, expected, in this order, split_5, "),
    "log loss": (META, edit_meta(lambda m: split_50(m)["class_wise"]["bus"].update(logloss=None)),
                 "results, split_50: class_wise.bus.logloss is None, expected a number"),
    "wrong mean": (META, edit_meta(lambda m: split_50(m)["overall"].update(accuracy=99.0)),
                   "results, split_50: overall.accuracy is 99.0, the mean of the scenes"),
    "two corresponding": (META, edit_meta(second_corresponding),
                          "submission.authors has 2 corresponding authors, expected one"),
    "other label": (META, edit_meta(lambda m: m["submission"].update(label="Roe_UNI_task1_2")),
                    f"submission.label is 'Roe_UNI_task1_2', its folder is {LABEL}"),
    "description": (META, edit_meta(lambda m: m["system"]["description"].pop("pipeline")),
                    "system.description: pipeline missing"),
}  # fmt: skip


@pytest.mark.parametrize("what", SPOILT)
def test_spoilt_package_is_refused_for_the_right_reason(tmp_path, made, what):
    """By our check with that reason alone, and by the rules."""
    name, spoil, reason = SPOILT[what]
    out = shutil.copytree(made[0], tmp_path / "out")
    spoil(out / "task1" / LABEL / name)
    (problem,) = check(out, practice=True)
    pattern = reason if ".*" in reason else re.escape(reason)
    assert re.search(pattern, problem), problem
    with pytest.raises((AssertionError, LookupError, TypeError, yaml.YAMLError)):
        check_package(out, N_CLIPS)


def test_folder_without_an_entry_is_named(tmp_path):
    (problem,) = check(tmp_path)
    assert "no entry there, expected task1/<label>/" in problem


def stale(results):
    results["step"] += 1


def other_code(results):
    results["evaluated_with"] = "0.0.9+abc"


def in_int8(results):
    results.update(stored_dtype="int8", int8=results["float16"])


def unfinished(config):
    config["config"]["train"]["n_epochs"] = 150


def trained_on(split):
    return lambda config: config["config"]["data"].update(train_split=split)


def over_budget(config):
    config["config"]["budget"] |= {"enforce": False, "max_bytes": 1000}


SPOILT_RUNS = {
    "missing results": ("results.json", None, "results.json is missing; evaluate it: asc-jax eval"),
    "stale": ("results.json", stale, "is stale: step is 8 in results.json, but now 7; evaluate it"),
    "other code": ("results.json", other_code, "is stale: evaluated_with is '0.0.9"),
    "in int8": ("results.json", in_int8, "was evaluated in int8, and a package computes in floats"),
    "unofficial": ("results.json", lambda results: results.update(official_lists=False),
                   "was not trained and tested on TAU's own lists: --practice"),
    "unfinished": ("config.json", unfinished, "is stale: n_epochs is 3 in results.json, but now"),
    "over budget": ("config.json", over_budget, "5pct is over the budget: "),
    "no run": ("config.json", None, "no run in "),
    "other split": ("config.json", trained_on("train_10pct"),
                    "were both trained on train_10pct: give one"),
    "odd split": ("config.json", trained_on("mine"),
                  "was trained on 'mine', a submission takes train_5pct, train_10pct"),
}  # fmt: skip


@pytest.mark.parametrize("what", SPOILT_RUNS)
def test_spoilt_run_is_refused_for_the_right_reason(tmp_path, workdirs, what):
    name, spoil, reason = SPOILT_RUNS[what]
    changed = shutil.copytree(workdirs[0], tmp_path / "5pct")
    if spoil is None:
        (changed / name).unlink()
    else:
        change_json(changed / name, spoil)
    with pytest.raises(UserError, match=re.escape(reason)):
        open_runs([changed, *workdirs[1:]])


def test_interrupted_run_is_refused_even_if_it_was_evaluated(tmp_path, workdirs):
    changed = shutil.copytree(workdirs[0], tmp_path / "5pct")
    change_json(changed / "config.json", unfinished)
    change_json(changed / "results.json", lambda results: results.update(n_epochs=150))
    with pytest.raises(UserError, match="for 3 of 150 epochs: resume it with asc-jax train"):
        open_runs([changed, *workdirs[1:]])


def test_missing_runs_are_named(workdirs):
    with pytest.raises(UserError, match="no run trained on train_25pct, train_100pct: a subm"):
        open_runs([workdirs[0], workdirs[1], workdirs[3]])


def test_package_with_a_problem_leaves_the_old_one_and_a_report_is_kept(tmp_path, made):
    out = shutil.copytree(made[0], tmp_path / "out")
    report = out / "task1" / LABEL / f"{LABEL}.technical_report.pdf"
    report.write_bytes(b"%PDF")
    before = {path.name: path.read_bytes() for path in report.parent.iterdir()}
    author = read_author(write_author(tmp_path / "author.yaml"))
    clips = [evaluation_clips(N_CLIPS)] * 4 + [evaluation_clips(N_CLIPS - 1)]
    with pytest.raises(UserError, match=rf"{LABEL} cannot be submitted: .*split_100.csv: other"):
        write_package(author, made[1], clips, out, practice=True)
    assert {path.name: path.read_bytes() for path in report.parent.iterdir()} == before
    clips = [evaluation_clips(N_CLIPS)] * 5
    write_package(author, made[1], clips, out, practice=True)
    assert {path.name: path.read_bytes() for path in report.parent.iterdir()} == before
    assert [path.name for path in (out / "task1").iterdir()] == [LABEL], "nothing left behind"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("Doe_UNI_task1_1", "Doe_task1_1", "submission.label is 'Doe_task1_1', expected <Last"),
        ("Doe_UNI_task1_1", "Doe_UNI_task1_5", "submission.label is 'Doe_UNI_task1_5', expected"),
        ("abbreviation: Small", "abbreviation: Smallest of all", "has 15 characters, expected at"),
        ("corresponding: true", "corresponding: false", "has 0 corresponding authors, expected"),
        ("lastname: Doe", "lastname:", "authors, number 1: lastname missing or empty"),
        ("lastname: Doe", "surname: Doe", "unknown surname; known: lastname, firstname, email"),
        ("roe@example", "roe.example", "number 2: email is 'richard.roe.example.org', expected an"),
        ("description: {}", "description: {pipelin: x}", "description: unknown pipelin; known: "),
        ("submission:", "submission: [", "cannot be read: "),
    ],
)  # fmt: skip
def test_wrong_author_file_is_named_in_one_line(tmp_path, old, new, reason):
    path = write_author(tmp_path / "author.yaml", lambda text: text.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        read_author(path)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"author file {path}")


def test_second_entry_stands_beside_the_first_and_may_describe_itself(tmp_path, made):
    out = shutil.copytree(made[0], tmp_path / "out")
    words = "description: {pipeline: 'pretraining, training'}"
    dataset = "external_datasets: [{name: AudioSet, url: https://a.example, total_audio_length: 9}]"
    path = write_author(
        tmp_path / "author.yaml",
        lambda text: (
            text.replace("description: {}", words)
            .replace("external_datasets: []", dataset)
            .replace(LABEL, OTHER_LABEL)
        ),
    )
    clips = [evaluation_clips(N_CLIPS)] * 5
    folder = write_package(read_author(path), made[1], clips, out, practice=True)
    assert sorted(path.name for path in (out / "task1").iterdir()) == [LABEL, OTHER_LABEL]
    assert check(out, practice=True) == []
    assert validator_problems(out / "task1.zip", N_CLIPS) == []
    meta = yaml.safe_load((folder / f"{OTHER_LABEL}.meta.yaml").read_text("utf-8"))
    assert meta["system"]["description"]["pipeline"] == "pretraining, training"
    assert meta["system"]["description"]["framework"] == "jax"
    assert meta["system"]["description"]["external_data_usage"] == "AudioSet"
    assert meta["system"]["external_datasets"][0]["total_audio_length"] == 9
