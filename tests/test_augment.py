"""Augmentation: torchaudio's rounding, the baseline's mixing, and what each must not change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asc_jax.features import augment
from asc_jax.features.augmentation import clip_keys


def keys(n, seed=0):
    return clip_keys(jax.random.key(seed), jnp.arange(n))


def test_freq_mask_cuts_where_torchaudio_cuts(golden):
    arrays = golden("b_freqmask")
    uniform = jnp.stack([jnp.ravel(arrays["u1"]), jnp.ravel(arrays["u2"])], axis=1)
    start, width = augment.band_from_uniform(uniform, 256, 48)
    np.testing.assert_array_equal(start, np.ravel(arrays["start"]))
    np.testing.assert_array_equal(start + width, np.ravel(arrays["end"]))


def test_freq_mask_zeroes_one_band_shorter_than_its_limit():
    masked = np.asarray(augment.freq_mask(keys(200), jnp.ones((200, 256, 5)), max_width=48))
    widths = (masked[:, :, 0] == 0).sum(axis=1)
    assert np.all(widths < 48)
    assert widths.min() < 5
    assert widths.max() > 42
    edges = np.abs(np.diff(masked[:, :, 0], axis=1)).sum(axis=1)
    assert np.all(edges <= 2)  # one band
    np.testing.assert_array_equal(masked, np.broadcast_to(masked[:, :, :1], masked.shape))


def test_time_mask_zeroes_whole_frames():
    masked = np.asarray(augment.time_mask(keys(50), jnp.ones((50, 6, 40)), max_width=10))
    assert 0 < (masked == 0).mean() < 10 / 40
    np.testing.assert_array_equal(masked, np.broadcast_to(masked[:, :1], masked.shape))


@pytest.mark.parametrize("mask", [augment.freq_mask, augment.time_mask])
def test_masks_of_width_zero_are_the_identity(mask):
    power = jnp.ones((3, 8, 9))
    assert mask(keys(3), power, max_width=0) is power


def test_time_roll_shifts_in_a_circle_within_its_limits():
    n = 400
    waveform = jnp.broadcast_to(jnp.arange(20.0), (n, 20))
    shifts = np.asarray(augment.roll_shifts(keys(n), max_shift=3))
    rolled = np.asarray(augment.time_roll(waveform, shifts))
    for row, shift in zip(rolled, shifts, strict=True):
        np.testing.assert_array_equal(row, np.roll(np.arange(20.0), shift))
    assert set(shifts.tolist()) == set(range(-3, 4))  # both ends included


def test_clips_are_not_rolled_where_the_largest_shift_is_zero():
    assert not np.any(augment.roll_shifts(keys(50), max_shift=0))
    waveform = jnp.arange(10.0).reshape(2, 5)
    np.testing.assert_array_equal(augment.time_roll(waveform, jnp.zeros(2, int)), waveform)


def test_mixstyle_equals_the_baseline(golden):
    arrays = golden("e_mixstyle")
    log_mel = jnp.moveaxis(jnp.asarray(arrays["x"]), 1, -1)  # [b, c, f, t] -> [b, f, t, c]
    mixed = augment.freq_mixstyle(
        log_mel,
        apply=jnp.array(True),
        lam=jnp.ravel(arrays["lmda"]),
        partners=jnp.asarray(arrays["perm"]),
        statistics=augment.band_statistics(log_mel),
    )
    np.testing.assert_allclose(mixed[..., 0], arrays["y64"][:, 0], atol=1e-5)
    np.testing.assert_allclose(
        augment.band_statistics(log_mel)[0][..., 0, 0], arrays["mu"], atol=1e-6
    )


def test_mixstyle_without_the_coin_or_with_share_one_is_the_identity():
    log_mel = jax.random.normal(jax.random.key(0), (4, 8, 9, 1))
    rest = {
        "partners": jnp.array([1, 2, 3, 0]),
        "statistics": augment.band_statistics(log_mel),
    }
    unmixed = augment.freq_mixstyle(log_mel, apply=jnp.array(False), lam=jnp.zeros(4), **rest)
    np.testing.assert_array_equal(unmixed, log_mel)
    own = augment.freq_mixstyle(log_mel, apply=jnp.array(True), lam=jnp.ones(4), **rest)
    np.testing.assert_allclose(own, log_mel, atol=1e-5)


def test_mixstyle_statistics_carry_no_gradient():
    log_mel = jax.random.normal(jax.random.key(0), (4, 8, 9, 1))
    slope = jax.grad(lambda x: sum(jnp.sum(s) for s in augment.band_statistics(x)))(log_mel)
    np.testing.assert_array_equal(slope, jnp.zeros_like(slope))


def test_partners_permute_the_valid_clips_and_leave_padding_alone():
    mask = jnp.arange(12) < 9
    partners = np.asarray(augment.mixstyle_partners(keys(12), mask))
    assert sorted(partners[:9]) == list(range(9))
    np.testing.assert_array_equal(partners[9:], [9, 10, 11])


def test_partners_do_not_depend_on_the_padding():
    short = augment.mixstyle_partners(keys(9), jnp.ones(9, bool))
    padded = augment.mixstyle_partners(keys(12), jnp.arange(12) < 9)
    np.testing.assert_array_equal(short, padded[:9])


def test_shares_follow_a_beta_distribution():
    shares = np.asarray(augment.mixstyle_shares(keys(4000), alpha=0.3))
    assert np.all((shares >= 0) & (shares <= 1))
    assert abs(shares.mean() - 0.5) < 0.03
    assert abs(shares.var() - 0.25 / 1.6) < 0.01  # Beta(a, a): 1 / (4 (2a + 1))
