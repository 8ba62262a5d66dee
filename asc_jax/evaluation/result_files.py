"""What an evaluation writes for other programs to read: `results.json` and `output.csv`."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asc_jax.data.tau.taxonomy import N_SCENES, SCENES


def write_results(results: Mapping[str, Any], workdir: str | Path) -> Path:
    """Writes `results.json` into `workdir`, all or nothing, and returns its path.

    Args:
        results: see `report`; numpy scalars are allowed.
        workdir: folder, made if it is missing.

    Returns:
        The file's path. NaN and infinity, which JSON has no word for, are written as null.
    """
    path = Path(workdir) / "results.json"
    _write_whole(path, json.dumps(_plain(results), indent=1, ensure_ascii=False) + "\n")
    return path


def write_output_csv(
    path: str | Path, filenames: Sequence[str], probs: np.ndarray, *, over_budget: bool = False
) -> None:
    """Writes one line per clip: its name, the most probable scene, ten probabilities.

    Args:
        path: file to write, all or nothing; its folder is made if it is missing.
        filenames: `[n]` names as in the data set's lists; a leading `audio/` is left out.
        probs: `[n, n_scenes]` float, rows sum to 1, columns in the order of `SCENES`.
        over_budget: stamp every line, in a column of its own that a submission may not have.

    Raises:
        ValueError: the shapes do not fit, or a row does not sum to 1 within 1e-5.

    Source: the official baseline's `output.csv`: tabs between the columns `filename`,
        `scene_label` and the ten scenes.
    """
    probs = np.asarray(probs)
    if probs.shape != (len(filenames), N_SCENES):
        raise ValueError(f"expected probs of shape {(len(filenames), N_SCENES)}, got {probs.shape}")
    off = np.abs(probs.sum(1, dtype=np.float64) - 1)
    if np.any(off > 1e-5):
        row = int(np.nanargmax(off))
        raise ValueError(f"probs of {filenames[row]} miss a sum of 1 by {off[row]:.3g}")
    stamp = ("over budget",) if over_budget else ()
    lines = ["\t".join(("filename", "scene_label", *SCENES, *(["budget"] if stamp else ())))]
    for filename, row in zip(filenames, probs, strict=True):
        # nine significant digits bring every float32 back exactly
        cells = (f"{p:.9g}" for p in row.tolist())
        lines.append(
            "\t".join((filename.removeprefix("audio/"), SCENES[row.argmax()], *cells, *stamp))
        )
    _write_whole(Path(path), "\n".join(lines) + "\n")


def _plain(value: Any) -> Any:
    """The same value in what JSON knows: no numpy scalars, no NaN, no infinity."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_whole(path: Path, text: str) -> None:
    """Writes beside `path`, then renames: a reader never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, encoding="utf-8", newline="\n")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
