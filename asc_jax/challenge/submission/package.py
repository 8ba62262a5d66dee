"""Five runs and an author file → the folder that is handed in, checked before it is in place."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asc_jax.challenge.submission.check import check_entry
from asc_jax.challenge.submission.meta import make_meta, to_yaml
from asc_jax.challenge.submission.runs import Run
from asc_jax.data.clips import Clips
from asc_jax.errors import UserError
from asc_jax.evaluation import evaluate, result_files
from asc_jax.machine.staging import replacing
from asc_jax.models.precision import deployed

CLIP_BYTES = 200  # of a line, rounded up
N_SHOWN = 20  # problems


def write_package(
    author: Mapping[str, Any],
    runs: Sequence[Run],
    clips: Sequence[Clips],
    out_dir: str | os.PathLike,
    *,
    practice: bool = False,
) -> Path:
    """Write `out_dir/task1/<label>`, whole and without a problem, or not at all.

    An entry that is already there is replaced; a technical report (`*.pdf`) in it is kept.

    Args:
      author: as `submission_author.read_author` returns it.
      runs: as `submission_runs.open_runs` returns them.
      clips: of the evaluation list, for each run, in the list's order; as `make_evaluator` takes
        them.
      out_dir: made if needed.
      practice: do not ask for the challenge's clips.

    Returns:
      The folder of the entry.

    Raises:
      UserError: what was made has a problem, or cannot be written.
    """
    parent, label = Path(out_dir) / "task1", author["submission"]["label"]
    predict = _make_predict()
    with replacing(parent, label, len(clips[0]) * CLIP_BYTES * len(runs)) as staging:
        folder = staging / label
        folder.mkdir()
        for document in parent.joinpath(label).glob("*.pdf"):
            shutil.copy2(document, folder)
        (folder / f"{label}.meta.yaml").write_text(to_yaml(make_meta(author, runs)), "utf-8")
        for run, of_run in zip(runs, clips, strict=True):
            path = folder / f"{label}.output.split_{run.percent}.csv"
            result_files.write_output_csv(path, *predict(run, of_run))
        problems = check_entry(folder, label=label, practice=practice)
        if problems:
            more = [f"and {len(problems) - N_SHOWN} more"] * (len(problems) > N_SHOWN)
            listed = "; ".join([*problems[:N_SHOWN], *more])
            raise UserError(f"{label} cannot be handed in: {listed}")
    return parent / label


def rank_score(runs: Sequence[Run]) -> float:
    """The plain mean of the macro average accuracies, by which the challenge ranks; 0 … 1."""
    return float(np.mean([run.summary["macro_accuracy"] for run in runs]))


def _make_predict():
    """`(run, clips) -> (filenames, probs)`; runs of one network share a compiled program."""
    evaluators = {}

    def predict(run: Run, clips: Clips) -> tuple[list[str], np.ndarray]:
        config = run.parts.config.to_dict()
        network = json.dumps([config[key] for key in ("network", "model", "features")])
        if network not in evaluators:
            evaluators[network] = evaluate.make_evaluator(run.parts)
        variables = deployed(run.variables, run.results["stored_dtype"])
        _, filenames, logits = evaluators[network](variables, clips)[:3]
        evaluate.require_finite(logits, f"the network in {run.workdir}")
        return filenames, evaluate.softmax(logits)

    return predict
