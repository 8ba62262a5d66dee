"""Runs of a cross-validation as `train` and `eval` leave them, with answers that are made up."""

import numpy as np
from small import small_config

from asc_jax.crossval.runs import Run, others
from asc_jax.data.labels import Group, Labels
from asc_jax.evaluation import metrics, result_files
from asc_jax.training.workdir import checkpoints, run_config

FOLDS = ("fold1", "fold2", "fold3")
LABELS = Labels(("bird", "car", "dog"), {"site": Group(("hall", "yard"))})
N_EPOCHS, STEP = 150, 600
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
    """Train and evaluate it, so to speak."""
    run_config.save(run.workdir, run.config_name, run.config)
    manager = checkpoints.Checkpoints(run.workdir)
    manager.save(STEP, {"x": np.zeros(1)})
    manager.close()
    evaluate(run, skill, n_recordings, **changes)
    return run


def evaluate(run, skill, n_recordings=N_RECORDINGS, **changes):
    """Write `results.json`, `output.csv` and `truth.csv`."""
    names, label, recording, site = clips_of(run.fold, n_recordings)
    answer = answers_of(run.fold, skill, run.seed, n_recordings)
    probs = np.full((len(label), LABELS.n_classes), 0.2)
    probs[range(len(label)), answer] = 0.6
    results = {
        "config": run.config_name,
        "split": run.config.data.train_split,
        "test_split": run.fold,
        "official_lists": False,
        "trained_and_tested": None,
        "epoch": run.config.train.n_epochs,
        "step": STEP,
        "seed": run.seed,
        "code_version": "1.0",
        "evaluated_with": "1.0",
        "over_budget": False,
        "complexity": {"macs": 29_425_664, "n_params": 61_148, "bytes": 122_296},
        "stored_dtype": "float16",
        "labels": LABELS.to_dict(),
        "float16": metrics.summarize(np.log(probs), label, {"site": site}, LABELS),
        "checkpoint": "last",
    }
    result_files.write_output_csv(run.workdir / "output.csv", names, probs, LABELS.classes)
    sites = ("hall", "yard", "unknown")
    truth = {
        "filename": names,
        "label": [LABELS.classes[number] for number in label],
        "recording": recording,
        "site": [sites[number] for number in site],
    }
    result_files.write_truth_csv(run.workdir / "truth.csv", truth)
    result_files.write_results(results | changes, run.workdir)
