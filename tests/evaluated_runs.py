"""Runs in TAU's layout as `eval` leaves them, with answers chosen instead of learned."""

import numpy as np
from small import small_config

from asc_jax.data.tau.taxonomy import CITIES, DEVICES, LABELS, N_SCENES, SCENES
from asc_jax.evaluation import metrics, result_files
from asc_jax.training.workdir import run_config

N_SEGMENTS, N_CUTS = 3, 2


def clips(devices=DEVICES[:4]):
    """Return names, labels and numbers of devices of clips: each moment recorded by all devices."""
    rows = [
        (f"{scene}-{CITIES[0]}-{10 * number}-{segment}-{cut}-{device}.wav", number, device)
        for number, scene in enumerate(SCENES)
        for segment in range(N_SEGMENTS)
        for device in devices
        for cut in range(N_CUTS)
    ]
    names, label, device = zip(*rows, strict=True)
    return list(names), np.array(label), np.array([DEVICES.index(each) for each in device])


def write(workdir, skill, seed=0, config="first.py", devices=DEVICES[:4], **changes):
    """Write config.json, results.json, output.csv and truth.csv; a moment is as hard for all.

    changes: of results.json, or, as `section__key`, of the config.
    """
    names, label, device = clips(devices)
    moments = ["-".join(name.split("-")[:4]) for name in names]
    _, number = np.unique(moments, return_inverse=True)
    hard = np.random.default_rng(1).random(number.max() + 1)
    luck = np.random.default_rng([2, seed]).normal(0, 0.1, number.max() + 1)
    answer = np.where(hard[number] + luck[number] < skill, label, (label + 1) % N_SCENES)
    probs = np.full((len(label), N_SCENES), 0.05)
    probs[range(len(label)), answer] = 0.55
    overrides = {key: changes.pop(key) for key in [*changes] if "__" in key}
    settings = small_config(**overrides).unlock()
    settings.seed = seed
    run_config.save(workdir, config, settings.lock())
    figures = metrics.summarize(np.log(probs), label, {"device": device}, LABELS)
    results = {
        "config": config,
        "split": "train_100pct",
        "test_split": "test",
        "official_lists": False,
        "trained_and_tested": None,
        "epoch": 3,
        "step": 30,
        "seed": seed,
        "code_version": "1.0",
        "evaluated_with": "1.0",
        "over_budget": False,
        "complexity": {
            **{"macs": 29_425_664, "max_macs": 30_000_000, "n_params": 61_148},
            **{"bytes": 122_296, "max_bytes": 128_000, "bytes_with_statistics": 127_712},
        },
        "stored_dtype": "float16",
        "labels": LABELS.to_dict(),
        "float16": figures,
        "checkpoint": "last",
    }
    result_files.write_output_csv(workdir / "output.csv", names, probs, SCENES)
    truth = {
        "filename": names,
        "label": [SCENES[i] for i in label],
        "recording": [f"{m}-{DEVICES[d]}" for m, d in zip(moments, device, strict=True)],
        "device": [DEVICES[i] for i in device],
    }
    result_files.write_truth_csv(workdir / "truth.csv", truth)
    result_files.write_results(results | changes, workdir)
    return workdir
