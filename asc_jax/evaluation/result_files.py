"""The files that an evaluation writes for other programs.

`output.csv` has the predictions, `truth.csv` the labels of the clips and
`results.json` the figures.

A `results` dict holds one evaluated run: `config`, `split`, `test_split` (names),
`official_lists` (whether the clips were TAU's own development lists), `trained_and_tested`
(`n_clips` of the test split that are training clips too, and the `first`; null in a sound data
set), `epoch`, `step`,
`seed`, `code_version`, `evaluated_with`, `over_budget`, `complexity` (`macs`, `n_params`, `bytes`,
`bytes_with_statistics`, `max_macs`, `max_bytes`), and what `evaluate.evaluate_precisions`
returns: `stored_dtype` (a dtype's name), a `metrics.summarize` under each dtype's name, and
`formats`, what each costs; `labels`, the names of classes and groups as `Labels.to_dict` gives
them. `eval.py` adds `checkpoint` ("last" or "best"), `selection` (what
chose that), and `validation`, `segments`, `calibration` and `most_confused`, see `analysis`,
`intervals` and `by_class_and_value`, see `intervals`, and `run`, see `run_card`.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asc_jax.data.tau.taxonomy import LABELS
from asc_jax.machine import files


def upgraded(results: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the content of a `results.json` under today's keys.

    Before results kept the names of their classes, all were of TAU: `scenes`, `devices` and
    `groups` of devices. What is no such content is returned as it is.
    """
    if not isinstance(results, Mapping) or "labels" in results:
        return results
    new = {key: _with_classes(entry) for key, entry in results.items()}
    if new == results:
        return results
    clips = results.get("most_confused")
    if isinstance(clips, list):
        new["most_confused"] = [_with_groups(clip) for clip in clips]
    return new | {"labels": LABELS.to_dict()}


def _with_classes(summary: Any) -> Any:
    if not (isinstance(summary, Mapping) and {"scenes", "devices"} <= summary.keys()):
        return summary
    rest = {key: value for key, value in summary.items() if key not in ("scenes", "devices")}
    device = {"values": summary["devices"], "sets": summary.get("groups", {})}
    return rest | {"classes": summary["scenes"], "groups": {"device": device}}


def _with_groups(clip: Any) -> Any:
    if not (isinstance(clip, Mapping) and {"scene", "device"} <= clip.keys()):
        return clip
    rest = {key: value for key, value in clip.items() if key not in ("scene", "device")}
    return rest | {"class": clip["scene"], "groups": {"device": clip["device"]}}


def stored_summary(results: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the `metrics.summarize` of the network with its parameters as stored."""
    return results[results["stored_dtype"]]


def write_results(results: Mapping[str, Any], workdir: str | Path) -> Path:
    """Write `results.json` into a folder, which is made if needed, and return its path.

    Numpy scalars are allowed; NaN and infinity, which JSON does not have, are written as null.
    """
    path = Path(workdir) / "results.json"
    _write(path, json.dumps(_plain(results), indent=1, ensure_ascii=False) + "\n")
    return path


def write_output_csv(
    path: str | Path,
    filenames: Sequence[str],
    probs: np.ndarray,
    classes: Sequence[str],
    *,
    stamp: str = "",
) -> None:
    """Write one line per clip: its name, the most probable class, the probabilities of all.

    The columns are those of the official baseline's `output.csv`, separated by tabs.

    Args:
        path: file to write; its folder is made if it is missing.
        filenames: `[n]` names as in the data set's lists; a leading `audio/` is left out.
        probs: `[n, n_classes]` float, rows sum to 1, columns in the order of `classes`.
        classes: names of the columns.
        stamp: mark every line with it, in a column of its own that a submission may not have.

    Raises:
        ValueError: the shapes do not fit, or a row does not sum to 1 within 1e-5.
    """
    probs = np.asarray(probs)
    expected = len(filenames), len(classes)
    if probs.shape != expected:
        raise ValueError(f"expected probs of shape {expected}, got {probs.shape}")
    off = np.abs(probs.sum(1, dtype=np.float64) - 1)
    if np.any(off > 1e-5):
        row = int(np.nanargmax(off))
        raise ValueError(f"probs of {filenames[row]} miss a sum of 1 by {off[row]:.3g}")
    rows = [["filename", "scene_label", *classes, *["budget"] * bool(stamp)]]
    for filename, row in zip(filenames, probs, strict=True):
        # nine significant digits bring every float32 back exactly
        cells = [f"{p:.9g}" for p in row.tolist()] + [stamp] * bool(stamp)
        rows.append([filename.removeprefix("audio/"), classes[row.argmax()], *cells])
    out = io.StringIO()
    csv.writer(out, delimiter="\t", lineterminator="\n").writerows(rows)
    _write(Path(path), out.getvalue())


def write_truth_csv(path: str | Path, columns: Mapping[str, Sequence[str]]) -> None:
    """Write what is known of each clip, for programs that compare predictions with it.

    Args:
        path: file to write, separated by tabs; its folder is made if it is missing.
        columns: name → `[n_clips]` words: `filename`, `label`, `recording` and the group columns.
    """
    out = io.StringIO()
    writer = csv.writer(out, delimiter="\t", lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    _write(Path(path), out.getvalue())


def _plain(value: Any) -> Any:
    """Return the same value in JSON's types: no numpy scalars, no NaN, no infinity."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, text)
