"""Training-time augmentation. Every function draws per clip from that clip's own key.

`keys` are one typed key per row, made from the clip's position in the *global* batch (see
`augmentation.clip_keys`): what a clip goes through depends neither on the number of replicas
nor on the padding around it.

Source: the official baseline; its settings are in `configs/base.py`.
"""

import jax
import jax.numpy as jnp

from asc_jax.features.per_clip import clip_by_clip
from asc_jax.types import Array

VARIANCE_OFFSET = 1e-6


def roll_shifts(keys: Array, *, max_shift: int) -> Array:
    """Return the roll of each clip: `[b]` int, samples in ±max_shift, ends included.

    Args:
      keys: `[b]` typed keys.
      max_shift: samples, ≥ 0 and < n_samples.
    """
    return jax.vmap(lambda key: jax.random.randint(key, (), -max_shift, max_shift + 1))(keys)


def time_roll(waveform: Array, shifts: Array) -> Array:
    """Roll each clip in a circle, towards its end where the shift is positive.

    Args:
      waveform: `[b, n_samples]`.
      shifts: `[b]` int, samples.

    Returns:
      `[b, n_samples]`, same dtype.
    """
    n_samples = waveform.shape[-1]

    def roll(clip: Array, shift: Array) -> Array:
        start = jnp.mod(-shift, n_samples)
        return jax.lax.dynamic_slice(jnp.concatenate([clip, clip]), (start,), (n_samples,))

    return clip_by_clip(roll, waveform, shifts)


def mask_band(power: Array, start: Array, width: Array, *, axis: int, value: float = 0.0) -> Array:
    """Zero `width` bins from `start` on.

    Args:
      power: `[b, n_mels, n_frames]`.
      start: `[b]` integer, first bin.
      width: `[b]` integer, number of bins.
      axis: 1 masks mel bins, 2 masks frames.
      value: what stands there in place of 0.

    Returns:
      `[b, n_mels, n_frames]`.
    """
    shape = [1, 1, 1]
    shape[axis] = power.shape[axis]
    index = jnp.arange(power.shape[axis]).reshape(shape)
    start, end = start[:, None, None], (start + width)[:, None, None]
    return jnp.where((index >= start) & (index < end), jnp.full_like(power, value), power)


def band_from_uniform(uniform: Array, n_bins: int, max_width: int) -> tuple[Array, Array]:
    """Two uniform draws → start and width of a mask, with torchaudio's rounding.

    Args:
      uniform: `[b, 2]` in [0, 1).
      n_bins: length of the masked axis.
      max_width: exclusive upper limit of the width.

    Returns:
      `start [b]`, `width [b]`, int32.

    Source: torchaudio.functional.mask_along_axis_iid.
    """
    width = uniform[:, 0] * max_width
    start = uniform[:, 1] * (n_bins - width)
    return start.astype(jnp.int32), width.astype(jnp.int32)


def freq_mask(keys: Array, power: Array, *, max_width: int, value: float = 0.0) -> Array:
    """Zero one band of mel power per clip, `[b, n_mels, n_frames]`; max_width 0 is identity."""
    return _random_mask(keys, power, max_width, axis=1, value=value)


def time_mask(keys: Array, power: Array, *, max_width: int) -> Array:
    """Zero some frames of each clip, `[b, n_mels, n_frames]`; max_width 0 is identity."""
    return _random_mask(keys, power, max_width, axis=2)


def _random_mask(keys: Array, power: Array, max_width: int, axis: int, value: float = 0.0) -> Array:
    if max_width == 0:
        return power
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (2,), power.dtype))(keys)
    start, width = band_from_uniform(uniform, power.shape[axis], max_width)
    return mask_band(power, start, width, axis=axis, value=value)


def band_edges(key: Array, n_mels: int, *, min_bands: int, max_bands: int, min_width: int) -> Array:
    """Cut the mel bins into a random number of bands of random widths.

    Args:
      key: one key.
      n_mels: number of bins, at least `max_bands * min_width`.
      min_bands, max_bands: the number of bands is one of these, or between, all equally likely.
      min_width: bins that every band has at least.

    Returns:
      `[max_bands + 1]` int, never falling: the first bin of each band, and `n_mels` for each band
      that there is not and at the end.
    """
    of_number, of_widths = jax.random.split(key)
    n_bands = jax.random.randint(of_number, (), min_bands, max_bands + 1)
    number = jnp.arange(max_bands + 1)
    free = n_mels - n_bands * min_width  # bins, beyond the least widths
    uniform = jax.random.uniform(of_widths, (max_bands + 1,), jnp.float32)
    inner = (number > 0) & (number < n_bands)
    cuts = jnp.sort(jnp.where(inner, jnp.floor(uniform * (free + 1)), jnp.inf))  # the inner first
    place = jnp.roll(cuts, 1) + number * min_width
    place = jnp.where(number == 0, 0, jnp.where(inner, place, n_mels))
    return place.astype(jnp.int32)


def filter_gains(edges: Array, gains: Array, n_mels: int, *, linear: bool) -> Array:
    """Return a gain for every mel bin from those of bands.

    Args:
      edges: `[n + 1]`, as `band_edges` returns them.
      gains: `[b, n + 1]`, of the bands, or with `linear` of their edges.
      n_mels: number of bins.
      linear: interpolate between the edges; otherwise each band has one gain.

    Returns:
      `[b, n_mels]`, dtype of `gains`.
    """
    bins = jnp.arange(n_mels)
    if not linear:
        return gains[:, jnp.searchsorted(edges, bins, side="right") - 1]
    place, knots = bins.astype(gains.dtype), edges.astype(gains.dtype)
    return jax.vmap(lambda row: jnp.interp(place, knots, row))(gains)


def band_statistics(log_mel: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of each mel bin over channel and time, without gradient.

    Args:
      log_mel: `[b, n_mels, n_frames, c]`.

    Returns:
      `mean, std`, each `[b, n_mels, 1, 1]`, std = sqrt(unbiased variance + 1e-6).
    """
    log_mel = jax.lax.stop_gradient(log_mel)
    # Around the first frame: the mean of a masked, constant bin must be exact, since its
    # rounding error is going to be divided by sqrt(1e-6).
    first = log_mel[:, :, :1, :1]
    mean = first + jnp.mean(log_mel - first, axis=(2, 3), keepdims=True)
    var = jnp.sum((log_mel - mean) ** 2, axis=(2, 3), keepdims=True)
    var = var / (log_mel.shape[2] * log_mel.shape[3] - 1)
    std = jnp.sqrt(var + jnp.asarray(VARIANCE_OFFSET, var.dtype))
    return mean, std


def mix_band_statistics(
    log_mel: Array, own: tuple[Array, Array], other: tuple[Array, Array], lam: Array
) -> Array:
    """Give each clip a mixture of its own band statistics and another clip's.

    Args:
      log_mel: `[b, n_mels, n_frames, c]`.
      own: `band_statistics` of `log_mel`.
      other: those of the partner clips, same shapes.
      lam: `[b]` share of the own statistics, in [0, 1].

    Returns:
      `[b, n_mels, n_frames, c]`.

    Source: Freq-MixStyle (Kim et al., Interspeech 2022; Schmid et al., "Knowledge distillation from
      transformers for low-complexity acoustic scene classification", DCASE 2022 Workshop) as in
      the baseline.
    """
    lam = lam[:, None, None, None]
    mean = own[0] * lam + other[0] * (1 - lam)
    std = own[1] * lam + other[1] * (1 - lam)
    return (log_mel - own[0]) / own[1] * std + mean


def mixstyle_partners(keys: Array, mask: Array) -> Array:
    """A random permutation of the valid clips; padding stays where it is.

    Args:
      keys: `[b]` typed keys of the whole global batch.
      mask: `[b]` bool, False for padding, which may only stand at the end.

    Returns:
      `[b]` int: the clip whose statistics clip i receives.
    """
    uniform = jax.vmap(jax.random.uniform)(keys)
    return jnp.argsort(jnp.where(mask, uniform, 2.0), stable=True)


def mixstyle_shares(keys: Array, *, alpha: float, dtype=jnp.float32) -> Array:
    """`[b]` draws of Beta(alpha, alpha), one per clip."""
    draw = jax.vmap(lambda key: jax.random.beta(key, alpha, alpha, dtype=dtype))
    return draw(keys)


def freq_mixstyle(
    log_mel: Array,
    *,
    apply: Array,
    lam: Array,
    partners: Array,
    statistics: tuple[Array, Array],
    offset: Array | int = 0,
) -> Array:
    """Freq-MixStyle on this replica's clips, partners anywhere in the global batch.

    Args:
      log_mel: `[b, n_mels, n_frames, c]`, this replica's clips.
      apply: bool scalar, the batch's one coin.
      lam: `[global b]` shares.
      partners: `[global b]` from `mixstyle_partners`.
      statistics: `band_statistics` of the global batch, `[global b, n_mels, 1, 1]` each.
      offset: global position of this replica's first clip.

    Returns:
      `[b, n_mels, n_frames, c]`; the input itself where `apply` is False.
    """
    here = offset + jnp.arange(log_mel.shape[0])
    own = tuple(value[here] for value in statistics)
    other = tuple(value[partners[here]] for value in statistics)
    return jnp.where(apply, mix_band_statistics(log_mel, own, other, lam[here]), log_mel)
