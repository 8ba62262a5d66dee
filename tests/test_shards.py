"""Shards written by several processes: the same bytes, and an end that loses nothing."""

import multiprocessing
import os
import signal
import threading
import time

import pytest
from tau_folder import clip_name, write_tau, write_wav

from asc_jax.data.tau.folder import read_recordings
from asc_jax.errors import UserError

tau22 = pytest.importorskip("asc_jax.data.store.dataset")
from asc_jax.data.store import shards  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tau(tmp_path_factory):
    return write_tau(tmp_path_factory.mktemp("tau") / "dev", percents=(5, 50, 100))


@pytest.fixture
def many(monkeypatch):
    """Every set counts as large, and has many shards."""
    monkeypatch.setattr(tau22, "MANY_CLIPS", 1)
    monkeypatch.setattr(tau22, "SHARD_CLIPS", 4)
    monkeypatch.setattr(tau22, "n_cores", lambda: 2)


def shards_of(data_dir):
    return {path.name: path.read_bytes() for path in data_dir.rglob("*array_record*")}


def test_processes_write_what_one_would_and_end(tau, tmp_path, many, monkeypatch, capfd):
    n_clips = []
    tau22.build(read_recordings(tau), tmp_path / "several", n_clips.append)
    assert not multiprocessing.active_children()
    monkeypatch.setattr(tau22, "MANY_CLIPS", 10**9)
    tau22.build(read_recordings(tau), tmp_path / "one")
    assert len(shards_of(tmp_path / "one")) == 2 + 3 + 5 + 2
    assert shards_of(tmp_path / "several") == shards_of(tmp_path / "one")
    assert sum(n_clips) == 5 + 10 + 20 + 7
    assert capfd.readouterr() == ("", "")


def test_bad_file_met_by_a_process_is_named(tmp_path, many, capfd):
    tau = write_tau(tmp_path / "dev", percents=(5, 50, 100))
    write_wav(tau / clip_name(13), channels=2)
    with pytest.raises(UserError, match=f"{clip_name(13)}: channels 2, expected 1"):
        tau22.build(read_recordings(tau), tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []
    assert not multiprocessing.active_children()
    assert capfd.readouterr() == ("", "")


def test_process_that_was_ended_is_told(tau, tmp_path, many):
    def end_one(n_clips):
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    with pytest.raises(UserError, match="a process that wrote a part of the data set has ended"):
        tau22.build(read_recordings(tau), tmp_path, end_one)
    assert list(tmp_path.iterdir()) == []


def test_interrupt_ends_all_processes(tau, tmp_path, many, capfd):
    """As Ctrl-C does, which every process of a terminal gets."""

    def interrupt(n_clips):
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGINT)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tau22.build(read_recordings(tau), tmp_path, interrupt)
    assert list(tmp_path.iterdir()) == []
    assert not multiprocessing.active_children()
    assert capfd.readouterr() == ("", "")


def _open_writers(pids):
    with shards.writers(2) as write_all:
        list(write_all([], lambda n_clips: None))
        for _ in range(2):
            write_all.args[0].submit(time.sleep, 0.5)
        pids.send([child.pid for child in multiprocessing.active_children()])
        threading.Event().wait()


def test_writers_end_with_the_process_that_is_killed():
    """Or they would write into what the next one builds."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_open_writers, args=(theirs,))
    process.start()
    pids = ours.recv()
    assert pids
    process.kill()
    process.join()
    deadline = time.monotonic() + 20
    while any(map(_lives, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _lives(pid):
    """Whether it runs; one that nobody waited for is a zombie, which writes nothing."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
