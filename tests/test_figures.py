"""Pictures come out as PNGs, whatever the log and the table lack."""

import json

import counted
import numpy as np
import pytest

from asc_jax.data.tau.taxonomy import LABELS, N_DEVICES, N_SCENES
from asc_jax.evaluation.report import figures

PNG = b"\x89PNG\r\n\x1a\n"


def make_summary(clips_per_cell=3):
    shape = (N_DEVICES, N_SCENES, N_SCENES)
    confusion = np.random.default_rng(0).poisson(clips_per_cell, shape)
    return counted.summarize(confusion, confusion.sum(2))


def make_results(**changes):
    return {
        "config": "splits/5pct.py",
        "split": "train_5pct",
        "official_lists": True,
        "over_budget": False,
        "labels": LABELS.to_dict(),
        "stored_dtype": "float16",
        "float16": make_summary(),
    } | changes


def write_log(path, n_epochs=4, kind="test"):
    lines = []
    for epoch in range(1, n_epochs + 1):
        entry = {"epoch": epoch, "step": 90 * epoch, "accuracy": 0.1 * epoch}
        lines.append({"kind": "train", "loss": 2 / epoch, "lr": 1e-3, **entry})
        lines.append({"kind": kind, "macro_accuracy": 0.1, "log_loss": 2.0, **entry})
    path.write_text("\n".join(map(json.dumps, lines)) + '\n7\n{"kind": "train", "epo')
    return path


BEST = {"checkpoint": "best", "selection": "selected on training locations held out"}


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "test"),
        ({"official_lists": False, "over_budget": True, "float16": make_summary(0)}, "test"),
        (BEST, "validation"),
    ],
)
def test_figures_are_pngs(tmp_path, changes, kind):
    log = write_log(tmp_path / "metrics.jsonl", kind=kind)
    paths = figures.write_figures(make_results(**changes), log, tmp_path / "figures")
    names = ["by_device.png", "confusion.png", "learning_curve.png"]
    assert sorted(path.name for path in paths) == names
    for path in paths:
        content = path.read_bytes()
        assert content.startswith(PNG)
        assert len(content) > 10_000


def test_figures_without_a_log_leave_out_the_learning_curve(tmp_path):
    paths = figures.write_figures(make_results(), tmp_path / "none.jsonl", tmp_path)
    assert [path.name for path in paths] == ["confusion.png", "by_device.png"]


def test_figures_of_one_epoch_without_a_test(tmp_path):
    line = {
        "kind": "train",
        "epoch": 1,
        "step": 3,
        "loss": None,
        "accuracy": 0.1,
        "lr": 0.0,
    }
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line))
    paths = figures.write_figures(make_results(), tmp_path / "metrics.jsonl", tmp_path)
    assert len(paths) == 3


def test_log_of_a_resumed_run_keeps_the_last_line_of_an_epoch(tmp_path):
    lines = [{"kind": "train", "epoch": e, "loss": i} for i, e in enumerate((1, 2, 3, 2))]
    (tmp_path / "log").write_text("\n".join(map(json.dumps, lines)))
    log = figures.read_log(tmp_path / "log")
    assert [(e["epoch"], e["loss"]) for e in log["train"]] == [(1, 0), (2, 3), (3, 2)]
    assert log["test"] == []
