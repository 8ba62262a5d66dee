"""Readers of what a workdir holds."""

import csv
import io
import json
import shutil
from random import Random

import numpy as np

from asc_jax.challenge.table1 import runs as table1_runs
from asc_jax.data.tau.taxonomy import DEVICES, SCENES
from asc_jax.evaluation.campaign import processes
from asc_jax.evaluation.report import figures
from asc_jax.training import config_checks
from asc_jax.training.workdir import checkpoints, journal, run_config

from . import mutate
from .judge import Reader


def config(scratch) -> Reader:
    """`config.json`, and the values in it that a run is made from."""
    from configs import base

    path = scratch / "config.json"
    content = {"name": "base.py", "code_version": "1", "config": base.get_config().to_dict()}

    def read(data):
        path.write_bytes(data)
        config_checks.check_values(run_config.load(scratch)[1])

    return Reader(read, mutate.of_json, (json.dumps(content).encode(),))


def metrics(scratch) -> Reader:
    """`metrics.jsonl`, as a run goes on, as it is drawn and as a campaign watches it."""
    path = scratch / "metrics.jsonl"
    entry = {"kind": "train", "step": 4, "epoch": 1, "loss": 2.1, "accuracy": 0.1}
    lines = [
        entry | {"step": 4 * e, "epoch": e, "kind": k} for e in (1, 2) for k in ("train", "test")
    ]

    def read(data):
        path.write_bytes(data)
        figures.read_log(path)
        processes._last_epoch(path)
        journal._drop_after(path, 6, 2)

    def change(rng: Random, seed: bytes) -> bytes:
        if rng.randrange(2):
            return mutate.of_bytes(rng, seed)
        values = [json.loads(line) for line in seed.splitlines()]
        damaged = mutate.of_tree(rng, values)
        damaged = damaged if isinstance(damaged, list) else [damaged]
        text = "".join(json.dumps(value) + "\n" for value in damaged)
        return text.encode("utf-8", "surrogatepass")

    seed = "".join(json.dumps(line) + "\n" for line in lines).encode()
    return Reader(read, change, (seed,))


def made_up_results() -> tuple[dict, bytes]:
    """`results.json` and `output.csv` of one evaluation in which all is right."""
    names = [f"{s}-lisbon-{i}-{i}-0-{DEVICES[i % 9]}.wav" for i, s in enumerate(SCENES)]
    one = {"accuracy": 1.0, "log_loss": 0.1, "n": 1}
    summary = {
        "macro_accuracy": 1.0,
        "accuracy": 1.0,
        "log_loss": 0.1,
        "n_clips": len(names),
        "classes": dict.fromkeys(SCENES, one),
        "groups": {"device": {"values": dict.fromkeys(DEVICES, one), "sets": {}}},
        "confusion": np.eye(10, dtype=int).tolist(),
    }
    results = {
        "config": "base.py",
        "split": "train_5pct",
        "test_split": "test",
        "official_lists": True,
        "epoch": 1,
        "n_epochs": 1,
        "step": 4,
        "seed": 0,
        "code_version": "1",
        "evaluated_with": "1",
        "over_budget": False,
        "complexity": {"macs": 1, "n_params": 1, "bytes": 2},
        "stored_dtype": "float16",
        "float16": summary,
    }
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(["filename", "scene_label", *SCENES])
    for number, name in enumerate(names):
        writer.writerow([name, SCENES[number], *np.eye(10)[number]])
    return results, text.getvalue().encode()


def results(scratch) -> Reader:
    """`results.json`, up to the figures of Table 1 that are made from it."""
    from asc_jax.challenge.table1 import collect as table1_collect

    good, output = made_up_results()
    (scratch / "output.csv").write_bytes(output)

    def read(data):
        (scratch / "results.json").write_bytes(data)
        run = table1_runs.read_run(scratch)
        table1_collect._about([run])
        result = table1_collect.result(("report", 5), [run], 2)
        table1_collect.difference(result, result, [run], [run], 2)

    return Reader(read, mutate.of_json, (json.dumps(good).encode(),))


def output(scratch) -> Reader:
    """`output.csv`."""
    good, text = made_up_results()
    (scratch / "results.json").write_text(json.dumps(good))

    def read(data):
        (scratch / "output.csv").write_bytes(data)
        table1_runs.read_run(scratch)

    return Reader(read, mutate.of_bytes, (text,))


def checkpoint(scratch) -> Reader:
    """A file of a checkpoint; the first byte chooses which."""
    state = {"params": np.arange(6.0, dtype=np.float32), "step": np.asarray(3, np.int32)}
    manager = checkpoints.Checkpoints(scratch / "good")
    manager.save(3, state, {"epoch": 1})
    manager.close()
    files = sorted(p for p in (scratch / "good" / "checkpoints").rglob("*") if p.is_file())
    names = [path.relative_to(scratch / "good") for path in files]

    def read(data):
        workdir = scratch / "run"
        shutil.rmtree(workdir, ignore_errors=True)
        shutil.copytree(scratch / "good", workdir)
        (workdir / names[data[0]]).write_bytes(data[1:])
        manager = checkpoints.Checkpoints(workdir)
        try:
            restored = manager.restore(state)[0]
            assert all(np.array_equal(restored[key], state[key]) for key in state)
        finally:
            manager.close()

    def change(rng: Random, seed: bytes) -> bytes:
        return seed[:1] + mutate.of_bytes(rng, seed[1:])

    return Reader(read, change, tuple(bytes([i]) + f.read_bytes() for i, f in enumerate(files)))
