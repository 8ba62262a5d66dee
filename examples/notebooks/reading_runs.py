# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Reading runs
#
# A run is a folder of plain files. This notebook reads those of two seeds into pandas, plots and
# compares them: the learning curves (`metrics.jsonl`), the figures (`results.json`) and the
# predictions (`output.csv`, `truth.csv`). `docs/files.md` and `docs/evaluation.md` describe these
# files.
#
# Put two evaluated runs of your own into `RUNS`, or leave it empty: then two small ones are trained
# on synthetic recordings, in a minute or two, in a temporary folder.

# %%
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import soundfile

RUNS = {}  # such as {"seed 0": "runs/mine/seed0", "seed 1": "runs/mine/seed1"}
GROUP = "device"  # a group column of the data set

# %% [markdown]
# ## Two runs
#
# First a data set: two seconds of three kinds of sounds, each recorded by a phone or a recorder. A
# table says which file is what, and which split it belongs to.

# %%
RATE, CLASSES = 16_000, ("hum", "hiss", "clicks")


def sound(name, device, rng):
    """Return a recording, `[2 * RATE]`."""
    t = np.arange(2 * RATE) / RATE
    noise = rng.standard_normal(2 * RATE)
    waveform = {
        "hum": np.sin(2 * np.pi * rng.uniform(90, 180) * t),
        "hiss": 0.5 * np.diff(noise, append=0),
        "clicks": 2 * noise * np.exp(-40 * (rng.uniform(5, 9) * t % 1)),
    }[name]
    waveform = waveform + rng.uniform(0.5, 2) * rng.standard_normal(2 * RATE)
    if device == "phone":
        waveform = np.convolve(waveform, [0.5, 0.5], "same")
    return rng.uniform(0.01, 0.05) * waveform


def write_recordings(folder):
    """Write recordings and their table, and return the path of the table."""
    rows = []
    for number in range(48):
        label, device = CLASSES[number % 3], ("phone", "recorder")[number // 3 % 2]
        path = f"{label}-{number}.wav"
        waveform = sound(label, device, np.random.default_rng(number))
        soundfile.write(folder / path, waveform, RATE)
        rows.append((path, label, device, "train" if number < 30 else "test"))
    table = pd.DataFrame(rows, columns=["path", "label", "device", "split"])
    table.to_csv(folder / "recordings.csv", index=False)
    return folder / "recordings.csv"


# %% [markdown]
# Then the commands: build the data set, train two seeds of one config in `seed0` and `seed1`, and
# evaluate each.

# %%
SMALL = """
    data.train_split=train data.test_split=test data.batch_size=12
    features.sample_rate=16000 features.n_fft=512 features.win_length=512 features.hop_length=400
    features.n_mels=32 features.f_max=8000.0 augment.freq_mask.max_width=4
    augment.freq_mixstyle.p=0.0 model.width=8 schedule.peak_lr=0.02 schedule.warmup_steps=5
    train.n_epochs=10 train.eval_every_epochs=5 train.n_seeds=2
"""


def asc_jax(*words):
    """Run the command `asc-jax` in a process of its own and print what it says."""
    command = [sys.executable, "-m", "asc_jax", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout)
    if done.returncode:
        raise RuntimeError(done.stderr)


if not RUNS:
    folder = Path(tempfile.mkdtemp(prefix="reading_runs_"))
    data, runs = folder / "data", folder / "runs"
    inputs = ["--layout", "table", "--input_table", write_recordings(folder)]
    asc_jax("prepare-data", *inputs, "--data_dir", data, "--sample_rate", RATE)
    values = [f"--config.{value}" for value in [*SMALL.split(), f"data.dir={data}"]]
    asc_jax("train", "--config", "base.py", *values, "--workdir", runs)
    RUNS = {f"seed {seed}": runs / f"seed{seed}" for seed in (0, 1)}
    for workdir in RUNS.values():
        asc_jax("eval", "--workdir", workdir, "--nosounds")
RUNS = {name: Path(workdir) for name, workdir in RUNS.items()}
first, second = RUNS

# %% [markdown]
# ## Learning curves: `metrics.jsonl`
#
# One JSON object a line; `kind` says what it is of.

# %%
metrics = pd.concat(
    {name: pd.read_json(path / "metrics.jsonl", lines=True) for name, path in RUNS.items()},
    names=["run", "line"],
).reset_index("run")
print(metrics.groupby(["run", "kind"]).last().to_string())

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3), layout="constrained")
left.set(xlabel="epoch", ylabel="training loss, nats per clip")
right.set(xlabel="epoch", ylabel="test macro accuracy, %")
for name, lines in metrics.groupby("run"):
    train, test = (lines[lines["kind"] == kind] for kind in ("train", "test"))
    left.plot(train["epoch"], train["loss"], marker=".", label=name)
    right.plot(test["epoch"], 100 * test["macro_accuracy"], marker=".", label=name)
    left.legend()

# %% [markdown]
# ## Figures: `results.json`
#
# Accuracies are fractions; `intervals` has the bounds that hold 95 %, and null where none can be
# given. An interval of one run says how other clips would change the figure, not how another seed
# would.

# %%
results = {name: json.loads((path / "results.json").read_text()) for name, path in RUNS.items()}
rows = {}
for name, result in results.items():
    figures = result[result["stored_dtype"]]
    interval = result["intervals"]["macro_accuracy"] or {"low": None, "high": None}
    rows[name] = {
        "macro accuracy": figures["macro_accuracy"],
        "low": interval["low"],
        "high": interval["high"],
        "log loss": figures["log_loss"],
        "MACs": result["complexity"]["macs"],
        "bytes": result["complexity"]["bytes"],
        "epoch": result["epoch"],
    }
print(pd.DataFrame.from_dict(rows, orient="index").to_string())

# %% [markdown]
# Accuracy by class and by device.

# %%
by_class, by_group = {}, {}
for name, result in results.items():
    figures = result[result["stored_dtype"]]
    groups = figures["groups"][GROUP]["values"]
    by_class[name] = {label: row["accuracy"] for label, row in figures["classes"].items()}
    by_group[name] = {value: row["accuracy"] for value, row in groups.items()}
by_class, by_group = pd.DataFrame(by_class), pd.DataFrame(by_group)
print(by_class.to_string())

figure, axes = plt.subplots(1, 2, figsize=(10, 3), sharey=True, layout="constrained")
axes[0].set_ylabel("accuracy, %")
for axis, accuracy in zip(axes, (by_class, by_group), strict=True):
    (100 * accuracy.astype(float)).plot.bar(ax=axis, width=0.8)

# %% [markdown]
# ## Predictions: `output.csv` and `truth.csv`
#
# Both are separated by tabs and have a row for each clip: the predicted class with the
# probabilities of all classes, and the true class with the recording and the groups.

# %%
clips = {}
for name, path in RUNS.items():
    predicted = pd.read_csv(path / "output.csv", sep="\t").set_index("filename")
    truth = pd.read_csv(path / "truth.csv", sep="\t").set_index("filename")
    clips[name] = truth.join(predicted)
    clips[name]["correct"] = clips[name]["scene_label"] == clips[name]["label"]
print(clips[first][["label", "scene_label", "recording", GROUP, "correct"]].head().to_string())

# %% [markdown]
# Confusion of the first run: rows are true classes, columns predicted ones, in % of the row.

# %%
confusion = pd.crosstab(clips[first]["label"], clips[first]["scene_label"], normalize="index")
print((100 * confusion).round().astype(int).to_string())

# %% [markdown]
# ## Two seeds compared
#
# On how many clips are both correct, or only one? The two runs differ in nothing but the seed, so
# what they disagree on is seed variance.

# %%
both = clips[first][["recording"]].assign(
    first=clips[first]["correct"], second=clips[second]["correct"]
)
print(pd.crosstab(both["first"], both["second"], normalize="all").round(3).to_string())

# %% [markdown]
# The clips of one recording are correct or wrong together. So the difference is averaged over each
# recording first, and recordings are resampled, not clips.

# %%
difference = both["second"].astype(float) - both["first"].astype(float)
of_recordings = difference.groupby(both["recording"]).mean().to_numpy()
rng = np.random.default_rng(0)
means = rng.choice(of_recordings, (2000, len(of_recordings))).mean(axis=1)
low, high = 100 * np.percentile(means, [2.5, 97.5])
print(f"{second} minus {first}: {100 * difference.mean():+.1f} points, {low:+.1f} … {high:+.1f}")

# %% [markdown]
# `asc-jax compare RUN RUN` does this as it should be done: stratified by class, with a paired test,
# for every class and group, on a page. Where several devices recorded one moment, as in TAU, such
# moments are resampled. A statement about two configs takes three seeds or more of each:
# `docs/evaluation.md`.
