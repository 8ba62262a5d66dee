"""One process at a time in a folder; one that was killed is no obstacle."""

import errno
import fcntl
import logging
import signal
import sys

import pytest
from commands import started

from asc_jax.errors import UserError
from asc_jax.machine import lock

HOLD = """
import sys
from asc_jax.machine import lock
with lock.held(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds `tmp_path`."""
    with started([sys.executable, "-c", HOLD, tmp_path]) as process:
        assert process.stdout.readline() == "held\n"
        yield process


def test_second_process_is_refused_with_the_holder_named_and_a_killed_one_is_not(holder, tmp_path):
    expected = (
        rf"{tmp_path} is in use by process {holder.pid} on .+, since \d{{4}}-\d\d-\d\d .*: wait"
    )
    with pytest.raises(UserError, match=expected) as caught, lock.held(tmp_path):
        pass
    assert "\n" not in str(caught.value)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / lock.NAME).exists()
    with lock.held(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_failed_block_lets_go(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), lock.held(tmp_path / "run"):
            raise ZeroDivisionError


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"pid": 1}'])
def test_whatever_the_file_says_does_not_matter(tmp_path, content):
    with lock.held(tmp_path):
        (tmp_path / lock.NAME).write_bytes(content)
        with pytest.raises(UserError, match="in use by another process"), lock.held(tmp_path):
            pass
    (tmp_path / lock.NAME).write_bytes(content)
    with lock.held(tmp_path):
        pass


def test_file_removed_while_it_is_held_is_left_to_who_made_the_next(tmp_path):
    with lock.held(tmp_path):
        (tmp_path / lock.NAME).unlink()
        with lock.held(tmp_path):
            made = (tmp_path / lock.NAME).stat().st_ino
    assert not (tmp_path / lock.NAME).exists() or (tmp_path / lock.NAME).stat().st_ino == made


def test_file_system_without_locks_gets_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(logging.getLogger("asc_jax"), "propagate", True)
    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock.held(tmp_path):
        pass
    assert "has no locks" in caplog.text


def test_unwritable_folder_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to .*file"), lock.held(tmp_path / "file"):
        pass
