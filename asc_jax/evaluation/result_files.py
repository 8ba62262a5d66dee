"""The files that an evaluation writes for other programs: `results.json` and `output.csv`.

A `results` dict holds one evaluated run: `config`, `split`, `test_split` (names),
`official_lists` (whether the clips were TAU's own development lists), `trained_and_tested`
(`n_clips` of the test split that are training clips too, and the `first`; null in a sound data
set), `epoch`, `step`,
`seed`, `code_version`, `evaluated_with`, `over_budget`, `complexity` (`macs`, `n_params`, `bytes`,
`bytes_with_statistics`, `max_macs`, `max_bytes`), and what `evaluate.evaluate_precisions`
returns: `stored_dtype` (a dtype's name), a `metrics.summarize` under each dtype's name, and
`formats`, what each costs. `eval.py` adds `checkpoint` ("last" or "best"), `selection` (what
chose that), and `validation`, `segments`, `calibration` and `most_confused`, see `analysis`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asc_jax.data.tau.taxonomy import N_SCENES, SCENES
from asc_jax.machine import files


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
    path: str | Path, filenames: Sequence[str], probs: np.ndarray, *, stamp: str = ""
) -> None:
    """Write one line per clip: its name, the most probable scene, ten probabilities.

    The columns are those of the official baseline's `output.csv`, separated by tabs.

    Args:
        path: file to write; its folder is made if it is missing.
        filenames: `[n]` names as in the data set's lists; a leading `audio/` is left out.
        probs: `[n, n_scenes]` float, rows sum to 1, columns in the order of `SCENES`.
        stamp: mark every line with it, in a column of its own that a submission may not have.

    Raises:
        ValueError: the shapes do not fit, or a row does not sum to 1 within 1e-5.
    """
    probs = np.asarray(probs)
    if probs.shape != (len(filenames), N_SCENES):
        raise ValueError(f"expected probs of shape {(len(filenames), N_SCENES)}, got {probs.shape}")
    off = np.abs(probs.sum(1, dtype=np.float64) - 1)
    if np.any(off > 1e-5):
        row = int(np.nanargmax(off))
        raise ValueError(f"probs of {filenames[row]} miss a sum of 1 by {off[row]:.3g}")
    rows = [["filename", "scene_label", *SCENES, *["budget"] * bool(stamp)]]
    for filename, row in zip(filenames, probs, strict=True):
        # nine significant digits bring every float32 back exactly
        cells = [f"{p:.9g}" for p in row.tolist()] + [stamp] * bool(stamp)
        rows.append([filename.removeprefix("audio/"), SCENES[row.argmax()], *cells])
    _write(Path(path), "".join("\t".join(row) + "\n" for row in rows))


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
