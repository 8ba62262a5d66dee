"""Atomic writes, JSON objects, and what a failed write is called."""

import contextlib
import errno
import json
import os
import pathlib
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from asc_jax.errors import UserError


@contextlib.contextmanager
def atomic_writer(path: pathlib.Path, *, sync: bool = True) -> Iterator[BinaryIO]:
    """Give a file to write to, `<path>.part`, that takes the place of `path` at the end.

    When the block fails, what stood at `path` is untouched and the new file is removed. What a
    killed process leaves is overwritten by the next one.

    Args:
      path: in an existing folder.
      sync: see the file onto the disk, so that it survives a power failure.

    Raises:
      OSError: it cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    if sync:
        sync_folder(path.parent)


def require_place(path: pathlib.Path) -> None:
    """Raise an `OSError` if `atomic_writer` could not write to a path; what is there stays."""
    part = path.with_name(path.name + ".part")
    part.open("wb").close()
    part.unlink()


def require_folder(folder: pathlib.Path) -> None:
    """Raise an `OSError` if files could not be written to a folder; nothing is made.

    Of a folder that is missing, the nearest folder above it that is there must be writable.
    """
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    tempfile.TemporaryFile(dir=folder).close()


def write_atomically(path: pathlib.Path, content: str | bytes, *, sync: bool = True) -> None:
    """Write a whole file or nothing of it, as `atomic_writer`; text is written as UTF-8."""
    write_together({path: content}, sync=sync)


def write_together(contents: Mapping[pathlib.Path, str | bytes], *, sync: bool = True) -> None:
    """Write several files as `write_atomically` does one: all of them, or none if one fails.

    Raises:
      OSError: one cannot be written, or is a folder.
    """
    with contextlib.ExitStack() as stack:
        for path, content in contents.items():
            if path.is_dir():  # only this could stop the renaming halfway
                raise IsADirectoryError(errno.EISDIR, f"{path.name} is a folder")
            file = stack.enter_context(atomic_writer(path, sync=sync))
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()


def sync_folder(folder: pathlib.Path) -> None:
    """See the names in a folder onto the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def parse_json(text: str | bytes) -> dict:
    """Read a JSON object from a file that anything may have happened to.

    Raises:
      ValueError: it is damaged, nested too deeply, or no object.

    Example:
      >>> parse_json('{"a": 1}')
      {'a': 1}
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__}, expected an object")
    return value


def is_zip(path: pathlib.Path) -> bool:
    """Return whether a file is a zip archive that can be opened, whatever was done to it."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # it says that it spans several disks
        return False


def read_text(path: pathlib.Path) -> str:
    """Return the text of a file; a pipe in its place, which may never end, is an error.

    Raises:
      OSError: it cannot be read, or is no ordinary file.
      ValueError: it is not UTF-8.
    """
    require_ordinary(path)
    return path.read_text("utf-8")


def require_ordinary(path: str | os.PathLike) -> None:
    """Raise an OSError for a named pipe, a device, a socket or a folder in place of a file.

    What a shell makes of `<(command)` is a pipe that has a writer, and lies in /dev.
    """
    path = pathlib.Path(path)
    if path.exists() and not path.is_file() and not os.fspath(path).startswith("/dev/fd/"):
        raise OSError(errno.EINVAL, "not an ordinary file", str(path))


def require_utf8(folder: str | os.PathLike) -> None:
    """Raise a `UserError` for a folder whose absolute name is not UTF-8.

    JAX's, Orbax's and TensorFlow's own code cannot open files there.
    """
    try:
        os.path.abspath(folder).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{os.path.abspath(folder)}: this name is not UTF-8, and JAX, Orbax and TensorFlow "
            "cannot use files there; rename the folder"
        ) from error


def reason(error: OSError) -> str:
    """Return the system's words, and the file they are about."""
    words = error.strerror or str(error)
    return f"{words} ({error.filename})" if error.filename else words


# What the system may say of sound files, and what a person can do about it.
NOT_DAMAGE = {
    errno.ENFILE: "other programs hold too many: end some and run the same command again",
    errno.EMFILE: "raise the limit with `ulimit -n 4096` and run the same command again",
    errno.EACCES: "let their owner make the files readable for you",
    errno.EPERM: "let their owner make the files readable for you",
    errno.ENOMEM: "free some memory and run the same command again",
    errno.ENOSPC: "make room and run the same command again",
    errno.EIO: "look at the disk, or the network to it, and run the same command again",
    errno.ESTALE: "run the same command again, on all hosts if there are several",
}
for _code in ("ETIMEDOUT", "EHOSTDOWN", "ENOTCONN", "EREMOTEIO"):  # not every system has all
    if _number := getattr(errno, _code, None):
        NOT_DAMAGE[_number] = NOT_DAMAGE[errno.EIO]


def system_words(error: BaseException | None) -> str | None:
    """Return the system's words and what to do; None if what was read is at fault.

    error: of any library. array_record and TensorFlow give the words only, not the number, Orbax
    the number within its message; and an error may be the consequence of another.

    Example:
      >>> system_words(RuntimeError("open() failed: Permission denied; opening a"))
      'open() failed: Permission denied; opening a; let their owner make the files readable for you'
      >>> system_words(ValueError("no such clip"))
    """
    if error is None:
        return None
    if isinstance(error, MemoryError):
        error = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    words = reason(error) if isinstance(error, OSError) else str(error)
    if found := re.search(r"os_error_code='(\d+)'", words):
        error = OSError(int(found[1]), os.strerror(int(found[1])))
        words = error.strerror
    for code, advice in NOT_DAMAGE.items():
        if getattr(error, "errno", None) == code or os.strerror(code) in words:
            return f"{words}; {advice}"
    return system_words(error.__cause__ or error.__context__)


WRITING = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise the limit with `ulimit -f unlimited`",
}


def what_to_do(error: OSError) -> str:
    """Return what helps against an error of writing, as the beginning of a piece of advice."""
    for number, advice in WRITING.items():
        if error.errno == number or os.strerror(number) in str(error):
            return f"{advice}, or "
    return ""


@contextlib.contextmanager
def writing_to(workdir: str | os.PathLike) -> Iterator[None]:
    """Raise what goes wrong while a workdir is written as a `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write to the workdir {workdir}: {reason(error)}; {what_to_do(error)}choose "
            "another --workdir"
        ) from error


def write_folder(
    folder: str | os.PathLike, contents: Mapping[str, str | bytes]
) -> list[pathlib.Path]:
    """Write all files of a folder, which is made if needed, or none, and return their paths.

    Args:
      folder: where they lie.
      contents: file name → content.

    Raises:
      UserError: the folder cannot be written.
    """
    paths = {pathlib.Path(folder) / name: content for name, content in contents.items()}
    with writing_to(folder):
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        write_together(paths)
    return list(paths)
