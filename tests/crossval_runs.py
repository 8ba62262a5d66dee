"""Synthetic runs of a cross-validation, as `train` and `eval` leave them."""

import numpy as np
import synthetic_results
from small import small_config

from asc_jax.crossval.runs import Run, others
from asc_jax.data.labels import Group, Labels

FOLDS = ("fold1", "fold2", "fold3")
LABELS = Labels(("bird", "car", "dog"), {"site": Group(("hall", "yard"))})
# Recordings of each class, by fold: not evenly, and every class in every fold.
N_RECORDINGS = {"fold1": (2, 3, 4), "fold2": (4, 2, 2), "fold3": (3, 3, 1)}
N_CUTS = 5  # clips of a recording


def clips_of(fold, n_recordings=N_RECORDINGS):
    """Names, classes, recordings and sites of the clips of a fold."""
    names, label, recording, site = [], [], [], []
    for number, n in enumerate(n_recordings[fold]):
        for i in range(n):
            for cut in range(N_CUTS):
                recording.append(f"{LABELS.classes[number]}/{fold}-{i}")
                names.append(f"{recording[-1]}-{cut}.wav")
                label.append(number)
                site.append(i % 3 - 1)  # -1: not known
    return names, np.array(label), recording, np.array(site)


def answers_of(fold, skill, seed=0, n_recordings=N_RECORDINGS):
    """The number of the predicted class of each clip; a recording is as hard for every run."""
    _, label, recording, _ = clips_of(fold, n_recordings)
    hard = np.random.default_rng([*fold.encode()]).random(len({*recording}))
    _, of_clip = np.unique(recording, return_inverse=True)
    luck = np.random.default_rng(seed).normal(0, 0.15, len(label))
    return np.where(hard[of_clip] + luck < skill, label, (label + 1) % LABELS.n_classes)


def plan(out, system="first", fold="fold1", seed=0, folds=FOLDS):
    """The run as `crossval` would plan it; nothing is written."""
    config = small_config(data__train_split=others(folds, fold), data__test_split=fold).unlock()
    config.seed = seed
    config.loss.gamma = 2.0 if system == "first" else 0.0
    return Run(
        system,
        fold,
        seed=seed,
        config_name=f"{system}.py",
        overrides=(),
        config=config.lock(),
        workdir=out / system / fold / f"seed{seed}",
        n_clips=100,
    )


def finish(run, skill, n_recordings=N_RECORDINGS, **changes):
    """Leave what training and evaluation leave."""
    synthetic_results.train(run)
    evaluate(run, skill, n_recordings, **changes)
    return run


def evaluate(run, skill, n_recordings=N_RECORDINGS, **changes):
    """Write `results.json`, `output.csv` and `truth.csv`."""
    names, label, recording, site = clips_of(run.fold, n_recordings)
    answer = answers_of(run.fold, skill, run.seed, n_recordings)
    probs = np.full((len(label), LABELS.n_classes), 0.2)
    probs[range(len(label)), answer] = 0.6
    clips = names, label, {"site": site}, LABELS, np.array(recording)
    synthetic_results.evaluate(run, probs, *clips, **changes)
