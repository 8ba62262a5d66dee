"""Five small runs as training and `eval.py` leave them, and what a submission needs besides."""

import json
import shutil

import numpy as np
from small import noise
from small_run import write_run

from asc_jax.challenge.submission.author import EXAMPLE
from asc_jax.data.clips import from_arrays
from asc_jax.data.tau.taxonomy import LABELS
from asc_jax.evaluation import calibration, evaluate, metrics, result_files
from asc_jax.machine import version
from asc_jax.training.workdir import run_config

PERCENTS = (5, 10, 25, 50, 100)
LABEL = "Doe_UNI_task1_1"


def write_runs(folder):
    """Workdirs `5pct` … `100pct`; the first has other weights than the others.

    Only two are made, the others are copies that say they were trained on another list.
    """
    workdirs = [folder / f"{percent}pct" for percent in PERCENTS]
    for percent, workdir in zip(PERCENTS, workdirs, strict=True):
        if percent <= 10:
            experiment = write_run(workdir, seed=percent, train__n_epochs=3)
            write_results(workdir, experiment)
        else:
            shutil.copytree(workdirs[1], workdir)
        split = f"train_{percent}pct"
        data = {"train_split": split, "batch_size": 78 if percent <= 25 else 130}
        change_json(
            workdir / "config.json", lambda run, data=data: run["config"]["data"].update(data)
        )
        change_json(workdir / "results.json", lambda run, split=split: run.update(split=split))
    return workdirs


def write_results(workdir, experiment):
    """Write `results.json` as `eval.py` does, with accuracies at random."""
    extra = {"epoch": 3, "code_version": version.code_version()}
    results = evaluate.describe(experiment, run_config.load(workdir)[0], extra, 7)
    results |= {"stored_dtype": "float16", "formats": {}, "official_lists": True}
    results |= {"labels": LABELS.to_dict()}
    result_files.write_results(
        results | {"float16": random_summary(), "checkpoint": "last"}, workdir
    )


def random_summary():
    """Accuracies and log losses of 180 clips, two for each scene and device, at random."""
    log_probs = calibration.log_probs(np.random.default_rng(0).standard_normal((180, 10)))
    label, device_id = np.arange(180) % 10, np.arange(180) // 20
    return metrics.summarize(log_probs, label, {"device": device_id}, LABELS)


def change_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    content.pop("sha256", None)  # of the config as it was
    path.write_text(json.dumps(content))


def evaluation_clips(n=12):
    """Clips without labels, named as in the evaluation set."""
    names = [f"audio/{number}.wav" for number in range(n)]
    return from_arrays(noise(n, seed=1)[0], [-1] * n, [-1] * n, names)


def write_author(path, change=lambda text: text):
    path.write_text(change(EXAMPLE))
    return path
