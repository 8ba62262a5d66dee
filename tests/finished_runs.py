"""Runs as `train.py` and `eval.py` leave them, with answers made up instead of learned."""

import numpy as np
from small import small_config

from asc_jax.challenge.table1.runs import Run
from asc_jax.data.tau.taxonomy import CITIES, DEVICES, LABELS, N_SCENES, SCENES
from asc_jax.evaluation import metrics, result_files
from asc_jax.training.workdir import checkpoints, run_config

N_EPOCHS, STEP = 150, 600
# Ten scenes, two locations each, of which two segments of three cuts.
NAMES = [
    f"{scene}-{CITIES[number]}-{10 * number + segment // 2}-{segment}-{cut}-{DEVICES[cut]}.wav"
    for number, scene in enumerate(SCENES)
    for segment in range(4)
    for cut in range(3)
]


def plan(out, system, percent, seed):
    """The run as `table1` would plan it; nothing is written."""
    config = small_config(data__train_split=f"train_{percent}pct").unlock()
    config.seed = seed
    return Run(
        system,
        percent,
        seed=seed,
        config_name=f"{system}/{percent}pct.py",
        overrides=(),
        config=config.lock(),
        workdir=out / system / f"{percent}pct" / f"seed{seed}",
        n_clips=20 * percent,
    )


def finish(run, skill, **changes):
    """Train and evaluate it, so to speak: right with probability `skill`, the sooner the higher."""
    run_config.save(run.workdir, run.config_name, run.config)
    manager = checkpoints.Checkpoints(run.workdir)
    manager.save(STEP, {"x": np.zeros(1)})
    manager.close()
    evaluate(run, skill, **changes)


def evaluate(run, skill, names=tuple(NAMES), **changes):
    """Write `results.json` and `output.csv`."""
    fields = [name.removesuffix(".wav").split("-") for name in names]
    label = np.array([SCENES.index(parts[0]) for parts in fields])
    device_id = np.array([DEVICES.index(parts[-1]) for parts in fields])
    # A clip is as hard for every run; the seed decides a little.
    hard = np.random.default_rng(99).random(len(label))
    luck = np.random.default_rng(run.seed).normal(0, 0.05, len(label))
    answer = np.where(hard + luck < skill, label, (label + 1) % N_SCENES)
    probs = np.full((len(label), N_SCENES), 0.05)
    probs[range(len(label)), answer] = 0.55
    results = {
        "config": run.config_name,
        "split": run.config.data.train_split,
        "test_split": "test",
        "official_lists": True,
        "epoch": N_EPOCHS,
        "step": STEP,
        "seed": run.seed,
        "code_version": "1.0",
        "evaluated_with": "1.0",
        "over_budget": False,
        "complexity": {"macs": 29_425_664, "n_params": 61_148, "bytes": 122_296},
        "stored_dtype": "float16",
        "labels": LABELS.to_dict(),
        "float16": metrics.summarize(np.log(probs), label, {"device": device_id}, LABELS),
        "checkpoint": "last",
    }
    result_files.write_results(results | changes, run.workdir)
    result_files.write_output_csv(run.workdir / "output.csv", names, probs, SCENES)
