"""Stopping a run from outside without losing anything."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Yield a list that a SIGTERM or Ctrl-C puts its number into; a second one stops at once.

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
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, old in before.items():
            signal.signal(number, old)
