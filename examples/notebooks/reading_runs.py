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
# A run is a folder of plain files. This notebook reads those of two seeds into pandas, plots them and
# compares them: the learning curves (`metrics.jsonl`), the figures (`results.json`) and the
# predictions (`output.csv`, `truth.csv`). `docs/files.md` and `docs/evaluation.md` describe the files.
#
# Put evaluated runs of your own into `RUNS`, or leave it empty: then two small runs are trained on
# synthetic scenes first, in about a minute, in a temporary folder.

# %%
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

RUNS = {}  # such as {"seed 0": "runs/mine/seed0", "seed 1": "runs/mine/seed1"}


def asc_jax(*words):
    """Run the command `asc-jax` in a process of its own and print what it says."""
    done = subprocess.run([sys.executable, "-m", "asc_jax", *words], capture_output=True, text=True)
    print(done.stdout)
    if done.returncode:
        raise RuntimeError(done.stderr)


# %% [markdown]
# ## Two runs
#
# These are the commands of the quick start, on fewer clips and with a small network.
# `--config.train.n_seeds=2` trains two seeds of one config, in `seed0` and `seed1`.

# %%
if not RUNS:
    folder = Path(tempfile.mkdtemp(prefix="reading_runs_"))
    data, runs = f"{folder}/data", f"{folder}/runs"
    size = ["--n_train_segments", "2", "--n_test_segments", "1"]
    asc_jax("synthesize", "--out_dir", f"{data}/scenes", *size)
    built = ["--tau_dir", f"{data}/scenes", "--data_dir", data]
    asc_jax("prepare-data", *built, "--splits", "100,test")
    small = [
        "--config.features.n_fft=2048",
        "--config.features.win_length=2048",
        "--config.features.hop_length=2000",
        "--config.features.n_mels=32",
        "--config.augment.freq_mask.max_width=6",
        "--config.model.width=8",
        "--config.schedule.peak_lr=0.02",
        "--config.schedule.warmup_steps=5",
        "--config.train.n_epochs=6",
        "--config.train.eval_every_epochs=3",
        "--config.train.n_seeds=2",
    ]
    where = [f"--config.data.dir={data}", "--workdir", runs]
    asc_jax("train", "--config", "demo.py", *small, *where)
    RUNS = {f"seed {seed}": f"{runs}/seed{seed}" for seed in (0, 1)}
    for workdir in RUNS.values():
        asc_jax("eval", "--workdir", workdir, "--nosounds")
RUNS = {name: Path(workdir) for name, workdir in RUNS.items()}

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
for name, lines in metrics.groupby("run"):
    train, test = (lines[lines["kind"] == kind] for kind in ("train", "test"))
    left.plot(train["epoch"], train["loss"], marker=".", label=name)
    right.plot(test["epoch"], 100 * test["macro_accuracy"], marker=".", label=name)
left.set(xlabel="epoch", ylabel="training loss, nats per clip")
right.set(xlabel="epoch", ylabel="test macro accuracy, %")
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
    interval = result["intervals"]["macro_accuracy"]
    rows[name] = {
        "macro accuracy": figures["macro_accuracy"],
        "95 % interval": interval and " … ".join(f"{bound:.3f}" for bound in interval),
        "log loss": figures["log_loss"],
        "MACs": result["complexity"]["macs"],
        "bytes": result["complexity"]["bytes"],
        "epoch": result["epoch"],
    }
table = pd.DataFrame(rows).T
print(table.to_string())

# %% [markdown]
# Accuracy by class and by device:

# %%
def accuracies(part):
    """Return the accuracies of a part of the figures, `{name: {…, "accuracy"}}`, by run."""
    return pd.DataFrame(
        {
            name: {key: value["accuracy"] for key, value in part(result).items()}
            for name, result in results.items()
        },
        dtype=float,
    )


by_class = accuracies(lambda result: result[result["stored_dtype"]]["classes"])
by_device = accuracies(lambda r: r[r["stored_dtype"]]["groups"]["device"]["values"])
figure, axes = plt.subplots(1, 2, figsize=(11, 3), sharey=True, layout="constrained")
for axis, accuracy in zip(axes, (by_class, by_device), strict=True):
    (100 * accuracy).plot.bar(ax=axis, width=0.8)
axes[0].set_ylabel("accuracy, %")

# %% [markdown]
# ## Predictions: `output.csv` and `truth.csv`
#
# Both are separated by tabs and have a row for each clip: the predicted class with the probabilities
# of all classes, and the true class with the recording and the groups.

# %%
clips = {}
for name, path in RUNS.items():
    predicted = pd.read_csv(path / "output.csv", sep="\t").set_index("filename")
    truth = pd.read_csv(path / "truth.csv", sep="\t").set_index("filename")
    clips[name] = truth.join(predicted)
    clips[name]["correct"] = clips[name]["scene_label"] == clips[name]["label"]
first, second = clips
print(clips[first][["label", "scene_label", "recording", "device", "correct"]].head().to_string())

# %% [markdown]
# Confusion of the first run: rows are true classes, columns predicted ones, in % of the row.

# %%
confusion = pd.crosstab(clips[first]["label"], clips[first]["scene_label"], normalize="index")
print((100 * confusion).round().astype(int).to_string())

# %% [markdown]
# ## Two seeds against each other
#
# On how many clips do they agree? The two differ in nothing but the seed, so what they disagree on
# is seed variance.

# %%
both = clips[first].join(clips[second], lsuffix=" 1", rsuffix=" 2", validate="one_to_one")
print(pd.crosstab(both["correct 1"], both["correct 2"], normalize="all").round(3).to_string())

# %% [markdown]
# The clips of one moment, recorded by several devices, are correct or wrong together. So the
# difference of the accuracies is averaged over such moments first, and the moments are resampled.
# In names of TAU's form a moment is all that comes before the number of the clip.

# %%
moment = both.index.str.rsplit("-", n=2).str[0]
difference = both["correct 2"].astype(float) - both["correct 1"].astype(float)
of_moments = difference.groupby(moment).mean().to_numpy()
rng = np.random.default_rng(0)
means = rng.choice(of_moments, (2000, len(of_moments))).mean(axis=1)
low, high = np.percentile(means, [2.5, 97.5])
print(f"{second} - {first}: {100 * difference.mean():+.1f} points, 95 % {100 * low:+.1f} … "
      f"{100 * high:+.1f}, {len(of_moments)} moments")

# %% [markdown]
# `asc-jax compare RUN RUN` does this as it should be done: stratified by class, with a paired test,
# for every class and device, on a page. Three seeds or more on each side are needed for a statement
# about two configs: `docs/evaluation.md`.
