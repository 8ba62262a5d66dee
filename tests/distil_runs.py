"""Synthetic runs of a distillation campaign, as `train` and `eval` leave them."""

import numpy as np
import synthetic_results
from crossval_runs import LABELS as CROSSVAL_LABELS
from crossval_runs import N_CUTS
from small import small_config

from asc_jax.data.labels import Group, Labels
from asc_jax.data.teacher_logits import write_teacher_logits
from asc_jax.distil.runs import Run
from asc_jax.evaluation.teachers import checkpoint_sum

CLASSES = CROSSVAL_LABELS.classes
SITE = Group(("hall", "yard"), {"inside": ("hall",), "outside": ("yard",)})
LABELS = Labels(CLASSES, {"site": SITE})
N_RECORDINGS = (3, 4, 5)  # of each class
SKILL = {"big": 0.75, "wide": 0.65, "undistilled": 0.5, "distilled": 0.7}
TRAIN, TEST = "fold1", "fold2"


def clips():
    """Names, classes, recordings and sites (numbers; -1: not known) of the test clips."""
    rows = [
        (f"{CLASSES[number]}/{i}-{cut}.wav", number, f"{CLASSES[number]}/{i}", i % 3 - 1)
        for number, n in enumerate(N_RECORDINGS)
        for i in range(n)
        for cut in range(N_CUTS)
    ]
    names, label, recording, site = zip(*rows, strict=True)
    return list(names), np.array(label), list(recording), np.array(site)


def probs_of(system, seed):
    """`[n, n_classes]`; a recording is as hard for every network."""
    _, label, recording, _ = clips()
    hard = np.random.default_rng(7).random(len({*recording}))
    _, of_clip = np.unique(recording, return_inverse=True)
    rng = np.random.default_rng([*system.encode(), seed])
    margin = SKILL[system] - hard[of_clip] + rng.normal(0, 0.15, len(label))
    logits = rng.normal(0, 0.1, (len(label), len(CLASSES)))
    logits[range(len(label)), label] += 5 * margin
    exp = np.exp(logits)
    return exp / exp.sum(axis=1, keepdims=True)


def plan(out, system, seed=0):
    """The run as `distil` would plan it; nothing is written."""
    config = small_config(data__train_split=TRAIN, data__test_split=TEST).unlock()
    config.seed = seed
    if system == "distilled":
        config.distill.logits = str(out / "teacher_logits.npz")
    is_student = system in ("undistilled", "distilled")
    return Run(
        system,
        seed=seed,
        config_name=f"{system}.py",
        overrides=(),
        config=config.lock(),
        workdir=(out if is_student else out / "teachers") / system / f"seed{seed}",
        n_clips=100,
    )


def finish(run, **changes):
    """Leave what training and evaluation leave."""
    names, label, recording, site = clips()
    found = names, label, {"site": site}, LABELS, np.array(recording)
    synthetic_results.train(run)
    synthetic_results.evaluate(run, probs_of(run.system, run.seed), *found, **changes)
    return run


def write_logits(path, teachers):
    """The file that `asc-jax logits` writes of these runs, of one clip."""
    sources = [
        {"checkpoint_sha256": checkpoint_sum(run.workdir), "split": run.config.data.train_split}
        for run in teachers
    ]
    logits = np.zeros((len(teachers), 1, len(CLASSES)))
    write_teacher_logits(path, ["a.wav"], logits, CLASSES, sources)
