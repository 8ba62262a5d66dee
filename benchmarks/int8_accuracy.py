"""Measure what int8 costs in accuracy: int8 after the training, and int8 that was trained for.

    python -m benchmarks.int8_accuracy --config demo.py --out runs/int8 --seeds 0,1,2 --epochs 5 \
        --config.data.dir=data/demo

For each seed a run is trained and evaluated, then another that begins with it and is aware of the
quantisation. What is there already is not computed again. Values such as `--config.data.dir` go
to both trainings. Differences are within a seed, in points of the macro average accuracy.
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys
from collections.abc import Sequence

STUDENT_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}  # 97.5 %, by degrees of freedom
ROWS = (  # label, run, format
    ("float32", "trained", "float32"),
    ("int8 after the training", "trained", "int8"),
    ("int8, trained for", "aware", "int8"),
    ("float32 of that training", "aware", "float32"),
)


def main(words: Sequence[str] | None = None) -> None:
    """Train, evaluate and print the table."""
    options = _options(words)
    for seed in options.seeds.split(","):
        trained, aware = (options.out / f"{name}{seed}" for name in ("trained", "aware"))
        more = [f"--config.seed={seed}", *options.more]
        _run(options.config, trained, more)
        more += [f"--config.init.from_run={trained}", "--config.quantise.aware=True"]
        more += [f"--config.train.n_epochs={options.epochs}", "--config.train.eval_every_epochs=0"]
        more += [f"--config.schedule.peak_lr={options.peak_lr}", "--config.schedule.warmup_steps=0"]
        more += [f"--config.quantise.freeze_epoch={options.freeze_epoch}"]
        _run(options.config, aware, more)
    print("\n".join(table(options.out, options.seeds.split(","))))


def _options(words) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", default="demo.py")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--peak_lr", type=float, default=2e-4)
    parser.add_argument("--freeze_epoch", type=int, default=0)
    options, options.more = parser.parse_known_args(words)
    if unknown := [word for word in options.more if not word.startswith("--config.")]:
        parser.error(f"unknown: {' '.join(unknown)}; values are given as --config.NAME=VALUE")
    if options.seeds.count(",") > max(STUDENT_T):
        parser.error(f"--seeds: at most {max(STUDENT_T) + 1}")
    return options


def _run(config: str, workdir: pathlib.Path, more: Sequence[str]) -> None:
    """Train and evaluate a run, unless it is."""
    if (workdir / "results.json").exists():
        return
    command = [sys.executable, "-m", "asc_jax"]
    where = ["--workdir", str(workdir)]
    subprocess.run([*command, "train", "--config", config, *where, *more], check=True)
    subprocess.run([*command, "eval", *where], check=True, stdout=subprocess.DEVNULL)


def table(out: pathlib.Path, seeds: Sequence[str]) -> list[str]:
    """Return the lines of the table of the runs `trainedSEED` and `awareSEED`, evaluated."""
    rows = [("", "accuracy, %", "minus float32", "changed clips"), *cells(out, seeds)]
    return [f"{row[0]:26}{row[1]:>24}  {row[2]:>24}  {row[3]}" for row in rows]


def cells(out: pathlib.Path, seeds: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """Return the rows of the table: label, accuracy, difference, numbers of changed clips."""
    results = {
        (name, seed): json.loads((out / f"{name}{seed}" / "results.json").read_text())
        for name in ("trained", "aware")
        for seed in seeds
    }
    rows = []
    for label, name, dtype in ROWS:
        runs = [results[name, seed] for seed in seeds]
        if any(dtype not in run for run in runs):
            rows.append((label, runs[0]["formats"][dtype]["refused"], "", ""))
            continue
        own = [100 * run[dtype]["macro_accuracy"] for run in runs]
        base = [100 * results["trained", seed]["float32"]["macro_accuracy"] for seed in seeds]
        changed = ", ".join(str(run["formats"][dtype]["changed_top_scene"]) for run in runs)
        gaps = [a - b for a, b in zip(own, base, strict=True)]
        rows.append((label, _spread(own), _spread(gaps, interval=True), changed))
    return rows


def _spread(values: Sequence[float], *, interval: bool = False) -> str:
    """Return mean ± standard deviation, or ± half of the 95 % interval of the mean."""
    n, mean = len(values), sum(values) / len(values)
    if n < 2:
        return f"{mean:.2f}"
    sd = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    half = STUDENT_T[n - 1] * sd / math.sqrt(n) if interval else sd
    return f"{mean:.2f} ± {half:.2f}"


if __name__ == "__main__":
    main()
