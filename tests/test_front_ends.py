"""Front ends beyond the baseline's: against float64 arrays of their PyTorch originals.

`golden/front_ends.npz`: a clip, its log-mels by the front ends of CP-Mobile 2023 ("kaldi256"),
TF-SepNet ("kaldi512") and the CNN-GRU at 44.1 kHz ("mel44k"), computed by PyTorch in float64; the
error of the same in float32; and the bank of torchaudio's compliance.kaldi.
"""

import functools
import pathlib
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import small_config

from asc_jax import experiment, features
from asc_jax.complexity import budget
from asc_jax.errors import UserError
from asc_jax.features import filters, front_end
from asc_jax.features.augmentation import training_input
from asc_jax.models.from_config import log_mel_shape
from asc_jax.training import config_checks
from asc_jax.training.workdir import upgrade

GOLDEN = pathlib.Path(__file__).parent / "golden" / "front_ends.npz"
PAGE = pathlib.Path(__file__).parents[1] / "docs" / "front_ends.md"
KALDI = {
    "sample_rate": 32_000,
    "n_fft": 4096,
    "win_length": 3072,
    "hop_length": 500,
    "n_mels": 256,
    "f_min": 0.0,
    "f_max": 15_500.0,
    "pre_emphasis": 0.97,
    "window": "hann_symmetric",
    "mel_scale": "kaldi",
    "norm_mean": -4.5,
    "norm_std": 5.0,
}
FRONT_ENDS = {  # name → its waveform and keywords
    "kaldi256": ("waveform_32k", KALDI),
    "kaldi512": ("waveform_32k", KALDI | {"n_mels": 512, "f_max": 16_000.0}),
    "mel44k": (
        "waveform_44k",
        {
            "sample_rate": 44_100,
            "n_fft": 8192,
            "win_length": 8192,
            "hop_length": 1364,
            "n_mels": 256,
            "f_min": 0.0,
            "f_max": 22_050.0,
        },
    ),
}
JITTER = {"f_min_jitter": 40.0, "f_max_jitter": 1000.0}


@pytest.fixture(scope="module")
def arrays():
    return dict(np.load(GOLDEN))


def log_mel(waveform, **keywords):
    """Return the log-mel, computed as one program."""
    return np.asarray(jax.jit(functools.partial(features.log_mel, **keywords))(waveform))


def log_mel_of(arrays, name, dtype):
    waveform, keywords = FRONT_ENDS[name]
    return log_mel(jnp.asarray(arrays[waveform], dtype), **keywords)[..., 0]


@pytest.mark.parametrize(("name", "n_frames"), [("kaldi256", 64), ("kaldi512", 64), ("mel44k", 33)])
def test_log_mel_in_float64_equals_the_original(arrays, x64, name, n_frames):
    found = log_mel_of(arrays, name, jnp.float64)
    waveform, keywords = FRONT_ENDS[name]
    assert found.shape == (1, keywords["n_mels"], n_frames)
    assert features.n_frames(arrays[waveform].shape[1], **keywords) == n_frames
    # The reference is stored in float32, and the window may differ in its last bit.
    np.testing.assert_allclose(found, arrays[f"{name}_f64"], atol=2e-6)


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_log_mel_in_float32_is_as_near_to_float64_as_the_original(arrays, name):
    error = np.abs(log_mel_of(arrays, name, jnp.float32) - arrays[f"{name}_f64"]).max()
    assert error <= 2 * arrays[f"{name}_error"]


def test_kaldi_filterbank_equals_torchaudio_bit_for_bit(arrays):
    bank = filters.kaldi_filterbank(4096, 256, 32_000, 0.0, 15_500.0)
    np.testing.assert_array_equal(bank[:2048].T, arrays["kaldi_bank256"])
    assert not bank[2048].any()  # Kaldi has no such bin


def test_symmetric_window_is_the_filter_designers():
    np.testing.assert_allclose(filters.symmetric_hann_window(3072), np.hanning(3072), atol=1e-6)


def test_defaults_leave_the_traced_program_as_it_was():
    waveform = jax.ShapeDtypeStruct((2, 32_000), jnp.float32)
    config = small_config().features.to_dict()
    without = {key: value for key, value in config.items() if key in upgraded_features()}
    programs = [
        str(jax.make_jaxpr(lambda x, f=f: features.log_mel(x, **f))(waveform))
        for f in (config, without)
    ]
    assert len(without) < len(config)
    assert programs[0] == programs[1]


def upgraded_features():
    """Names of the values that the first version's section `features` had."""
    added = {key.removeprefix("features.") for key in upgrade.ADDED}
    return set(small_config().features) - added


def test_older_config_gets_the_front_end_that_it_had():
    config = small_config().to_dict()
    old = {key: config["features"][key] for key in upgraded_features()}
    assert upgrade.upgraded({**config, "features": old})["features"] == config["features"]


def test_pre_emphasis_is_a_difference_of_neighbours(x64):
    waveform = jax.random.normal(jax.random.key(0), (2, 32_000), jnp.float64)
    plain = {key: KALDI[key] for key in ("sample_rate", "n_fft", "win_length", "hop_length")}
    plain |= {"n_mels": 32, "f_min": 0.0, "f_max": 16_000.0}
    emphasised = waveform[:, 1:] - 0.97 * waveform[:, :-1]
    expected = log_mel(emphasised, **plain)
    found = log_mel(waveform, **plain, pre_emphasis=0.97)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("mel_scale", filters.FILTERBANKS)
@pytest.mark.parametrize("grouped", [True, False])
def test_jittered_bands_are_the_filterbank_of_the_drawn_edges(x64, monkeypatch, mel_scale, grouped):
    if not grouped:
        monkeypatch.setattr(front_end, "GROUPS", {})
    keywords = KALDI | JITTER | {"mel_scale": mel_scale}
    power = jnp.asarray(np.random.default_rng(0).random((3, 2049)))
    of_key = jax.jit(
        lambda key: front_end.jittered_bands(key, **keywords, dtype=jnp.float64)(power)
    )
    drawn = []
    for seed in range(6):
        key = jax.random.key(seed)
        u = np.asarray(jax.random.uniform(key, (2,), jnp.float64))
        edges = 40 * u[0], 15_000 + 1000 * u[1]
        drawn.append(edges)
        bank = filters.filterbank(mel_scale, 4096, 256, 32_000, *edges, np.float64)
        bands = of_key(key)
        np.testing.assert_allclose(bands, power @ bank, rtol=1e-9, atol=1e-12)
    assert np.ptp(drawn, axis=0)[1] > 300


@pytest.mark.parametrize("edge", [0.0, 1.0 - 2**-24])
def test_jitter_reaches_its_limits_without_leaving_a_bin_out(monkeypatch, edge):
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, dtype: jnp.full(shape, edge))
    power = jnp.asarray(np.random.default_rng(0).random((3, 2049)), jnp.float32)
    edges = 40 * edge, 15_000 + 1000 * edge
    for mel_scale in filters.FILTERBANKS:
        bank = filters.filterbank(mel_scale, 4096, 256, 32_000, *edges, np.float64)
        keywords = KALDI | JITTER | {"mel_scale": mel_scale}
        bands = front_end.jittered_bands(jax.random.key(0), **keywords)(power)
        np.testing.assert_allclose(bands, power @ bank, rtol=2e-3, atol=2e-3)


def test_edges_move_in_training_alone_and_once_for_a_batch():
    config = small_config(features__f_max=15_000.0, features__f_max_jitter=2000.0)
    clip = np.random.default_rng(0).standard_normal((1, 32_000)).astype(np.float32)
    batch = {"audio": jnp.asarray(np.repeat(clip, 2, 0)), "mask": jnp.ones(2, bool)}

    made = functools.partial(training_input, augmentations=(), features_config=config.features)
    made = jax.jit(made)

    def of_step(step):
        return np.asarray(made(jax.random.key(step), batch)["log_mel"])

    first, again, other = of_step(0), of_step(0), of_step(1)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first[0], first[1])
    assert np.abs(first - other).max() > 0.1
    still = small_config(features__f_max=15_000.0)
    np.testing.assert_array_equal(
        log_mel(batch["audio"], **config.features),
        log_mel(batch["audio"], **still.features),
    )


def test_frames_follow_pre_emphasis_wherever_they_are_counted(monkeypatch):
    config = small_config(features__hop_length=500, features__pre_emphasis=0.97)
    assert log_mel_shape(config) == (32, 64, 1)
    costs = [experiment.make(small_config(features__pre_emphasis=e)).cost for e in (0.0, 0.97)]
    assert costs[0]["macs"] > costs[1]["macs"]  # 17 frames and 16
    monkeypatch.setattr(budget, "_within", lambda config: log_mel_shape(config)[1] <= 64)
    for emphasis in (0.0, 0.97):
        solved = budget.solve(small_config(features__pre_emphasis=emphasis))
        assert solved["n_frames"] == 64
        assert solved["hop_lengths"] == ((500, 507) if emphasis else (501, 507))


def test_values_on_the_page_are_those_that_are_compared():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    found = []
    section = types.SimpleNamespace(update=lambda **values: found.append(values))
    exec(code, {"config": types.SimpleNamespace(features=section)})
    for values, (_, compared) in zip(found, FRONT_ENDS.values(), strict=True):
        assert {key: value for key, value in values.items() if "jitter" not in key} == compared
        config = small_config().copy_and_resolve_references()
        config.features.update(values)
        config_checks.check_values(config)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("pre_emphasis", 1.0, r"in \[0, 1\)"),
        ("window", "hamming", "hann or hann_symmetric"),
        ("mel_scale", "slaney", "htk or kaldi"),
        ("norm_std", 0.0, "above 0"),
        ("norm_mean", float("nan"), "a number"),
        ("f_max_jitter", 1000.0, "lower features.f_max by half of the jitter"),
        ("f_min_jitter", 20_000.0, "stays below features.f_max"),
    ],
)
def test_value_that_no_front_end_has_is_named(key, value, expected):
    config = small_config(**{f"features__{key}": value})
    with pytest.raises(UserError, match=f"^config.features.{key} is .*{expected}"):
        experiment.make(config)
