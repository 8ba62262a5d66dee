"""Replicas and processes: what they compute together, and how a run ends when one is lost."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import host_run
import jax
import numpy as np
import pytest
from commands import HANGS_S, started

from asc_jax.data.clips import NO_CLIP, epoch_order, from_arrays, n_batches
from asc_jax.errors import Interrupted, UserError
from asc_jax.machine import distributed, hosts, process_exit, replicas

SCRIPT = pathlib.Path(__file__).parent / "host_run.py"


@pytest.fixture(scope="module")
def wide():
    """float64 throughout this file's runs; what they compile is kept."""
    programs, before = {}, jax.config.values["jax_disable_most_optimizations"]
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as patch:
        host_run.compile_fast()
        for name in ("pmap_train", "pmap_eval"):
            patch.setattr(replicas, name, _kept(name, getattr(replicas, name), programs))
        yield
    jax.config.update("jax_disable_most_optimizations", before)


def _kept(name, make, programs):
    def kept(*args, **options):
        key = name, replicas.n_replicas()
        return programs.setdefault(key, make(*args, **options))

    return kept


def run(workdir, n_replicas, **options):
    """A run of this process on some of its replicas."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replicas, "n_replicas", lambda: n_replicas)
        return host_run.fit(workdir, **options)


@pytest.fixture(scope="module")
def alone(wide, tmp_path_factory):
    """`(workdir, final state)` of one process with one replica."""
    workdir = tmp_path_factory.mktemp("alone")
    return workdir, run(workdir, 1)


def run_two(workdir, stop_at=0, signal_name="SIGTERM", n_clips=(37, 37), slurm=False):
    """Two processes of two replicas; process 1 gets the signal. Their ends and errors.

    They find each other by options, or as two tasks of a Slurm job by what that tells them.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = []
    for own, stop in enumerate((0, stop_at)):
        words = [workdir, stop, signal_name, n_clips[own], "--replicas=2", "--host_timeout_s=300"]
        environment = dict(os.environ)
        if slurm:
            words += ["--distributed=auto"]
            environment |= {"SLURM_JOB_ID": address.partition(":")[2], "SLURM_NTASKS": "2"}
            environment |= {"SLURM_PROCID": str(own), "SLURM_LOCALID": str(own)}
            environment |= {"SLURM_STEP_NODELIST": "localhost"}
        else:
            words += [f"--process_id={own}", f"--coordinator={address}", "--n_processes=2"]
        command = [str(word) for word in (sys.executable, SCRIPT, *words)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, env=environment, **pipes))
    try:
        outputs = [process.communicate(timeout=HANGS_S) for process in processes]
    finally:
        for process in processes:
            with process:  # closes its pipes and waits for it
                process.kill()
    return [process.returncode for process in processes], [errors for _, errors in outputs]


def assert_same(workdir, whole, state=None):
    """Losses of all epochs, the evaluation and the parameters of another run, to 1e-9."""
    (loss, accuracy), (expected, expected_accuracy) = map(
        host_run.epoch_losses, (workdir, whole[0])
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-9)
    assert accuracy == expected_accuracy
    if state is None:  # nothing is left to do: this only reads what was saved
        state = run(workdir, 1)
    for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(whole[1]), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def saved_steps(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


@pytest.mark.slow
@pytest.mark.nightly
def test_two_processes_of_two_replicas_train_like_one_of_one(alone, tmp_path):
    """20 steps in float64 with augmentation; a batch divides by no number of replicas."""
    status, errors = run_two(tmp_path / "two")
    assert status == [0, 0], errors
    assert saved_steps(tmp_path / "two") == [16, 20]
    assert_same(tmp_path / "two", alone)


@pytest.mark.slow
@pytest.mark.nightly
def test_two_tasks_of_a_slurm_job_train_like_one_process(alone, tmp_path):
    """Slurm itself is not needed: a task knows it by its environment."""
    status, errors = run_two(tmp_path / "two", slurm=True)
    assert status == [0, 0], errors
    assert_same(tmp_path / "two", alone)


@pytest.mark.slow
@pytest.mark.nightly
def test_run_resumed_on_4_then_1_then_2_replicas_trains_like_one(alone, tmp_path):
    for n_replicas, stop_at in ((4, 5), (1, 7)):
        with pytest.raises(Interrupted):
            run(tmp_path, n_replicas, stop_at=stop_at)
    assert_same(tmp_path, alone, run(tmp_path, 2))


@pytest.mark.nightly
@pytest.mark.slow
def test_lost_process_stops_the_other_with_a_line_and_the_run_goes_on_with_one(alone, tmp_path):
    workdir = tmp_path / "run"
    status, errors = run_two(workdir, 11, "SIGKILL")
    assert status == [process_exit.LOST, -signal.SIGKILL]
    line = "error: another process of this run has ended or cannot be reached: "
    assert errors[0].splitlines()[-1].startswith(line), errors[0]
    assert_same(workdir, alone, run(workdir, 1))


@pytest.mark.slow
@pytest.mark.nightly
def test_signal_to_one_process_stops_both_at_the_same_step(alone, tmp_path):
    workdir = tmp_path / "run"
    status, errors = run_two(workdir, 7)
    assert status == [143, 143]
    step = int(re.search(r"stopped after step (\d+) of 20, saved in", errors[0])[1])
    assert saved_steps(workdir)[-1] == step
    assert "stopped with process 0" in errors[1]
    status, errors = run_two(workdir)  # two processes resume what two left
    assert status == [0, 0], errors
    assert_same(workdir, alone)


@pytest.mark.slow
def test_processes_with_different_data_are_refused(tmp_path):
    status, errors = run_two(tmp_path / "run", n_clips=(37, 36))
    assert set(status) <= {2, process_exit.LOST}
    assert "the processes of this run differ in clips" in "".join(errors)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("n_clips", "batch_size"), [(18, 10), (21, 10), (8, 8), (3, 7)])
def test_processes_read_disjoint_shares_that_together_are_the_epoch(
    monkeypatch, n_clips, batch_size
):
    """In order of position, and as many batches each."""
    order = epoch_order(n_clips, seed=0, epoch=0)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "local_device_count", lambda: 2)
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    shares = []
    for own in range(2):
        monkeypatch.setattr(jax, "process_index", lambda own=own: own)
        rows, n_rows = replicas.own_share(order, batch_size, NO_CLIP)
        shares.append(rows.reshape(-1, n_rows))
    together = np.concatenate(shares, axis=1)
    assert together.shape == (n_batches(n_clips, batch_size), 4 * -(-batch_size // 4))
    np.testing.assert_array_equal(together[together >= 0], order)
    np.testing.assert_array_equal(together[:, batch_size:], NO_CLIP)


def test_rows_without_a_clip_are_zeros_and_masked():
    audio = np.ones((3, 4), np.float32)
    clips, none = from_arrays(audio, np.ones(3), np.ones(3)), NO_CLIP
    first, second = clips.batches(np.array([none, 2, none, none]), 2)
    assert first["mask"].tolist() == [False, True]
    assert first["filename"].tolist() == ["", "2"]
    assert second["mask"].tolist() == [False, False]
    assert not second["audio"].any()
    assert second["audio"].shape == (2, 4)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"replicas": 0}, "--replicas is 0, expected at least 1"),
        ({"coordinator": "127.0.0.1:1"}, "--n_processes and --process_id missing"),
        ({"process_id": 1, "n_processes": 2}, "--coordinator missing"),
        ({"coordinator": "here", "n_processes": 2, "process_id": 0}, "expected host:port"),
        ({"coordinator": "here:0", "n_processes": 2, "process_id": 0}, "a port in 1 … 65535"),
        ({"coordinator": "here:99999", "n_processes": 2, "process_id": 0}, "a port in 1"),
        ({"coordinator": "a:1", "n_processes": 0, "process_id": 0}, "--n_processes is 0"),
        ({"coordinator": "a:1", "n_processes": 2, "process_id": 2}, "expected 0 … 1"),
        ({"distributed": "auto", "host_timeout_s": 0}, "--host_timeout_s is 0"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(options, expected):
    with pytest.raises(UserError, match=expected):
        distributed.start(**options)


def test_error_that_a_lost_process_makes_of_a_collective_is_told_in_a_line(monkeypatch):
    monkeypatch.setattr(process_exit, "_message", "lost")
    text = "UNKNOWN: Gloo AllGather failed: [pair.cc:547] Connection closed by peer [127.0.0.1]:1"
    assert "another process of this run has ended" in process_exit.lost_process(ValueError(text))
    assert process_exit.lost_process(ValueError("shapes do not match")) is None
    assert process_exit.lost_process(TypeError(text)) is None


def alone_of_two(port, **options):
    """A context with process 0 of two, the other of which never comes."""
    words = [f"--coordinator=127.0.0.1:{port}", "--n_processes=2", "--process_id=0"]
    command = [sys.executable, SCRIPT, "nowhere", "0", "SIGTERM", "37", *words]
    return started(command, **options)


@pytest.mark.slow
def test_port_that_is_taken_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with alone_of_two(port) as process:
            _, errors = process.communicate(timeout=HANGS_S)
    assert process.returncode == 2
    line = (
        rf"error: port {port} of --coordinator cannot be had on this machine: Address already.*\n"
    )
    assert re.fullmatch(line, errors), errors


@pytest.mark.slow
def test_waiting_for_the_others_is_told_and_can_be_stopped():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with alone_of_two(port) as process:
        assert process.stderr.readline() == "waiting for the other processes of this run …\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=HANGS_S)
    assert process.returncode == 130
    assert errors.endswith("run the same command again to continue\n")


def test_what_another_process_than_the_first_says_of_its_own_folder_is_kept_from_a_person(
    monkeypatch,
):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    why = pytest.raises(UserError, match="stopped with process 0, which says why")
    with why, hosts.own_workdir("run") as own:
        raise UserError(f"the loss became nan; no checkpoint yet in {own}")
    with pytest.raises(UserError, match="a.wav is damaged"), hosts.own_workdir("run"):
        raise UserError("a.wav is damaged")


def test_other_number_of_replicas_than_there_are_is_refused(monkeypatch):
    monkeypatch.setattr(jax.config, "update", lambda *_: None)  # too late for it in this process
    distributed.start(replicas=4)
    with pytest.raises(UserError, match=r"--replicas is 3, but JAX finds 4 \(cpu\)"):
        distributed.start(replicas=3)
