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
# # First look
#
# One second of sound goes in, the name of a scene comes out. This notebook follows clips all
# the way: its log-mel picture, augmentation, a network and what it costs, a short training, and a
# prediction. The clips are synthetic, the network is small, and all of it takes about a minute
# on a CPU.
#
# Nothing is downloaded. What the training writes lies in a temporary folder.

# %%
import json
import tempfile
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

import asc_jax
from asc_jax import experiment, features
from asc_jax.cli.config_flag import read_config
from asc_jax.data.clips import from_arrays
from asc_jax.data.synthetic import devices, mixtures
from asc_jax.data.tau.taxonomy import DEVICES
from asc_jax.evaluation.evaluate import make_evaluator
from asc_jax.features.augmentation import training_input
from asc_jax.training import loop
from asc_jax.training.workdir import run_config

print("asc_jax", asc_jax.__version__, "on", jax.devices())

# %% [markdown]
# ## Clips
#
# `mixtures.render` makes ten seconds of a scene at a place, and `devices.record` what a microphone
# stores of them at 44.1 kHz. They are resampled to 32 kHz and cut into clips of one second. Of the
# challenge's ten scenes five are taken. For training, two devices record three places of each; for
# testing, one of them records two others. Recordings of your own take this form too:
# `audio [n_clips, n_samples]` and `label [n_clips]`.

# %%
SCENES = ("bus", "metro_station", "park", "street_traffic", "tram")
RATE = 32_000  # Hz


def record(scene, place, device, n_clips):
    """Return clips of a synthetic scene, `[n_clips, RATE]` float32."""
    number = 10 * place + SCENES.index(scene)
    segment = mixtures.Segment(scene, "lisbon", location=number, number=number)
    noise = np.random.default_rng((number, DEVICES.index(device)))
    waveform = devices.record(mixtures.render(segment, seed=0), device, noise)
    clips = waveform[: n_clips * 44_100].reshape(n_clips, 44_100)
    return np.asarray(features.resample(clips, 44_100, RATE))


def split(places_and_devices, n_clips):
    """Return clips of all scenes, and their labels and devices as numbers."""
    audio, label, device_id = [], [], []
    for number, scene in enumerate(SCENES):
        for place, device in places_and_devices:
            audio.append(record(scene, place, device, n_clips))
            label += [number] * n_clips
            device_id += [DEVICES.index(device)] * n_clips
    return np.concatenate(audio), np.array(label), np.array(device_id)


audio, label, device_id = split([(1, "a"), (2, "b"), (3, "a")], n_clips=8)
test_audio, test_label, test_device_id = split([(4, "a"), (5, "a")], n_clips=4)
print("training:", audio.shape, "testing:", test_audio.shape)

# %% [markdown]
# ## A config
#
# A config holds every value of a run. `read_config` takes the same names and overrides as the
# command `asc-jax train --config`; `asc-jax config show demo.py` lists them all. This is the demo's
# config with a small front end and a narrow network.

# %%
config = read_config(
    "demo.py",
    [
        "--config.features.n_fft=2048",
        "--config.features.win_length=2048",
        "--config.features.hop_length=1000",
        "--config.features.n_mels=64",
        "--config.augment.freq_mask.max_width=12",
        "--config.model.width=8",
        "--config.data.batch_size=12",
        "--config.schedule.peak_lr=0.02",
        "--config.schedule.warmup_steps=10",
    ],
)
with config.unlocked():
    config.labels.classes = SCENES  # a data set on disk brings its own
parts = experiment.make(config)  # checks every value and binds network, loss, augmentation
print(config.features)

# %% [markdown]
# ## Log-mel pictures
#
# Time runs to the right, frequency upwards, and a bright point is a loud one. This is all that the
# network gets to see.

# %%
log_mel = np.asarray(features.log_mel(audio, **config.features))  # [n_clips, n_mels, n_frames, 1]


def show(axis, picture, title):
    axis.imshow(picture[..., 0], origin="lower", aspect="auto", extent=(0, 1, 0, picture.shape[0]))
    axis.set_title(title, fontsize=9)


figure, axes = plt.subplots(1, 5, figsize=(10, 2.5), sharex=True, sharey=True, layout="constrained")
figure.supxlabel("seconds")
figure.supylabel("mel band")
for number, axis in enumerate(axes.flat):
    show(axis, log_mel[np.flatnonzero(label == number)[0]], SCENES[number].replace("_", " "))

# %% [markdown]
# ## Augmentation
#
# In training no clip is seen twice in the same way. The config has four augmentations: the waveform
# is rolled in time, some mel bands or frames are set to zero, and Freq-MixStyle replaces the mean
# and spread of each band by those of a mixture with another clip, which is how the network learns
# to ignore the microphone. Each draw depends on a key.

# %%
print("augmentations:", ", ".join(each.label for each in parts.augmentations))
some = np.arange(0, 40, 10)
batch = {"audio": audio[some], "label": label[some], "device_id": device_id[some]}
batch["mask"] = np.ones(len(some), bool)  # all rows are clips, none fills the batch up
figure, axes = plt.subplots(2, 4, figsize=(10, 4), sharex=True, sharey=True, layout="constrained")
augmented = training_input(
    jax.random.key(1), batch, augmentations=parts.augmentations, features_config=config.features
)
for column, clip in enumerate(some):
    show(axes[0, column], log_mel[clip], "as recorded")
    show(axes[1, column], np.asarray(augmented["log_mel"][column]), "augmented")

# %% [markdown]
# ## What the network costs
#
# The limits of the challenge are 30 million multiply-accumulates (MACs) for a clip and 128,000
# bytes of parameters. Counting needs no training: the count is read off the program that JAX
# traces, and nothing is computed.

# %%
cost = parts.cost
print(f"this network   {cost['macs']:>12,} MACs {cost['n_params']:>8,} parameters")
full = experiment.make(read_config("demo.py", [])).cost
print(f"the report's   {full['macs']:>12,} MACs {full['n_params']:>8,} parameters")
print(f"the limit      {full['max_macs']:>12,} MACs {full['max_bytes']:>8,} bytes")

figure, axis = plt.subplots(figsize=(8, 2.5), layout="constrained")
axis.set_ylabel("MACs")
axis.bar(cost["macs_by_layer"].keys(), cost["macs_by_layer"].values())
axis.tick_params(axis="x", rotation=90, labelsize=7)

# %% [markdown]
# ## A short training
#
# `loop.fit` trains, evaluates, and saves checkpoints. For other values take another folder: in this
# one a training that was interrupted is continued, and one that is done stays as it is.

# %%
workdir = Path(tempfile.mkdtemp(prefix="first_look_"), "run")
run_config.save(workdir, "first_look", config)
trained = loop.fit(
    parts,
    from_arrays(audio, label, device_id),
    from_arrays(test_audio, test_label, test_device_id),
    workdir,
    make_evaluator=make_evaluator,
    **config.train,
)

# %% [markdown]
# Every epoch is a line of `metrics.jsonl`. Guessing gives an accuracy of 0.2. The accuracy on so
# few test clips says little, and on synthetic scenes nothing about real ones.

# %%
lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
train = [line for line in lines if line["kind"] == "train"]
test = [line for line in lines if line["kind"] == "test"]
figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
axis.plot([line["epoch"] for line in train], [line["loss"] for line in train], marker=".")
axis.set_xlabel("epoch")
axis.set_ylabel("training loss, nats per clip")
print(f"test accuracy after the last epoch: {test[-1]['accuracy']:.2f}")

# %% [markdown]
# ## Predict
#
# `load_run` opens the trained run, here and in any program. `predict` takes a file or a waveform of
# any length and rate.

# %%
run = asc_jax.load_run(workdir)
prediction = run.predict(test_audio[-2:].reshape(-1), rate=RATE)
print("recorded:", SCENES[test_label[-1]], "- predicted:", prediction.label)
for number in np.argsort(-prediction.mean):
    print(f"  {prediction.classes[number]:<18} {prediction.mean[number]:.2f}")

# %% [markdown]
# ## Where to go from here
#
# - `reading_runs.py`: results of finished runs in pandas, and a comparison of two seeds.
# - `your_own_network.py`: a network of your own, counted, trained and converted.
# - `examples/own_sounds`: the same with recordings of your own, from the command line.
