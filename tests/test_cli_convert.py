"""`asc-jax convert` as a person starts it: PyTorch file → run → PyTorch file."""

import argparse
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from commands import call
from exported import moved_variables, save_run
from small import small_config
from tau_folder import write_tau

from asc_jax import experiment
from asc_jax.cli import convert, prepare_data
from asc_jax.errors import UserError
from asc_jax.evaluation import evaluate
from asc_jax.features import filters
from asc_jax.pytorch import runs as torch_runs
from asc_jax.pytorch.files import read_state_dict, write_state_dict
from asc_jax.pytorch.twin import make_twin
from asc_jax.pytorch.weights import to_torch
from asc_jax.training.workdir import run_config

torch = pytest.importorskip("torch")
ROOT = pathlib.Path(__file__).parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
BASE = ("--config", "base.py")


def start(*args, cwd, module=None):
    """Return how `convert`, or a module in a process of its own, ended: without a traceback."""
    if module is None:
        return call("convert", *args, cwd=cwd)
    command = [sys.executable, *module, *map(str, args)]
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, text=True, capture_output=True)
    assert "Traceback" not in done.stderr
    return done


def converted(*args, cwd):
    done = start(*args, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(*args, cwd, **options):
    """The one line of a process that refused, and left nothing behind."""
    before = sorted(pathlib.Path(cwd).rglob("*"))
    done = start(*args, cwd=cwd, **options)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert re.fullmatch(r"error: [^\n]+\n", done.stderr), done.stderr
    assert sorted(pathlib.Path(cwd).rglob("*")) == before
    return done.stderr


def run_of(path, **options):
    """What is printed about a run that is made, without a process, beside the file."""
    return "\n".join(torch_runs.run_from_torch(path, path.with_suffix(""), **options))


def values(printed):
    """`{"model.width": ("32", "tensor shapes"), …}` of what was printed."""
    rows = re.findall(r"^  (\S+\.\S+) +(\S+) +(.+)$", printed, re.M)
    return {key: (value, source) for key, value, source in rows}


def assert_same_file(path, other):
    ours, theirs = (torch.load(p, weights_only=True) for p in (path, other))
    assert list(ours) == list(theirs)
    for name in theirs:
        assert ours[name].dtype == theirs[name].dtype
        assert torch.equal(ours[name], theirs[name]), name


class Malicious:
    """Unpickled in the ordinary way, it makes a folder."""

    def __reduce__(self):
        return os.mkdir, ("it-ran",)


@pytest.fixture
def tensors(golden):
    return golden("c_state_calib")


@pytest.fixture
def front_end(golden):
    """The baseline's stored constants, as PyTorch shapes them."""
    arrays = golden("b_frontend")
    return {
        "mel.0.kernel": arrays["resample_kernel"][:, None],
        "mel.1.spectrogram.window": arrays["hann_window"],
        "mel.1.mel_scale.fb": arrays["mel_fb"],
    }


def write_lightning(path, tensors, front_end=(), hyper_parameters=None):
    content = dict(front_end) | {f"model.{name}": value for name, value in tensors.items()}
    content = {name: torch.from_numpy(np.array(value)) for name, value in content.items()}
    extra = {"hyper_parameters": hyper_parameters} if hyper_parameters else {}
    torch.save({"state_dict": content, "epoch": 3, **extra}, path)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_there_and_back_is_bit_exact(tmp_path, tensors, dtype):
    given = {n: v.astype(dtype) if v.dtype.kind == "f" else v for n, v in tensors.items()}
    write_state_dict(tmp_path / "in.pt", given)
    out = converted("--from_torch=in.pt", "--workdir=x", *BASE, cwd=tmp_path)
    assert f"61,148 parameters, {dtype} kept exactly in float32" in out
    assert "asc-jax eval --workdir x" in out
    out = converted("--to_torch=out.pt", "--workdir=x", f"--dtype={dtype}", cwd=tmp_path)
    assert out == f"x, step 0 → out.pt: 126 tensors in {dtype}\n"
    assert_same_file(tmp_path / "out.pt", tmp_path / "in.pt")
    make_twin().load_state_dict(torch.load(tmp_path / "out.pt", weights_only=True), strict=True)


@pytest.mark.parametrize("network", [{"width": 16}, {"grn": True}])
def test_other_networks_are_recognised_and_come_back(tmp_path, network):
    twin = make_twin(**network)
    torch.save(twin.state_dict(), tmp_path / "in.pt")
    out = run_of(tmp_path / "in.pt", name="splits/5pct.py")
    for name, value in network.items():
        assert values(out)[f"model.{name}"] == (str(value), "tensor shapes")
    assert values(out)["features.hop_length"] == ("500", "splits/5pct.py")
    torch_runs.run_to_torch(tmp_path / "in", tmp_path / "out.pt")
    assert_same_file(tmp_path / "out.pt", tmp_path / "in.pt")


def test_float64_says_what_rounding_cost(tmp_path, golden):
    write_state_dict(tmp_path / "in.pt", golden("g_final_state64"))
    out = run_of(tmp_path / "in.pt", name="base.py")
    assert "float64 rounded to float32, by up to 6.0e-08 of a value" in out


@pytest.mark.slow
def test_config_comes_from_the_checkpoint_and_says_so(tmp_path, tensors, front_end):
    """Without --config, because hyper-parameters tell the hop."""
    hyper_parameters = argparse.Namespace(hop_length=472, sample_rate=32_000, f_max=None, mixup=1)
    write_lightning(tmp_path / "m.ckpt", tensors, front_end, hyper_parameters)
    out = converted("--from_torch=m.ckpt", "--workdir=x", cwd=tmp_path)
    assert values(out) == {
        "model.name": ("cp_mobile", "base.py"),
        "model.width": ("32", "tensor shapes"),
        "model.width_multiplier": ("1.8", "tensor shapes"),
        "model.expansion": ("2.1", "tensor shapes"),
        "model.grn": ("False", "tensor shapes"),
        "model.activation": ("relu", "base.py"),
        "features.sample_rate": ("32000", "hyper-parameters"),
        "features.hop_length": ("472", "hyper-parameters"),
        "features.n_fft": ("4096", "stored buffers"),
        "features.win_length": ("3072", "stored buffers"),
        "features.n_mels": ("256", "stored buffers"),
        "features.f_min": ("0.0", "base.py"),
        "features.f_max": ("16000.0", "base.py"),
        "features.pre_emphasis": ("0.0", "base.py"),
        "features.window": ("hann", "base.py"),
        "features.mel_scale": ("htk", "base.py"),
        "features.norm_mean": ("0.0", "base.py"),
        "features.norm_std": ("1.0", "base.py"),
        "features.f_min_jitter": ("0.0", "base.py"),
        "features.f_max_jitter": ("0.0", "base.py"),
    }
    name, config = run_config.load(tmp_path / "x")
    assert (name, config.features.hop_length) == ("base.py", 472)
    args = (*BASE, "--config.features.hop_length=475")
    out = converted("--from_torch=m.ckpt", "--workdir=y", *args, cwd=tmp_path)
    assert values(out)["features.hop_length"] == ("475", "command line")


def test_hop_that_nothing_tells_is_asked_for(tmp_path, tensors):
    write_state_dict(tmp_path / "m.pt", tensors)
    message = refused("--from_torch=m.pt", "--workdir=x", cwd=tmp_path)
    assert (
        "does not contain its hop_length: pass --config base.py for the baseline's 500" in message
    )


def test_run_is_not_overwritten_nor_is_a_file(tmp_path, tensors):
    write_state_dict(tmp_path / "m.pt", tensors)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "config.json").write_text("{}")
    message = refused("--from_torch=m.pt", "--workdir=x", *BASE, cwd=tmp_path)
    assert "x already holds a run (config.json): choose another --workdir" in message
    for name in ("m.pt", "x"):
        message = refused(f"--to_torch={name}", "--workdir=no run", cwd=tmp_path)
        assert f"{name} is already there: choose another name" in message
    message = refused("--to_torch=m.pt/a/b.pt", "--workdir=no run", cwd=tmp_path)
    assert "cannot write m.pt/a/b.pt: Not a directory" in message


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((), "one of --from_torch FILE, --to_torch FILE and --to KIND, and --workdir, for example"),
        (("--from_torch=a",), "and --workdir, for example: asc-jax convert --from_torch"),
        (("--from_torch=a", "--to_torch=b", "--workdir=x"), "one of --from_torch FILE"),
        (("--from_torch=a", "--workdir=x", "--dtype=float16"), "--dtype does not go with --from_"),
        (("--to_torch=a", "--workdir=x", *BASE), "--config does not go with --to_torch"),
        (("--to=onnx", "--workdir=x", *BASE), "--config does not go with --to"),
        (("--to=tflite", "--workdir=x"), "stablehlo|onnx|litert|c"),
        (("--to=onnx", "--workdir=nowhere"), "no run in nowhere: config.json is missing"),
        (("--to_torch=a", "--workdir=nowhere"), "no run in nowhere: config.json is missing"),
        (("--to_torch=a", "--workdir=x", "b"), "unexpected words on the command line: b"),
        (("--from_torch=no.pt", "--workdir=x"), "cannot read no.pt: No such file or directory"),
        (("--from_torch=", "--workdir=x"), "--from_torch is empty: give it a value"),
        (("--to_torch=", "--workdir=x"), "--to_torch is empty: give it a value"),
        (("--to=c", "--workdir="), "--workdir is empty: give it a value"),
    ],
)
def test_wrong_command_line_is_named(tmp_path, args, expected):
    assert expected in refused(*args, cwd=tmp_path)


def test_help_lists_the_flags(tmp_path):
    done = start("--help", cwd=tmp_path)
    assert done.returncode == 0
    for name in (*convert.ACTIONS, "workdir", "checkpoint", "dtype", "out", "data_dir", "config"):
        assert f"\n  --{name} " in done.stdout


HYPER_PARAMETERS = {
    "recordings": {"orig_sample_rate": 16_000},
    "truth for a number": {"hop_length": True},
    "multiplier": {"channels_multiplier": float("nan")},
    "expansion": {"expansion_rate": float("inf")},
}


def spoil(tensors, front_end, what):
    """A checkpoint's parts with one thing wrong."""
    tensors, front_end, hyper_parameters = dict(tensors), dict(front_end), {"hop_length": 500}
    kernel = "stages.s1.b1.block.1.0.weight"
    if what == "shape":
        tensors[kernel] = tensors[kernel][1:]
    elif what == "nan":
        tensors[kernel] = tensors[kernel] * np.nan
    elif what == "float64":
        tensors = {n: v.astype(np.float64) for n, v in tensors.items() if v.dtype.kind == "f"}
        tensors[kernel] = tensors[kernel] + 1e300
    elif what == "architecture":
        tensors = {"layer1.0.conv1.weight": np.zeros((8, 8, 3, 3), np.float32)}
    elif what == "classes":
        head = {n: v[:9] for n, v in tensors.items() if n.startswith("feed") and v.shape}
        tensors |= head
    elif what == "budget":
        tensors = {n: v.numpy() for n, v in make_twin(width=40).state_dict().items()}
    elif what == "filterbank":
        front_end["mel.1.mel_scale.fb"] = front_end["mel.1.mel_scale.fb"] + np.float32(1e-3)
    elif what == "rates":
        front_end["mel.0.kernel"] = front_end["mel.0.kernel"][:160]
    elif what == "window":
        symmetric = np.hanning(3072).astype(np.float32)
        front_end["mel.1.spectrogram.window"] = symmetric
    elif what == "hyper-parameter":
        hyper_parameters["hop_length"] = "500"
    elif what == "rate":
        hyper_parameters["sample_rate"], front_end = 16_000, {}
    elif what == "no rate":
        hyper_parameters["sample_rate"], front_end = 0, {}
    elif what == "prefixed window":
        symmetric = np.hanning(3072).astype(np.float32)
        front_end = {"model.mel.1.spectrogram.window": symmetric}
    elif what == "empty filterbank":
        front_end["mel.1.mel_scale.fb"] = np.zeros((0, 0), np.float32)
    elif what == "tiny variance":
        name = "in_c.0.1.running_var"
        tensors[name] = tensors[name].astype(np.float64) * 1e-60
    elif what in HYPER_PARAMETERS:
        hyper_parameters |= HYPER_PARAMETERS[what]
    return tensors, front_end, hyper_parameters


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("shape", r"misshapen stages.s1.b1.block.1.0.weight: \(63, 1, 3, 3\), expected \(64, 1"),
        ("nan", r"not finite stages.s1.b1.block.1.0.weight: 576 of 576 values are NaN or inf"),
        ("float64", r"params/b1/depthwise/kernel holds values beyond float32's range, 3.4"),
        (
            "architecture",
            r"no network of the baseline's, .* model: .* it looks like a ResNet",
        ),
        ("classes", r"the network has 9 classes, and config.labels.classes has 10: give"),
        ("budget", r"over the limit of 128,000; most go to b6/project"),
        (
            "filterbank",
            r"another front end: mel.1.mel_scale.fb differs from ours by up to 0.001 for",
        ),
        ("rates", r"mel.0.kernel has shape \(160, 1, 459\), expected \(320, 459\)"),
        (
            "window",
            r"spectrogram.window is a symmetric Hann window and .* by up to 0.00078",
        ),
        ("hyper-parameter", r"the hyper-parameter hop_length is '500', expected int"),
        ("rate", r"config.features.f_max is 16000.0, expected at most 8000 Hz"),
        (
            "prefixed window",
            r"spectrogram.window is a symmetric Hann window and .* by up to 0.00078",
        ),
        ("empty filterbank", r"mel.1.mel_scale.fb has shape \(0, 0\), expected \(2049, 256\)"),
        ("tiny variance", r"batch_stats/stem1/norm/var: 8 values would become 0 in float32"),
        ("recordings", r"the hyper-parameter orig_sample_rate is 16000, expected 44100: data"),
        ("truth for a number", r"the hyper-parameter hop_length is True, expected int"),
        ("multiplier", r"the hyper-parameter channels_multiplier is nan, expected a finite float"),
        ("expansion", r"the hyper-parameter expansion_rate is inf, expected a finite float"),
        ("no rate", r"config.features.sample_rate is 0, expected "),
    ],
)
def test_checkpoint_that_does_not_fit_is_refused_by_name(
    tmp_path, tensors, front_end, what, expected
):
    write_lightning(tmp_path / "m.ckpt", *spoil(tensors, front_end, what))
    with pytest.raises(UserError, match=expected):
        torch_runs.run_from_torch(tmp_path / "m.ckpt", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_odd_n_fft_is_kept_where_it_has_the_bins_of_the_filterbank(tmp_path, tensors):
    filterbank = filters.mel_filterbank(4095, 256, 32_000, 0.0, 16_000.0)
    told = {"hop_length": 472, "n_fft": 4095}
    write_lightning(tmp_path / "m.ckpt", tensors, {"mel.1.mel_scale.fb": filterbank}, told)
    assert values(run_of(tmp_path / "m.ckpt"))["features.n_fft"] == ("4095", "stored buffers")


def test_network_of_other_classes_is_read_where_the_config_names_them(tmp_path, tensors):
    head = {n: v[:2] for n, v in tensors.items() if n.startswith("feed") and v.shape}
    write_state_dict(tmp_path / "m.pt", tensors | head)
    flags = ("--from_torch=m.pt", "--workdir=run", *BASE)
    message = refused(*flags, cwd=tmp_path)
    assert "the network has 2 classes, and config.labels.classes has 10: give all" in message
    assert """--config.labels.classes='("a","b")'""" in message
    converted(*flags, """--config.labels.classes=("Tür zu","auf")""", cwd=tmp_path)
    assert evaluate.open_run(tmp_path / "run").experiment.labels.classes == ("Tür zu", "auf")


@pytest.mark.parametrize("workdir_was_there", [False, True])
def test_failed_conversion_leaves_nothing_and_can_be_tried_again(
    tmp_path, monkeypatch, tensors, workdir_was_there
):
    write_state_dict(tmp_path / "m.pt", tensors)
    workdir = tmp_path / "m"
    if workdir_was_there:
        workdir.mkdir()
        (workdir / "notes.txt").touch()
    before = sorted(tmp_path.rglob("*"))

    def fail(*args, **kwargs):
        raise UserError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(run_config, "save", fail)
        with pytest.raises(UserError, match="the disk is full"):
            run_of(tmp_path / "m.pt", name="base.py")
    assert sorted(tmp_path.rglob("*")) == before
    run_of(tmp_path / "m.pt", name="base.py")
    assert (workdir / "config.json").exists()


# What `-m asc_jax.cli.convert` does, once `first` has been done in the same process.
AFTER = "import runpy; {first}; runpy.run_module('asc_jax.cli.convert', run_name='__main__')"


def test_full_disk_is_said_in_one_line(tmp_path, tensors):
    """A limit on the size of a file: a run of this network has three times as many bytes."""
    write_state_dict(tmp_path / "m.pt", tensors)
    first = "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (2**18, 2**18))"
    args = ("--from_torch=m.pt", "--workdir=x", *BASE)
    message = refused(*args, cwd=tmp_path, module=("-c", AFTER.format(first=first)))
    assert "cannot write to the workdir x: File too large; raise the limit" in message


def test_malicious_checkpoint_ends_with_one_line_and_does_not_run(tmp_path):
    torch.save({"state_dict": {}, "callbacks": Malicious()}, tmp_path / "m.ckpt")
    message = refused("--from_torch=m.ckpt", "--workdir=x", cwd=tmp_path)
    assert "m.ckpt asks for posix.mkdir, which could run code; nothing was run" in message


def test_override_that_the_tensors_contradict_is_refused(tmp_path, tensors):
    write_state_dict(tmp_path / "m.pt", tensors)
    args = ("--from_torch=m.pt", "--workdir=x", *BASE, "--config.model.width=16")
    assert "config.model.width is 16, but the tensors in the file say 32" in refused(
        *args, cwd=tmp_path
    )


def test_without_pytorch_the_command_says_what_to_install(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('blocked')\n")
    code = AFTER.format(first=f"import sys; sys.path.insert(0, {str(tmp_path)!r})")
    done = start("--from_torch=a.pt", "--workdir=x", cwd=tmp_path, module=("-c", code))
    assert done.returncode == 2
    assert "pip install -r requirements-interop.txt" in done.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a built data set of 20 training and 7 test clips."""
    pytest.importorskip("tensorflow_datasets")
    home = tmp_path_factory.mktemp("home")
    write_tau(home / "tau")
    prepare_data.prepare(home / "tau", home / "data")
    return home


TINY = (
    "--config=base.py",
    "--config.data.dir=data",
    "--config.data.train_split=train_5pct",
    "--config.data.batch_size=4",
    "--config.augment.freq_mask.max_width=8",
    "--config.train.n_epochs=1",
    "--config.train.eval_every_epochs=0",
)


@pytest.mark.slow
def test_converted_run_is_converted_back_and_trained_on(home):
    """A small network and front end; the rest of the file does it with the baseline's own.

    test_field_44100 evaluates a converted run, test_own_runs writes a run as C.
    """
    given = {name: value.numpy() for name, value in make_twin(width=8).state_dict().items()}
    filterbank = filters.mel_filterbank(4096, 32, 32_000, 0.0, 16_000.0)
    front_end = {"mel.1.mel_scale.fb": filterbank}
    write_lightning(home / "m.ckpt", given, front_end, {"hop_length": 2000})
    out = converted("--from_torch=m.ckpt", "--workdir=x", *TINY, cwd=home)
    assert values(out)["features.n_mels"] == ("32", "stored buffers")

    converted("--to_torch=same.pt", "--workdir=x", cwd=home)
    write_state_dict(home / "plain.pt", given)
    assert_same_file(home / "same.pt", home / "plain.pt")

    small = ("--config.features.n_mels=32", "--config.features.hop_length=2000")
    args = (*TINY, *small, "--config.model.width=8", "--workdir=x")
    done = call("train", *args, cwd=home)
    assert done.returncode == 0, done.stderr
    converted("--to_torch=trained.pt", "--workdir=x", cwd=home)
    trained = read_state_dict(home / "trained.pt")
    parts = experiment.make(run_config.load(home / "x")[1])
    state, _, step = evaluate.restore(parts, home / "x")
    assert step == 2
    expected = to_torch({"params": state.params, "batch_stats": state.batch_stats}, 2)
    assert all(np.array_equal(trained[name], expected[name]) for name in expected)
    # Step 0 runs at rate 0 and step 1 at 1/2,000 of 0.005: still the converted kernels, nearly.
    change = np.abs(trained["in_c.0.0.weight"] - given["in_c.0.0.weight"]).max()
    assert 0 < change < 1e-5


@pytest.mark.slow
def test_network_that_gives_no_numbers_is_not_evaluated(home):
    config = small_config(data__dir="data", data__train_split="train_5pct")
    variables = moved_variables(experiment.make(config))
    variables["params"]["head"]["kernel"][..., 3] = np.nan
    save_run(home / "corrupted", config, variables)
    done = call("eval", "--workdir=corrupted", cwd=home)
    assert done.returncode == 2
    assert (
        "the network in corrupted, step 3: stored in float32, it gives NaN or inf for 7 of 7 clips"
        in done.stderr
    )
    assert "--checkpoint best" in done.stderr
    assert not (home / "corrupted" / "results.json").exists()
