"""Disks that are full or read-only. In this process; only root may mount."""

import contextlib
import os
import pathlib
import shutil
import subprocess

from asc_jax.data.tau.folder import read_recordings
from tests.faults import on_building, runs
from tests.faults.home import HALF
from tests.faults.judge import (
    LostCheckpoint,
    Problem,
    complete_steps,
    require_same_end,
    require_went_on_from,
)

CANNOT_WRITE = r"cannot write to|could not be written"


class Skipped(Exception):
    """Why a fault cannot be done here."""


@contextlib.contextmanager
def mounted(folder: pathlib.Path, *options):
    """Something mounted on a folder while the block runs."""
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise Skipped(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def disk_full(home, rng, folder):
    """After anything from nothing to about two checkpoints more."""
    if os.geteuid():
        raise Skipped("only root may mount")
    disk = folder / "disk"
    disk.mkdir()
    with mounted(disk, "-t", "tmpfs", "-o", "size=64m", "none"):
        workdir = home.copy_half(disk)
        used = shutil.disk_usage(disk).used // 1024
        size = used + 4 * rng.choice([0, rng.randrange(8), rng.randrange(100), rng.randrange(300)])
        _remount(disk, f"size={size}k")
        outcome = home.train(workdir)
        if not outcome.status:
            return require_same_end(home, workdir, outcome)
        refused = outcome.require_refused(CANNOT_WRITE)
        if HALF[1] not in complete_steps(workdir):
            raise LostCheckpoint(f"only {complete_steps(workdir)} are left")
        _remount(disk, "size=64m")
        newest = complete_steps(workdir)[-1]
        outcome = home.train(workdir)
        require_went_on_from(outcome, newest)
        require_same_end(home, workdir, outcome)
        return refused


def filled_while_building(home, rng, folder):
    """By others, once the room has been looked at: after any of the clips, up to any byte."""
    if os.geteuid():
        raise Skipped("only root may mount")
    from asc_jax.data.store import dataset  # imports TensorFlow Datasets

    disk = folder / "disk"
    disk.mkdir()
    recordings = read_recordings(home.tau, on_building.SPLITS)
    left = [rng.randrange(sum(map(len, recordings.values())))]
    n_pages = rng.choice([0, rng.randrange(40), rng.randrange(400)])

    def fill(n_clips):
        left[0] -= n_clips
        if left[0] < 0 <= left[0] + n_clips:
            size = shutil.disk_usage(disk).used // 1024 + 4 * n_pages
            _remount(disk, f"size={size}k")

    with mounted(disk, "-t", "tmpfs", "-o", "size=64m", "none"):
        outcome = runs.call(dataset.build, recordings, disk / "data", fill)
        if not outcome.status:  # it sufficed
            return on_building.require_built(home, disk / "data")
        refused = outcome.require_refused(CANNOT_WRITE)
        if any((disk / "data").iterdir()):
            raise Problem("a refused build left something behind")
        _remount(disk, "size=64m")
        runs.call(dataset.build, recordings, disk / "data").require_done()
        on_building.require_built(home, disk / "data")
        return refused


def read_only(home, rng, folder):
    """The workdir, or one of the folders in it."""
    if os.geteuid():
        raise Skipped("only root may mount")
    workdir = home.copy_half(folder)
    place = workdir / rng.choice(["", "checkpoints", "best", "tensorboard"])
    with mounted(place, "--bind", str(place)):
        subprocess.run(["mount", "-o", "remount,bind,ro", str(place)], check=True)
        outcome = home.train(workdir)
        if not outcome.status:  # no better epoch was to be saved there
            return require_same_end(home, workdir, outcome)
        refused = outcome.require_refused(CANNOT_WRITE)
    newest = complete_steps(workdir)[-1]
    outcome = home.train(workdir)
    require_went_on_from(outcome, max(newest, HALF[1]))
    require_same_end(home, workdir, outcome)
    return refused


def _remount(disk, option):
    subprocess.run(["mount", "-o", f"remount,{option}", str(disk)], check=True)


KINDS = {
    "disk full": disk_full,
    "disk filled while building": filled_while_building,
    "read-only folder": read_only,
}
