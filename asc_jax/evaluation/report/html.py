"""`report.html`: one evaluation as one file that opens, reads and prints anywhere."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asc_jax.complexity.limits import OVER_BUDGET
from asc_jax.evaluation.report import sections as report_sections
from asc_jax.evaluation.report.figures import read_log
from asc_jax.evaluation.report.page import Section, figure, image, page, paragraph, table
from asc_jax.evaluation.report.text import decimals, percent, published


def as_html(
    results: Mapping[str, Any],
    log_mels: Sequence[np.ndarray],
    axes: Mapping[str, float],
    *,
    metrics_jsonl_path: str | Path,
    learning_curve: Path | None,
) -> str:
    """The page.

    Args:
      results: see `report`, with `segments`, `calibration` and `most_confused`.
      log_mels: `[n_mels, n_frames]` of each of `most_confused`, as the network hears it.
      axes: their `duration_s`, and `f_min` and `f_max` in Hz.
      metrics_jsonl_path: the training log.
      learning_curve: a PNG drawn of it, or None.
    """
    sections = [
        Section("accuracy", "Accuracy and log loss", report_sections.accuracy(results)),
        Section("confusion", "Confusion", report_sections.confusion(results)),
        Section("calibration", "Calibration", report_sections.calibration(results)),
        Section("clips", "Most confused clips", report_sections.clips(results, log_mels, axes)),
        Section("formats", "Number formats", _formats(results)),
    ]
    if learning_curve is not None:
        told = _learning(read_log(metrics_jsonl_path)["train"])
        lines = figure(image(learning_curve.read_bytes(), "Learning curve", told), told)
        sections.append(Section("learning", "Learning curve", lines))
    sections.append(Section("about", "What was evaluated", _about(results)))
    return page(f"Evaluation of {results['config']}", _introduction(results), sections)


def _introduction(results: Mapping[str, Any]) -> list[str]:
    """The result in a few lines, after what forbids to quote it."""
    stored, known = results["stored_dtype"], published(results["split"])
    summary, segments = results[stored], results["segments"]
    lines = [paragraph(OVER_BUDGET, warning=True)] * bool(results["over_budget"])
    if known and not results["official_lists"]:
        words = (
            "Published figures are left out: they hold for the official lists of TAU 2022 Mobile, "
            "and these clips are from others, so the two cannot be compared."
        )
        lines.append(paragraph(words, warning=True))
    if results["checkpoint"] == "best":
        on_test_list = results["validation"] is None
        words = f"This epoch was {results['selection']}."
        lines.append(paragraph(words, warning=on_test_list))
    rows = [
        ("macro average accuracy, %", percent(summary["macro_accuracy"])),
        ("log loss, nats per clip", decimals(summary["log_loss"])),
        ("macro average accuracy of ten-second segments, %", _segment_accuracy(segments)),
        ("expected calibration error, %", _error(results["calibration"]["as_trained"])),
    ]
    if results["calibration"]["temperature"] is not None:
        scaled = results["calibration"]["with_temperature"]
        rows.append(("expected calibration error with temperature, %", _error(scaled)))
    caption = f"In brief: {summary['n_clips']:,} clips of {results['test_split']}, as {stored}"
    return lines + table("brief", caption, (), rows)


def _segment_accuracy(segments: Mapping[str, Any]) -> str:
    return percent(segments.get("macro_accuracy"))


def _error(row: Mapping[str, Any] | None) -> str:
    return percent(row and row["ece"])


def _formats(results: Mapping[str, Any]) -> list[str]:
    rows, notes = [], []
    for dtype, cost in results["formats"].items():
        if "refused" in cost:
            notes.append(paragraph(f"{dtype}: {cost['refused']}"))
            continue
        summary = results[dtype]
        rows.append(
            (dtype, f"{cost['bytes']:,}", percent(summary["macro_accuracy"]))
            + (decimals(summary["log_loss"]), f"{cost['changed_top_scene']:,}")
        )
    header = ["stored as", "bytes", "macro average, %", "log loss", "clips that change scene"]
    caption = "What storing the parameters in each number format costs"
    return [*table("by-format", caption, header, rows), *notes]


def _learning(log: Sequence[Mapping[str, Any]]) -> str:
    first, last = log[0], log[-1]
    return (
        f"Over {last['epoch']:,} epochs the accuracy on augmented training clips went from "
        f"{percent(first['accuracy'])} to {percent(last['accuracy'])} %, the training loss from "
        f"{decimals(first['loss'])} to {decimals(last['loss'])}."
    )


def _about(results: Mapping[str, Any]) -> list[str]:
    cost, held_out = results["complexity"], results["validation"]
    rows = [
        ("config", results["config"]),
        ("trained on", f"{results['split']}, seed {results['seed']}"),
        ("epoch, step", f"{results['epoch']:,}, {results['step']:,}"),
        ("checkpoint", f"{results['checkpoint']}: {results['selection']}"),
        ("tested on", results["test_split"]),
        ("stored as", results["stored_dtype"]),
        ("parameters", f"{cost['n_params']:,}"),
        ("bytes", f"{cost['bytes']:,} of {cost['max_bytes']:,}"),
        ("multiply-accumulates per clip", f"{cost['macs']:,} of {cost['max_macs']:,}"),
        ("code of training", results["code_version"]),
        ("code of evaluation", results["evaluated_with"]),
    ]
    if held_out:
        said = (
            f"{held_out['n_clips']:,} clips of {len(held_out['locations']):,} training locations, "
            f"macro average {percent(held_out['macro_accuracy'])} %, log loss "
            f"{decimals(held_out['log_loss'])}; results.json names them"
        )
        rows.insert(4, ("held out", said))
    return table("evaluated", "The run and its evaluation", (), rows, look="words")
