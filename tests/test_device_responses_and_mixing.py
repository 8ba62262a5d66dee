"""Impulse responses, mixup, FilterAugment, masks after the logarithm, one fraction a batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io.wavfile
import scipy.signal
import soundfile
from loop_runs import Stopping
from ml_collections import ConfigDict
from small import small_clips
from tiny import tiny_config

from asc_jax import experiment
from asc_jax.cli.config_flag import read_config
from asc_jax.errors import Interrupted, UserError
from asc_jax.evaluation.evaluate import make_evaluator
from asc_jax.features import augment, impulse_responses
from asc_jax.features.augmentation import clip_keys, training_input
from asc_jax.training import loop, losses
from asc_jax.training.mixed_loss import of_mixed

pytestmark = pytest.mark.usefixtures("compiled_fast")

N_SAMPLES = 3000
FEATURES = {
    "sample_rate": 8000,
    "n_fft": 512,
    "win_length": 512,
    "hop_length": 500,
    "n_mels": 32,
    "f_min": 0.0,
    "f_max": 4000.0,
}
SECTIONS = {
    "dir": {
        "name": "device_impulse_response",
        "p": 0.6,
        "column": "device",
        "column_values": "a,c",
    },
    "filters": {"name": "filter_augment", "max_db": 6.0, "min_width": 3},
    "mask": {"name": "log_freq_mask", "max_width": 8, "value": 0.5},
    "freq_mixstyle": {"name": "freq_mixstyle", "p": 1.0, "alpha": 0.3, "per_batch": True},
    "mixup": {"name": "mixup", "p": 1.0, "alpha": 0.3},
}


def write_wav(path, samples, rate=8000):
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.wavfile.write(path, rate, samples)


@pytest.fixture
def folder(tmp_path):
    """Three impulse responses: of 16 bits, in float32 and two channels, and at another rate."""
    rng = np.random.default_rng(0)
    decay = np.exp(-np.arange(900) / 100)
    write_wav(tmp_path / "irs" / "b.wav", (decay * rng.uniform(-1, 1, 900) * 2**14).astype("i2"))
    stereo = (decay[:500, None] * rng.uniform(-1, 1, (500, 2))).astype("f4")
    write_wav(tmp_path / "irs" / "a.WAV", stereo)
    write_wav(tmp_path / "irs" / "c.wav", (decay * 2**30).astype("i4"), 16_000)
    (tmp_path / "irs" / "README.txt").write_text("no sound")
    return tmp_path / "irs"


def make(names, folder=None, **changes):
    """Augmentations by their labels, of clips at 8 kHz with devices a, b and c."""
    config = tiny_config().copy_and_resolve_references().unlock()
    groups = {"device": {"values": ("a", "b", "c"), "sets": {}}}
    config.labels = ConfigDict({"classes": config.labels.classes, "groups": groups})
    config.features.update(FEATURES)
    config.augment = ConfigDict({name: dict(SECTIONS[name]) for name in names})
    if folder is not None:
        config.augment.dir.dir = str(folder)
    for key, value in changes.items():
        label, name = key.split("__")
        with config.augment[label].ignore_type():
            config.augment[label][name] = value
    return experiment.make_augmentations(config)


def batch_of(n, n_valid=None, seed=0):
    rng = np.random.default_rng(seed)
    mask = np.arange(n) < (n if n_valid is None else n_valid)
    audio = rng.standard_normal((n, N_SAMPLES)).astype(np.float32) * mask[:, None]
    batch = {"audio": audio, "label": np.arange(n) % 10 * mask, "mask": mask}
    return {**batch, "device_id": np.arange(n) % 4 - 1}  # -1: not known


def arrays_of(made):
    return {each.label: each.load_arrays() for each in made if each.load_arrays is not None}


def augmented(made, batch, key, n_replicas=1):
    """The input of a step, on several replicas one after the other."""
    step = functools.partial(training_input, augmentations=made, features_config=FEATURES)
    arrays = arrays_of(made)
    if n_replicas == 1:
        return jax.tree.map(np.asarray, jax.jit(step)(key, batch, arrays))
    cut = {k: v.reshape(n_replicas, -1, *v.shape[1:]) for k, v in batch.items()}
    of_replica = functools.partial(step, axis_name="replica")
    of_replicas = jax.vmap(of_replica, axis_name="replica", in_axes=(None, 0, None))
    out = jax.jit(of_replicas)(key, cut, arrays)
    return {k: np.asarray(v).reshape(-1, *v.shape[2:]) for k, v in out.items()}


# The bank.


def test_bank_holds_the_files_by_name_at_one_rate(folder, monkeypatch):
    loaded = impulse_responses.load_bank(str(folder), 8000)
    bank = loaded["bank"]
    assert bank.shape == (3, 900)
    assert bank.dtype == np.float32
    stereo, sixteen, wide = (
        scipy.io.wavfile.read(folder / n)[1] for n in ("a.WAV", "b.wav", "c.wav")
    )
    np.testing.assert_allclose(bank[0, :500], stereo.mean(axis=1), atol=1e-7)
    np.testing.assert_array_equal(bank[1], sixteen / 2**15)
    assert not bank[0, 500:].any()
    assert not bank[2, 450:].any()  # half as many samples
    # Resampling keeps the spectrum, which is that of an integral over time.
    assert bank[2].sum() == pytest.approx(wide.sum() / 2**31 / 2, rel=0.01)
    monkeypatch.setenv("HOME", str(folder.parent))
    again = impulse_responses.load_bank("~/irs", 8000)
    np.testing.assert_array_equal(again["identity"], loaded["identity"])
    write_wav(folder / "b.wav", sixteen[::-1])
    other = impulse_responses.load_bank(str(folder), 8000)
    assert np.any(other["identity"] != loaded["identity"])


def test_file_of_24_bits_with_a_chunk_that_means_nothing_to_us(tmp_path):
    """MicIRP's files have 24 bits, and one of them has a chunk `JUNK` before its format."""
    wave = np.linspace(-0.5, 0.5, 300)
    path = tmp_path / "a.wav"
    soundfile.write(path, wave, 8000, subtype="PCM_24")
    data = path.read_bytes()
    path.write_bytes(data[:12] + b"JUNK" + (4).to_bytes(4, "little") + b"\0" * 4 + data[12:])
    bank = impulse_responses.load_bank(str(tmp_path), 8000)["bank"]
    np.testing.assert_allclose(bank[0, :300], wave, atol=2**-23)


def damaged(folder, what):
    path = folder / "b.wav"
    if what == "text":
        path.write_text("RIFF and so on")
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "silent":
        write_wav(path, np.zeros(100, "i2"))
    elif what == "long":
        write_wav(path, np.ones(81_000, "i2"))
    elif what == "nan":
        write_wav(path, np.full(100, np.nan, "f4"))


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("text", "b.wav is no wav file that can be read"),
        ("empty", "b.wav is no wav file that can be read"),
        ("silent", "b.wav is silent"),
        ("nan", "b.wav is silent or has values that are no numbers"),
        ("long", "b.wav has 10.125 s, expected an impulse response of at most 10 s"),
    ],
)
def test_file_that_is_no_impulse_response_is_named(folder, what, expected):
    damaged(folder, what)
    with pytest.raises(UserError, match=expected):
        impulse_responses.load_bank(str(folder), 8000)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"dir__dir": "/nowhere"}, "dir is '/nowhere', expected a folder .*: it is no folder"),
        ({"dir__column_values": "a,"}, "column_values is 'a,', expected some of a, b, c"),
        ({"dir__column_values": "a,d"}, "column_values is 'd', expected some of a, b, c"),
        ({"dir__column": "room"}, "column is 'room', expected device"),
        ({"dir__p": 1.5}, r"p is 1.5, expected in \[0, 1\]"),
    ],
)
def test_section_that_names_nothing_is_rejected_when_a_run_starts(folder, change, expected):
    with pytest.raises(UserError, match=expected):
        arrays_of(make(["dir"], folder, **change))


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.parametrize("given", [("", ""), ("room", "hall,yard")])
def test_column_and_its_values_are_set_on_the_command_line(given):
    words = ("--config.augment.dir.column={}", "--config.augment.dir.column_values={}")
    made = read_config(
        "recommended/25pct.py", [w.format(v) for w, v in zip(words, given, strict=True)]
    )
    assert (made.augment.dir.column, made.augment.dir.column_values) == given
    # What --against.… of `crossval` becomes, behind the words of all runs.
    made = read_config(
        "recommended/25pct.py", [*map(str.format, words, given), words[1].format("a")]
    )
    assert (made.augment.dir.column, made.augment.dir.column_values) == (given[0], "a")


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_former_name_of_column_values_is_an_unknown_key():
    with pytest.raises(
        UserError, match=r"unknown config key config.augment.dir.values: did you me"
    ):
        read_config("recommended/25pct.py", ["--config.augment.dir.values=a"])
    config = tiny_config().unlock()
    config.augment.dir = ConfigDict({**SECTIONS["dir"], "dir": "irs", "values": "a"})
    with pytest.raises(UserError, match=r"dir.values: device_impulse_response takes no such value"):
        experiment.make(config.lock())


def test_nothing_is_read_where_it_is_switched_off():
    made = make(["dir"], "/nowhere", dir__p=0.0)
    batch = batch_of(4)
    np.testing.assert_array_equal(
        augmented(made, batch, jax.random.key(0))["audio"], batch["audio"]
    )


# The convolution.


def test_convolution_equals_scipys(folder):
    bank = impulse_responses.load_bank(str(folder), 8000)["bank"]
    batch, made = batch_of(24), make(["dir"], folder)
    audio = augmented(made, batch, jax.random.key(3))["audio"]
    n_changed = 0
    for before, after, device in zip(batch["audio"], audio, batch["device_id"], strict=True):
        if np.array_equal(before, after):
            continue
        n_changed += 1
        assert device in (0, 2)  # a and c
        full = [
            scipy.signal.convolve(before.astype(float), response)[:N_SAMPLES] for response in bank
        ]
        errors = [np.abs(after - y).max() / np.abs(y).max() for y in full]
        assert min(errors) < 1e-5
    assert 3 <= n_changed <= 11  # of 12


def test_response_longer_than_a_clip_is_cut():
    rng = np.random.default_rng(0)
    clip, bank = rng.standard_normal((1, 100)), rng.standard_normal((1, 250))
    ones = jnp.ones(1, bool), jnp.zeros(1, int)
    found = impulse_responses.convolve(*(jnp.asarray(x, jnp.float32) for x in (clip, bank)), *ones)
    np.testing.assert_allclose(found, scipy.signal.convolve(clip, bank)[:, :100], atol=1e-4)


def test_every_response_is_drawn_and_as_often_as_asked():
    apply, which = map(
        np.asarray, impulse_responses.draw(clip_keys(jax.random.key(0), jnp.arange(3000)), 5, 0.6)
    )
    assert abs(apply.mean() - 0.6) < 0.03
    assert np.all(np.abs(np.bincount(which, minlength=5) / 3000 - 0.2) < 0.03)
    assert abs(which[apply].mean() - which[~apply].mean()) < 0.2


def test_all_clips_may_be_convolved(folder):
    batch = batch_of(8)
    made = make(["dir"], folder, dir__p=1.0, dir__column_values="", dir__column="")
    del batch["device_id"]
    audio = augmented(made, batch, jax.random.key(0))["audio"]
    assert np.all(np.any(audio != batch["audio"], axis=1))


# What draws must not depend on.


@pytest.mark.parametrize(
    "names",
    [
        [*SECTIONS],
        *(pytest.param([n], marks=[pytest.mark.slow, pytest.mark.nightly]) for n in SECTIONS),
    ],
)
def test_draws_depend_neither_on_replicas_nor_on_padding(folder, names):
    made, key = make(names, folder if "dir" in names else None), jax.random.key(5)
    batch = batch_of(12, n_valid=11)
    whole = augmented(made, batch, key)
    cut = augmented(made, batch, key, n_replicas=3)
    padded = {k: np.concatenate([v, np.zeros_like(v[:3])]) for k, v in batch.items()}
    more = augmented(made, padded, key)
    assert whole.keys() == cut.keys()
    for column in whole:
        np.testing.assert_allclose(cut[column], whole[column], rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(more[column][:11], whole[column][:11], rtol=1e-5, atol=1e-4)
    plain = augmented([], batch, key)
    assert np.abs(whole["log_mel"][:11] - plain["log_mel"][:11]).max() > 0.01


# Mixing.


@pytest.mark.parametrize("per_batch", [True, False])
def test_mixup_mixes_log_mels_and_names_the_partners_targets(per_batch):
    batch = batch_of(16, n_valid=14)
    batch["teacher_logits"] = np.random.default_rng(1).random((16, 10), np.float32)
    made = make(["mixup"], mixup__per_batch=per_batch)
    plain = augmented([], batch, jax.random.key(2))["log_mel"]
    mixed = augmented(made, batch, jax.random.key(2))
    weight = mixed["mix_weight"]
    assert np.all((weight >= 0) & (weight <= 1))
    assert len({*weight.tolist()}) == (1 if per_batch else 16)
    teachers = batch["teacher_logits"]
    rows = [
        int(np.flatnonzero((teachers == row).all(1))[0]) for row in mixed["mixed_teacher_logits"]
    ]
    assert sorted(rows) == list(range(16))
    assert rows[14:] == [14, 15]
    np.testing.assert_array_equal(mixed["mixed_label"], batch["label"][rows])
    share = weight[:, None, None, None]
    np.testing.assert_allclose(
        mixed["log_mel"], share * plain + (1 - share) * plain[rows], atol=1e-5
    )


def test_batch_that_is_not_mixed_is_as_it_was():
    batch = batch_of(8)
    made = make(["mixup"], mixup__p=1e-9)
    mixed = augmented(made, batch, jax.random.key(2))
    np.testing.assert_array_equal(mixed["mix_weight"], 1)
    plain = augmented([], batch, jax.random.key(2))
    np.testing.assert_array_equal(mixed["log_mel"], plain["log_mel"])


def test_loss_of_mixed_clips_is_the_weighted_mean_of_both(x64):
    rng = np.random.default_rng(0)
    logits, soft = jnp.asarray(rng.standard_normal((6, 10))), jnp.asarray(rng.random((6, 10)))
    order, weight = np.array([3, 2, 0, 5, 1, 4]), jnp.asarray(rng.random(6))
    batch = {"label": jnp.arange(6), "soft": soft}

    def loss_fn(logits, batch):
        hard = losses.focal(logits, batch, gamma=0.0)
        return hard - jnp.sum(batch["soft"] * jax.nn.log_softmax(logits), -1)

    mixed = {"mixed_label": order, "mixed_soft": soft[order], "mix_weight": weight}
    targets = jax.nn.one_hot(jnp.arange(6), 10) + soft
    targets = weight[:, None] * targets + (1 - weight[:, None]) * targets[order]
    expected = -jnp.sum(targets * jax.nn.log_softmax(logits), -1)
    found = of_mixed(loss_fn)(logits, {**batch, **mixed})
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_array_equal(of_mixed(loss_fn)(logits, batch), loss_fn(logits, batch))


def test_one_fraction_for_the_batch_is_one_draw(folder):
    batch, key = batch_of(6), jax.random.key(1)
    per_batch = augmented(make(["freq_mixstyle"]), batch, key)["log_mel"]
    plain = augmented([], batch, key)["log_mel"]
    own, mixed = (
        np.asarray(augment.band_statistics(jnp.asarray(x))[0]) for x in (plain, per_batch)
    )
    keys = jax.random.split(key, 6)[3:]
    partners = augment.mixstyle_partners(clip_keys(keys[1], jnp.arange(6)), jnp.ones(6, bool))
    lam = jax.random.beta(keys[2], 0.3, 0.3)
    np.testing.assert_allclose(mixed, own * lam + own[partners] * (1 - lam), atol=1e-3)


# Filters and masks.


def test_bands_have_their_least_width_and_cover_all_bins():
    limits = {"min_bands": 2, "max_bands": 5, "min_width": 6}
    draw = jax.vmap(lambda key: augment.band_edges(key, 64, **limits))
    edges = np.asarray(draw(jax.random.split(jax.random.key(0), 500)))
    assert edges.shape == (500, 6)
    assert np.all(edges[:, 0] == 0)
    assert np.all(edges[:, -1] == 64)
    widths = np.diff(edges)
    assert np.all((widths == 0) | (widths >= 6))
    n_bands = (widths > 0).sum(axis=1)
    assert np.all(np.abs(np.bincount(n_bands, minlength=6)[2:] / 500 - 0.25) < 0.08)
    assert len({*edges[n_bands == 2, 1].tolist()}) > 40


@pytest.mark.parametrize("kind", ["step", "linear"])
def test_filters_change_levels_band_by_band(kind):
    batch, key = batch_of(4), jax.random.key(0)
    plain = augmented([], batch, key)["mel_power"]
    filtered = augmented(make(["filters"], filters__kind=kind), batch, key)["mel_power"]
    db = 10 * np.log10(filtered / plain)  # [b, n_mels, t]
    np.testing.assert_allclose(db, np.broadcast_to(db[..., :1], db.shape), atol=1e-3)
    gains = db[..., 0]
    assert np.abs(gains).max() <= 6.001
    steps = np.abs(np.diff(gains, axis=1)) > 1e-3
    if kind == "step":
        assert np.all(steps.sum(axis=1) <= 3)  # at most four bands
        assert np.all(steps.any(axis=0).sum() <= 3)  # the same for all clips
    else:
        bends = np.abs(np.diff(gains, n=2, axis=1)) > 1e-3
        assert np.all(bends.sum(axis=1) <= 2 * 3)
    assert len({*np.round(gains[:, 0], 4).tolist()}) == 4


def test_mask_after_the_logarithm_has_its_value():
    batch, key = batch_of(40), jax.random.key(0)
    plain = augmented([], batch, key)["log_mel"]
    masked = augmented(make(["mask"]), batch, key)["log_mel"]
    changed = masked != plain
    assert np.all(masked[changed] == 0.5)
    widths = changed[:, :, 0, 0].sum(axis=1)
    assert 0 <= widths.min() < widths.max() < 8


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"filters__kind": "cubic"}, "kind is 'cubic', expected step or linear"),
        ({"filters__min_bands": 5}, r"min_bands is 5, expected in 1 … 4 \(max_bands\)"),
        ({"filters__min_width": 20}, "min_width is 20, expected at least 1, max_bands of them"),
        ({"filters__max_db": -1.0}, "max_db is -1.0, expected at least 0"),
        ({"mask__max_width": 33}, r"max_width is 33, expected in 0 … 32 \(n_mels\)"),
        ({"mixup__alpha": 0.0}, "alpha is 0.0, expected above 0"),
        ({"mixup__alpha": float("inf")}, "alpha is inf, expected above 0 and finite"),
        ({"freq_mixstyle__alpha": float("inf")}, "alpha is inf, expected above 0 and finite"),
        ({"mask__value": float("nan")}, "value is nan, expected a finite number"),
        ({"mask__max_width": 4.5}, "config.augment.mask.max_width is 4.5, expected a whole number"),
        ({"mixup__per_batch": "no"}, "config.augment.mixup.per_batch is 'no', expected True or F"),
        ({"filters__max_db": "loud"}, "config.augment.filters.max_db is 'loud', expected a number"),
        ({"mixup__targets": None}, "config.augment.mixup.targets is None, expected text"),
        ({"mixup__targets": "labels"}, "config.augment.mixup.targets has 'labels', .*device_id"),
        ({"mixup__targets": ""}, "config.augment.mixup.targets has '', expected some of device_id"),
    ],
)
def test_value_out_of_range_is_named(change, expected):
    (label, _) = next(iter(change)).split("__")
    with pytest.raises(UserError, match=expected):
        augmented(make([label], **change), batch_of(2), jax.random.key(0))


# A run.


OPTIONS = {
    "make_evaluator": make_evaluator,
    "n_epochs": 2,
    "eval_every_epochs": 0,
    "checkpoint_every_epochs": 1,
    "keep_checkpoints": 1,
    "keep_best": False,
    "steps_per_call": 2,
}


@pytest.mark.nightly
def test_run_with_all_of_them_resumes_to_the_same_bits_and_with_the_same_files_only(
    folder, tmp_path, compiled_fast
):
    config = tiny_config(data__batch_size=4).unlock()
    config.augment = ConfigDict({**config.augment.to_dict(), **SECTIONS})
    config.augment.dir.dir = str(folder)
    config.augment.dir.column_values = "a"
    own = experiment.make(config.lock())
    clips = small_clips(10)
    whole = loop.fit(own, clips, None, tmp_path / "whole", **OPTIONS)
    with pytest.raises(Interrupted):
        loop.fit(own, Stopping(small_clips(10), 4), None, tmp_path / "cut", **OPTIONS)
    write_wav(folder / "d.wav", np.ones(10, "i2"))
    with pytest.raises(UserError, match=r"trained with other files of config.augment.dir than"):
        loop.fit(own, small_clips(10), None, tmp_path / "cut", **OPTIONS)
    (folder / "d.wav").unlink()
    resumed = loop.fit(own, small_clips(10), None, tmp_path / "cut", **OPTIONS)
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
