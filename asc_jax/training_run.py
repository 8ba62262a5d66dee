"""One run's place in its training: what is left to do, its figures, checkpoints and journal."""

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np

from asc_jax import (
    best,
    checkpoints,
    evaluation,
    hosts,
    journal,
    not_finite,
    optim,
    parallel,
    run_config,
    version,
)
from asc_jax.data import pipeline  # imports TensorFlow only to read a built data set
from asc_jax.errors import UserError
from asc_jax.state import TrainState

PER_EPOCH = ("loss_sum", "n_correct", "n_clips", "n_skipped")  # sums that a checkpoint keeps
MAX_STEPS = 2**31 - 1  # what a step's number holds
MAX_SKIPPED = 40  # steps in a row; so many halvings take any loss scale below 1


@dataclasses.dataclass(frozen=True)
class Call:
    """The batches of one compiled call: some consecutive steps of one epoch."""

    epoch: int
    first_step: int
    batches: list
    ends_epoch: bool


class Run:
    """Counters, checkpoints and journal of one seed's training.

    Args:
      experiment: the parts of the run.
      clips, test_clips: see `loop.fit`.
      workdir: of this run.
      n_epochs: passes over the clips.
      keep: how many checkpoints to keep.
    """

    def __init__(self, experiment, clips, test_clips, workdir, n_epochs, keep):
        self.experiment, self.clips, self.source = experiment, clips, clips
        self.watch("test", test_clips)
        self.workdir, self.n_epochs, self.keep = workdir, n_epochs, keep
        self.batch_size = experiment.config.data.batch_size
        self.steps_per_epoch = pipeline.n_batches(len(clips), self.batch_size)
        self.n_steps = n_epochs * self.steps_per_epoch
        if self.n_steps > MAX_STEPS:
            raise UserError(
                f"config.train.n_epochs is {n_epochs:,}: {self.n_steps:,} steps in all, expected "
                f"at most {MAX_STEPS:,}"
            )
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
            run_config.hold_against(extra["config"], self.experiment.config, self.workdir)
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

    def is_unfinished(self, eval_every_epochs: int) -> bool:
        """Whether there is something to train or to evaluate."""
        owes = hosts.first_says(self.owes_evaluation(eval_every_epochs))
        return self.step < self.n_steps or owes

    def calls(self, steps_per_call: int) -> Iterator[Call]:
        """What is left to do, cut into calls."""
        while self.step < self.n_steps:
            epoch, first = divmod(self.step, self.steps_per_epoch)
            order = pipeline.epoch_order(len(self.clips), self.experiment.config.seed, epoch)
            order, n_rows = parallel.own_share(order, self.batch_size, pipeline.NO_CLIP)
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
            "code_version": version.code_version(),
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
        accuracy = summary["macro_accuracy"]
        if accuracy is None:
            raise UserError(f"{self.experiment.config.data.test_split} holds no labelled clips")
        if keep_best:
            extra = self._extra(epoch + 1)
            best.keep(self.workdir, state, extra, step=self.step, kind=self.kind, accuracy=accuracy)
        # Last: a run that was killed before it had all this done finds no entry, and does it again.
        names = ("accuracy", "macro_accuracy", "log_loss")
        entry = {"kind": self.kind, "epoch": epoch + 1, "step": self.step}
        self.journal.log(entry | {name: summary[name] for name in names})
        self.journal.say(f"epoch {epoch + 1}: {self.kind} macro accuracy {100 * accuracy:.2f} %")

    def __enter__(self) -> "Run":
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
        for step, one in enumerate(skipped, self.step - len(skipped) + 1):
            self.skipped_in_a_row = self.skipped_in_a_row + 1 if one else 0
            if self.skipped_in_a_row >= min(MAX_SKIPPED, self.n_steps):
                what = f"gradients overflowed in {self.skipped_in_a_row} steps in a row, to {step}"
                raise self._not_finite(what, step)

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
