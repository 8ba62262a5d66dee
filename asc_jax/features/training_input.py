"""From a batch of waveforms to what the network is trained on."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from asc_jax import features
from asc_jax.features import augment
from asc_jax.features.per_clip import clip_by_clip
from asc_jax.types import Array


def augmented_log_mel(
    key: Array,
    waveform: Array,
    mask: Array,
    *,
    features_config: Mapping,
    max_roll_s: float,
    max_freq_mask: int,
    max_time_mask: int,
    mixstyle_p: float,
    mixstyle_alpha: float,
    axis_name: str | None = None,
) -> Array:
    """Roll, mel power, masks, logarithm, Freq-MixStyle: the network's training input.

    Args:
      key: this step's key.
      waveform: `[b, n_samples]`, this replica's clips.
      mask: `[b]` bool, False for padding.
      features_config: keywords of `features.mel_power`.
      max_roll_s: largest roll either way, seconds.
      max_freq_mask: exclusive limit of the masked mel bins.
      max_time_mask: exclusive limit of the masked frames.
      mixstyle_p: probability that a batch is mixed, [0, 1].
      mixstyle_alpha: both parameters of the Beta distribution of the shares.
      axis_name: replica axis, under pmap.

    Returns:
      `[b, n_mels, n_frames, 1]`.
    """
    roll, freq, time, coin, partner, share = jax.random.split(key, 6)
    n_local = waveform.shape[0]
    offset, n_global = _position(n_local, axis_name)
    here = offset + jnp.arange(n_local)
    max_shift = round(max_roll_s * features_config["sample_rate"])
    shifts = augment.roll_shifts(clip_keys(roll, here), max_shift=max_shift)
    power = _rolled_power(waveform, shifts, features_config)
    power = augment.freq_mask(clip_keys(freq, here), power, max_width=max_freq_mask)
    power = augment.time_mask(clip_keys(time, here), power, max_width=max_time_mask)
    log_mel = features.log_compress(power)
    if mixstyle_p == 0:
        return log_mel
    everywhere = jnp.arange(n_global)
    return augment.freq_mixstyle(
        log_mel,
        apply=jax.random.uniform(coin, (), jnp.float32) < mixstyle_p,
        lam=augment.mixstyle_shares(
            clip_keys(share, everywhere), alpha=mixstyle_alpha, dtype=log_mel.dtype
        ),
        partners=augment.mixstyle_partners(
            clip_keys(partner, everywhere), _gather(mask, axis_name)
        ),
        statistics=_gather(augment.band_statistics(log_mel), axis_name),
        offset=offset,
    )


def _rolled_power(waveform: Array, shifts: Array, features_config: Mapping) -> Array:
    """Mel power of the rolled clips; on a CPU a rolled clip never leaves the cache."""

    def of_clip(clip: Array, shift: Array) -> Array:
        rolled = augment.time_roll(clip[None], shift[None])
        return features.mel_power(rolled, **features_config)[0]

    return clip_by_clip(of_clip, waveform, shifts)


def clip_keys(key: Array, positions: Array) -> Array:
    """One key per clip, from its position in the global batch: `[b]` typed keys."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, positions)


def _gather(tree, axis_name):
    """Replicas' rows one after the other: `[b, …]` → `[global b, …]`."""
    if axis_name is None:
        return tree
    return jax.tree.map(lambda x: jax.lax.all_gather(x, axis_name, tiled=True), tree)


def _position(n_local: int, axis_name: str | None) -> tuple[Array | int, int]:
    """Global position of this replica's first clip, and the size of the global batch."""
    if axis_name is None:
        return 0, n_local
    return jax.lax.axis_index(axis_name) * n_local, n_local * jax.lax.axis_size(axis_name)
