"""Runs of a campaign on any data set, with predictions drawn instead of learned.

What `evaluation.campaign.processes` trains and evaluates in processes of its own, for hours.
"""

import numpy as np

from asc_jax.data.clips import open_for
from asc_jax.data.teacher_logits import write_teacher_logits
from asc_jax.evaluation import analysis, evaluate, result_files
from asc_jax.evaluation.campaign.runs import unfinished
from asc_jax.evaluation.teachers import checkpoint_sum
from asc_jax.training.workdir import checkpoints, run_config

STEP = 600


def carry_out(runs, cache, *, together=False):
    """In place of `processes.carry_out`."""
    for run in runs:
        if unfinished(run):
            _finish(run)
    return {}


def make(target, words, cache, made):
    """In place of `processes.make`, of the verb `logits`: logits of one clip."""
    workdirs = [word.removeprefix("--workdir=") for word in words if word.startswith("--workdir=")]
    split = next(word for word in words if word.startswith("--split=")).removeprefix("--split=")
    configs = [run_config.load(workdir)[1] for workdir in workdirs]
    classes = configs[0].labels.classes
    sources = [{"checkpoint_sha256": checkpoint_sum(w), "split": split} for w in workdirs]
    logits = np.zeros((len(workdirs), 1, len(classes)), np.float32)
    write_teacher_logits(target, ["a.wav"], logits, classes, sources)
    assert made()


def _finish(run):
    """Leave what training and evaluation leave."""
    config = run.config
    run_config.save(run.workdir, run.config_name, config)
    manager = checkpoints.Checkpoints(run.workdir)
    manager.save(STEP, {"x": np.frombuffer(run.title.encode().ljust(64), np.uint8)})
    manager.close()
    found = _predictions(config)
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
        "labels": found.labels.to_dict(),
        "float16": found.summary,
        "checkpoint": "last",
    }
    probs = evaluate.softmax(found.logits)
    path = run.workdir / "output.csv"
    result_files.write_output_csv(path, found.filenames, probs, found.labels.classes)
    result_files.write_truth_csv(run.workdir / "truth.csv", analysis.truth(found))
    result_files.write_results(results, run.workdir)


def _predictions(config):
    """Logits at random for the clips of the test split."""
    clips, rng = open_for(config, config.data.test_split), np.random.default_rng(config.seed)

    def draw(variables, batch):
        shape = (*batch["audio"].shape[:-1], clips.labels.n_classes)
        return rng.standard_normal(shape, np.float32)

    return evaluate._evaluate(draw, 1, clips.labels, None, clips)
