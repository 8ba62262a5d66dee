"""Synthetic runs of Table 1, as `train` and `eval` leave them."""

import numpy as np
import synthetic_results
from small import small_config

from asc_jax.challenge.table1.runs import Run
from asc_jax.data.tau.taxonomy import CITIES, DEVICES, LABELS, N_SCENES, SCENES

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
    """Leave what training and evaluation leave: correct with probability `skill`."""
    synthetic_results.train(run)
    evaluate(run, skill, **changes)


def evaluate(run, skill, names=tuple(NAMES), **changes):
    """Write `results.json`, `output.csv` and `truth.csv`."""
    fields = [name.removesuffix(".wav").split("-") for name in names]
    label = np.array([SCENES.index(parts[0]) for parts in fields])
    device = np.array([DEVICES.index(parts[-1]) for parts in fields])
    # A clip is as hard for every run; the seed decides a little.
    hard = np.random.default_rng(99).random(len(label))
    luck = np.random.default_rng(run.seed).normal(0, 0.05, len(label))
    answer = np.where(hard + luck < skill, label, (label + 1) % N_SCENES)
    probs = np.full((len(label), N_SCENES), 0.05)
    probs[range(len(label)), answer] = 0.55
    clips = names, label, {"device": device}, LABELS
    synthetic_results.evaluate(run, probs, *clips, **{"official_lists": True} | changes)
