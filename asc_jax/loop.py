"""`fit`: the only training loop and the only logging.

A run is a pure function of its config and its clips. Stopped at any step and started again
it goes on from the newest checkpoint to the same parameters, bit for bit: the order of clips
depends on (seed, epoch), every draw on (seed, step, position in the batch), and however the
steps are grouped into calls, one compiled program runs them.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterator

import jax
import numpy as np

from asc_jax import checkpoints, evaluation, optim, parallel
from asc_jax.data import pipeline  # imports TensorFlow only to read a built data set
from asc_jax.errors import Interrupted, UserError
from asc_jax.experiment import Experiment
from asc_jax.journal import Journal
from asc_jax.signals import stop_signals
from asc_jax.state import TrainState

PER_EPOCH = ("loss_sum", "n_correct", "n_clips", "n_skipped")  # sums that a checkpoint keeps
MAX_SKIPPED = 40  # steps in a row; so many halvings take any loss scale below 1


@dataclasses.dataclass(frozen=True)
class Call:
    """The batches of one compiled call: some consecutive steps of one epoch."""

    epoch: int
    first_step: int
    batches: list
    ends_epoch: bool


def fit(
    experiment: Experiment,
    clips,
    test_clips,
    workdir,
    *,
    n_epochs: int,
    eval_every_epochs: int,
    checkpoint_every_epochs: int,
    keep_checkpoints: int,
    keep_best: bool,
    steps_per_call: int,
) -> TrainState:
    """Train, or go on training, until the last epoch.

    Args:
      experiment: the parts of the run.
      clips: training clips, as `data.pipeline.open_split` or `from_arrays` gives them.
      test_clips: clips to evaluate on along the way; their results choose nothing, unless
        `keep_best` asks for a second, labelled set of checkpoints.
      workdir: where everything goes; an unfinished run in it is resumed.
      n_epochs: passes over the clips.
      eval_every_epochs: evaluate after so many epochs, and after the last; 0: never.
      checkpoint_every_epochs: save after so many epochs, and after the last.
      keep_checkpoints: how many of the newest to keep.
      keep_best: also keep, under `best/`, the epoch with the highest test accuracy.
      steps_per_call: training steps in one compiled call.

    Returns:
      The state after the last step, on the host.

    Raises:
      UserError: nothing to train on, other clips than those the run began with, a loss that
        is not finite, or a workdir that cannot be written.
      Interrupted: SIGTERM or Ctrl-C, after saving.
    """
    if not len(clips):
        raise UserError(f"split {experiment.config.data.train_split} holds no clips")
    run = _Run(experiment, clips, test_clips, pathlib.Path(workdir), n_epochs, keep_checkpoints)
    state = run.restore()
    if run.step >= run.n_steps:
        run.checkpoints.close()
        print(f"{workdir}: nothing to do, all {run.n_steps} steps are done")
        return state
    train = parallel.pmap_train(experiment.train_steps(run.tx, axis_name=parallel.AXIS))
    state = parallel.replicate(state)
    pending = None
    with run, stop_signals() as stopped:
        for call in run.calls(steps_per_call):
            run.record(pending)
            batches = parallel.stack_and_shard(call.batches, steps_per_call)
            state, metrics = train(state, batches, len(call.batches), run.key)
            pending = call, metrics
            last = call.ends_epoch and call.epoch + 1 == n_epochs
            stop = bool(stopped)  # once: a later signal must not save a step not yet recorded
            if call.ends_epoch or stop:
                run.record(pending)
                pending = None
            if call.ends_epoch:
                run.end_epoch(call.epoch)
                if last or stop or (call.epoch + 1) % checkpoint_every_epochs == 0:
                    run.save(state, call.epoch + 1)
                if eval_every_epochs and (last or (call.epoch + 1) % eval_every_epochs == 0):
                    run.evaluate(state, call.epoch, keep_best)
                stop = bool(stopped) and not last  # may have come during the evaluation
            if stop:
                run.save(state, call.epoch + call.ends_epoch)
                raise Interrupted(
                    f"stopped after step {run.step} of {run.n_steps}, saved in {workdir}; run "
                    "the same command again to go on",
                    stopped[0],
                )
    return jax.tree.map(np.asarray, parallel.unreplicate(state))


class _Run:
    """Counters, checkpoints and journal of one `fit`."""

    def __init__(self, experiment, clips, test_clips, workdir, n_epochs, keep):
        self.experiment, self.clips, self.test_clips = experiment, clips, test_clips
        self.workdir, self.n_epochs, self.keep = workdir, n_epochs, keep
        self.batch_size = experiment.config.data.batch_size
        self.steps_per_epoch = pipeline.n_batches(len(clips), self.batch_size)
        self.n_steps = n_epochs * self.steps_per_epoch
        self.tx = experiment.tx(self.n_steps)
        self.key = experiment.root_key()
        config = experiment.config.optim
        self.schedule = optim.warmup_cosine(
            self.n_steps, peak_lr=config.peak_lr, warmup_steps=config.warmup_steps
        )
        self.checkpoints = checkpoints.Checkpoints(workdir, keep=keep)
        self.step = 0
        self.evaluator = None
        self.skipped_in_a_row = 0
        self._clear()

    def restore(self) -> TrainState:
        """The newest good checkpoint, or a fresh state."""
        template = evaluation.abstract_state(self.experiment)
        restored = self.checkpoints.restore(template)
        if restored is None:
            return self.experiment.new_state(self.experiment.variables(), self.tx)
        state, extra, self.step = restored
        before = extra.get("n_train_clips", len(self.clips))
        if before != len(self.clips):
            raise UserError(
                f"{self.workdir} was trained on {before} clips, the split now holds "
                f"{len(self.clips)}: choose another --workdir, or go on with the same data set"
            )
        for name, value in extra.get("partial_epoch", {}).items():
            setattr(self, name, value)
        if self.step < self.n_steps:
            print(f"resuming {self.workdir} at step {self.step} of {self.n_steps}")
        return state

    def calls(self, steps_per_call: int) -> Iterator[Call]:
        """What is left to do, cut into calls."""
        while self.step < self.n_steps:
            epoch, first = divmod(self.step, self.steps_per_epoch)
            order = pipeline.epoch_order(len(self.clips), self.experiment.config.seed, epoch)
            batches = []
            step = self.step
            for batch in self.clips.batches(order, self.batch_size, first=first):
                batches.append(batch)
                ends = first + len(batches) == self.steps_per_epoch
                if ends or len(batches) == steps_per_call:
                    yield Call(epoch, step, batches, ends)
                    step, first, batches = step + len(batches), first + len(batches), []

    def record(self, pending) -> None:
        """Wait for a call's metrics, check and add them up."""
        if pending is None:
            return
        call, metrics = pending
        n = len(call.batches)
        loss, n_correct, n_clips, skipped = (
            np.asarray(parallel.unreplicate(metrics[name]))[:n]
            for name in ("loss", "n_correct", "n_clips", "skipped")
        )
        if not np.all(np.isfinite(loss)):
            bad = int(np.flatnonzero(~np.isfinite(loss))[0])
            step = call.first_step + bad + 1
            raise UserError(self._not_finite(f"the loss became {loss[bad]} at step {step}"))
        self.step = call.first_step + n
        self.loss_sum += float(np.sum(loss.astype(np.float64) * n_clips))
        self.n_correct += int(n_correct.sum())
        self.n_clips += int(n_clips.sum())
        self.n_skipped += int(skipped.sum())
        self._check_skipped(skipped)
        self.journal.advance(
            n,
            int(n_clips.sum()),
            f"epoch {call.epoch + 1}/{self.n_epochs}",
            f"loss {loss[-1]:.3f}, accuracy {self.n_correct / self.n_clips:.3f}, "
            f"lr {float(self.schedule(self.step - 1)):.2g}",
        )

    def end_epoch(self, epoch: int) -> None:
        """Log the epoch's training figures."""
        entry = {
            "kind": "train",
            "epoch": epoch + 1,
            "step": self.step,
            "loss": self.loss_sum / self.n_clips,
            "accuracy": self.n_correct / self.n_clips,
            "lr": float(self.schedule(self.step - 1)),
            "clips_per_s": self.journal.clips_per_s,
            "n_skipped": self.n_skipped,
        }
        self.journal.log(entry)
        speed = f"  {entry['clips_per_s']:.0f} clips/s" if entry["clips_per_s"] else ""
        skipped = f"  {self.n_skipped} steps skipped" if self.n_skipped else ""
        self.journal.say(
            f"epoch {epoch + 1}/{self.n_epochs}  loss {entry['loss']:.4f}  "
            f"accuracy {entry['accuracy']:.4f}{speed}{skipped}",
            also_with_bar=False,
        )
        self._clear()

    def save(self, state, epoch: int) -> None:
        """Save, unless a gradient went wrong that the next step's loss would have shown."""
        state = jax.tree.map(np.asarray, parallel.unreplicate(state))
        if not all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state)):
            what = f"the parameters or statistics are not finite after step {self.step}"
            raise UserError(self._not_finite(what))
        partial = {name: getattr(self, name) for name in PER_EPOCH}
        extra = self._extra(epoch) | {"partial_epoch": partial}
        self.checkpoints.save(self.step, state, extra)

    def _extra(self, epoch: int) -> dict:
        """What a checkpoint says of itself, after `epoch` whole epochs."""
        return {
            "epoch": epoch,
            "n_train_clips": len(self.clips),
            "code_version": checkpoints.code_version(),
            "over_budget": not self.experiment.within_budget,
        }

    def evaluate(self, state, epoch: int, keep_best: bool) -> None:
        """Evaluate on the test clips, in float32."""
        if self.test_clips is None:
            return
        self.evaluator = self.evaluator or evaluation.make_evaluator(self.experiment)
        state = parallel.unreplicate(state)
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        with self.journal.paused():
            summary, _, _ = self.evaluator(variables, self.test_clips)
        names = ("accuracy", "macro_accuracy", "log_loss")
        entry = {"kind": "test", "epoch": epoch + 1, "step": self.step}
        self.journal.log(entry | {name: summary[name] for name in names})
        accuracy = summary["macro_accuracy"]
        if accuracy is None:
            raise UserError(f"{self.experiment.config.data.test_split} holds no labelled clips")
        self.journal.say(f"epoch {epoch + 1}: test macro accuracy {100 * accuracy:.2f} %")
        if keep_best:
            self._save_best(state, epoch, accuracy)

    def __enter__(self) -> "_Run":
        over = not self.experiment.within_budget
        self.journal = Journal(self.workdir, self.step, self.n_steps, over_budget=over)
        try:
            self.journal.__enter__()
        except BaseException:
            self.checkpoints.close()
            raise
        return self

    def __exit__(self, *exception) -> None:
        self.journal.__exit__(*exception)
        self.checkpoints.close()

    def _clear(self) -> None:
        self.loss_sum, self.n_correct, self.n_clips, self.n_skipped = 0.0, 0, 0, 0

    def _check_skipped(self, skipped) -> None:
        """Halving the loss scale must help within some steps, or nothing is learned any more."""
        for one in skipped:
            self.skipped_in_a_row = self.skipped_in_a_row + 1 if one else 0
        if self.skipped_in_a_row >= min(MAX_SKIPPED, self.n_steps):
            what = f"gradients overflowed in {self.skipped_in_a_row} steps in a row, to {self.step}"
            raise UserError(self._not_finite(what))

    def _save_best(self, state, epoch: int, accuracy: float) -> None:
        path = self.workdir / "best.json"
        known = json.loads(path.read_text())["macro_accuracy"] if path.exists() else -1.0
        if accuracy <= known:
            return
        note = "selected on the test list: not a result to report"
        best = checkpoints.Checkpoints(self.workdir, keep=1, name="best")
        best.save(self.step, state, self._extra(epoch + 1) | {"note": note})
        best.close()
        content = {
            "epoch": epoch + 1,
            "macro_accuracy": accuracy,
            "note": note,
            "over_budget": not self.experiment.within_budget,
        }
        checkpoints.write_atomically(path, json.dumps(content) + "\n")

    def _not_finite(self, what: str) -> str:
        good = self.checkpoints.latest_step()
        kept = f"the last good checkpoint is that of step {good}" if good else "no checkpoint yet"
        half = self.experiment.config.precision.compute == "float16"
        wider = "Take --config.precision.compute=bfloat16 or float32, or lower" if half else "Lower"
        return (
            f"{what}; {kept} in {self.workdir}. {wider} "
            "--config.optim.peak_lr or lengthen --config.optim.warmup_steps, in a new --workdir"
        )
