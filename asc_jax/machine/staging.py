"""Fill a folder beside the good one and swap them at the end, or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from asc_jax.errors import UserError
from asc_jax.machine import files, lock

STAGING = ".building"  # the leading dots hide both from readers
REPLACED = ".replaced"


@contextlib.contextmanager
def replacing(parent: str | os.PathLike, name: str, n_bytes: int) -> Iterator[Path]:
    """Yield an empty folder; what is made in it as `name` ends up as `parent / name`.

    When the block fails or is interrupted, `parent / name` stays as it was and the rest is
    removed. What a killed process leaves behind is removed by the next one.

    Args:
      parent: folder that holds the result; made if needed.
      name: of the folder to put in place.
      n_bytes: room that will be needed.

    Yields:
      The folder to work in, inside `parent`.

    Raises:
      UserError: `parent` cannot be written or has too little room, or another process is at
        work there.
    """
    parent = Path(parent)
    with lock.held(parent):
        staging = parent / STAGING
        try:
            _clear(parent, name)
            staging.mkdir()
            check_room(parent, n_bytes)
            yield staging
            _swap(staging / name, parent / name, parent / REPLACED)
        except OSError as error:
            advice = files.what_to_do(error)
            raise UserError(
                f"cannot write to {parent}: {error}; {advice}choose another folder"
            ) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def remove_left(parent: str | os.PathLike, name: str) -> None:
    """Remove what a killed process left, unless another is at work or nothing can be written."""
    parent = Path(parent)
    if (parent / STAGING).exists() or (parent / REPLACED).exists():
        with contextlib.suppress(UserError), lock.held(parent):
            _clear(parent, name)


def check_room(folder: Path, n_bytes: int) -> None:
    """Raise a UserError if the disk of `folder` has less than `n_bytes` free."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise UserError(
            f"{folder}: {n_bytes / 2**30:.2f} GiB needed, {free / 2**30:.2f} GiB free on "
            "its disk; make room or choose another folder"
        )


def _clear(parent: Path, name: str) -> None:
    """Remove what a killed process left; a swap it was in the middle of is undone."""
    shutil.rmtree(parent / STAGING, ignore_errors=True)
    if (parent / REPLACED).exists() and not (parent / name).exists():
        (parent / REPLACED).rename(parent / name)
    shutil.rmtree(parent / REPLACED, ignore_errors=True)


def _swap(new: Path, current: Path, replaced: Path) -> None:
    """Put `new` in the place of `current`."""
    try:
        if current.exists():
            current.rename(replaced)
        new.rename(current)
    except BaseException:
        if replaced.exists() and not current.exists():
            replaced.rename(current)
        raise
    shutil.rmtree(replaced, ignore_errors=True)
