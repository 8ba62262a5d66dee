"""How one process of several ends: with a line for a person, without waiting for the others.

JAX ends all that are left when one is lost. In a process without others nothing here does anything.
"""

import atexit
import contextlib
import ctypes
import logging
import os
import signal
import sys
import tempfile
from typing import TextIO

import jax

LOST = 3  # exit status
# How a ValueError begins that JAX makes of a collective's end.
_LOST_STATUS = ("UNKNOWN:", "UNAVAILABLE:", "INTERNAL:", "DEADLINE_EXCEEDED:", "ABORTED:")
_LOST_MESSAGE = (
    "another process of this run has ended or cannot be reached: start the same command again in "
    "all of them to go on from the last checkpoint"
)
_NOT_FOUND_MESSAGE = (
    "the processes of this run did not find each other: each needs a --process_id of its own, and "
    "the same --coordinator and --n_processes"
)
_ABORT_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)
_native = {}  # of one process of several: its log, and the handler that C code points to


def leave(status: int) -> None:
    """End this process at once if it is one of several; otherwise do nothing.

    An orderly exit would wait for the others, and they may be waiting for this one.
    """
    if _native:
        if status != LOST:
            _drop_log()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def lost_process(error: Exception) -> str | None:
    """What to tell a person if an error means that another process is gone, otherwise None."""
    if not _native or not isinstance(error, jax.errors.JaxRuntimeError | ValueError):
        return None
    text = str(error)
    if isinstance(error, ValueError) and not text.startswith(_LOST_STATUS):
        return None
    if "RESOURCE_EXHAUSTED" in text:  # its own memory is full
        return None
    return f"{_LOST_MESSAGE} ({text.splitlines()[0][:200]})"


def divert_native_log() -> str:
    """JAX's native code reports a lost process in twenty lines and aborts: one line instead.

    What native code says goes to a file, whose name this returns; it goes when all went well.
    """
    file, path = tempfile.mkstemp(prefix="asc_jax-", suffix=".log")
    sys.stdout.flush()
    out, terminal = os.dup(1), os.dup(2)
    for native in (1, 2):
        os.dup2(file, native)
    os.close(file)
    sys.stdout = _text(out, sys.stdout, buffering=1 if os.isatty(out) else -1)
    sys.stderr = _text(terminal, sys.stderr, buffering=1)
    for handler in logging.getLogger("asc_jax").handlers:
        handler.setStream(sys.stderr)

    @_ABORT_HANDLER
    def on_abort(_):
        message = _LOST_MESSAGE if "together" in _native else _NOT_FOUND_MESSAGE
        os.write(terminal, f"error: {message}. More is in {path}\n".encode())
        os._exit(LOST)

    _native.update(log=path, handler=on_abort)
    ctypes.CDLL(None).signal(signal.SIGABRT, on_abort)
    atexit.register(_drop_log)
    return path


def all_are_found() -> None:
    """An abort means from now on that a process is lost, not that it was never found."""
    _native["together"] = True


def _text(descriptor: int, like: TextIO, buffering: int) -> TextIO:
    return os.fdopen(
        descriptor, "w", buffering=buffering, encoding=like.encoding, errors=like.errors
    )


def _drop_log() -> None:
    with contextlib.suppress(OSError):
        os.remove(_native["log"])
