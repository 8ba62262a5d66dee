"""Files that are there whole or not at all, also after the power failed."""

import contextlib
import os
import pathlib

from asc_jax.errors import UserError


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
    """Write a whole file or nothing of it, and see it onto the disk.

    Args:
      path: of the file; what stood there is replaced.
      content: text is written as UTF-8.

    Raises:
      OSError: it cannot be written; what stood there is untouched.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: pathlib.Path) -> None:
    """See the names in a folder onto the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reason(error: OSError) -> str:
    """The system's words, and the file they are about."""
    words = error.strerror or str(error)
    return f"{words} ({error.filename})" if error.filename else words


@contextlib.contextmanager
def writing_to(workdir: str | os.PathLike):
    """What goes wrong while a workdir is written becomes a `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write to the workdir {workdir}: {reason(error)}; free some space, or choose "
            "another --workdir"
        ) from error
