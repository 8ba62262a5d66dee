"""Runs of a campaign as `train` and `eval` leave them, with answers given instead of learned."""

import numpy as np

from asc_jax.evaluation import analysis, metrics, result_files
from asc_jax.evaluation.evaluate import Predictions
from asc_jax.training.workdir import checkpoints, run_config

STEP = 600


def train(run):
    """Write config and checkpoint; the checkpoints of two runs differ."""
    run_config.save(run.workdir, run.config_name, run.config)
    manager = checkpoints.Checkpoints(run.workdir)
    manager.save(STEP, {"x": np.frombuffer(run.title.encode().ljust(64), np.uint8)})
    manager.close()


def evaluate(run, probs, names, label, groups, labels, recordings=None, **changes):
    """Write `results.json`, `output.csv` and `truth.csv`.

    Args:
      run: of a campaign.
      probs: `[n, n_classes]`, the answers.
      names, label: of the clips, `[n]`; label: numbers.
      groups: column → `[n]` int, -1 where unknown.
      labels: the names of all these numbers.
      recordings: `[n]` str; None: the clips' names say it.
      changes: of `results.json`.
    """
    logits, config = np.log(probs), run.config
    summary = metrics.summarize(logits, label, groups, labels)
    found = Predictions(summary, [*names], logits, label, groups, recordings, labels)
    results = {
        "config": run.config_name,
        "split": config.data.train_split,
        "test_split": config.data.test_split,
        "official_lists": False,
        "trained_and_tested": None,
        "epoch": config.train.n_epochs,
        "step": STEP,
        "seed": run.seed,
        "code_version": "1.0",
        "evaluated_with": "1.0",
        "over_budget": False,
        "complexity": {"macs": 29_425_664, "n_params": 61_148, "bytes": 122_296},
        "stored_dtype": "float16",
        "labels": labels.to_dict(),
        "float16": summary,
        "checkpoint": "last",
    }
    result_files.write_output_csv(run.workdir / "output.csv", names, probs, labels.classes)
    result_files.write_truth_csv(run.workdir / "truth.csv", analysis.truth(found))
    result_files.write_results(results | changes, run.workdir)
