"""Whether wav files are still those that a data set was built from."""

import contextlib
import hashlib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from asc_jax.data.tau.folder import Recording
from asc_jax.errors import UserError

N_HASHED_CLIPS = 16  # of every split, for its fingerprint


def fingerprint(clips: Sequence[Recording]) -> str:
    """Hash of what a split is made from: names, labels, file sizes, the bytes of some files.

    Some, evenly spread, since reading all would take as long as building; they tell a folder
    that was made or processed again, where all sizes stay the same.
    """
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(repr(clip[1:]).encode())
    for clip in clips[:: max(1, len(clips) // N_HASHED_CLIPS)]:
        digest.update(Path(clip.path).read_bytes())
    return digest.hexdigest()


def file_stamps(recordings: dict[str, list[Recording]]) -> dict[Path, tuple[int, int, int]]:
    """What changes when a file is replaced or written to."""
    stamps = {}
    for clip in itertools.chain(*recordings.values()):
        with contextlib.suppress(OSError):
            found = os.stat(clip.path)
            stamps[clip.path] = (found.st_size, found.st_mtime_ns, found.st_ino)
    return stamps


def refuse_changed(before: dict, after: dict) -> None:
    """Hold two `file_stamps` of the same files against each other.

    Raises:
      UserError: they differ.
    """
    changed = [str(path) for path in before if before[path] != after.get(path)]
    if changed:
        raise UserError(
            f"{len(changed)} of the files were replaced or changed while they were read, first "
            f"{changed[0]}: run it again once they stay as they are"
        )
