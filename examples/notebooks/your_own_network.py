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
# # Your own network
#
# A network is a Flax module in a file of yours, which a config names as `my_module:MyNet`. Nothing
# of the package has to be changed. This notebook writes one, counts its multiply-accumulates
# (MACs), trains it, loads it again, and exports it.
#
# The clips are synthetic and the front end is small: about a minute on a CPU. All files lie in
# a temporary folder.

# %%
import importlib
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from ml_collections import ConfigDict

import asc_jax
from asc_jax import complexity, experiment, features
from asc_jax.cli.config_flag import read_config
from asc_jax.data.clips import from_arrays
from asc_jax.evaluation.evaluate import make_evaluator
from asc_jax.export.run import export_run
from asc_jax.training import loop
from asc_jax.training.workdir import run_config

folder = Path(tempfile.mkdtemp(prefix="your_own_network_"))
print("files of this notebook:", folder)

# %% [markdown]
# ## The network
#
# It is written into a file, because a trained run keeps the network's name only: whatever opens the
# run later imports it by that name. (A cell that begins with `%%writefile my_module.py` does the
# same.)
#
# `__call__(log_mel, train)` takes `[b, n_mels, n_frames, 1]` and returns logits `[b, n_classes]`.
# The attributes are the values of the config's section `model`.

# %%
(folder / "my_module.py").write_text('''\
"""A network for sounds that are told apart by their spectrum."""

import flax.linen as nn

from asc_jax.models.layers import BatchNorm


class MyNet(nn.Module):
    """Two strided convolutions, the mean over time and bands, and a dense layer."""

    width: int = 16
    n_classes: int = 3
    axis_name: str | None = None

    @nn.compact
    def __call__(self, log_mel, train, mask=None):
        x = log_mel
        for number, channels in enumerate((self.width, 2 * self.width)):
            x = nn.Conv(channels, (5, 3), (4, 2), use_bias=False, name=f"conv{number}")(x)
            x = BatchNorm(axis_name=self.axis_name, name=f"norm{number}")(x, train, mask)
            x = nn.relu(x)
        return nn.Dense(self.n_classes, name="head")(x.mean(axis=(1, 2)))
''')
sys.path.insert(0, str(folder))  # commands find the modules of the folder they are run in
my_module = importlib.import_module("my_module")

# %% [markdown]
# ## Count it
#
# `count_macs` counts any JAX function from the shapes of its arguments. Nothing is computed.

# %%
front_end = {
    "sample_rate": 16_000,  # Hz
    "n_fft": 512,
    "win_length": 512,
    "hop_length": 320,
    "n_mels": 40,
    "f_min": 0.0,
    "f_max": 8000.0,
}
n_frames = features.n_frames(16_000, **front_end)
clip = jax.ShapeDtypeStruct((1, front_end["n_mels"], n_frames, 1), jnp.float32)
network = my_module.MyNet()
key = jax.random.key(0)
shapes = jax.eval_shape(lambda key, x: network.init(key, x, train=False), key, clip)
count = complexity.count_macs(lambda v, x: network.apply(v, x, train=False), shapes, clip)
for layer, macs in count.by_layer.items():
    print(f"{layer:<8} {macs:>10,}")
print(f"{'total':<8} {count.total:>10,} MACs of 30,000,000")

# %% [markdown]
# ## Clips
#
# Three classes of synthetic sounds at 16 kHz, in arrays. `asc-jax prepare-data` makes a data set of
# recordings; `open_split("data/own", "train")` of `asc_jax.data.clips` then takes the place of
# `from_arrays`.

# %%
CLASSES = ("hum", "hiss", "clicks")
RATE = front_end["sample_rate"]


def sound(name, rng):
    """Return one second of a class, `[RATE]` float32."""
    t = np.arange(RATE) / RATE
    noise = rng.standard_normal(RATE)
    if name == "hum":
        pitch = rng.uniform(90, 180)
        waveform = sum(np.sin(2 * np.pi * n * pitch * t) / n for n in range(1, 6))
    elif name == "hiss":
        waveform = np.diff(noise, append=0)
    else:
        waveform = 4 * noise * np.exp(-60 * (rng.uniform(5, 9) * t % 1))
    return (rng.uniform(0.02, 0.2) * (waveform + 0.3 * noise)).astype(np.float32)


def make_clips(n_clips, seed):
    """Return audio `[n_clips, RATE]` and labels `[n_clips]`."""
    rng = np.random.default_rng(seed)
    label = np.arange(n_clips) % len(CLASSES)
    return np.stack([sound(CLASSES[number], rng) for number in label]), label


audio, label = make_clips(96, seed=0)
test_audio, test_label = make_clips(30, seed=1)
log_mel = np.asarray(features.log_mel(audio[:3], **front_end))
figure, axes = plt.subplots(1, 3, figsize=(9, 2.5), sharey=True, layout="constrained")
for axis, picture, name in zip(axes, log_mel, CLASSES, strict=True):
    axis.imshow(picture[..., 0], origin="lower", aspect="auto", extent=(0, 1, 0, len(picture)))
    axis.set_title(name)
    axis.set_xlabel("seconds")

# %% [markdown]
# ## A config that names it
#
# The section `model` holds the network's name and attributes. For training from the command line,
# the same lines stand in `get_config()` of a config file.

# %%
config = read_config("base.py", []).unlock()
config.labels = ConfigDict({"classes": CLASSES, "groups": {}})
config.features.update(front_end)
config.model = ConfigDict({"name": "my_module:MyNet", "width": 12})
config.augment = ConfigDict({"mask": {"name": "freq_mask", "max_width": 6}})
config.data.batch_size = 16
config.schedule.peak_lr = 0.01
config.schedule.warmup_steps = 5
config.train.n_epochs = 8
config.lock()

parts = experiment.make(config)  # a wrong value, or a network over the limits, is an error here
print(f"{parts.cost['macs']:,} MACs, {parts.cost['n_params']:,} parameters, within the limits")

# %% [markdown]
# ## Train it

# %%
workdir = folder / "run"
run_config.save(workdir, "your_own_network", config)
trained = loop.fit(
    parts,
    from_arrays(audio, label),
    from_arrays(test_audio, test_label),
    workdir,
    make_evaluator=make_evaluator,
    **config.train,
)

# %% [markdown]
# ## Load it again
#
# The run is opened by its folder. The confusion matrix counts test clips: rows are true classes,
# columns predicted ones.

# %%
run = asc_jax.load_run(workdir)
predicted = run.apply(test_audio).argmax(axis=1)
confusion = np.zeros((3, 3), int)
np.add.at(confusion, (test_label, predicted), 1)
print(CLASSES)
print(confusion)
print("kernel of the first convolution:", run.variables["params"]["conv0"]["kernel"].shape)

# %% [markdown]
# ## Convert it
#
# StableHLO needs no further package, and the C header neither; `"onnx"` and `"litert"` need
# the extra `interop`. What is written is run and compared with the network first.
# `asc-jax convert --to stablehlo --workdir RUN`, run in the folder of `my_module.py`, does the
# same.

# %%
print("\n".join(export_run(workdir, "stablehlo")))

# %% [markdown]
# ## Where to go from here
#
# `docs/extend.md` has the rules for networks, losses, augmentations and optimisers of your own;
# `docs/export.md` and `docs/quantisation.md` say what else a network can be converted to.
