"""While the processes of a run look for each other: what a person sees, and can stop."""

import socket
import sys
import threading
import time
from collections.abc import Callable

from asc_jax.errors import UserError

TELL_AFTER_S = 10  # that the others are waited for


def require_free(coordinator: str, local: bool) -> None:
    """Process 0 serves the others at this port; JAX's own service would end it without a word.

    Args:
      coordinator: `host:port`.
      local: whether only this machine can reach it.

    Raises:
      UserError: the port is taken, or may not be had.
    """
    host, _, port = coordinator.rpartition(":")
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((host if local else "", int(port)))
        except OSError as error:
            raise UserError(
                f"port {port} of --coordinator cannot be had on this machine: {error.strerror}. "
                "Choose another, or wait for the run that holds it"
            ) from error


def wait_for(join: Callable[[], None]) -> None:
    """Call `join` in a thread, so that this one can be stopped meanwhile; raises what it raises."""
    failed, told = [], False

    def work():
        try:
            join()
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    began = time.monotonic()
    while thread.is_alive():
        thread.join(0.1)
        if not told and time.monotonic() - began > TELL_AFTER_S:
            told = True
            print("waiting for the other processes of this run …", file=sys.stderr)
    if failed:
        raise failed[0]
