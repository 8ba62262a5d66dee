"""One process at a time in a folder.

The kernel holds the lock, on an open file: it ends with the process, however that ends, so a
file that a killed process left is no obstacle. The file names its holder, for the message.

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

import filelock

from asc_jax.errors import UserError
from asc_jax.machine import files

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
        cannot be written, or its name is not UTF-8.
    """
    files.require_utf8(folder)
    path = pathlib.Path(folder) / NAME
    lock = filelock.FileLock(path, mode=_mode(), blocking=False, fallback_to_soft=False)
    now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    own = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": now}).encode()
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.callback(lock.release)
            try:
                _acquire(lock, path)
            except PermissionError:
                if not _remove_left_by_another(path):
                    raise
                _acquire(lock, path)
            path.write_bytes(own)
        except filelock.Timeout as error:
            raise UserError(
                f"{folder} is in use by {_holder(path)}: wait for it or stop it, or choose "
                "another folder"
            ) from error
        except PermissionError as error:
            raise UserError(
                f"cannot write to {folder}: {files.reason(error)}{_owner(path)}; choose another "
                "folder, or have its owner give you the right to write there"
            ) from error
        except OSError as error:
            raise UserError(
                f"cannot write to {folder}: {files.reason(error)}; {files.what_to_do(error)}choose "
                "another folder"
            ) from error
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                if path.read_bytes() == own:  # no other process's, should this one's be removed
                    path.unlink()


def _acquire(lock: filelock.FileLock, path: pathlib.Path) -> None:
    """Acquire the lock, or warn where the file system has none."""
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        log.warning(
            "the file system of %s has no locks: see to it that one process works there",
            path.parent,
        )


def _mode() -> int:
    """Return the mode of a new lock file: that of any new file, so that a group can share it."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _remove_left_by_another(path: pathlib.Path) -> bool:
    """Remove a lock file that another user's process left; return whether it is gone.

    It cannot be opened for writing then, but the kernel says whether anybody holds it, and who
    may write to the folder may remove it. A file that has just taken its place stays.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
            path.unlink()
    except BlockingIOError as error:
        raise filelock.Timeout(str(path)) from error
    except FileNotFoundError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _owner(path: pathlib.Path) -> str:
    """Return `, a file of anna's`; nothing where there is no such file."""
    try:
        return f", a file of {path.owner()}'s"
    except (OSError, KeyError):
        return ""


def _holder(path: pathlib.Path) -> str:
    """Return who holds the lock; the file may be just being written, or have gone."""
    try:
        holder = json.loads(path.read_bytes())
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
