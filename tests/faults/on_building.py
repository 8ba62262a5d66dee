"""Faults while a data set is built."""

import contextlib
import functools
import os
import shutil
import sys
import time

import soundfile

from asc_jax.cli import prepare_data
from asc_jax.data.clips import open_split
from asc_jax.data.tau.folder import read_recordings
from asc_jax.errors import UserError
from asc_jax.machine import lock
from tests.faults import moments, runs
from tests.faults.home import ROOT
from tests.faults.judge import Problem, SilentDifference, require_same_end

SPLITS = ("train_100pct", "test")


def moment_of_building(home, rng, folder):
    """In an empty folder, or over a data set that is there; then built again."""
    data, killed, over = folder / "data", folder / "killed", rng.random() < 0.5
    if over:
        shutil.copytree(home.data, data)
    with moments.watched(data, rng.randrange(_n_moments(home, over)), killed):
        runs.call(prepare_data.prepare, home.tau, data, overwrite=over).require_done()
    return _built_again(home, killed) if killed.exists() else "not reached"


def _n_moments(home, over: bool) -> int:
    """How many there are in a build, into an empty folder or over a data set."""
    build = functools.partial(runs.call, prepare_data.prepare, home.tau, overwrite=over)
    return moments.count(home, f"data-{over}", home.data if over else None, build)


def _built_again(home, data):
    """What a killed build left opens as the data set that it is, or not at all."""
    with contextlib.suppress(UserError):  # none yet, and a run would say so
        _require_same_clips(home, data)
    runs.call(prepare_data.prepare, home.tau, data).require_done()
    return require_built(home, data)


def require_built(home, data) -> str:
    """The undisturbed data set and nothing beside it: `same`."""
    _require_same_clips(home, data)
    left = {path.name for path in data.iterdir()} - {"tau22", lock.NAME}
    if left:
        raise Problem(f"left behind: {left}")
    return "same"


def _require_same_clips(home, data):
    for split in SPLITS:
        ours, theirs = (open_split(path, split) for path in (data, home.data))
        if ours.identity != theirs.identity:
            raise SilentDifference(f"{split} holds other clips")


def kill_build(home, rng, folder):
    """SIGKILL of a process of its own, once there is a file of the new data set."""
    data = folder / "data"
    command = [sys.executable, "-m", "asc_jax.cli.prepare_data", f"--tau_dir={home.tau}"]
    process = runs.start(home, [*command, f"--data_dir={data}"], cwd=ROOT)
    runs.wait_until(
        process, lambda: any(path.is_file() for path in (data / ".building").rglob("*"))
    )
    time.sleep(rng.choice([0, rng.uniform(0, 0.1), rng.uniform(0, 1)]))
    process.kill()
    if runs.wait(process).status == 0:
        return "not reached"
    return _built_again(home, data)


def wav_replaced(home, rng, folder):
    """By other sound, while the data set is built from it."""
    from asc_jax.data.store import dataset  # imports TensorFlow Datasets

    tau = shutil.copytree(home.tau, folder / "tau")
    recordings = read_recordings(tau, SPLITS)
    clips = [clip for split in SPLITS for clip in recordings[split]]
    left = [rng.randrange(len(clips))]

    def replace(n_clips):
        left[0] -= n_clips
        if left[0] < 0 <= left[0] + n_clips:
            _other_sound(rng, rng.choice(clips).path, folder)

    outcome = runs.call(dataset.build, recordings, folder / "data", replace)
    refused = outcome.require_refused("were replaced or changed while they were read")
    if any((folder / "data").iterdir()):
        raise Problem("a refused build left something behind")
    return refused


def wav_replaced_in_training(home, rng, folder):
    """And the data set built anew from it; a run on the new one must be refused."""
    tau = shutil.copytree(home.tau, folder / "tau")
    clips = read_recordings(tau, SPLITS)["train_100pct"]
    _other_sound(rng, rng.choice(clips).path, folder)
    workdir = home.copy_half(folder)
    runs.call(prepare_data.prepare, tau, folder / "data").require_done()
    outcome = home.train(workdir, data=folder / "data")
    refused = outcome.require_refused("was trained on other clips than the split now holds")
    require_same_end(home, workdir, home.train(workdir))
    return refused


def _other_sound(rng, path, folder):
    """Of the same name, length and format."""
    waveform, rate = soundfile.read(path, dtype="int32")
    soundfile.write(folder / "new.wav", waveform // rng.randrange(2, 9), rate, subtype="PCM_24")
    os.replace(folder / "new.wav", path)


KINDS = {
    "building killed at a file operation": moment_of_building,
    "SIGKILL of prepare_data": kill_build,
    "wav replaced while building": wav_replaced,
    "data set built anew": wav_replaced_in_training,
}
