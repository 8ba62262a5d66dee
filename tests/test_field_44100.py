"""Networks trained at 44.1 kHz: recordings are heard as they are, without resampling."""

import hashlib
import json
import re

import numpy as np
import pytest
import soundfile
from commands import call
from exported import kind_of
from tau_folder import write_tau

from asc_jax.cli import prepare_data
from asc_jax.data.clips import open_for, open_split
from asc_jax.data.tau.folder import read_recordings
from asc_jax.data.tau.taxonomy import SCENES
from asc_jax.errors import UserError
from asc_jax.features import filters
from asc_jax.pytorch.twin import make_twin
from configs import base

torch = pytest.importorskip("torch")
pytest.importorskip("tensorflow_datasets")
N_MELS, HOP = 32, 2205


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A TAU folder, its clips at 44.1 kHz, a network with the front end it was trained with."""
    home = tmp_path_factory.mktemp("home")
    write_tau(home / "tau")
    prepare_data.prepare(home / "tau", home / "data", sample_rate=44_100)
    twin = make_twin(width=8).eval()
    torch.manual_seed(0)
    for value in twin.parameters():
        value.data += 0.2 * torch.randn(value.shape)
    bank = filters.mel_filterbank(4096, N_MELS, 44_100, 0.0, 22_050.0)
    constants = {
        "mel.0.spectrogram.window": torch.hann_window(3072),
        "mel.0.mel_scale.fb": torch.from_numpy(bank),
    }
    network = {f"model.{name}": value for name, value in twin.state_dict().items()}
    content = {"state_dict": constants | network, "hyper_parameters": {"hop_length": HOP}}
    torch.save(content, home / "m.ckpt")
    args = ("--from_torch=m.ckpt", "--workdir=x", "--config=base.py", "--config.data.dir=data")
    done = call("convert", *args, "--config.augment.freq_mask.max_width=8", cwd=home)
    assert done.returncode == 0, done.stderr
    assert re.search("features.sample_rate +44100 +stored buffers", done.stdout)
    return home, twin


def probs_of_pytorch(twin, path):
    """Mel bands of PyTorch's own Fourier transform, and the network in PyTorch."""
    waveform, rate = soundfile.read(path, dtype="float32")
    assert rate == 44_100
    window = torch.hann_window(3072)
    spectrum = torch.stft(
        torch.from_numpy(waveform)[None], 4096, HOP, 3072, window, return_complex=True
    )
    bank = torch.from_numpy(filters.mel_filterbank(4096, N_MELS, 44_100, 0.0, 22_050.0))
    log_mel = torch.log(spectrum.abs().square().transpose(1, 2) @ bank + 1e-5).transpose(1, 2)
    with torch.no_grad():
        return twin(log_mel[:, None]).softmax(-1)[0].numpy()


def test_b37_clips_are_stored_and_recordings_predicted_as_pytorch_hears_them(home):
    folder, twin = home
    clips = open_split(folder / "data", "test")
    recordings = read_recordings(folder / "tau")["test"]
    audio = np.concatenate([batch["audio"] for batch in clips.in_order(7)])
    wav = np.stack([soundfile.read(each.path, dtype="float32")[0] for each in recordings])
    np.testing.assert_array_equal(audio, wav)
    args = ("--workdir=x", "--format=json", recordings[0].path)
    done = call("predict", *args, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "resampled" not in done.stdout + done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    expected = dict(zip(SCENES, probs_of_pytorch(twin, recordings[0].path), strict=True))
    for row in last["top"]:  # the weights are deployed in float16
        assert row["p"] == pytest.approx(float(expected[row["class"]]), abs=2e-3)


@pytest.mark.slow
def test_b37_run_at_44100_is_evaluated_and_says_where_it_is_from(home):
    folder, _ = home
    done = call("eval", "--workdir=x", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert re.search("^code +converted from m.ckpt by ", done.stdout, re.M)
    assert re.search("^weights of +m.ckpt, not trained further: ", done.stdout, re.M)
    assert "trained on " not in done.stdout
    results = json.loads((folder / "x" / "results.json").read_text())
    assert results["float32"]["n_clips"] == 7
    assert results["converted_from"] == "m.ckpt"
    assert results["sha256"] == hashlib.sha256((folder / "m.ckpt").read_bytes()).hexdigest()


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["c", "onnx", "litert"])
def test_b37_run_at_44100_is_exported(home, kind):
    folder, _ = home
    kind_of(kind)
    done = call("convert", f"--to={kind}", "--workdir=x", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "256 clips, 249 of them synthetic noise" in done.stdout
    if kind == "c":
        assert "#define ASC_N_SAMPLES 44100" in (folder / "x/export/asc_model.h").read_text()


def test_b37_clips_at_another_rate_are_refused_with_the_command(home):
    folder, _ = home
    with pytest.raises(UserError, match="are at 44100 Hz, and config.features.sample_rate is 3200"):
        open_for(base.get_config(), "test", folder / "data")
    with pytest.raises(UserError, match="holds clips at 44100 Hz, not 32000: --overwrite replaces"):
        prepare_data.prepare(folder / "tau", folder / "data")
