"""`asc-jax parity`: the table, the JSON object, the exit status, live clips."""

import json
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
from commands import call
from parity_faults import inject

from asc_jax.cli import parity as cli
from asc_jax.errors import UserError
from asc_jax.pytorch.parity import front_end_stages, live, training_stages
from asc_jax.pytorch.parity import table as parity
from asc_jax.pytorch.twin import make_twin

ROOT = pathlib.Path(__file__).parent.parent
QUICK = (front_end_stages.mel_filterbank, front_end_stages.log_mel, training_stages.schedule)

OF_THE_NETWORK = live.STAGES[6:9]
FLAGS = ("live", "weights", "part")


@pytest.fixture
def run_main(monkeypatch, capsys):
    """`run_main(stages, live=…, json=…)` → exit status, what was printed."""

    def run(stages, module=parity, **given):
        monkeypatch.setattr(module, "STAGES", stages)
        values = types.SimpleNamespace(**dict.fromkeys(FLAGS) | {"json": False} | given)
        monkeypatch.setattr(cli.flags, "FLAGS", values)
        status = 0
        try:
            cli.main(["parity"])
        except SystemExit as stop:
            status = stop.code
        return status, capsys.readouterr().out

    return run


def write_wav(path, rate=44_100, n_samples=44_100):
    soundfile = pytest.importorskip("soundfile")
    noise = np.random.default_rng(0).standard_normal(n_samples) * 0.1
    soundfile.write(path, noise, rate, "PCM_16")
    return str(path)


def test_table_has_a_line_per_stage_and_ends_with_the_verdict(run_main):
    status, out = run_main(QUICK)
    assert status == 0
    lines = out.splitlines()
    assert lines[0].startswith("Reference: golden arrays of PyTorch 2.9.1. Ours: JAX ")
    stages = ("mel filterbank", "log-mel, hop 500", "log-mel, hop 472", "schedule")
    for line, stage in zip(lines[4:8], stages, strict=True):
        assert line.startswith(f"ok  {stage} ")
    assert lines[-1] == "verdict: all 4 stages within tolerance"


def test_json_is_one_object_with_every_row(run_main):
    status, out = run_main(QUICK, json=True)
    result = json.loads(out)
    assert (status, result["within"], result["failed"]) == (0, True, [])
    assert [row["stage"] for row in result["rows"]][0] == "mel filterbank"
    assert result["rows"][0]["n_values"] == 2049 * 256


def test_shapes_that_differ_are_said_in_table_and_json(run_main):
    with inject("hop off by one"):
        status, out = run_main(QUICK)
        assert status == 1
        assert "shape 4×256×64, expected 4×256×65" in out
        result = json.loads(run_main(QUICK, json=True)[1])
    assert result["failed"] == ["log-mel, hop 500", "log-mel, hop 472"]
    assert result["rows"][1]["max_abs"] is None


@pytest.mark.parametrize(
    ("fault", "stage", "row"),
    [
        pytest.param(
            "SAME padding",
            training_stages.evaluation,
            "network in evaluation, float32",
            marks=[pytest.mark.slow, pytest.mark.nightly],
        ),
        pytest.param(
            "biased running variance",
            training_stages.training,
            "running statistics",
            marks=[pytest.mark.slow, pytest.mark.nightly],
        ),
        ("Slaney mel scale", front_end_stages.mel_filterbank, "mel filterbank"),
        ("hop off by one", front_end_stages.log_mel, "log-mel, hop 472"),
        ("schedule off by one step", training_stages.schedule, "schedule"),
    ],
)
def test_fault_ends_with_1_and_the_last_line_names_the_row(run_main, fault, stage, row):
    with inject(fault):
        status, out = run_main([stage])
    assert status == 1
    last = out.splitlines()[-1]
    assert last.startswith("verdict: ")
    assert "out of tolerance: " in last
    assert row in last


def test_second_device_gets_a_column(capsys, monkeypatch):
    import jax

    monkeypatch.setattr(parity, "STAGES", QUICK)
    assert cli.show(live_path=None, json_only=False, devices=jax.devices()[:2])
    out = capsys.readouterr().out
    assert out.splitlines()[2].endswith("gap")
    assert "gap: largest distance between" in out


def check_all_rows(printed, n_rows):
    result = json.loads(printed)
    assert (len(result["rows"]), result["failed"]) == (n_rows, [])
    assert len({row["stage"] for row in result["rows"]}) == n_rows
    assert all(row["n_values"] and row["tolerance"] and row["basis"] for row in result["rows"])


@pytest.mark.slow
@pytest.mark.nightly
def test_all_stages_but_the_longest_are_within_tolerance(monkeypatch):
    assert parity.STAGES[-1] is training_stages.trajectory_float32
    monkeypatch.setattr(parity, "STAGES", parity.STAGES[:-1])
    done = call("parity", "--json", cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    check_all_rows(done.stdout, 29)


@pytest.mark.nightly
@pytest.mark.slow
def test_whole_command_ends_with_0():
    command = [sys.executable, "-m", "asc_jax", "parity", "--json"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
    check_all_rows(done.stdout, 30)


def test_missing_reference_arrays_are_an_error(run_main, monkeypatch, tmp_path):
    monkeypatch.setattr(cli, "GOLDEN", tmp_path)
    with pytest.raises(UserError, match=r"b_frontend\.npz not found"):
        run_main(QUICK)


def test_words_without_a_flag_are_refused():
    with pytest.raises(UserError, match="unexpected words on the command line: now"):
        cli.main(["parity", "now"])


def test_live_path_that_is_no_clip_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        cli.read_clips(str(tmp_path / "absent.wav"))
    with pytest.raises(UserError, match=r"no \.wav file in this folder"):
        cli.read_clips(str(tmp_path))
    with pytest.raises(UserError, match="sample rate 16000, expected 44100"):
        cli.read_clips(write_wav(tmp_path / "slow.wav", rate=16_000))


def test_live_without_a_value_is_refused():
    with pytest.raises(UserError, match="--live is empty, expected a wav file or a folder"):
        cli.read_clips("")


def test_live_finds_upper_case_names_and_passes_over_folders_called_so(tmp_path):
    write_wav(tmp_path / "A.WAV")
    (tmp_path / "x.wav").mkdir()
    assert cli.read_clips(str(tmp_path))[1] == f"1 of 1 clips in {tmp_path}"


def test_live_takes_the_first_clips_of_a_folder_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "MAX_CLIPS", 2)
    for name in "cab":
        write_wav(tmp_path / f"{name}.wav")
    waveform, clips = cli.read_clips(str(tmp_path))
    assert waveform.shape == (2, 44_100)
    assert clips == f"2 of 3 clips in {tmp_path}"


def test_live_without_pytorch_says_what_to_install(run_main, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"requirements-interop\.txt"):
        run_main(live.STAGES, live, live=write_wav(tmp_path / "clip.wav"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stages", "n_rows"),  # without the whole network, whose twin test_interop_torch compares
    [
        (tuple(stage for stage in live.STAGES if stage not in OF_THE_NETWORK), 13),
        pytest.param(live.STAGES, 19, marks=pytest.mark.nightly),
    ],
)
def test_live_agrees_with_pytorch_on_a_clip_of_ones_own(run_main, tmp_path, stages, n_rows):
    pytest.importorskip("torch")
    status, out = run_main(stages, live, live=write_wav(tmp_path / "clip.wav"))
    assert status == 0, out
    assert out.startswith("Reference: PyTorch ")
    assert out.endswith(f"verdict: all {n_rows} stages within tolerance\n")


def test_weights_are_those_of_the_file_behind_any_prefix(run_main, tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(3)
    state_dict = make_twin().state_dict()
    path = str(tmp_path / "model.pth")
    torch.save({"model": {f"module.{k}": v for k, v in state_dict.items()}, "epoch": 3}, path)
    found = live.weights_of(path)
    assert found.keys() == state_dict.keys()
    assert all(np.array_equal(found[name], tensor) for name, tensor in state_dict.items())
    wav = write_wav(tmp_path / "clip.wav")
    status, out = run_main((training_stages.schedule,), live, live=wav, weights=path)
    assert status == 0
    assert out.splitlines()[0].startswith("Reference: PyTorch ")
    assert f"{wav}, weights of {path}. Ours" in out
    reference = live.live_reference(np.zeros((1, 44_100), np.float32), {}.get, found)
    assert all(reference(name) is found for name in live.WEIGHTS)


def test_weights_of_another_network_and_flags_without_theirs_are_refused(run_main, tmp_path):
    torch = pytest.importorskip("torch")
    path = str(tmp_path / "small.pt")
    torch.save(make_twin(width=8).state_dict(), path)
    with pytest.raises(
        UserError, match=r"small\.pt: a network of width 8, .*; expected the .*convert --from_t"
    ):
        live.weights_of(path)
    with pytest.raises(UserError, match="--weights goes with --live"):
        run_main(QUICK, weights=path)
    with pytest.raises(UserError, match="--part goes with --weights"):
        run_main(QUICK, part="student")


def test_live_names_the_row_of_a_fault(run_main, tmp_path):
    pytest.importorskip("torch")
    stages = (front_end_stages.mel_filterbank, live.log_mel_float64, training_stages.schedule)
    with inject("Slaney mel scale"):
        status, out = run_main(stages, live, live=write_wav(tmp_path / "clip.wav"))
    assert status == 1
    assert "out of tolerance: mel filterbank; log-mel, hop 500, float64" in out
