"""The training input: waveform → mel power → log-mel, with augmentations at each of these stages.

An augmentation is a function `(key, batch, **keywords) -> batch` marked with its stage:

    @augmentation("waveform")
    def device_gain(key, batch, *, max_db):
        keys = clip_keys(key, batch["batch_row"])
        ...
        return {**batch, "audio": audio}

It sees the whole batch: `audio [b, n_samples]`, `label [b]`, `mask [b]` (False: padding), every
other numeric column of the data, such as `device_id [b]`, `batch_row [b]` (the row of each clip
in the global batch), and from its stage on `mel_power [b, n_mels, n_frames]` or
`log_mel [b, n_mels, n_frames, 1]`. One that needs to know more has a parameter `context`.
"""

import dataclasses
import zlib
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from asc_jax.errors import UserError, expect
from asc_jax.features import augment
from asc_jax.features.front_end import log_compress, mel_power
from asc_jax.features.per_clip import clip_by_clip
from asc_jax.types import Array, Batch

STAGES = ("waveform", "mel_power", "log_mel")
# These draw by the keys that they had before augmentations had names, so that runs which were
# started then resume to the same bits: the name → positions in a sixfold split of the step's key.
FIRST_KEYS = {"time_roll": 0, "freq_mask": 1, "time_mask": 2, "freq_mixstyle": slice(3, 6)}


@dataclasses.dataclass(frozen=True)
class Context:
    """Further things that an augmentation may need.

    sample_rate: of the audio, Hz. axis_name: the replica axis under pmap, None without it.
    arrays: what the augmentation's `arrays` function has loaded.
    """

    sample_rate: int
    axis_name: str | None = None
    arrays: Mapping[str, Array] = dataclasses.field(default_factory=dict)

    def gather(self, tree):
        """Return the rows of all replicas, one after the other: `[b, …]` → `[global b, …]`."""
        if self.axis_name is None:
            return tree
        return jax.tree.map(lambda x: jax.lax.all_gather(x, self.axis_name, tiled=True), tree)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """An augmentation of a run: a function with its keywords bound.

    label: its section's name in the config, from which its key is made. stage: one of STAGES.
    load_arrays: returns what `Context.arrays` holds; None: nothing.
    """

    label: str
    stage: str
    fn: Callable
    n_keys: int = 1
    takes_context: bool = False
    load_arrays: Callable | None = None

    def __call__(self, key: Array, batch: Batch, context: Context) -> Batch:
        """Return the augmented batch; `key` is the step's."""
        keywords = {"context": context} if self.takes_context else {}
        changed = self.fn(_key_of(key, self.label, self.n_keys), batch, **keywords)
        for name, rows in batch.items():
            if name not in changed or changed[name].shape[:1] != rows.shape[:1]:
                raise UserError(
                    f"config.augment.{self.label} does not return {name} for every clip: expected "
                    "{**batch, …}"
                )
            if name in ("audio", "mel_power", "log_mel") and changed[name].shape != rows.shape:
                raise UserError(
                    f"config.augment.{self.label} makes {name} {changed[name].shape}, expected "
                    f"{rows.shape}"
                )
        return changed


def augmentation(stage: str, *, n_keys: int = 1, arrays: Callable | None = None) -> Callable:
    """Mark a function as an augmentation.

    Args:
      stage: when it runs: "waveform", "mel_power" or "log_mel".
      n_keys: how many keys it draws with; more than one come as an array `[n_keys]`.
      arrays: a function of the augmentation's keywords → dict of arrays that every step reads,
        such as a bank of impulse responses; it is called once a run, and the arrays are in
        `context.arrays`.
    """
    if stage not in STAGES:
        raise ValueError(f"stage is {stage!r}, expected one of {', '.join(STAGES)}")

    def mark(fn: Callable) -> Callable:
        fn.stage, fn.n_keys, fn.load_arrays = stage, n_keys, arrays
        return fn

    return mark


def training_input(
    key: Array,
    batch: Batch,
    arrays: Mapping[str, Mapping] | None = None,
    *,
    augmentations: Sequence[Augmentation],
    features_config: Mapping,
    axis_name: str | None = None,
) -> dict:
    """Return the batch with `log_mel`, and with what the augmentations have changed.

    Args:
      key: this step's key.
      batch: this replica's clips; see the module.
      arrays: by an augmentation's label, its arrays.
      augmentations: in the order in which those of one stage run.
      features_config: keywords of `features.mel_power`.
      axis_name: replica axis, under pmap.
    """
    n_local = batch["audio"].shape[0]
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * n_local
    batch = {**batch, "batch_row": first + jnp.arange(n_local)}

    def augmented(stage: str, batch: Batch) -> Batch:
        for each in augmentations:
            if each.stage == stage:
                own = (arrays or {}).get(each.label, {})
                context = Context(features_config["sample_rate"], axis_name, own)
                batch = each(key, batch, context)
        return batch

    batch = augmented("waveform", batch)
    power = clip_by_clip(lambda clip: mel_power(clip[None], **features_config)[0], batch["audio"])
    batch = augmented("mel_power", {**batch, "mel_power": power})
    return augmented("log_mel", {**batch, "log_mel": log_compress(batch["mel_power"])})


def clip_keys(key: Array, rows: Array) -> Array:
    """Return one key per clip, from its row in the global batch: `[b]` typed keys."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, rows)


def _key_of(key: Array, label: str, n_keys: int) -> Array:
    """Return the key, or `[n_keys]` keys, of an augmentation, from the step's key and its name."""
    first = FIRST_KEYS.get(label)
    if first is not None and n_keys == (3 if isinstance(first, slice) else 1):
        return jax.random.split(key, 6)[first]
    own = jax.random.fold_in(key, zlib.crc32(label.encode()))
    return own if n_keys == 1 else jax.random.split(own, n_keys)


@augmentation("waveform")
def time_roll(key: Array, batch: Batch, *, max_s: float, context: Context) -> Batch:
    """Roll each clip in a circle by up to `max_s` seconds either way; 0 is identity.

    max_s: at least 0, and less than the length of a clip.
    """
    clip_s = batch["audio"].shape[-1] / context.sample_rate
    expect("max_s", max_s, 0 <= max_s < clip_s, f"in [0, {clip_s:g})")
    if max_s == 0:
        return batch
    shifts = augment.roll_shifts(
        clip_keys(key, batch["batch_row"]), max_shift=round(max_s * context.sample_rate)
    )
    return {**batch, "audio": augment.time_roll(batch["audio"], shifts)}


@augmentation("mel_power")
def freq_mask(key: Array, batch: Batch, *, max_width: int) -> Batch:
    """Zero one band of fewer than `max_width` mel bins of each clip; 0 is identity."""
    return _masked(augment.freq_mask, key, batch, max_width, axis=1, unit="n_mels")


@augmentation("mel_power")
def time_mask(key: Array, batch: Batch, *, max_width: int) -> Batch:
    """Zero fewer than `max_width` consecutive frames of each clip; 0 is identity."""
    return _masked(augment.time_mask, key, batch, max_width, axis=2, unit="n_frames")


def _masked(mask: Callable, key: Array, batch: Batch, max_width: int, axis: int, unit: str):
    power = batch["mel_power"]
    n_bins = power.shape[axis]
    expect("max_width", max_width, 0 <= max_width <= n_bins, f"in 0 … {n_bins} ({unit})")
    masked = mask(clip_keys(key, batch["batch_row"]), power, max_width=max_width)
    return {**batch, "mel_power": masked}


@augmentation("log_mel", n_keys=3)
def freq_mixstyle(key: Array, batch: Batch, *, p: float, alpha: float, context: Context) -> Batch:
    """Mix the band statistics of the clips of a batch, with one coin for the whole batch.

    Args:
      p: probability that the batch is mixed, [0, 1].
      alpha: both parameters of the Beta distribution of a clip's own fraction, > 0.

    Source: see `augment.mix_band_statistics`.
    """
    expect("p", p, 0 <= p <= 1, "in [0, 1]")
    expect("alpha", alpha, alpha > 0, "above 0")
    if p == 0:
        return batch
    (coin, partner, fraction), log_mel = key, batch["log_mel"]
    mask = context.gather(batch["mask"])
    everywhere = jnp.arange(len(mask))
    mixed = augment.freq_mixstyle(
        log_mel,
        apply=jax.random.uniform(coin, (), jnp.float32) < p,
        lam=augment.mixstyle_shares(
            clip_keys(fraction, everywhere), alpha=alpha, dtype=log_mel.dtype
        ),
        partners=augment.mixstyle_partners(clip_keys(partner, everywhere), mask),
        statistics=context.gather(augment.band_statistics(log_mel)),
        offset=batch["batch_row"][0],
    )
    return {**batch, "log_mel": mixed}


AUGMENTATIONS = {
    "time_roll": time_roll,
    "freq_mask": freq_mask,
    "time_mask": time_mask,
    "freq_mixstyle": freq_mixstyle,
}
