"""The end of one of several processes: with a line for a person, without waiting for the others.

In a process without others nothing here does anything.
"""

import ctypes
import os
import signal
import sys

LOST = 3  # exit status
# How a ValueError begins that JAX makes of a collective's end.
_LOST_STATUS = ("UNKNOWN:", "UNAVAILABLE:", "INTERNAL:", "DEADLINE_EXCEEDED:", "ABORTED:")
_LOST_MESSAGE = (
    "another process of this run has ended or cannot be reached: start the same command again in "
    "all of them to resume from the last checkpoint"
)
_NOT_FOUND_MESSAGE = (
    "the processes of this run did not find each other: each needs a --process_id of its own, and "
    "the same --coordinator and --n_processes"
)
_message = ""  # of an abort; empty: there are no other processes


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _end_aborted(_) -> None:
    os.write(2, f"error: {_message}\n".encode())
    os._exit(LOST)


def expect_others(found: bool) -> None:
    """Take this process for one of several, whose loss ends it with a line and the status LOST.

    JAX's native code aborts a process when another is lost: its message is followed by ours.

    Args:
      found: whether the processes have found each other.
    """
    global _message
    _message = _LOST_MESSAGE if found else _NOT_FOUND_MESSAGE
    ctypes.CDLL(None).signal(signal.SIGABRT, _end_aborted)  # Python's own handlers come too late


def leave(status: int) -> None:
    """End this process at once if it is one of several; otherwise do nothing.

    An orderly exit would wait for the others, and they may be waiting for this one.
    """
    if _message:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def lost_process(error: Exception) -> str | None:
    """Return what to tell a person if an error means that another process is lost, or None."""
    import jax  # takes a second, and commands import this module

    if not _message or not isinstance(error, jax.errors.JaxRuntimeError | ValueError):
        return None
    text = str(error)
    if isinstance(error, ValueError) and not text.startswith(_LOST_STATUS):
        return None
    if "RESOURCE_EXHAUSTED" in text:  # its own memory is full
        return None
    return f"{_LOST_MESSAGE} ({text.splitlines()[0][:200]})"
