"""Any classes and group columns: names of every kind, 2 to 100 classes, no to several columns."""

import csv
import html
import json
import re
import shutil
import subprocess

import ml_collections
import numpy as np
import pytest
from small import small_config
from small_run import write_run
from test_html_report import AXES, Structure, words

import asc_jax
from asc_jax import experiment
from asc_jax.cli import predict as cli_predict
from asc_jax.data.labels import Group, Labels, check_column, from_dict
from asc_jax.data.tau.taxonomy import LABELS
from asc_jax.errors import UserError
from asc_jax.evaluation import analysis, evaluate, metrics, result_files
from asc_jax.evaluation.calibration import log_probs
from asc_jax.evaluation.report import figures, report, tables
from asc_jax.export import c_header
from asc_jax.operations.graph import Deployment
from asc_jax.prediction.figure import Timeline
from asc_jax.prediction.lines import KINDS

ODD = (
    "Tür | zu", "50 % = $half$", '<b>"bold"</b> & co', "a/b\\c", "日本", "*/ #define ASC_N_MELS 1",
    "street_with_a_very_long_name_of_which_the_middle_is_left_out_in_tables_and_in_pictures",
)  # fmt: skip
PNG = b"\x89PNG\r\n\x1a\n"


def names(n):
    return (*ODD, *(f"class {i}" for i in range(len(ODD), n)))[:n]


KINDS_OF_LABELS = {
    "two classes, no group": Labels(names(2)),
    "seven classes, two groups": Labels(
        names(7),
        {
            "room": Group(names(5), {"in_use": ODD[:2], "empty": ODD[2:3]}),
            "day_of_week": Group(("mo", "tu", "we")),
        },
    ),
    "fifty classes, a group of many": Labels(
        names(50), {"device": Group(tuple(f"no. {i}" for i in range(300)), {"odd": ("no. 1",)})}
    ),
}


@pytest.fixture(scope="module", params=KINDS_OF_LABELS.values(), ids=KINDS_OF_LABELS)
def labels(request):
    return request.param


def predictions_of(labels, n=300, seed=0):
    """Invented predictions; a tenth of the classes and group values are not known."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(n, labels.n_classes)).astype(np.float32)
    label = np.where(rng.random(n) < 0.1, -1, rng.integers(0, labels.n_classes, n))
    groups = {
        column: np.where(rng.random(n) < 0.1, -1, rng.integers(0, len(group.values), n))
        for column, group in labels.groups.items()
    }
    logits[np.arange(n), label] += 2
    summary = metrics.summarize(log_probs(logits), label, groups, labels)
    files = [f"{i} <{labels.classes[k]}>.wav" for i, k in enumerate(label)]
    recordings = np.array([f"recording {i // 3}" for i in range(n)])
    return evaluate.Predictions(summary, files, logits, label, groups, recordings, labels)


def results_of(given):
    """Return what an evaluation of a data set of one's own writes, read back from its file."""
    return {
        **{"config": "own.py", "split": "train", "test_split": "test", "official_lists": False},
        **{"epoch": 1, "step": 2, "seed": 3, "code_version": "1", "over_budget": False},
        "complexity": {
            **{"macs": 1, "max_macs": 2, "n_params": 3, "bytes": 4, "max_bytes": 5},
            "bytes_with_statistics": 6,
        },
        "labels": given.labels.to_dict(),
        "stored_dtype": "float32",
        "float32": given.summary,
        "formats": {"float32": {"refused": "never asked"}},
        "checkpoint": "last",
        "selection": "the last epoch",
        "validation": None,
        "segments": analysis.by_segment(given),
        "calibration": analysis.calibrate(given),
        "most_confused": analysis.most_confused(given, 2),
    }


@pytest.fixture(scope="module")
def evaluated(labels, tmp_path_factory):
    given = predictions_of(labels)
    path = result_files.write_results(results_of(given), tmp_path_factory.mktemp("own"))
    return given, json.loads(path.read_text("utf-8"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ((("a",),), "there are 1 classes, expected 2 to 100"),
        ((tuple(f"{i}" for i in range(101)),), "there are 101 classes"),
        ((("a", "a"),), "class 'a' is there twice"),
        ((("a", ""),), "class '': expected 1 to 100 characters"),
        ((("a", " b"),), "no space at either end"),
        ((("a", "b" * 101),), "expected 1 to 100 characters"),
        ((("a", "b\nc"),), "control characters are not read"),
        ((("a", "b"), {"Room": Group(("x",))}), "the group column 'Room' may have lower-case"),
        ((("a", "b"), {"label": Group(("x",))}), "a group column may not be called label"),
        ((("a", "b"), {"room": Group(("x", "x"))}), "value of room 'x' is there twice"),
        ((("a", "b"), {"room": Group(("unknown",))}), "leave it empty where it is not known"),
        ((("a", "b"), {"room": Group(("x",), {"s": ("y",)})}), "the set s of room is"),
        ((("a", "b"), {"room": Group(("x",), {"s": ()})}), "the set s of room is"),
        ((("a", "b"), {"room": Group(tuple(map(str, range(1001))))}), "has 1,001 values"),
    ],
)
def test_labels_that_cannot_be_are_refused(content, message):
    with pytest.raises(UserError, match=re.escape(message)):
        Labels(*content)


def test_labels_are_the_same_after_json_and_in_a_config(labels):
    assert from_dict(json.loads(json.dumps(labels.to_dict()))) == labels
    config = ml_collections.ConfigDict(labels.to_dict())
    assert from_dict(json.loads(config.to_json())) == labels
    check_column("unknown_thing")


@pytest.mark.parametrize(
    "content", [{}, {"classes": "ab", "groups": {}}, {"classes": ["a", 1], "groups": {}}, 7]
)
def test_what_are_no_labels_is_said(content):
    with pytest.raises(UserError, match="the labels .* have no list of classes"):
        from_dict(content)


def test_tables_name_every_class_and_value_as_the_data_does(evaluated):
    given, results = evaluated
    found = tables.accuracy(results)
    classes = given.labels.classes
    assert tuple(row[0] for row in found["classes"].rows) == classes
    assert [row[0] for row in found["averages"].rows] == ["macro average of classes", "all clips"]
    for column, group in given.labels.groups.items():
        rows = found[f"group-{column}"].rows
        assert tuple(row[0] for row in rows) == (*group.values, "unknown")
        assert (f"group-{column}-sets" in found) == bool(group.sets)
        assert sum(int(row[1].replace(",", "")) for row in rows) == given.summary["n_clips"]
    assert all(len(row) == len(t.header) for t in found.values() for row in t.rows)
    cells = dict(zip(found["classes"].header, found["classes"].rows[1], strict=True))
    figures_of_class = given.summary["classes"][classes[1]]
    assert cells["float32"] == tables.percent(figures_of_class["accuracy"])


def test_text_has_every_class_and_is_at_most_92_columns_wide(evaluated):
    given, results = evaluated
    text = report.results_table(results)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 92
    assert "published" not in text
    for name in given.labels.classes:
        assert f"\n  {tables.shortened(name)}  " in text
    many = [c for c, group in given.labels.groups.items() if len(group.values) > report.MAX_ROWS]
    assert text.count("rows: see results.json") == len(many)


def page_of(results):
    log_mels = np.random.default_rng(0).normal(size=(len(results["most_confused"]), 16, 9))
    return report.as_html(results, log_mels, AXES, metrics_jsonl_path="", learning_curve=None)


def test_page_says_all_names_and_nothing_comes_out_of_them(evaluated):
    given, results = evaluated
    content = page_of(results)
    said = html.unescape(words(content.replace("<wbr>", "")))
    for name in given.labels.classes:
        assert name in said
    assert "<b>" not in content
    assert not re.search(r"\bscene", said)
    assert "device" in given.labels.groups or "device" not in said
    ids = [attrs["id"] for _, attrs in Structure(content).tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for column, group in given.labels.groups.items():
        drawn = f"Accuracy by {tables.words(column)}, parameters stored in" in said
        assert drawn == (len(group.values) < figures.MAX_BARS)


def test_pictures_are_drawn_for_columns_of_few_values(evaluated, tmp_path):
    given, results = evaluated
    few = [c for c, group in given.labels.groups.items() if len(group.values) < figures.MAX_BARS]
    paths = figures.write_figures(results, tmp_path / "none.jsonl", tmp_path)
    assert [path.name for path in paths] == ["confusion.png", *(f"by_{c}.png" for c in few)]
    assert all(path.read_bytes().startswith(PNG) for path in paths)


def test_page_of_a_hundred_classes_is_written_and_of_moderate_size():
    content = page_of(results_of(predictions_of(Labels(names(100)), n=3000)))
    assert len(content) < 1_000_000
    matrix = content[content.index('<table class="heat') :]
    assert matrix.count("<tr>", 0, matrix.index("</table>")) == 101


def test_output_csv_has_a_column_for_each_class(labels, tmp_path):
    probs = evaluate.softmax(np.random.default_rng(0).normal(size=(3, labels.n_classes)))
    result_files.write_output_csv(tmp_path / "o.csv", list("abc"), probs, labels.classes)
    with (tmp_path / "o.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file, delimiter="\t")
    assert tuple(header[2:]) == labels.classes
    assert [row[1] for row in rows] == [labels.classes[i] for i in probs.argmax(1)]


def test_lines_of_a_prediction_name_the_classes(labels):
    k = min(3, labels.n_classes)
    probs = evaluate.softmax(np.random.default_rng(0).normal(size=labels.n_classes))
    best = [labels.classes[i] for i in np.argsort(-probs)[:k]]
    lines = {name: kind(labels.classes, k) for name, kind in KINDS.items()}
    told = json.loads(lines["json"].window("x", 0.0, 1.0, probs))
    assert [entry["class"] for entry in told["top"]] == best
    texts = [lines["csv"].start(), lines["csv"].window("x", 0.0, 1.0, probs)]
    (row,) = csv.DictReader(texts)
    assert [row[f"class_{rank}"] for rank in range(1, k + 1)] == best
    text = lines["table"].window("x", 0.0, 1.0, probs)
    assert all(tables.shortened(name, 24) in text for name in best)
    shifted = lines["table"].window("x", 0.0, 1.0, probs[::-1])
    assert [m.start() for m in re.finditer(r"\d %(?!.=)", text)][-1] == len(text) - 3
    assert len(text) == len(shifted)


def test_top_k_is_cut_to_the_number_of_classes():
    assert cli_predict._top_k(None, 2) == 2
    assert cli_predict._top_k(None, 7) == 3
    assert cli_predict._top_k(7, 7) == 7
    with pytest.raises(UserError, match="--top_k is 3, and the run has 2 classes"):
        cli_predict._top_k(3, 2)


def test_picture_of_a_recording_shows_twenty_classes_at_most(labels, tmp_path):
    features = {
        "hop_length": 500, "sample_rate": 8000, "n_mels": 8, "f_min": 0.0, "f_max": 4000.0,
    }  # fmt: skip
    timeline = Timeline(5.0, features, labels.classes, clip_s=2.5)
    mean = evaluate.softmax(np.random.default_rng(0).normal(size=labels.n_classes))
    rows = np.tile(mean, (2, 1))
    timeline.add(np.array([0.0, 2.5]), np.ones((2, 8, 41)), rows)
    assert (timeline._probs[:, -1] > 0).all(), "two windows of 2.5 s cover the recording"
    timeline.write(tmp_path / "a.png", "a", mean)
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)


def test_c_header_holds_any_names(labels, tmp_path):
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here")
    features = small_config().features.to_dict() | {
        "sample_rate": 8000, "n_fft": 16, "win_length": 16, "hop_length": 8, "n_mels": 4,
        "f_max": 4000.0,
    }  # fmt: skip
    metadata = {"weights": "float32", "classes": json.dumps(labels.classes, ensure_ascii=False)}
    header = c_header.build(Deployment([], features, 20_000, metadata))["asc_model"]
    text = header.decode()
    assert c_header._read_define(text, "N_MELS") == "4"
    assert c_header._read_define(text, "N_SAMPLES") == "20000"
    start, end = (text.index(x) for x in ("#ifndef ASC_MODEL_H", "static const float ASC_WINDOW"))
    (tmp_path / "names.h").write_text(text[start:end] + "#endif\n", "ascii")
    comment = text[: text.index("*/") + 2]
    assert comment.count("/*") == 1
    (tmp_path / "names.c").write_text(
        comment + '\n#include <stdio.h>\n#include "names.h"\nint main(void) {\n'
        "for (int i = 0; i < ASC_N_CLASSES; i++) puts(ASC_CLASSES[i]);\nreturn 0; }\n",
        "utf-8",
    )
    command = [compiler, "-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror", "-trigraphs"]
    subprocess.run([*command, "names.c", "-o", "names"], cwd=tmp_path, check=True)
    printed = subprocess.run([tmp_path / "names"], capture_output=True, check=True).stdout
    assert tuple(printed.decode().splitlines()) == labels.classes


def as_before(results):
    """The same results as the first version wrote them."""
    old = {key: value for key, value in results.items() if key != "labels"}
    summary = dict(results["float32"])
    device, scenes = summary.pop("groups")["device"], summary.pop("classes")
    summary |= {"scenes": scenes, "devices": device["values"], "groups": device["sets"]}
    old["float32"] = summary
    old["most_confused"] = [
        {key: value for key, value in clip.items() if key not in ("class", "groups")}
        | {"scene": clip["class"], "device": clip["groups"]["device"]}
        for clip in results["most_confused"]
    ]
    return old


def test_results_of_the_first_version_are_read_under_todays_keys():
    now = json.loads(json.dumps(results_of(predictions_of(LABELS))))
    old = as_before(now)
    assert "scenes" in old["float32"]
    assert json.loads(json.dumps(result_files.upgraded(old))) == now
    assert result_files.upgraded(now) is now
    for other in ({"stored_dtype": "float16"}, [], None, {"float16": {"scenes": 1}}):
        assert result_files.upgraded(other) is other


@pytest.fixture(scope="module")
def own_run(tmp_path_factory):
    """A run of three classes, on clips of 2.5 seconds at 8 kHz."""
    workdir = tmp_path_factory.mktemp("run")
    classes = {"classes": ("Tür", "a | b", "c"), "groups": {}}
    changes = {
        "data__clip_s": 2.5, "features__sample_rate": 8000, "features__f_max": 4000.0,
        "features__n_fft": 512, "features__win_length": 512,
    }  # fmt: skip
    config = small_config(**changes).unlock()
    config.labels = ml_collections.ConfigDict(classes)
    assert experiment.make(config.lock()).n_samples == 20_000
    write_run(workdir, labels=ml_collections.ConfigDict(classes), **changes)
    return asc_jax.load_run(workdir)


def test_windows_are_as_long_as_the_clips_of_the_run(own_run):
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, round(11_025 * 6.3)).astype(np.float32)
    prediction = own_run.predict(waveform, 11_025)
    assert prediction.classes == ("Tür", "a | b", "c")
    np.testing.assert_allclose(prediction.start_s, [0, 2.5, 3.8], atol=1e-3)
    np.testing.assert_allclose(prediction.end_s - prediction.start_s, 2.5, atol=1e-3)
    assert prediction.label == prediction.classes[prediction.mean.argmax()] == prediction.scene
    short = own_run.predict(waveform[:11_025], 11_025)
    assert "only 1.00 s long: filled up to 2.5 seconds with silence" in short.notes
    with pytest.raises(UserError, match=r"expected \[b, 20000\]: 2.5 s at 8000 Hz"):
        own_run.apply(np.zeros((1, 8000), np.float32))


@pytest.mark.parametrize("rate", [1000, 8000, 11_025, 44_100, 47_999])
def test_windows_of_any_rate_have_the_samples_of_a_clip(own_run, rate):
    predictor = own_run._predictor
    resampled = predictor.resample(np.ones((1, round(rate * 2.5)), np.float32), rate)
    assert resampled.shape == (predictor.batch_size, 20_000)
