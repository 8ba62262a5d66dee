"""Damage to files, drawn from a random generator."""

import contextlib
import os
import pathlib
import random


def truncate(rng: random.Random, path: pathlib.Path) -> None:
    """Cut off anywhere."""
    os.truncate(path, rng.randrange(path.stat().st_size))


def flip(rng: random.Random, path: pathlib.Path) -> None:
    """One bit, or all bits of a few bytes."""
    content = bytearray(path.read_bytes())
    start = rng.randrange(len(content))
    for place in range(start, min(start + rng.choice([1, 1, 8]), len(content))):
        content[place] ^= rng.choice([1 << rng.randrange(8), 255])
    path.write_bytes(content)


def delete(rng: random.Random, path: pathlib.Path) -> None:
    path.unlink()


ANY = (truncate, flip, delete)


def random_file(rng: random.Random, folder: pathlib.Path) -> pathlib.Path:
    """A file that is not empty, from anywhere below a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return rng.choice([path for path in files if path.stat().st_size])


def move_clock(rng: random.Random, folder: pathlib.Path) -> None:
    """Give every file a time of its own, in the past or in the future."""
    for path in sorted(folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            when = rng.choice([0, 1, 2_000_000_000, rng.randrange(4_000_000_000)])
            os.utime(path, (when, when))
