"""The front end against torchaudio's numbers and against its own slow form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asc_jax import features
from asc_jax.features import filters

MEL = {
    "sample_rate": 32_000,
    "n_fft": 4096,
    "win_length": 3072,
    "n_mels": 256,
    "f_min": 0.0,
    "f_max": 16_000.0,
}


def test_resample_kernel_equals_torchaudio_bit_for_bit(golden):
    kernel = filters.resample_kernel(44_100, 32_000)
    np.testing.assert_array_equal(kernel, golden("b_frontend")["resample_kernel"])


def test_resample_kernel_float64_equals_torch_float64(golden):
    kernel = filters.resample_kernel(44_100, 32_000, np.float64)
    np.testing.assert_allclose(kernel, golden("b_frontend")["resample_kernel64"], atol=1e-15)


def test_resampled_waveform_equals_torchaudio(golden):
    arrays = golden("b_frontend")
    resampled = features.resample(jnp.asarray(arrays["wave"]), 44_100, 32_000)
    np.testing.assert_allclose(resampled, arrays["resampled"], atol=1e-6)


def test_mel_filterbank_equals_torchaudio_bit_for_bit(golden):
    filterbank = filters.mel_filterbank(4096, 256, 32_000, 0.0, 16_000.0)
    np.testing.assert_array_equal(filterbank, golden("b_frontend")["mel_fb"])


@pytest.mark.parametrize("hop", [500, 472])
def test_log_mel_is_as_near_to_float64_as_torchaudio(golden, hop):
    arrays = golden("b_frontend")
    exact = arrays[f"logmel64_hop{hop}"]
    waveform = jnp.asarray(arrays["resampled"])
    log_mel = np.asarray(features.log_mel(waveform, hop_length=hop, **MEL))[..., 0]
    ours = np.abs(log_mel - exact).max(axis=(1, 2))
    theirs = np.abs(arrays[f"logmel_hop{hop}"] - exact).max(axis=(1, 2))
    assert log_mel.shape[-1] == 32_000 // hop + 1
    assert np.all(ours <= np.maximum(2e-4, 2 * theirs))


@pytest.mark.parametrize("hop", [500, 472])
def test_log_mel_in_float64_equals_torch_float64(golden, x64, hop):
    arrays = golden("b_frontend")
    waveform = features.resample(jnp.asarray(arrays["wave"], jnp.float64), 44_100, 32_000)
    log_mel = features.log_mel(waveform, hop_length=hop, **MEL)[..., 0]
    assert log_mel.dtype == jnp.float64
    error = np.abs(log_mel - arrays[f"logmel64_hop{hop}"]).max(axis=(1, 2))
    # The reference is stored in float32. The quiet bins of the chirp (clip 1) amplify the last
    # bit of the window, 6e-8.
    assert np.all(error <= np.array([1e-6, 2e-4, 1e-6, 1e-6]))


def test_window_equals_torch_to_the_last_bit(golden):
    window = filters.hann_window(3072)
    np.testing.assert_allclose(window, golden("b_frontend")["hann_window"], atol=6e-8)


def test_log_mel_equals_its_textbook_form(x64):
    rng = np.random.default_rng(0)
    clip = rng.standard_normal(32_000) * 0.1
    padded = np.pad(clip, 2048, mode="reflect")
    window = np.zeros(4096)
    window[512:3584] = filters.hann_window(3072)
    frames = np.stack([padded[t * 472 : t * 472 + 4096] * window for t in range(68)])
    power = np.abs(np.fft.rfft(frames)) ** 2
    filterbank = filters.mel_filterbank(4096, 256, 32_000, 0.0, 16_000.0)
    expected = np.log(power @ filterbank + 1e-5).T
    log_mel = features.log_mel(jnp.asarray(clip)[None], hop_length=472, **MEL)
    np.testing.assert_allclose(log_mel[0, :, :, 0], expected, rtol=1e-9)


@pytest.mark.parametrize(("orig", "new"), [(44_100, 32_000), (48_000, 32_000), (8000, 32_000)])
def test_resample_equals_direct_convolution(x64, orig, new):
    waveform = np.random.default_rng(1).standard_normal((2, 3000))
    kernel = filters.resample_kernel(orig, new, np.float64)
    n_phases, n_taps = kernel.shape
    step = orig // np.gcd(orig, new)
    width = (n_taps - step) // 2
    n_out = -(-3000 * new // orig)
    padded = np.pad(waveform, ((0, 0), (width, n_taps + step)))
    expected = np.zeros((2, n_out))
    for n in range(n_out):
        start = n // n_phases * step
        expected[:, n] = padded[:, start : start + n_taps] @ kernel[n % n_phases]
    resampled = features.resample(jnp.asarray(waveform), orig, new)
    np.testing.assert_allclose(resampled, expected, atol=1e-12)


def test_stored_clips_have_the_same_bits_on_a_machine_with_a_gpu(monkeypatch):
    waveform = jax.random.normal(jax.random.key(0), (1, 4410))
    here = features.resample(waveform, 44_100, 32_000, banded=True)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    there = features.resample(waveform, 44_100, 32_000, banded=True)
    np.testing.assert_array_equal(here, there)


def test_resample_to_the_same_rate_is_the_identity():
    waveform = jnp.ones((1, 100))
    assert features.resample(waveform, 32_000, 32_000) is waveform


def test_resample_refuses_a_rate_that_is_no_integer():
    with pytest.raises(ValueError, match="positive integers"):
        features.resample(jnp.ones((1, 100)), 44_100, 0)


def test_log_mel_of_silence_is_the_offset():
    log_mel = features.log_mel(jnp.zeros((1, 32_000)), hop_length=472, **MEL)
    np.testing.assert_allclose(log_mel, np.log(1e-5), rtol=1e-6)


def test_log_mel_refuses_a_clip_shorter_than_its_window():
    with pytest.raises(ValueError, match="too few"):
        features.log_mel(jnp.zeros((1, 1000)), hop_length=472, **MEL)


def test_features_do_not_depend_on_the_rest_of_the_batch():
    waveform = jax.random.normal(jax.random.key(0), (13, 32_000)) * 0.1
    together = features.log_mel(waveform, hop_length=472, **MEL)
    alone = features.log_mel(waveform[7:8], hop_length=472, **MEL)
    np.testing.assert_allclose(together[7:8], alone, atol=1e-4)
