"""Faults to the files of a half-done run and of its data set. In this process."""

import functools
import os
import shutil

import numpy as np

from tests.faults import damage
from tests.faults.home import HALF
from tests.faults.judge import (
    LostCheckpoint,
    complete_steps,
    require_same_end,
    require_went_on_from,
)

DAMAGED_DATA = r"the data set in .* is damaged or incomplete .*; rebuild it with"
DAMAGED_BEST = r"best/\d+ is damaged: remove .* to continue without"
NONE_GOOD = r"none of the \d checkpoints in .* is sound .*train again in a new --workdir"


def checkpoint(hurt, home, rng, folder):
    """A file of the newest checkpoint, of the one before it, of both or of the best."""
    workdir = home.copy_half(folder)
    which = rng.choice([HALF[1:], HALF[1:], HALF[:1], HALF, "best"])
    if which == "best":
        hurt(rng, damage.random_file(rng, workdir / "best"))
        return _without_best(home, workdir)
    for step in which:
        hurt(rng, damage.random_file(rng, workdir / "checkpoints" / str(step)))
    good = max(set(HALF) - set(which), default=None)
    outcome = home.train(workdir)
    if good is None and outcome.status:
        _require_kept(workdir, HALF)
        return outcome.require_refused(NONE_GOOD)
    require_went_on_from(outcome, good or 0)
    return require_same_end(home, workdir, outcome)


def _without_best(home, workdir):
    """Refused, or noticed when it is read; the run itself goes on as it would have."""
    outcome = home.train(workdir)
    answer = "same"
    if outcome.status:
        answer = outcome.require_refused(DAMAGED_BEST)
        _require_kept(workdir)
        shutil.rmtree(workdir / "best")
        outcome = home.train(workdir)
    require_went_on_from(outcome, HALF[1])
    require_same_end(home, workdir, outcome, lost_best=True, lost_lines=answer == "rejected")
    return answer


def _require_kept(workdir, steps=HALF[1:]):
    if not set(steps) <= set(complete_steps(workdir)):
        raise LostCheckpoint(f"only {complete_steps(workdir)} are left")


def metrics_cut(home, rng, folder):
    workdir = home.copy_half(folder)
    damage.truncate(rng, workdir / "metrics.jsonl")
    outcome = home.train(workdir)
    require_went_on_from(outcome, HALF[1])
    return require_same_end(home, workdir, outcome, lost_lines=True)


def config_damaged(home, rng, folder):
    """What is no part of the config may change; a config that is lost is written again."""
    workdir = home.copy_half(folder)
    rng.choice(damage.ANY)(rng, workdir / "config.json")
    outcome = home.train(workdir)
    if outcome.status:
        _require_kept(workdir)
        refused = outcome.require_refused(r"config\.json cannot be read|another config: ")
        shutil.copy(home.half / "config.json", workdir)
        require_same_end(home, workdir, home.train(workdir))
        return refused
    require_went_on_from(outcome, HALF[1])
    return require_same_end(home, workdir, outcome)


def data_set(hurt, home, rng, folder):
    """Any file of it; put right again, the run goes on."""
    workdir = home.copy_half(folder)
    data = shutil.copytree(home.data, folder / "data")
    files = list((data / "tau22").glob("*/*array_record*" if rng.random() < 0.7 else "*/*"))
    hurt(rng, rng.choice(sorted(path for path in files if path.stat().st_size)))
    outcome = home.train(workdir, data=data)
    if not outcome.status:
        return require_same_end(home, workdir, outcome)
    refused = outcome.require_refused(DAMAGED_DATA)
    require_same_end(home, workdir, home.train(workdir))
    return refused


def stale_lock(home, rng, folder):
    """Whatever the file of a killed process says, of a living process too."""
    workdir = home.copy_half(folder)
    of_us = f'{{"host": "x", "pid": {os.getpid()}, "since": "now"}}'.encode()
    said = rng.choice([b"", of_us, rng.randbytes(rng.randrange(1, 99)), b'{"pid": 1}'])
    (workdir / ".lock").write_bytes(said)
    outcome = home.train(workdir)
    require_went_on_from(outcome, HALF[1])
    return require_same_end(home, workdir, outcome)


def clock_moved(home, rng, folder):
    workdir = home.copy_half(folder)
    data = shutil.copytree(home.data, folder / "data")
    damage.move_clock(rng, workdir)
    damage.move_clock(rng, data)
    outcome = home.train(workdir, data=data)
    require_went_on_from(outcome, HALF[1])
    return require_same_end(home, workdir, outcome)


class Hurt:
    """Clips that do something when the n-th batch is read, and may be damaged by it."""

    def __init__(self, clips, at, do):
        self.clips, self.at, self.do, self.identity = clips, at, do, clips.identity

    def __len__(self):
        return len(self.clips)

    def batches(self, order, batch_size, *, first=0):
        for batch in self.clips.batches(order, batch_size, first=first):
            self.at -= 1
            yield (self.do(batch) if self.at == 0 else None) or batch


def not_finite(home, rng, folder):
    """A sample of a clip; the memory was bad, say. The checkpoints before it stay good."""
    workdir = home.copy_half(folder)
    value = rng.choice([np.nan, np.inf, -np.inf, 3e38])

    def spoil(batch):
        audio = batch["audio"].copy()
        audio[rng.randrange(2), rng.randrange(audio.shape[1])] = value
        return {**batch, "audio": audio}

    outcome = home.train(workdir, change=lambda clips: Hurt(clips, rng.randrange(1, 4), spoil))
    _require_kept(workdir)
    refused = outcome.require_refused(
        r"(loss became|gradient became|not finite).* the last good checkpoint is that of step 6"
    )
    outcome = home.train(workdir)
    require_went_on_from(outcome, HALF[1])
    require_same_end(home, workdir, outcome)
    return refused


KINDS = {
    "checkpoint truncated": functools.partial(checkpoint, damage.truncate),
    "checkpoint bit-flipped": functools.partial(checkpoint, damage.flip),
    "checkpoint file deleted": functools.partial(checkpoint, damage.delete),
    "metrics.jsonl cut": metrics_cut,
    "config.json damaged": config_damaged,
    "data set truncated": functools.partial(data_set, damage.truncate),
    "data set bit-flipped": functools.partial(data_set, damage.flip),
    "data set file deleted": functools.partial(data_set, damage.delete),
    "stale lock": stale_lock,
    "clock moved": clock_moved,
    "non-finite input": not_finite,
}
