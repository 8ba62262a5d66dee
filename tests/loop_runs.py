"""Runs of `fit` for tests: stopped, damaged, compared."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest
from small import small_clips, small_config

from asc_jax import experiment
from asc_jax.evaluation.evaluate import make_evaluator
from asc_jax.machine import replicas
from asc_jax.training import loop

N_CLIPS, N_STEPS = 28, 12  # 4 steps of 8 clips an epoch, the last of 4 clips, in calls of 3 and 1
OPTIONS = {
    "n_epochs": 3,
    "eval_every_epochs": 0,
    "checkpoint_every_epochs": 1,
    "keep_checkpoints": 2,
    "keep_best": False,
    "steps_per_call": 3,
}


@contextlib.contextmanager
def compiled_once(parts=None, programs=None):
    """The experiment of all these runs; while it is in use, what `fit` compiles is kept.

    With the schedule of the first that asks: a run of another length must not come first.

    programs: those of earlier runs of this experiment, and then of these.
    """
    parts = parts or experiment.make(small_config(data__batch_size=8))
    variables = jax.tree.map(np.asarray, parts.variables())
    programs = {} if programs is None else programs
    with pytest.MonkeyPatch.context() as patch:
        for name in ("pmap_train", "pmap_eval"):
            make = getattr(replicas, name)
            patch.setattr(
                replicas,
                name,
                lambda *args, name=name, make=make, **options: programs.setdefault(
                    (name, *options.values()), make(*args, **options)
                ),
            )
        patch.setattr(experiment.Experiment, "variables", lambda self: variables)
        yield parts


class Stopping:
    """Clips that send this process a signal when the n-th batch is read."""

    def __init__(self, clips, at, number=signal.SIGTERM):
        self.clips, self.left, self.number = clips, at, number
        self.identity = clips.identity

    def __len__(self):
        return len(self.clips)

    def batches(self, order, batch_size, *, first=0):
        for batch in self.clips.batches(order, batch_size, first=first):
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), self.number)
            yield batch

    def in_order(self, batch_size):
        return self.batches(range(len(self)), batch_size)


def fit(parts, workdir, clips=None, test_clips=None, **options):
    clips = small_clips(N_CLIPS) if clips is None else clips
    return loop.fit(
        parts,
        clips,
        test_clips,
        workdir,
        **{"make_evaluator": make_evaluator, **OPTIONS, **options},
    )


def fit_two_seeds(parts, folder, *, together):
    """States and workdirs of seeds 0 and 1."""
    workdirs = [folder / "0", folder / "1"]
    states = loop.fit_seeds(
        [parts, with_seed(parts, 1)],
        small_clips(N_CLIPS),
        None,
        workdirs,
        make_evaluator=make_evaluator,
        **{**OPTIONS, "together": together},
    )
    return states, workdirs


def assert_seeds_differ(workdirs, whole):
    """Seed 0 has the losses of its own run; seed 1 others, and as many checkpoints."""
    losses = [[line[2] for line in train_lines(workdir)] for workdir in (*workdirs, whole)]
    np.testing.assert_allclose(losses[0][0], losses[2][0], rtol=1e-4)
    assert losses[1] != losses[0]
    assert saved_steps(workdirs[1]) == saved_steps(whole)


def with_seed(parts, seed):
    """The same experiment with another seed."""
    config = parts.config.copy_and_resolve_references().unlock()
    config.seed = seed
    return dataclasses.replace(parts, config=config.lock())


def train_lines(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    names = ("epoch", "step", "loss", "accuracy", "lr")
    return [[line[name] for name in names] for line in lines if line["kind"] == "train"]


def saved_steps(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def assert_same_end(state, workdir, whole):
    """Parameters, statistics and optimiser bit for bit, and the same training figures."""
    assert jax.tree.structure(state) == jax.tree.structure(whole[1])
    for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(whole[1]), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    assert train_lines(workdir) == train_lines(whole[0])


def biggest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def truncate(folder):
    os.truncate(biggest(folder), biggest(folder).stat().st_size // 2)


def flip(folder):
    content = bytearray(biggest(folder).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8] = bytes(255 - byte for byte in content[middle : middle + 8])
    biggest(folder).write_bytes(content)


def delete(folder):
    biggest(folder).unlink()


def delete_meta(folder):
    shutil.rmtree(folder / "meta")


def empty_folder(folder):
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGES = [truncate, flip, delete, delete_meta, empty_folder]


def spoil(audio):
    audio[5, 100] = np.nan
