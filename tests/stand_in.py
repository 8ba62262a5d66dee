"""Runs of a campaign on any data set, with predictions drawn instead of learned.

What `evaluation.campaign.processes` trains and evaluates in processes of its own, for hours.
"""

import numpy as np
import synthetic_results

from asc_jax.data.clips import open_for
from asc_jax.data.teacher_logits import write_teacher_logits
from asc_jax.evaluation import evaluate
from asc_jax.evaluation.campaign.runs import unfinished
from asc_jax.evaluation.teachers import checkpoint_sum
from asc_jax.training.workdir import run_config


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
    found = _predictions(run.config)
    clips = found.filenames, found.label, found.groups, found.labels, found.recordings
    synthetic_results.train(run)
    synthetic_results.evaluate(run, evaluate.softmax(found.logits), *clips)


def _predictions(config):
    """Logits at random for the clips of the test split."""
    clips, rng = open_for(config, config.data.test_split), np.random.default_rng(config.seed)

    def draw(variables, batch):
        shape = (*batch["audio"].shape[:-1], clips.labels.n_classes)
        return rng.standard_normal(shape, np.float32)

    return evaluate._evaluate(draw, 1, clips.labels, None, clips)
