"""A run in float64 on small clips; started as a script it is one process of several."""

import functools
import json
import pathlib
import signal
import sys

import numpy as np

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import jax
from loop_runs import Stopping
from small import small_clips, small_config

from asc_jax import experiment
from asc_jax.cli import prepare_jax, run, shared_flags
from asc_jax.evaluation.evaluate import make_evaluator
from asc_jax.machine import distributed, hosts
from asc_jax.training import loop, losses

N_STEPS = 20  # 10 epochs of a batch of 22 clips and one of 15: 4 replicas divide neither
OPTIONS = {
    "n_epochs": 10,
    "eval_every_epochs": 10,
    "checkpoint_every_epochs": 2,
    "keep_checkpoints": 2,
    "keep_best": True,
    "steps_per_call": 2,
}


class Wide:
    """Clips whose batches are float64."""

    def __init__(self, clips):
        self.clips, self.identity = clips, None

    def __len__(self):
        return len(self.clips)

    def batches(self, order, batch_size, *, first=0):
        for batch in self.clips.batches(order, batch_size, first=first):
            yield {**batch, "audio": batch["audio"].astype(np.float64)}

    def in_order(self, batch_size):
        return self.batches(range(len(self)), batch_size)


class Float64(experiment.Experiment):
    """Its parameters are float64."""

    def variables(self):
        return first_variables()


def weighted_loss(logits, batch):
    """A loss that reads a column of the data beside the label."""
    return batch["weight"] * losses.focal(logits, batch, gamma=2.0)


@functools.cache
def make():
    """The experiment of these runs."""
    parts = experiment.make(small_config(data__batch_size=22))
    return Float64(**{**vars(parts), "loss_fn": weighted_loss})


@functools.cache
def first_variables():
    with jax.ensure_compile_time_eval():  # what asks first wants shapes alone
        variables = super(Float64, make()).variables()
        return jax.tree.map(lambda x: np.asarray(x, np.float64), variables)


def compile_fast():
    """Compiling is what these runs spend their time on, and how fast they run matters little."""
    jax.config.update("jax_disable_most_optimizations", True)


def fit(workdir, *, stop_at=0, number=signal.SIGTERM, n_clips=37):
    """Train; with `stop_at` this process gets the signal when it reads that batch."""
    clips = small_clips(n_clips).with_columns(weight=np.linspace(0.5, 1.5, n_clips))
    clips = Wide(Stopping(clips, stop_at, number))
    return loop.fit(
        make(), clips, small_clips(5, seed=1), workdir, make_evaluator=make_evaluator, **OPTIONS
    )


def epoch_losses(workdir):
    """Loss of every epoch, and the accuracy after the last."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "train"], lines[-1]["accuracy"]


def main(argv):
    jax.config.update("jax_enable_x64", True)
    compile_fast()
    workdir, stop_at, name, n_clips = argv[1:]
    if workdir == "nowhere":  # nobody will come
        distributed.SAY_AFTER_S = 0
    shared_flags.start_replicas()
    prepare_jax(workdir)
    hosts.require_same(clips=n_clips)
    with hosts.own_workdir(workdir) as own:
        fit(own, stop_at=int(stop_at), number=signal.Signals[name], n_clips=int(n_clips))
    print("done")


if __name__ == "__main__":
    shared_flags.define_replica_flags()
    shared_flags.define_process_flags()
    run(main)
