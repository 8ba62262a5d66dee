"""Stopping a run from outside without losing anything.

Ctrl-C, a service that ends, a terminal that is closed, the warning that a cluster sends before it
ends a job (Slurm's `--signal=USR1@120`), and a limit on processor time all stop a command alike.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator

BESIDE_CTRL_C = (
    *(signal.SIGTERM, signal.SIGHUP),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU),
)
STOPPING = (signal.SIGINT, *BESIDE_CTRL_C)


def catch(handler: Callable, numbers: Collection[int] = STOPPING) -> dict:
    """Call a handler, `(number, frame)`, for these signals; return the handlers before.

    A signal that is ignored, as `nohup` does with SIGHUP, stays ignored.
    """
    caught = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in caught}


def restore(handlers: dict) -> None:
    """Put back the handlers that `catch` returned."""
    for number, handler in handlers.items():
        signal.signal(number, handler)


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Yield a list that a signal of `STOPPING` puts its number into; a second one stops at once.

    In a thread other than the main one nothing is caught, and the list stays empty.
    """
    stopped: list[int] = []

    def handler(number, frame):
        if stopped:
            raise KeyboardInterrupt
        stopped.append(number)
        print("\nstopping after the steps under way …", file=sys.stderr)

    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = catch(handler)
    try:
        yield stopped
    finally:
        restore(before)
