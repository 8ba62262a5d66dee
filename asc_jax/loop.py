"""`fit`: the only training loop and the only logging.

A run is a pure function of its config and its clips. Stopped at any step and started again
it goes on from the newest checkpoint to the same parameters, bit for bit: the order of clips
depends on (seed, epoch), every draw on (seed, step, position in the batch), and however the
steps are grouped into calls, one compiled program runs them.
"""

import dataclasses
import pathlib
import signal
from collections.abc import Iterator

import jax
import numpy as np

from asc_jax import best, checkpoints, evaluation, hosts, journal, not_finite, optim, parallel
from asc_jax.data import pipeline  # imports TensorFlow only to read a built data set
from asc_jax.errors import Interrupted, UserError
from asc_jax.experiment import Experiment
from asc_jax.resident import place_clips
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
    resident: str = "off",
    validation_clips=None,
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
      keep_best: also keep, under `best/`, the epoch with the highest macro accuracy.
      steps_per_call: training steps in one compiled call.
      resident: whether the training clips lie on the accelerators: see `place_clips`.
      validation_clips: of training locations held out; if given, they are evaluated on along
        the way in place of the test clips, and `keep_best` selects by them.

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
    if validation_clips is not None:
        run.watch("validation", validation_clips)
    state = run.restore()
    owes_evaluation = hosts.first_says(run.owes_evaluation(eval_every_epochs))
    if run.step >= run.n_steps and not owes_evaluation:
        run.checkpoints.close()
        print(f"{workdir}: nothing to do, all {run.n_steps} steps are done")
        return state
    run.clips, held = place_clips(clips, resident)
    train = parallel.pmap_train(
        experiment.train_steps(run.tx, axis_name=parallel.AXIS), resident=held is not None
    )
    held = () if held is None else (held,)
    state = parallel.replicate(state)
    pending = None
    with run, stop_signals() as stopped:
        if owes_evaluation:
            run.evaluate(state, run.step // run.steps_per_epoch - 1, keep_best)
        for call in run.calls(steps_per_call):
            run.record(pending)
            batches = parallel.stack_and_shard(call.batches, steps_per_call)
            state, metrics = train(state, batches, len(call.batches), run.key, *held)
            pending = call, metrics
            last = call.ends_epoch and call.epoch + 1 == n_epochs
            # Once: a later signal must not save a step not yet recorded.
            stop = hosts.any_process(stopped)
            if call.ends_epoch or stop:
                run.record(pending)
                pending = None
            if call.ends_epoch:
                run.end_epoch(call.epoch)
                if last or stop or (call.epoch + 1) % checkpoint_every_epochs == 0:
                    run.save(state, call.epoch + 1)
                if eval_every_epochs and (last or (call.epoch + 1) % eval_every_epochs == 0):
                    run.evaluate(state, call.epoch, keep_best)
                # It may have come during the evaluation.
                stop = hosts.any_process(stopped) and not last
            if stop:
                run.save(state, call.epoch + call.ends_epoch)
                raise Interrupted(
                    f"stopped after step {run.step} of {run.n_steps}, saved in {workdir}; run "
                    "the same command again to go on",
                    stopped[0] if stopped else signal.SIGTERM,  # sent to another process
                )
    return jax.tree.map(np.asarray, parallel.unreplicate(state))


class _Run:
    """Counters, checkpoints and journal of one `fit`."""

    def __init__(self, experiment, clips, test_clips, workdir, n_epochs, keep):
        self.experiment, self.clips, self.source = experiment, clips, clips
        self.watch("test", test_clips)
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

    def watch(self, kind: str, clips) -> None:
        """Which clips to evaluate on along the way: "test" or "validation"."""
        self.kind, self.watched = kind, clips

    def restore(self) -> TrainState:
        """The newest good checkpoint, or a fresh state."""
        template = evaluation.abstract_state(self.experiment)
        restored = hosts.from_first(self.checkpoints.restore(template, mend=True), template)
        if restored is None:
            return self.experiment.new_state(self.experiment.variables(), self.tx)
        state, extra, self.step = restored
        self._refuse_another_run(extra)
        for name, value in extra.get("partial_epoch", {}).items():
            setattr(self, name, value)
        if self.step < self.n_steps:
            print(f"resuming {self.workdir} at step {self.step} of {self.n_steps}")
        return state

    def _refuse_another_run(self, extra: dict) -> None:
        """A checkpoint must be of this config and these clips; older ones do not say all of it."""
        if "config" in extra:
            checkpoints.hold_against(extra["config"], self.experiment.config, self.workdir)
        before = extra.get("n_train_clips", len(self.clips))
        if before != len(self.clips):
            raise UserError(
                f"{self.workdir} was trained on {before} clips, the split now holds "
                f"{len(self.clips)}: choose another --workdir, or go on with the same data set"
            )
        if extra.get("train_data") not in (None, self.data_identity()):
            raise UserError(
                f"{self.workdir} was trained on other clips than the split now holds, though as "
                "many: choose another --workdir, or go on with the same data set"
            )

    def data_identity(self) -> str | None:
        """Hash of the training clips' content, where it is known."""
        return getattr(self.source, "identity", None)

    def owes_evaluation(self, every_epochs: int) -> bool:
        """Whether the run was killed after it saved an epoch and before it evaluated it."""
        epoch, rest = divmod(self.step, self.steps_per_epoch)
        if not (every_epochs and epoch) or rest or self.watched is None:
            return False
        due = self.step >= self.n_steps or epoch % every_epochs == 0
        return due and not journal.has(self.workdir, kind=self.kind, step=self.step)

    def calls(self, steps_per_call: int) -> Iterator[Call]:
        """What is left to do, cut into calls."""
        while self.step < self.n_steps:
            epoch, first = divmod(self.step, self.steps_per_epoch)
            order = pipeline.epoch_order(len(self.clips), self.experiment.config.seed, epoch)
            order, n_rows = parallel.own_share(order, self.batch_size)
            batches = []
            step = self.step
            for batch in self.clips.batches(order, n_rows, first=first):
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
        bad = ~np.isfinite(loss)
        if self.experiment.config.precision.compute != "float16":  # which leaves such a step out
            bad |= skipped > 0
        if np.any(bad):
            first = int(np.flatnonzero(bad)[0])
            step = call.first_step + first + 1
            loss_too = not np.isfinite(loss[first])
            what = f"loss became {loss[first]}" if loss_too else "gradient became infinite or nan"
            raise self._not_finite(f"the {what} at step {step}", step)
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
            raise self._not_finite(what, self.step)
        partial = {name: getattr(self, name) for name in PER_EPOCH}
        extra = self._extra(epoch) | {"partial_epoch": partial}
        self.checkpoints.save(self.step, state, extra)

    def _extra(self, epoch: int) -> dict:
        """What a checkpoint says of itself, after `epoch` whole epochs."""
        return {
            "epoch": epoch,
            "n_train_clips": len(self.clips),
            "train_data": self.data_identity(),
            "config": self.experiment.config.to_dict(),
            "code_version": checkpoints.code_version(),
            "over_budget": not self.experiment.within_budget,
        }

    def evaluate(self, state, epoch: int, keep_best: bool) -> None:
        """Evaluate on the clips to watch, in float32."""
        if self.watched is None:
            return
        self.evaluator = self.evaluator or evaluation.make_evaluator(self.experiment)
        state = parallel.unreplicate(state)
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        with self.journal.paused():
            summary = self.evaluator(variables, self.watched).summary
        names = ("accuracy", "macro_accuracy", "log_loss")
        entry = {"kind": self.kind, "epoch": epoch + 1, "step": self.step}
        self.journal.log(entry | {name: summary[name] for name in names})
        accuracy = summary["macro_accuracy"]
        if accuracy is None:
            raise UserError(f"{self.experiment.config.data.test_split} holds no labelled clips")
        self.journal.say(f"epoch {epoch + 1}: {self.kind} macro accuracy {100 * accuracy:.2f} %")
        if keep_best:
            extra = self._extra(epoch + 1)
            best.keep(self.workdir, state, extra, step=self.step, kind=self.kind, accuracy=accuracy)

    def __enter__(self) -> "_Run":
        over = not self.experiment.within_budget
        self.journal = journal.Journal(
            self.workdir,
            self.step,
            self.n_steps,
            n_epochs=self.step // self.steps_per_epoch,
            over_budget=over,
        )
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
            raise self._not_finite(what, self.step)

    def _not_finite(self, what: str, step: int) -> UserError:
        """Names the clips of the step's batch too."""
        epoch, first = divmod(step - 1, self.steps_per_epoch)
        order = pipeline.epoch_order(len(self.clips), self.experiment.config.seed, epoch)
        batch = next(self.source.batches(order, self.batch_size, first=first))
        return not_finite.error(
            self.workdir,
            what,
            names=batch["filename"][batch["mask"]].tolist(),
            good=self.checkpoints.latest_step(),
            half=self.experiment.config.precision.compute == "float16",
        )
