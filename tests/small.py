"""A small front end and network, and clips to train them on, for tests."""

import functools

import numpy as np

from asc_jax.data.clips import from_arrays

SMALL_FLAGS = (  # the same for `train.py`
    "--config.features.n_mels=32",
    "--config.features.hop_length=2000",
    "--config.augment.freq_mask.max_width=8",
    "--config.model.width=8",
    "--config.schedule.warmup_steps=3",
)


def small_config(**overrides):
    """The report's recipe on a small front end and network; `section__key=value` changes it."""
    from configs import base

    config = base.get_config().unlock()
    config.features.n_mels = 32
    config.features.hop_length = 2000
    config.model.width = 8
    config.augment.freq_mask.max_width = 8
    config.loss.gamma = 2.0
    config.schedule.warmup_steps = 3
    config.augment.freq_mixstyle.p = 0.7
    for name, value in overrides.items():
        *sections, key = name.split("__")
        functools.reduce(lambda section, one: section[one], sections, config)[key] = value
    return config.lock()


def noise(n_clips, seed=0):
    """`audio [n, 32000]` whose loudness gives the label, and `label [n]`."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 10, n_clips).astype(np.int32)
    audio = rng.standard_normal((n_clips, 32_000)) * 0.3 ** (1 + label[:, None])
    return audio.astype(np.float32), label


def small_clips(n_clips, seed=0, change=None):
    """Clips of noise; `change(audio)` may spoil them first."""
    audio, label = noise(n_clips, seed)
    if change:
        change(audio)
    return from_arrays(audio, label, np.arange(n_clips) % 9)
