"""Tell whether sound files were replaced or written to while a data set was made of them."""

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from asc_jax.errors import UserError

Stamps = Mapping[Path, tuple[int, int, int]]


def file_stamps(paths: Iterable[Path]) -> Stamps:
    """Return size, time and inode of each file, which change when it is replaced or written to."""
    stamps = {}
    for path in paths:
        with contextlib.suppress(OSError):
            status = os.stat(path)
            stamps[path] = (status.st_size, status.st_mtime_ns, status.st_ino)
    return stamps


def require_unchanged(before: Stamps, after: Stamps) -> None:
    """Compare two `file_stamps` of the same files.

    Raises:
      UserError: they differ.
    """
    changed = [str(path) for path in before if before[path] != after.get(path)]
    if changed:
        raise UserError(
            f"{len(changed)} of the files were replaced or changed while they were read, first "
            f"{changed[0]}: run it again once they stay as they are"
        )
