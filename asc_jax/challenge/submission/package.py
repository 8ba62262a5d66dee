"""Make the folder of a submission from five runs and an author file, and check it first."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asc_jax.challenge.submission.check import check_entry
from asc_jax.challenge.submission.meta import make_meta, to_yaml
from asc_jax.challenge.submission.runs import EvaluatedRun
from asc_jax.data.clips import Clips
from asc_jax.errors import UserError
from asc_jax.evaluation import evaluate, result_files
from asc_jax.machine.staging import replacing
from asc_jax.models.precision import deployed

CLIP_BYTES = 200  # of a line, rounded up
N_SHOWN = 20  # problems


def write_package(
    author: Mapping[str, Any],
    runs: Sequence[EvaluatedRun],
    clips: Sequence[Clips],
    out_dir: str | os.PathLike,
    *,
    practice: bool = False,
) -> Path:
    """Write `out_dir/task1/<label>`, complete and without a problem, or not at all.

    An entry that is already there is replaced; a technical report (`*.pdf`) in it is kept.

    Args:
      author: as `author.read_author` returns it.
      runs: as `runs.open_runs` returns them.
      clips: of the evaluation split, for each run, in the split's order; as `make_evaluator`
        takes them.
      out_dir: made if needed.
      practice: accept other clips than the challenge's.

    Returns:
      The folder of the entry.

    Raises:
      UserError: the package has a problem, or cannot be written.
    """
    parent, label = Path(out_dir) / "task1", author["submission"]["label"]
    predict = _make_predict()
    with replacing(parent, label, len(clips[0]) * CLIP_BYTES * len(runs)) as staging:
        folder = staging / label
        folder.mkdir()
        for document in parent.joinpath(label).glob("*.pdf"):
            shutil.copy2(document, folder)
        (folder / f"{label}.meta.yaml").write_text(to_yaml(make_meta(author, runs)), "utf-8")
        for run, clips_of_run in zip(runs, clips, strict=True):
            path = folder / f"{label}.output.split_{run.percent}.csv"
            result_files.write_output_csv(path, *predict(run, clips_of_run))
        problems = check_entry(folder, label=label, practice=practice)
        if problems:
            more = [f"and {len(problems) - N_SHOWN} more"] * (len(problems) > N_SHOWN)
            listed = "; ".join([*problems[:N_SHOWN], *more])
            raise UserError(f"{label} cannot be handed in: {listed}")
    return parent / label


def rank_score(runs: Sequence[EvaluatedRun]) -> float:
    """Return the mean of the macro average accuracies, 0 … 1, by which the challenge ranks."""
    return float(np.mean([run.summary["macro_accuracy"] for run in runs]))


def _make_predict():
    """Return `(run, clips) -> (filenames, probs)`; runs of one network share a compiled program."""
    evaluators = {}

    def predict(run: EvaluatedRun, clips: Clips) -> tuple[list[str], np.ndarray]:
        config = run.experiment.config.to_dict()
        network = json.dumps([config[key] for key in ("model", "features")])
        if network not in evaluators:
            evaluators[network] = evaluate.make_evaluator(run.experiment)
        variables = deployed(run.variables, run.results["stored_dtype"])
        predictions = evaluators[network](variables, clips)
        evaluate.require_finite(predictions.logits, f"the network in {run.workdir}")
        return predictions.filenames, evaluate.softmax(predictions.logits)

    return predict
