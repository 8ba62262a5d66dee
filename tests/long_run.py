"""A long run of the smallest network on stored clips, and what its process holds meanwhile."""

import os
import pathlib

import numpy as np
from small import small_config

from asc_jax import experiment
from asc_jax.data.clips import open_split
from asc_jax.training import loop

N_CLIPS, BATCH_SIZE, STEPS_PER_EPOCH = 300, 12, 25  # several chunks on each of two cores


class Watched:
    """Clips that note what a process holds whenever a batch is read."""

    def __init__(self, clips):
        self.clips, self.identity, self.noted = clips, clips.identity, []

    def __len__(self):
        return len(self.clips)

    def batches(self, order, batch_size, *, first=0):
        for batch in self.clips.batches(order, batch_size, first=first):
            self.noted.append(held_by(os.getpid()))
            yield batch


def held_by(pid):
    """Resident bytes, threads and open files of a process.

    TensorStore's pool is left out: it takes a thread more now and then, up to its limit.
    """
    folder = pathlib.Path("/proc") / str(pid)
    pages = int((folder / "statm").read_text().split()[1])
    names = [_name(thread) for thread in (folder / "task").iterdir()]
    return (
        pages * os.sysconf("SC_PAGE_SIZE"),
        sum(name not in ("", "ts_pool_worker") for name in names),
        len(list((folder / "fd").iterdir())),
    )


def _name(thread):
    try:
        return (thread / "comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):  # it ended in between
        return ""


def growth(noted):
    """Growth over the second half of a run: bytes as a share, threads and files as numbers.

    Bytes by a straight line through them, so that a single value decides nothing. Threads come
    and go with tf.data's pool, so the most there were count: in this half less in the first.
    """
    noted = np.array(noted, float)
    first, second = np.array_split(noted, 2)
    steps = np.arange(len(second))
    slope, start = np.polyfit(steps, second[:, 0], 1)
    threads, files = second[:, 1:].max(axis=0) - first[:, 1:].max(axis=0)
    return slope * steps[-1] / start, threads, files


def watch(folder, n_steps, n_evaluations):
    """Train for `n_steps` in `folder`; a row per step of what the process held."""
    from tau_folder import write_tau

    from asc_jax.data.store import dataset
    from asc_jax.data.tau.folder import read_recordings

    dataset.build(
        read_recordings(write_tau(folder / "tau", n_train=N_CLIPS), ["train_100pct", "test"]),
        folder / "data",
    )
    clips = Watched(open_split(folder / "data", "train_100pct"))
    n_epochs = n_steps // STEPS_PER_EPOCH
    loop.fit(
        experiment.make(small_config(data__batch_size=BATCH_SIZE)),
        clips,
        open_split(folder / "data", "test"),
        folder / "run",
        n_epochs=n_epochs,
        eval_every_epochs=n_epochs // n_evaluations,
        checkpoint_every_epochs=n_epochs // n_evaluations,
        keep_checkpoints=2,
        keep_best=True,
        steps_per_call=5,
        resident="off",
    )
    return clips.noted
