"""What an evaluation prints and writes: tables, json and csv."""

import csv
import json

import counted
import numpy as np
import pytest

from asc_jax.data.tau.taxonomy import LABELS, N_DEVICES, N_SCENES, SCENES
from asc_jax.evaluation import result_files
from asc_jax.evaluation.report import report


def make_summary(diagonal=0.5, devices=range(N_DEVICES)):
    confusion = np.full((N_DEVICES, N_SCENES, N_SCENES), 1)
    n = round(9 * diagonal / (1 - diagonal))
    confusion[:, range(N_SCENES), range(N_SCENES)] = n
    confusion[[i for i in range(N_DEVICES) if i not in devices]] = 0
    return counted.summarize(confusion, 1.25 * confusion.sum(2))


def make_format(n_bytes, changed, max_relative=0.0, n_subnormal=0, n_zero=0):
    leaf = {
        "leaf": "params/head/kernel",
        "max_relative": max_relative,
        "n_subnormal": n_subnormal,
        "n_zero": n_zero,
    }
    return {
        "bytes": n_bytes,
        "bytes_with_statistics": n_bytes + 5416,
        "changed_top_scene": changed,
        "rounding": [leaf],
    }


def make_results(**changes):
    return {
        "config": "splits/5pct.py",
        "split": "train_5pct",
        "test_split": "test",
        "official_lists": True,
        "epoch": 150,
        "step": 13500,
        "seed": 0,
        "code_version": "1a2b3c4",
        "over_budget": False,
        "complexity": {
            "macs": 29_425_664,
            "max_macs": 30_000_000,
            "n_params": 61_148,
            "bytes": 122_296,
            "bytes_with_statistics": 127_712,
            "max_bytes": 128_000,
        },
        "labels": LABELS.to_dict(),
        "stored_dtype": "float16",
        "float32": make_summary(0.5),
        "bfloat16": make_summary(0.3),
        "float16": make_summary(0.4),
        "formats": {
            "float32": make_format(244_592, 0),
            "bfloat16": make_format(122_296, 51, 2**-9),
            "float16": make_format(122_296, 37, 2**-11, n_subnormal=3, n_zero=1),
        },
    } | changes


def row(table, label):
    """The cells of the first line that begins with `label`."""
    line = next(x for x in table.splitlines() if x.strip().startswith(label))
    return line.strip().removeprefix(label).split()


def test_table_shows_ours_beside_the_published():
    table = report.results_table(make_results())
    ours = make_results()
    full, small = (f"{100 * ours[k]['macro_accuracy']:.2f}" for k in ("float32", "float16"))
    cells = row(table, "macro average of classes")
    assert cells[1:] == [full, small, "1.250", "44.28", "42.40", "±", "0.42"]
    assert row(table, "metro_station")[1:] == [full, small, "1.250", "45.79", "40.03"]
    assert row(table, "s6")[-2:] == ["–", "33.58"]
    assert row(table, "all clips")[-2:] == ["–", "–"]
    assert "122,296 of 128,000" in table
    assert "29,425,664 of 30,000,000" in table
    assert "published, on TAU 2022 Mobile" in table
    assert "no published figures" not in table
    assert "OVER BUDGET" not in table


@pytest.mark.parametrize(
    "changes", [{}, {"official_lists": False, "over_budget": True, "split": "train_10pct"}]
)
def test_table_is_at_most_92_columns_wide(changes):
    lines = report.results_table(make_results(**changes)).splitlines()
    assert max(map(len, lines)) <= 92
    assert not [line for line in lines if line != line.rstrip()]


@pytest.mark.parametrize("split", ["train_5pct", "train_10pct"])
def test_table_leaves_the_published_out_when_lists_are_not_official(split):
    table = report.results_table(make_results(official_lists=False, split=split))
    assert table.index("no published figures: they hold for TAU's official lists") > 0
    assert "published, on TAU 2022 Mobile" not in table
    assert "note:" not in table
    assert row(table, "clips") == ["float32", "float16", "log", "loss"]
    assert len(row(table, "macro average of classes")) == 4  # clips, two dtypes, log loss
    assert len(row(table, "s6")) == 4


def test_table_has_no_published_columns_for_other_splits():
    table = report.results_table(make_results(split="demo", official_lists=False))
    assert "published" not in table
    assert len(row(table, "airport")) == 4  # clips, two dtypes, log loss


def test_table_says_over_budget():
    assert "OVER BUDGET" in report.results_table(make_results(over_budget=True))


def test_table_sets_the_storage_dtypes_side_by_side():
    table = report.results_table(make_results())
    assert row(table, "float32")[0::5] == ["244,592", "0"]
    assert row(table, "bfloat16")[4:] == ["51", "2.0e-03"]
    assert row(table, "float16") == ["122,296", "40.00", "40.00", "1.250", "37", "4.9e-04"]
    assert "float16: 3 values became subnormal, 1 zero" in table


def test_table_says_why_a_dtype_cannot_hold_the_network():
    formats = make_results()["formats"] | {"float16": {"refused": "params/x holds 7e4"}}
    table = report.results_table(make_results(stored_dtype="bfloat16", formats=formats))
    assert row(table, "float16") == ["–"] * 6
    assert "float16: params/x holds 7e4" in table


def test_table_stored_in_float32_has_one_column_of_ours():
    table = report.results_table(make_results(stored_dtype="float32"))
    assert row(table, "clips") == ["float32", "log", "loss", "report", "baseline"]
    assert len(row(table, "airport")) == 5


def test_table_marks_what_has_no_clips():
    summary = make_summary(devices=[0])
    table = report.results_table(make_results(float32=summary, float16=summary))
    assert row(table, "s1") == ["0", "–", "–", "–", "–", "39.66"]
    assert row(table, "unseen (s4, s5, s6)")[:4] == ["0", "–", "–", "–"]


RELIABILITY = {"ece": 0.2, "log_loss": 1.25, "confidence": 0.6, "accuracy": 0.55}
CALIBRATION = {"as_trained": RELIABILITY, "temperature": None, "why_not": "no clips " * 20}


def test_table_has_segments_and_calibration():
    segments = {"n_segments": 270, "macro_accuracy": 0.75, "accuracy": 0.7, "log_loss": 1.0}
    calibration = CALIBRATION | {
        "temperature": 0.5,
        "with_temperature": RELIABILITY | {"ece": 0.1},
        "why_not": None,
    }
    table = report.results_table(make_results(segments=segments, calibration=calibration))
    assert row(table, "recordings") == ["270", "75.00", "70.00", "1.000"]
    assert row(table, "as trained") == ["20.00", "1.250", "60.00", "55.00"]
    assert row(table, "with temperature 0.500") == ["10.00", "1.250", "60.00", "55.00"]
    assert "no temperature" not in table


def test_table_says_why_there_are_no_segments_and_no_temperature():
    segments = {"missing": "the clip '0.wav' is not named " + "<field>-" * 12}
    table = report.results_table(make_results(segments=segments, calibration=CALIBRATION))
    assert "no whole recordings: the clip '0.wav'" in table
    assert "no temperature: no clips" in table
    assert max(map(len, table.splitlines())) <= 92


@pytest.mark.parametrize("checkpoint", ["last", "best"])
def test_table_says_what_was_held_out_and_what_selected(checkpoint):
    changes = {"checkpoint": checkpoint, "selection": "selected on training locations held out"}
    held_out = {"locations": ["lyon-1", "lyon-2"], "n_clips": 400, "macro_accuracy": 0.5}
    table = report.results_table(make_results(**changes, validation=held_out | {"log_loss": 1.3}))
    assert "held out    2 training locations, 400 clips: macro average 50.00 %" in table
    assert f"checkpoint  {checkpoint}: selected on training locations held out" in table


def test_results_json_reads_back(tmp_path):
    path = result_files.write_results(make_results(), tmp_path / "run")
    assert path == tmp_path / "run" / "results.json"
    assert json.loads(path.read_text("utf-8")) == json.loads(json.dumps(make_results()))
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


def test_results_json_takes_numpy_scalars_and_writes_nan_as_null(tmp_path):
    changes = {"step": np.int64(7), "seed": np.float32("nan"), "epoch": float("inf")}
    path = result_files.write_results(make_results(**changes), tmp_path)
    read = json.loads(path.read_text("utf-8"), parse_constant=pytest.fail)
    assert (read["step"], read["seed"], read["epoch"]) == (7, None, None)


def test_results_json_survives_a_failed_write(tmp_path):
    result_files.write_results(make_results(), tmp_path)
    with pytest.raises(TypeError):
        result_files.write_results(make_results(seed=object()), tmp_path)
    assert json.loads((tmp_path / "results.json").read_text("utf-8"))["seed"] == 0


def make_probs(n):
    probs = np.exp(np.random.default_rng(0).normal(scale=4, size=(n, N_SCENES)))
    return (probs / probs.sum(1, keepdims=True)).astype(np.float32)


def test_output_csv_has_the_challenges_columns(tmp_path):
    probs = make_probs(5)
    names = [f"audio/airport-lisbon-1000-40000-{i}-a.wav" for i in range(5)]
    result_files.write_output_csv(tmp_path / "deep" / "output.csv", names, probs, SCENES)
    with open(tmp_path / "deep" / "output.csv", newline="") as file:
        header, *lines = csv.reader(file, delimiter="\t")
    assert header == ["filename", "scene_label", *SCENES]
    assert [line[0] for line in lines] == [name.removeprefix("audio/") for name in names]
    assert [line[1] for line in lines] == [SCENES[i] for i in probs.argmax(1)]
    read = np.array([line[2:] for line in lines], np.float64)
    np.testing.assert_array_equal(read.astype(np.float32), probs)
    np.testing.assert_allclose(read.sum(1), 1, atol=1e-5)


def test_output_csv_of_an_over_budget_network_is_stamped_on_every_line(tmp_path):
    path = tmp_path / "output.csv"
    result_files.write_output_csv(
        path, ["a.wav", "b.wav"], make_probs(2), SCENES, stamp="over budget"
    )
    header, *lines = path.read_text().splitlines()
    assert header.split("\t")[-1] == "budget"
    assert [line.split("\t")[-1] for line in lines] == ["over budget"] * 2


def test_output_csv_refuses_what_does_not_fit(tmp_path):
    with pytest.raises(ValueError, match="shape"):
        result_files.write_output_csv(tmp_path / "o.csv", ["a.wav"], make_probs(2), SCENES)
    probs = make_probs(2) * np.array([[1], [2]])
    with pytest.raises(ValueError, match="b.wav miss a sum of 1"):
        result_files.write_output_csv(tmp_path / "o.csv", ["a.wav", "b.wav"], probs, SCENES)
    assert not list(tmp_path.iterdir())
