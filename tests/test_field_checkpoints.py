"""PyTorch files as other teams publish them: what is taken, and what each is told."""

import argparse
import copy
import io
import json
import re
import tarfile
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from commands import call

from asc_jax.errors import UserError
from asc_jax.features import filters
from asc_jax.pytorch import front_end, runs
from asc_jax.pytorch.files import read, read_state_dict, write_state_dict
from asc_jax.pytorch.parts import choose
from asc_jax.pytorch.twin import make_twin
from asc_jax.pytorch.weights import from_torch, infer_config
from asc_jax.training.workdir import run_config
from configs import base

torch = pytest.importorskip("torch")
HOP = {"hop_length": 500}
DTYPES = ["float32", "float16", "bfloat16", "float64"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.ckpt"


@pytest.fixture(scope="module")
def network():
    """Tensors of the baseline's network by its own names, with statistics off their start."""
    return moved(make_twin())


def moved(twin):
    generator = torch.Generator().manual_seed(0)
    return {
        name: value + 0.1 * torch.rand(value.shape, generator=generator) if value.ndim else value
        for name, value in twin.state_dict().items()
    }


def prefixed(prefix, tensors):
    return {prefix + name: value for name, value in tensors.items()}


def filterbank(
    sample_rate=32_000, f_min=0.0, f_max=16_000.0, n_fft=4096, n_mels=256, dtype="float32"
):
    bank = filters.mel_filterbank(n_fft, n_mels, sample_rate, f_min, f_max)
    return torch.from_numpy(bank).to(getattr(torch, dtype))


def constants(**settings):
    window = torch.hann_window(3072)
    return {"mel.0.spectrogram.window": window, "mel.0.mel_scale.fb": filterbank(**settings)}


def save(path, state_dict, **content):
    torch.save({"state_dict": state_dict, "hyper_parameters": HOP} | content, path)


def converted(path, **options):
    """Return what is printed about the run, and its config."""
    workdir = path.with_suffix("")
    lines = runs.run_from_torch(path, workdir, **options)
    return "\n".join(lines), run_config.load(workdir)[1]


def refusal(path, **options):
    with pytest.raises(UserError) as error:
        runs.run_from_torch(path, path.with_suffix(""), **options)
    assert not path.with_suffix("").exists()
    return str(error.value)


def settings_of(path, stored):
    """The features of the baseline, with what a file's constants tell instead."""
    torch.save(stored, path)
    file = read(path)
    (names,) = front_end.front_ends(file.tensors).values()
    stored = file.arrays(names)
    features = base.get_config().features.copy_and_resolve_references().unlock()
    told = front_end.settings_of(stored, features)
    features.update({name.removeprefix("features."): value for name, value in told.items()})
    front_end.check(stored, features)
    return features.to_dict()


def other_front_end(path, stored):
    with pytest.raises(UserError, match="the file was made with another front end: ") as error:
        settings_of(path, stored)
    return str(error.value)


# Stored constants.


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_b37_filterbank_of_another_pytorch_version_is_ours(path, dtype):
    """Its band edges are off by two units of float32 in either direction."""
    edges = mel_edges("HTK", 256, 0.0, 16_000.0)
    units = np.random.default_rng(0).integers(-2, 3, edges.size)
    edges = edges + units * np.finfo(np.float32).eps * (700 + edges) / 2
    bank = triangles(edges, 32_000, 4096)
    largest = np.abs(bank - filterbank().numpy()).max()
    assert 1e-5 < largest < 1e-4, "as between published files and ours, 2.6e-5"
    stored = {"mel.1.mel_scale.fb": torch.from_numpy(bank).to(getattr(torch, dtype))}
    features = settings_of(path, stored)
    assert features == base.get_config().features.to_dict()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "settings",
    [
        {"f_min": 50.0},
        {"f_max": 14_000.0},
        {"f_min": 20.0, "f_max": 15_500.0, "n_mels": 128},
        {"n_fft": 8192, "f_min": 1.0},
        {"sample_rate": 16_000, "f_max": 8000.0, "n_mels": 64},
        {"sample_rate": 22_050, "f_max": 11_025.0, "n_mels": 128},
        {"sample_rate": 44_100, "f_max": 22_050.0},
        {"sample_rate": 48_000, "f_max": 24_000.0},
    ],
)
def test_b37_rate_and_range_are_read_off_the_filterbank(path, settings, dtype):
    stored = {"mel.1.mel_scale.fb": filterbank(**settings, dtype=dtype)}
    features = settings_of(path, stored)
    assert features == base.get_config().features.to_dict() | settings


def test_b37_what_the_filterbank_tells_is_printed_or_contradicts(path, network):
    save(path, constants(f_min=50.0) | prefixed("model.", network))
    assert re.search(r"features.f_min +50.0 +stored buffers", converted(path)[0])
    save(path.with_name("n.ckpt"), constants(f_min=50.0) | prefixed("model.", network))
    message = refusal(path.with_name("n.ckpt"), overrides={"features.f_min": 20.0})
    assert "config.features.f_min is 20.0, but the tensors in the file say 50.0" in message


def mel_edges(scale, n_mels, f_min, f_max):
    if scale == "HTK":
        ends = [2595 * np.log10(1 + f / 700) for f in (f_min, f_max)]
        return 700 * (10 ** (np.linspace(*ends, n_mels + 2) / 2595) - 1)
    ends = [f * 3 / 200 if f < 1000 else 15 + 27 * np.log(f / 1000) / np.log(6.4)
            for f in (f_min, f_max)]  # fmt: skip
    mels = np.linspace(*ends, n_mels + 2)
    return np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))


def triangles(edges, rate, n_fft, norm=False):
    freqs = np.linspace(0, rate // 2, n_fft // 2 + 1)[:, None]
    widths = np.diff(edges)
    bank = np.minimum((freqs - edges[:-2]) / widths[:-1], (edges[2:] - freqs) / widths[1:])
    bank = np.maximum(bank, 0.0) * (2 / (edges[2:] - edges[:-2]) if norm else 1)
    return bank.astype(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    ("scale", "norm", "expected"),
    [
        ("Slaney", False, "0 to 16000 Hz at 32000 Hz on the Slaney mel scale and"),
        ("Slaney", True, "on the Slaney mel scale, each band of the same area (norm 'slaney')"),
        ("HTK", True, "on the HTK mel scale, each band of the same area (norm 'slaney')"),
    ],
)
def test_b37_another_mel_scale_or_norm_is_named(path, scale, norm, expected, dtype):
    bank = triangles(mel_edges(scale, 256, 0.0, 16_000.0), 32_000, 4096, norm)
    stored = {"mel.1.mel_scale.fb": torch.from_numpy(bank).to(getattr(torch, dtype))}
    message = other_front_end(path, stored)
    assert "another front end: mel.1.mel_scale.fb is like that of" in message
    assert expected in message


WINDOWS = {
    "is a symmetric Hann window": torch.hann_window(3072, periodic=False),
    "is a Hamming window": torch.hamming_window(3072),
    "is a Blackman window": torch.blackman_window(3072),
    "is a rectangular window": torch.ones(3072),
    "differs from ours by up to": torch.rand(3072, generator=torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("expected", WINDOWS)
def test_b37_another_window_is_named_at_every_precision(path, expected, dtype):
    stored = {"net.mel.spectrogram.window": WINDOWS[expected].to(getattr(torch, dtype))}
    message = other_front_end(path, stored)
    assert f"another front end: mel.1.spectrogram.window {expected}" in message


@pytest.mark.parametrize("dtype", DTYPES)
def test_b37_our_own_constants_are_ours_at_every_precision(path, dtype):
    kernel = torch.from_numpy(filters.resample_kernel(44_100, 32_000))[:, None]
    off = 2e-5 * torch.rand(kernel.shape, generator=torch.Generator().manual_seed(0))
    stored = {"mel.0.kernel": kernel + off, **constants()}
    stored = {name: value.to(getattr(torch, dtype)) for name, value in stored.items()}
    assert settings_of(path, stored) == base.get_config().features.to_dict()


def test_b37_rates_of_a_resampling_kernel_are_named(path):
    kernel = torch.from_numpy(filters.resample_kernel(48_000, 32_000))[:, None]
    assert "resamples from 48000 to 32000 Hz" in other_front_end(path, {"mel.0.kernel": kernel})
    kernel = torch.from_numpy(filters.resample_kernel(44_100, 16_000))[:, None]
    assert settings_of(path, {"resampler.kernel": kernel})["sample_rate"] == 16_000


# Weights and what is around them.


@pytest.mark.parametrize("dtype", ["bfloat16"])
def test_weights_of_16_bits_are_kept_exactly(path, network, dtype):
    tensors = {
        name: value.to(getattr(torch, dtype)) if value.ndim else value
        for name, value in network.items()
    }
    save(path, prefixed("model.", tensors))
    assert f"{dtype} kept exactly in float32" in converted(path)[0]
    runs.run_to_torch(path.with_suffix(""), path.with_name("back.pt"))
    back = torch.load(path.with_name("back.pt"), weights_only=True)
    assert all(
        torch.equal(back[name], value.to(back[name].dtype)) for name, value in tensors.items()
    )


PREFIXES = [
    "",
    "model.",
    "module.",
    "_orig_mod.",
    "net.",
    "model.module.",
    "module._orig_mod.model.",
]


@pytest.mark.parametrize("container", ["state_dict", "model_state_dict", "model", "ema", None])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_wrappers_of_every_kind_are_taken_off(path, network, prefix, container):
    tensors = prefixed(prefix, network)
    optimiser = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
    content = {container: tensors, "optimizer": optimiser, "epoch": 3} if container else tensors
    torch.save(content, path)
    file = read(path)
    arrays = file.arrays(choose(file).names)
    assert list(arrays) == list(network)
    from_torch(arrays)


def lightning_of_a_student(network):
    """A student with a teacher, projections for feature distillation, metrics and EMA's shadow."""
    teacher = {"in_c.0.weight": torch.zeros(8, 1, 3, 3), "stage1.0.conv.weight": torch.zeros(4, 4)}
    return {
        **constants(),
        **prefixed("model.", network),
        **prefixed("teacher_model.model.", teacher),
        "proj_stage1.weight": torch.zeros(92, 32, 1, 1),
        "val_acc.correct": torch.tensor(3),
    }


def test_extra_entries_of_a_lightning_module_are_left_out(path, network):
    extras = {
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(5)}}}],
        "callbacks": {"EMA": {"decay": 0.999, "shadow": [torch.zeros(3)]}},
        "loops": {"fit_loop": {"state_dict": {}}},
        "hyper_parameters": {"config": argparse.Namespace(hop_length=472, sample_rate=32_000)},
    }
    save(path, lightning_of_a_student(network), **extras)
    printed, config = converted(path)
    assert "(model) → " in printed
    assert config.features.hop_length == 472, "one level deeper than usual"


def of_devices(network):
    """One network for each device, as the task's baseline of 2025 saves them."""
    other = {name: value + 0.25 if value.ndim else value for name, value in network.items()}
    return {
        **constants(),
        **prefixed("multi_device_model.base_model.", network),
        **prefixed("multi_device_model.device_models.a.", other),
        **prefixed("multi_device_model.device_models.s1.", network),
    }


def test_several_networks_are_named_and_one_is_chosen(path, network):
    save(path, of_devices(network))
    message = refusal(path)
    assert "holds 3 networks: choose one with --part NAME" in message
    assert "multi_device_model.device_models.s1" in message
    assert "the end of several" in refusal(path, part="") or "not there" in refusal(path, part="")
    assert "--part b is not there, expected one of multi_device" in refusal(path, part="b")
    file = read(path)
    for name in ("a", "device_models.a", "multi_device_model.device_models.a."):
        arrays = file.arrays(choose(file, name).names)
        expected = network["in_c.0.0.weight"].numpy() + np.float32(0.25)
        np.testing.assert_array_equal(arrays["in_c.0.0.weight"], expected)


def test_one_network_under_two_names_needs_no_choice(path, network):
    save(path, prefixed("model.", network) | prefixed("multi.base_model.", network))
    assert choose(read(path)).name == "model"


def test_student_and_averaged_student_are_told_apart(path, network):
    averaged = {name: value * 2 for name, value in network.items()}
    save(path, prefixed("model.", network), ema={"model": averaged})
    assert "choose one with --part NAME, of model, ema/model" in refusal(path)
    chosen = choose(read(path), "ema/model")
    array = read(path).arrays(chosen.names)["in_c.0.0.weight"]
    np.testing.assert_array_equal(array, averaged["in_c.0.0.weight"])


def test_list_shows_networks_teachers_constants_and_settings(path, network):
    content = of_devices(network) | lightning_of_a_student(network)
    narrow = {n: v[:, :, :, :1] if v.ndim == 4 else v for n, v in network.items()}
    save(path, content | prefixed("broken.", narrow))
    done = call("convert", "--from_torch=m.ckpt", "--list", cwd=path.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("m.ckpt: 5 networks of the baseline's kind\n")
    for row in (
        r"--part model +61,148 parameters  can be converted: width 32, width_multiplier 1.8",
        r"--part multi_device_model.device_models.a +61,148 parameters",
        r"--part broken +\d\d,\d\d\d parameters  cannot be converted: .* depthwise kernel of 3 × 1",
        r"teacher_model +88 values  not converted; it looks like a CP-ResNet",
        r"proj_stage1 +2,944 values  not converted",
        r"mel.0.mel_scale.fb +524,544 values  constant of a front end",
        r"hop_length +hyper-parameter 500",
    ):
        assert re.search(row, done.stdout), row
    assert [p.name for p in path.parent.iterdir()] == ["m.ckpt"]


def test_part_and_list_on_the_command_line(path, network):
    save(path, of_devices(network))
    done = call("convert", "--from_torch=m.ckpt", "--workdir=x", "--part=s1", cwd=path.parent)
    assert done.returncode == 0, done.stderr
    assert "device_models.s1) → x" in done.stdout
    assert "the strides are taken to be the baseline's" in done.stdout
    for words, expected in (
        (("--to=c", "--workdir=x", "--part=a"), "--part does not go with --to"),
        (("--to=c", "--workdir=x", "--list"), "--list does not go with --to"),
        (("--from_torch=m.ckpt", "--workdir=y", "--part="), "--part is empty"),
    ):
        done = call("convert", *words, cwd=path.parent)
        assert (done.returncode, done.stdout) == (2, "")
        assert expected in done.stderr


def test_pruned_weights_are_multiplied_by_their_masks(path, network):
    prune = pytest.importorskip("torch.nn.utils.prune")
    twin = make_twin()
    twin.load_state_dict(network)
    convolution = twin.in_c[1][0]
    prune.l1_unstructured(convolution, "weight", amount=0.5)
    save(path, prefixed("model.", twin.state_dict()))
    tensors = read_state_dict(path)
    kept = tensors["model.in_c.1.0.weight"]
    np.testing.assert_array_equal(kept, convolution.weight.detach().numpy())
    assert np.mean(kept == 0) == 0.5
    from_torch(tensors)


def test_global_response_norm_and_other_widths_are_converted(path):
    save(path, prefixed("model.", moved(make_twin(grn=True, width=24, expansion=3.0))))
    found = infer_config(read_state_dict(path))
    assert (found["grn"], found["width"], found["expansion"]) == (True, 24, 3.0)


# Networks that cannot be converted.


def test_what_cannot_be_converted_is_said_in_words(path, network):
    large = copy.copy(network)
    large["stages.s3.b6.block.1.0.weight"] = torch.zeros(120, 1, 5, 5)
    deeper = network | {"stages.s3.b7.block.0.0.weight": torch.zeros(8, 104, 1, 1)}
    fused = network | {"in_c.0.0.bias": torch.zeros(8)}
    fused = {name: value for name, value in fused.items() if not name.startswith("in_c.0.1.")}
    two = network | {"in_c.0.0.weight": torch.zeros(8, 2, 3, 3)}
    for tensors, expected in (
        (large, "network, block b6 has a depthwise kernel of 5 × 5, not 3 × 3: misshapen stages"),
        (deeper, "network, it has the blocks b1, b2, b3, b4, b5, b6, b7, not b1 … b6: unknown"),
        (fused, "its convolutions have a bias, as where BatchNorms were folded into them: missing"),
        (two, "it takes 2 channels, not one log-mel: misshapen in_c.0.0.weight"),
    ):
        save(path, prefixed("model.", tensors))
        assert expected in refusal(path)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("patch_embed.proj.weight", "blocks.0.attn.qkv.weight"), "patches, such as PaSST"),
        (("encoder.layers.0.self_attn.k_proj.weight",), "a transformer, such as BEATs"),
        (("conv_layers.0.weight", "middle_layers.1.freq_dw_conv._conv.weight"), "a TF-SepNet"),
        (("cnn_head.0.weight", "BCBlocks.0.0.f1.0.weight"), "a BC-ResNet"),
        (("in_c.0.weight", "stage1.0.conv1.weight"), "a CP-ResNet"),
        (("cnn.0.weight", "gru.weight_ih_l0"), "a recurrent layer, such as a CNN-GRU"),
        (("features.0.0.weight", "features.1.block.0.0.weight"), "a MobileNet"),
        (("layer1.0.conv1.weight",), "a ResNet"),
    ],
)
def test_another_network_is_called_what_it_looks_like(path, names, kind):
    save(path, {f"model.{name}": torch.zeros(2, 2) for name in names})
    message = refusal(path)
    assert "holds no network of the baseline's" in message
    assert kind in message


def test_other_strides_and_another_front_end_are_told_by_the_hyper_parameters(path, network):
    strides = {"strides": {"b2": (2, 2), "b4": (2, 1)}}
    printed, config = told(path, network, HOP | strides)
    assert [*map(tuple, config.model.strides)] == [(1, 1), (2, 2), (1, 1), (2, 1), (1, 1), (1, 1)]
    assert "the strides are taken to be" not in printed
    path, other = path.with_name("n.ckpt"), HOP | {"config": {"fmax_aug_range": 1000}}
    message = questioned(path, network, other)
    assert "fmax_aug_range is that of another front end" in message
    kaldi = {
        "mel_scale": "kaldi",
        "pre_emphasis": 0.97,
        "window": "hann_symmetric",
        "norm_mean": -4.5,
        "norm_std": 5.0,
    }
    config = base.get_config()
    config.features.update(kaldi)
    overrides = {f"features.{name}": value for name, value in kaldi.items()}
    options = {"name": "base.py", "config": config, "overrides": overrides}
    features = converted(path, **options)[1].features
    assert {name: features[name] for name in kaldi} == kaldi


# Hyper-parameters that leave a question.


def told(path, network, hyper_parameters, stored=(), **options):
    """Return what is printed of a file with these hyper-parameters, and the config."""
    save(path, dict(stored) | prefixed("model.", network), hyper_parameters=hyper_parameters)
    return converted(path, **options)


def questioned(path, network, hyper_parameters, stored=(), **options):
    save(path, dict(stored) | prefixed("model.", network), hyper_parameters=hyper_parameters)
    return refusal(path, **options)


def with_override(key, value):
    """Return what `--config base.py` gives with one more flag."""
    config = base.get_config()
    section, name = key.split(".")
    config[section][name] = value
    return {"name": "base.py", "config": config, "overrides": {key: value}}


def test_settings_of_student_and_teacher_are_told_apart(path, network):
    both = {"student": {"hop_length": 500, "n_mels": 256}, "teacher": {"hop_length": 640}}
    message = questioned(path, network, both)
    assert "student.hop_length (500) and teacher.hop_length (640) differ: say which" in message
    assert "--config base.py --config.features.hop_length=…" in message
    printed, config = told(path, network, both, **with_override("features.hop_length", 500))
    assert (config.features.hop_length, config.features.n_mels) == (500, 256)
    assert re.search(r"features.n_mels +256 +hyper-parameters \(student\)", printed)


@pytest.mark.parametrize(
    ("hyper_parameters", "hop"),
    [
        ({"student": {"hop_length": 500}, "teacher": argparse.Namespace(hop_length=500)}, 500),
        ({"hop_length": 500, "teacher": {"hop_length": 640}}, 500),
        ({"a": {"hop_length": 500.0}, "b": {"hop_size": 500}}, None),
    ],
)
def test_settings_that_agree_or_stand_above_are_no_question(path, network, hyper_parameters, hop):
    if hop is None:
        assert "a.hop_length is 500.0" in questioned(path, network, hyper_parameters)
    else:
        assert told(path, network, hyper_parameters)[1].features.hop_length == hop


def test_what_only_the_teacher_is_told_is_not_the_networks(path, network):
    message = questioned(path, network, {"teacher": {"hop_length": 500, "power": 1.0}, "x": {}})
    assert "does not contain its hop_length" in message


@pytest.mark.parametrize(
    ("hyper_parameters", "expected"),
    [
        ({"f_max": 16_000, "fmax": 8000.0}, "f_max (16000) and fmax (8000.0) differ: say which"),
        ({"f_max": None, "fmax": 8000.0}, "f_max (16000.0) and fmax (8000.0) differ"),
        ({"hop_size": 320}, "hop_length (500) and hop_size (320) differ"),
        (
            {"window_length": 3072, "window_size": 800},
            "window_length (3072) and window_size (800) differ",
        ),
        (
            {"sample_rate": 16_000, "resample_rate": 32_000},
            "sample_rate (16000) and resample_rate (32000) differ",
        ),
    ],
)
def test_two_names_of_one_setting_that_differ_are_both_named(
    path, network, hyper_parameters, expected
):
    assert expected in questioned(path, network, HOP | hyper_parameters)


def test_two_names_of_one_setting_may_agree_or_be_settled(path, network):
    same = {"hop_size": 500, "f_max": None, "fmax": 16_000.0}
    assert told(path, network, HOP | same)[1].features.f_max == 16_000.0
    options = with_override("features.f_max", 14_000.0)
    path = path.with_name("n.ckpt")
    config = told(path, network, HOP | {"f_max": 16_000, "fmax": 8000.0}, **options)[1]
    assert config.features.f_max == 14_000.0


@pytest.mark.parametrize(
    "rates",
    [
        {"sample_rate": 44_100, "resample_rate": 32_000},
        {"orig_sample_rate": 44_100, "sample_rate": 32_000},
        {"data": {"sample_rate": 44_100}, "model": {"resample_rate": 32_000}},
        {"sample_rate": 44_100, "model": {"resample_rate": 32_000}},
    ],
)
def test_rate_of_the_recordings_is_not_that_of_the_front_end(path, network, rates):
    assert told(path, network, HOP | rates)[1].features.sample_rate == 32_000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("power", 1.0),
        ("center", False),
        ("normalized", True),
        ("pad_mode", "constant"),
        ("window_fn", "torch.hamming_window"),
        ("mel_scale", "slaney"),
        ("norm", "slaney"),
        ("mel_norm", "slaney"),
    ],
)
def test_another_front_end_that_leaves_no_tensor_is_refused(path, network, name, value):
    for hyper_parameters, place in (
        (HOP | {name: value}, name),
        ({"front": HOP | {name: value}}, f"front.{name}"),
    ):
        message = questioned(path, network, hyper_parameters, constants())
        assert f"the hyper-parameter {place} is {value!r}, that of another front end" in message
        assert "without hyper-parameters: torch.save(" in message


def test_our_own_front_end_and_settings_of_something_else_are_no_question(path, network):
    ours = {"power": 2, "center": True, "mel_scale": "HTK", "norm": None, "mel_norm": False}
    ours |= {"window_fn": "torch.hann_window", "pad_mode": "reflect", "normalized": False}
    other = {"schedule": {"power": 1.0}, "head": {"norm": "slaney"}, 3: {"power": 1.0}}
    _, config = told(path, network, HOP | ours | other)
    again = HOP | {"norm": "batch", "power": "high"}
    _, same = told(path.with_name("n.ckpt"), network, again)
    assert config.features.hop_length == same.features.hop_length == HOP["hop_length"]


@pytest.mark.parametrize(
    ("told_as", "ours"),
    [("nn.ReLU6", "relu6"), ("hard_swish", "hard_swish"), ("Hardswish", "hard_swish"),
     ("ReLU()", "relu"), ("SiLU", "silu")],
)  # fmt: skip
def test_activation_is_taken_from_the_hyper_parameters(path, network, told_as, ours):
    printed, config = told(path, network, HOP | {"activation": told_as})
    assert config.model.activation == ours
    assert re.search(rf"model.activation +{ours} +hyper-parameters", printed)


@pytest.mark.parametrize("activation", ["gelu", "leaky_relu", 3])
def test_activation_that_is_not_ours_is_refused_unless_it_is_said(path, network, activation):
    hyper_parameters = HOP | {"activation": activation}
    message = questioned(path, network, hyper_parameters)
    assert f"the hyper-parameter activation is {activation!r}, expected one of relu" in message
    options = with_override("model.activation", "gelu")
    assert told(path, network, hyper_parameters, **options)[1].model.activation == "gelu"


STRIDES = [(1, 1), (1, 1), (1, 2), (2, 1), (1, 1), (1, 1)]


def test_strides_in_a_list_are_checked_too(path, network):
    told(path, network, HOP | {"strides": STRIDES})
    told(path.with_name("n.ckpt"), network, HOP | {"strides": [1, 1, [1, 2], [2, 1], 1, 1]})
    path = path.with_name("o.ckpt")
    other = [*STRIDES[:2], (2, 0), (2, 2), *STRIDES[4:]]
    assert "strides has (2, 0) for block b3" in questioned(path, network, HOP | {"strides": other})
    message = questioned(path, network, HOP | {"strides": {"b3": torch.ones(2)}})
    assert "strides has (tensor([1., 1.]), tensor([1., 1.])) for block b3" in message
    for strides in ([1, 2], 2):
        message = questioned(path, network, HOP | {"strides": strides})
        assert f"strides is {strides}, expected those of the blocks b1, b2" in message


# Several front ends.


def front_end_at(place, *, kernel=False, **settings):
    tensors = {
        "1.spectrogram.window": torch.hann_window(3072),
        "1.mel_scale.fb": filterbank(**settings),
    }
    if kernel:
        kernel = torch.from_numpy(filters.resample_kernel(44_100, 32_000))
        tensors["0.kernel"] = kernel[:, None]
    return prefixed(f"{place}.", tensors)


TO_8_KHZ = {"f_max": 8000.0}


@pytest.mark.parametrize(
    ("prefix", "own", "other"),
    [
        ("net.", "mel", "net_teacher.mel"),
        ("net.", "net.mel", "mel"),
        ("net.", "net.front.mel", "teacher.mel"),
        ("student.net.", "student.mel", "teacher.mel"),
        ("student.net.", "student.mel", "mel"),
        ("student.net.", "mel", "teacher.mel"),
        ("", "mel", "teacher.mel"),
        ("model.", "melspec", "model_teacher.melspec"),
    ],
)
def test_front_end_beside_the_network_is_taken_whole(path, network, prefix, own, other):
    for number, stored in enumerate(
        (
            front_end_at(other, kernel=True, **TO_8_KHZ) | front_end_at(own),
            front_end_at(own) | front_end_at(other, kernel=True, **TO_8_KHZ),
        )
    ):
        save(path, stored | prefixed(prefix, network))
        found = front_end.nearest(front_end.front_ends(read(path).tensors), prefix)
        assert list(found) == [f"{own}.1"], number
        assert not any(name.startswith(f"{other}.") for name in found[f"{own}.1"].values())
    assert converted(path)[1].features.f_max == 16_000.0


def test_students_own_rate_is_not_checked_against_the_teachers_kernel(path, network):
    stored = front_end_at("student.mel", sample_rate=44_100, f_max=22_050.0)
    stored |= front_end_at("teacher.mel", kernel=True)
    tensors = stored | prefixed("student.net.", network)
    save(path, tensors, hyper_parameters={"hop_length": 700})
    assert converted(path)[1].features.sample_rate == 44_100


@pytest.mark.parametrize(
    ("prefix", "other"),
    [("model.", "mel_teacher"), ("model.student.", "model.teacher.mel")],
)
def test_front_ends_that_may_both_be_the_networks_are_listed(path, network, prefix, other):
    save(path, front_end_at("mel") | front_end_at(other, **TO_8_KHZ) | prefixed(prefix, network))
    message = refusal(path)
    assert "which front end is that of the network" in message
    assert "mel.1 (f_max 16000.0)" in message
    assert f"{other}.1 (f_max 8000.0)" in message
    assert "say it with --config base.py --config.features.f_max=…" in message
    printed, config = converted(path, **with_override("features.f_max", 16_000.0))
    assert config.features.f_max == 16_000.0


def test_window_of_another_place_is_not_put_beside_the_filterbank(path, network):
    stored = {"mel.1.mel_scale.fb": filterbank(), "aux.spectrogram.window": torch.hann_window(800)}
    message = questioned(path, network, HOP, stored)
    assert "mel.1 (win_length 3072), aux (win_length 800); say it with" in message
    options = with_override("features.win_length", 3072)
    assert told(path, network, HOP, stored, **options)[1].features.win_length == 3072


def test_equal_front_ends_are_one_and_unlike_ones_are_not(path, network):
    told(path, network, HOP, front_end_at("mel") | front_end_at("mel_teacher", kernel=True))
    other = front_end_at("mel_teacher")
    other["mel_teacher.1.spectrogram.window"] = torch.hamming_window(3072)
    message = questioned(path.with_name("n.ckpt"), network, HOP, front_end_at("mel") | other)
    assert "mel.1 (like ours), mel_teacher.1 (unlike); save the file again without" in message


def test_front_end_of_the_teacher_alone_is_a_question_where_it_differs(path, network):
    told(path, network, HOP, front_end_at("teacher.mel"))
    path = path.with_name("n.ckpt")
    stored = front_end_at("teacher.mel", **TO_8_KHZ)
    message = questioned(path, network, HOP, stored)
    assert "teacher.mel.1 (f_max 8000.0), one that is not stored (f_max 16000.0)" in message
    for f_max in (8000.0, 16_000.0):
        options = with_override("features.f_max", f_max)
        assert told(path, network, HOP, stored, **options)[1].features.f_max == f_max
        path = path.with_name("o.ckpt")


# Files that are no checkpoints.


def safetensors(path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))


def torch_script(path):
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.script(torch.nn.Linear(2, 2)).save(path)


def an_archive(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("weights/model.pt", "x")


def a_tar(path):
    with tarfile.open(path, "w") as file:
        file.addfile(tarfile.TarInfo("a"), io.BytesIO())


def cut_short(path):
    torch.save({"a": torch.arange(5000.0)}, path)
    path.write_bytes(path.read_bytes()[:9000])


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
KINDS = {
    "an LFS pointer": (LFS, "is a Git LFS pointer, not the file itself: run git lfs pull"),
    "an annex pointer": (b"/annex/objects/MD5-s1--0\n", "is a git-annex pointer, not the file"),
    "a page": (b"\n<!DOCTYPE html>\n<html></html>", "is a web page: download the file itself"),
    "text": (b"Not Found", "is a text file, which begins 'Not Found', not a file of PyTorch's"),
    "gzip": (b"\x1f\x8b\x08" + bytes(50), "is a compressed file: unpack it"),
    "an array": (b"\x93NUMPY\x01\x00", "is a NumPy array without names"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
    "LiteRT": (b"\x1c\0\0\0TFL3", "is a LiteRT network"),
    "nothing": (b"", "is empty: copy it again"),
    "safetensors": (safetensors, "is a safetensors file: save it for PyTorch with torch.save(saf"),
    "TorchScript": (torch_script, "is a TorchScript program, which is code; if you trust it"),
    "zip": (an_archive, "is a zip archive of other files ('weights/model.pt' …): unpack it"),
    "tar": (a_tar, "is a tar archive: unpack it"),
    "cut short": (cut_short, "is cut short: its end is missing after 9,000 bytes; copy it again"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_other_kinds_are_called_what_they_are(path, kind):
    content, expected = KINDS[kind]
    path.write_bytes(content) if isinstance(content, bytes) else content(path)
    with pytest.raises(UserError) as error:
        read(path)
    assert str(error.value).startswith(f"{path} {expected}")


def test_folder_is_called_one_and_its_files_are_named(tmp_path):
    (tmp_path / "last.ckpt").touch()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="is a folder, expected one file: it holds last.ckpt$"):
        read(tmp_path)


def test_whole_pickled_module_is_called_one_and_not_run(path):
    torch.save(torch.nn.Sequential(torch.nn.ReLU()), path)
    with pytest.raises(UserError, match="holds a whole object of the class torch.nn.modules.cont"):
        read(path)


def test_everything_that_is_refused_is_named_with_both_ways_out(path, network):
    hyper_parameters = {"loss": torch.nn.CrossEntropyLoss(), "activation": torch.nn.ReLU()}
    save(path, prefixed("model.", network), hyper_parameters=hyper_parameters)
    message = refusal(path)
    for name in ("modules.loss.CrossEntropyLoss", "modules.activation.ReLU"):
        assert name in message
    assert "save the weights alone: torch.save(model.state_dict(), 'weights.pt')" in message
    assert f"torch.load({str(path)!r}, weights_only=False)['state_dict'], 'weights.pt')" in message


def test_tensor_that_repeats_itself_to_terabytes_is_not_unfolded(path):
    torch.save({"a": torch.ones(1).expand(2**40)}, path)
    with pytest.raises(UserError, match="a has more values than the file: copy it again"):
        read_state_dict(path)


def test_dictionary_within_itself_is_read_once(path):
    content = {"a": torch.ones(2), "lists": [[], []]}
    content["lists"][0] += [content["lists"]] * 50 + [torch.zeros(3)]
    torch.save(content, path)
    assert list(read(path).tensors) == ["a", "lists/0/50"]


def test_bfloat16_survives_files_of_ours(tmp_path):
    torch.save({"a": torch.arange(3, dtype=torch.bfloat16)}, tmp_path / "m.pt")
    assert read_state_dict(tmp_path / "m.pt")["a"].dtype == jnp.bfloat16
    write_state_dict(tmp_path / "n.pt", {"a": np.arange(3.0)})
    assert list(read_state_dict(tmp_path / "n.pt")) == ["a"]
