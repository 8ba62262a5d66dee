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
import math
import zlib
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from asc_jax.errors import UserError, expect
from asc_jax.features import augment, impulse_responses
from asc_jax.features.front_end import jittered_bands, log_compress, mel_power, normalise
from asc_jax.features.per_clip import clip_by_clip
from asc_jax.types import Array, Batch

STAGES = ("waveform", "mel_power", "log_mel")
TARGETS, MIXED = "label,teacher_logits", "mixed_"
NO_TARGETS = {"audio", "mask", "batch_row", "mel_power", "log_mel"}  # of a batch
NORM, JITTER = ("norm_mean", "norm_std"), ("f_min_jitter", "f_max_jitter")
# These draw by the keys that they had before augmentations had names, so that runs which were
# started then resume to the same bits: the name → positions in a sixfold split of the step's key.
FIRST_KEYS = {"time_roll": 0, "freq_mask": 1, "time_mask": 2, "freq_mixstyle": slice(3, 6)}


class MissingColumn(UserError, KeyError):
    """A column that the clips do not have; which they have is known when a step is made."""


@dataclasses.dataclass(frozen=True)
class Context:
    """Further things that an augmentation may need.

    sample_rate: of the audio, Hz. axis_name: the replica axis under pmap, None without it.
    arrays: what the augmentation's `arrays` function has loaded. groups: for an `arrays` function,
    the names of the values of each group column, such as the devices.
    """

    sample_rate: int
    axis_name: str | None = None
    arrays: Mapping[str, Array] = dataclasses.field(default_factory=dict)
    groups: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

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
        try:
            changed = self.fn(_key_of(key, self.label, self.n_keys), batch, **keywords)
        except MissingColumn as error:
            raise MissingColumn(f"config.augment.{self.label}.{error}") from error
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
        such as a bank of impulse responses; it is called when a run is started or resumed, and
        the arrays are in `context.arrays`. It may have a parameter `context`, too. A run is resumed
        with the same arrays only: those of an entry `identity`, if there is one, or else all.
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
      features_config: keywords of `features.log_mel`. Where it has a jitter, one draw of the edges
        of the mel bands serves the whole batch.
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
    of_power, norm = _split(features_config, key, batch["audio"].dtype)
    power = clip_by_clip(lambda clip: mel_power(clip[None], **of_power)[0], batch["audio"])
    batch = augmented("mel_power", {**batch, "mel_power": power})
    log_mel = normalise(log_compress(batch["mel_power"]), **norm)
    return augmented("log_mel", {**batch, "log_mel": log_mel})


def _split(features_config: Mapping, key: Array, dtype) -> tuple[dict, dict]:
    """Return the keywords of `mel_power`, with edges drawn for this step, and of `normalise`."""
    of_power = dict(features_config)
    norm = {name: of_power.pop(name) for name in NORM if name in of_power}
    jitter = {name: of_power.pop(name, 0) for name in JITTER}
    if any(jitter.values()):
        own = _key_of(key, "mel_jitter", 1)
        of_power["bands_of"] = jittered_bands(own, **jitter, **of_power, dtype=dtype)
    return of_power, norm


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


def load_impulse_responses(
    *, dir: str, p: float, column: str = "", column_values: str = "", context: Context
) -> dict:
    """Return what `device_impulse_response` reads; nothing where `p` is 0."""
    expect("p", p, 0 <= p <= 1, "in [0, 1]")
    if p == 0:
        return {}
    chosen = impulse_responses.chosen_values(column, column_values, context.groups)
    return impulse_responses.load_bank(dir, context.sample_rate) | chosen


@augmentation("waveform", arrays=load_impulse_responses)
def device_impulse_response(
    key: Array,
    batch: Batch,
    *,
    dir: str,
    p: float,
    column: str = "",
    column_values: str = "",
    context: Context,
) -> Batch:
    """Convolve clips with impulse responses of microphones, each with one of its own.

    By the label of its section it runs before or after `time_roll`: "device_impulse_response" and
    "dir" before.

    Args:
      dir: folder of wav files; see `impulse_responses.load_bank`.
      p: probability that a clip is convolved, [0, 1].
      column: group column whose `column_values` restrict it, such as "device".
      column_values: names, commas between, such as "a"; "" for all clips.

    Source: see `impulse_responses.convolve`.
    """
    if p == 0:
        return batch
    audio, bank = batch["audio"], context.arrays["bank"]
    keys = clip_keys(key, batch["batch_row"])
    apply, which = impulse_responses.draw(keys, len(bank), p)
    if column_values:
        number, chosen = batch[f"{column}_id"], jnp.asarray(context.arrays["chosen"])
        apply &= (number >= 0) & chosen[jnp.maximum(number, 0)]
    convolved = impulse_responses.convolve(audio, bank.astype(audio.dtype), apply, which)
    return {**batch, "audio": convolved}


@augmentation("mel_power")
def freq_mask(key: Array, batch: Batch, *, max_width: int) -> Batch:
    """Zero one band of fewer than `max_width` mel bins of each clip; 0 is identity."""
    return _masked(augment.freq_mask, key, batch, max_width, axis=1, unit="n_mels")


@augmentation("mel_power")
def time_mask(key: Array, batch: Batch, *, max_width: int) -> Batch:
    """Zero fewer than `max_width` consecutive frames of each clip; 0 is identity."""
    return _masked(augment.time_mask, key, batch, max_width, axis=2, unit="n_frames")


@augmentation("log_mel")
def log_freq_mask(key: Array, batch: Batch, *, max_width: int, value: float = 0.0) -> Batch:
    """Set one band of fewer than `max_width` mel bins of each clip to `value` after the logarithm.

    max_width: 0 is identity. value: in the network's input, so after `features.norm_mean` and
    `norm_std`: log-mel 0, which CP-Mobile 2023 masks with, is 0.9 with its norm of -4.5 and 5.
    """
    log_mel = batch["log_mel"]
    n_mels = log_mel.shape[1]
    expect("max_width", max_width, 0 <= max_width <= n_mels, f"in 0 … {n_mels} (n_mels)")
    expect("value", value, math.isfinite(value), "a finite number")
    keys = clip_keys(key, batch["batch_row"])
    masked = augment.freq_mask(keys, log_mel[..., 0], max_width=max_width, value=value)
    return {**batch, "log_mel": masked[..., None]}


@augmentation("mel_power", n_keys=2)
def filter_augment(
    key: Array,
    batch: Batch,
    *,
    max_db: float,
    kind: str = "step",
    min_bands: int = 2,
    max_bands: int = 4,
    min_width: int = 6,
) -> Batch:
    """Change the level of a few mel bands, as another microphone or room would.

    The bands are drawn once for the batch, their gains for each clip.

    Args:
      max_db: a gain is drawn evenly from ±max_db decibels; 0 is identity.
      kind: "step", one gain for each band, or "linear", interpolated in dB between the gains of
        the bands' edges.
      min_bands, max_bands: the number of bands is one of these or between.
      min_width: mel bins that a band has at least.

    Source: FilterAugment (Nam et al., ICASSP 2022).
    """
    power = batch["mel_power"]
    n_mels = power.shape[1]
    expect("max_db", max_db, 0 <= max_db < math.inf, "at least 0")
    expect("kind", kind, kind in ("step", "linear"), "step or linear")
    expect("min_bands", min_bands, 1 <= min_bands <= max_bands, f"in 1 … {max_bands} (max_bands)")
    fits = min_width >= 1 and max_bands * min_width <= n_mels
    expect("min_width", min_width, fits, f"at least 1, max_bands of them in {n_mels} mel bands")
    if max_db == 0:
        return batch
    of_bands, of_gains = key
    limits = {"min_bands": min_bands, "max_bands": max_bands, "min_width": min_width}
    edges = augment.band_edges(of_bands, n_mels, **limits)
    keys = clip_keys(of_gains, batch["batch_row"])
    shape, dtype = (max_bands + 1,), power.dtype
    db = jax.vmap(lambda k: jax.random.uniform(k, shape, dtype, -max_db, max_db))(keys)
    db = augment.filter_gains(edges, db, n_mels, linear=kind == "linear")
    return {**batch, "mel_power": power * (10 ** (db / 10))[:, :, None]}


def _masked(mask: Callable, key: Array, batch: Batch, max_width: int, axis: int, unit: str):
    power = batch["mel_power"]
    n_bins = power.shape[axis]
    expect("max_width", max_width, 0 <= max_width <= n_bins, f"in 0 … {n_bins} ({unit})")
    masked = mask(clip_keys(key, batch["batch_row"]), power, max_width=max_width)
    return {**batch, "mel_power": masked}


@augmentation("log_mel", n_keys=3)
def freq_mixstyle(
    key: Array,
    batch: Batch,
    *,
    p: float,
    alpha: float,
    per_batch: bool = False,
    context: Context,
) -> Batch:
    """Mix the band statistics of the clips of a batch, with one coin for the whole batch.

    Args:
      p: probability that the batch is mixed, [0, 1].
      alpha: both parameters of the Beta distribution of a clip's own fraction, > 0.
      per_batch: draw one fraction for the whole batch, as TF-SepNet's training does.

    Source: see `augment.mix_band_statistics`.
    """
    expect("p", p, 0 <= p <= 1, "in [0, 1]")
    expect("alpha", alpha, 0 < alpha < math.inf, "above 0 and finite")
    if p == 0:
        return batch
    (coin, partner, fraction), log_mel = key, batch["log_mel"]
    mask = context.gather(batch["mask"])
    everywhere = jnp.arange(len(mask))
    mixed = augment.freq_mixstyle(
        log_mel,
        apply=jax.random.uniform(coin, (), jnp.float32) < p,
        lam=_shares(fraction, everywhere, alpha, per_batch, log_mel.dtype),
        partners=augment.mixstyle_partners(clip_keys(partner, everywhere), mask),
        statistics=context.gather(augment.band_statistics(log_mel)),
        offset=batch["batch_row"][0],
    )
    return {**batch, "log_mel": mixed}


def _shares(key: Array, rows: Array, alpha: float, per_batch: bool, dtype) -> Array:
    """Return `[b]` draws of Beta(alpha, alpha), for each row its own or one for all."""
    if per_batch:
        return jnp.full(rows.shape, jax.random.beta(key, alpha, alpha, dtype=dtype))
    return augment.mixstyle_shares(clip_keys(key, rows), alpha=alpha, dtype=dtype)


@augmentation("log_mel", n_keys=3)
def mixup(
    key: Array,
    batch: Batch,
    *,
    p: float,
    alpha: float,
    per_batch: bool = True,
    targets: str = TARGETS,
    context: Context,
) -> Batch:
    """Mix the log-mels of a batch two by two, and give the loss what the partners' targets are.

    The batch gets `mix_weight [b]`, the fraction of the clip itself, and for each of the targets
    the partner's rows as `mixed_<name>`. Of these `training.mixed_loss` makes the weighted mean of
    the loss with the clip's own targets and that with its partner's, whatever the loss is.

    Args:
      p: probability that the batch is mixed, [0, 1].
      alpha: both parameters of the Beta distribution of a clip's own fraction, > 0.
      per_batch: draw one fraction for the whole batch, otherwise one for each clip.
      targets: columns that the loss compares the logits with, commas between. Of the default
        those that there are.

    Source: Zhang et al., "mixup: beyond empirical risk minimization" (ICLR 2018).
    """
    expect("p", p, 0 <= p <= 1, "in [0, 1]")
    expect("alpha", alpha, 0 < alpha < math.inf, "above 0 and finite")
    if p == 0:
        return batch
    if "mix_weight" in batch:
        raise UserError("two sections of config.augment are mixup: leave one out")
    names = [name.strip() for name in targets.split(",")]
    names = [name for name in names if targets != TARGETS or name in batch]
    for name in names:
        if name not in batch:
            columns = ", ".join(sorted(batch.keys() - NO_TARGETS))
            raise MissingColumn(f"targets has {name!r}, expected some of {columns}, commas between")
    (coin, partner, fraction), log_mel = key, batch["log_mel"]
    apply = jax.random.uniform(coin, (), jnp.float32) < p
    mask, here = context.gather(batch["mask"]), batch["batch_row"]
    partners = augment.mixstyle_partners(clip_keys(partner, jnp.arange(len(mask))), mask)[here]
    weight = _shares(fraction, here, alpha, per_batch, log_mel.dtype)
    weight = jnp.where(apply, weight, 1)
    everywhere = context.gather({name: batch[name] for name in ("log_mel", *names)})
    other = {name: rows[partners] for name, rows in everywhere.items()}
    of_clip = weight[:, None, None, None]
    mixed = jnp.where(apply, of_clip * log_mel + (1 - of_clip) * other["log_mel"], log_mel)
    targets_of_partners = {f"{MIXED}{name}": other[name] for name in names}
    return {**batch, "log_mel": mixed, "mix_weight": weight, **targets_of_partners}


AUGMENTATIONS = {
    "device_impulse_response": device_impulse_response,
    "filter_augment": filter_augment,
    "log_freq_mask": log_freq_mask,
    "mixup": mixup,
    "time_roll": time_roll,
    "freq_mask": freq_mask,
    "time_mask": time_mask,
    "freq_mixstyle": freq_mixstyle,
}
