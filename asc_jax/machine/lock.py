"""One process at a time in a folder.

The kernel holds the lock, on an open file: it ends with the process, however that ends, so a
file that a killed process left is no obstacle. The file says who holds it, for the message.

Over a network it holds among hosts on NFS (version 4, or 3 with its lock service), on Lustre
mounted with `flock` and on GPFS. Mounted with `nolock`, `local_lock` or `localflock`, and on most
file systems over object stores, it holds among the processes of one host only.
"""

import contextlib
import datetime
import errno
import fcntl
import json
import logging
import os
import pathlib
import socket
from collections.abc import Iterator

from asc_jax.errors import UserError

log = logging.getLogger("asc_jax")

NAME = ".lock"
UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@contextlib.contextmanager
def held(folder: str | os.PathLike) -> Iterator[None]:
    """Hold a folder against other processes while the block runs.

    Args:
      folder: made if it is not there.

    Raises:
      UserError: another process holds it (host, process and time are named), or the folder
        cannot be written.
    """
    path = pathlib.Path(folder) / NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(path)
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}: {error.strerror or error} ({error.filename or path}); free "
            "some space, or choose another folder"
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if _is_at(descriptor, path):
                path.unlink()  # while it is held: whoever opened it meanwhile looks again
        os.close(descriptor)


def _acquire(path: pathlib.Path) -> int:
    """Descriptor of the lock file, locked and naming this process."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(descriptor, path)
            if _is_at(descriptor, path):
                _sign(descriptor)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed it just now


def _lock(descriptor: int, path: pathlib.Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            f"{path.parent} is in use by {_holder(path)}: wait for it or stop it, or choose "
            "another folder"
        ) from error
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        log.warning(
            "the file system of %s has no locks: see to it that one process works there",
            path.parent,
        )


def _sign(descriptor: int) -> None:
    now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": now}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, (json.dumps(holder) + "\n").encode(), 0)


def _holder(path: pathlib.Path) -> str:
    """Who holds it; the file may be just being written, or have gone."""
    try:
        holder = json.loads(path.read_bytes())
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _is_at(descriptor: int, path: pathlib.Path) -> bool:
    """Whether the open file is the one that the path names."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
