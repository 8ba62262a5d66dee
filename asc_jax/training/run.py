"""The place of a run in its training: its counters, figures, checkpoints and journal."""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import numpy as np

from asc_jax.errors import UserError
from asc_jax.machine import hosts, replicas
from asc_jax.training import aware, not_finite
from asc_jax.training.batches import Call, StepBatches
from asc_jax.training.state import RANGES, TrainState, first_layout
from asc_jax.training.workdir import best, checkpoints, journal, provenance, run_config


@dataclasses.dataclass
class EpochSums:
    """Sums over the steps of an epoch; a checkpoint within an epoch keeps them by these names."""

    loss_sum: float = 0.0
    n_correct: int = 0
    n_clips: int = 0
    n_skipped: int = 0

    def add(self, loss, n_correct, n_clips, skipped) -> None:
        """Add further steps, an array `[n_steps]` each; `loss` is the mean over a step's clips."""
        self.loss_sum += float(np.sum(loss.astype(np.float64) * n_clips))
        self.n_correct += int(n_correct.sum())
        self.n_clips += int(n_clips.sum())
        self.n_skipped += int(skipped.sum())

    @property
    def loss(self) -> float:
        """Mean loss over the clips."""
        return self.loss_sum / self.n_clips

    @property
    def accuracy(self) -> float:
        """Accuracy over the clips, in [0, 1]."""
        return self.n_correct / self.n_clips


class Run:
    """Counters, checkpoints and journal of one seed's training.

    Args:
      experiment: the `Experiment` of the run.
      clips, test_clips: see `loop.fit`.
      workdir: of this run.
      n_epochs: passes over the clips.
      keep: how many checkpoints to keep.
      make_evaluator: experiment → `(variables, clips) -> predictions`, whose `summary` is logged.
    """

    def __init__(self, experiment, clips, test_clips, workdir, n_epochs, keep, make_evaluator):
        self.experiment, self.clips, self.source = experiment, clips, clips
        self._make_evaluator = make_evaluator
        self.watch("test", test_clips)
        self.workdir, self.n_epochs, self.keep = workdir, n_epochs, keep
        config = experiment.config
        self._batches = StepBatches(len(clips), config.data.batch_size, n_epochs, config.seed)
        self.steps_per_epoch, self.n_steps = self._batches.steps_per_epoch, self._batches.n_steps
        self._half = config.precision.compute == "float16"
        self._check = not_finite.StepCheck(self.n_steps, half=self._half)
        self.tx = experiment.tx(self.n_steps, n_epochs)
        self.key = experiment.root_key()
        self.checkpoints = checkpoints.Checkpoints(workdir, keep=keep)
        self.step = 0
        self.lr = 0.0  # of the last step
        self.evaluator = None
        self._sums = EpochSums()

    def watch(self, kind: str, clips) -> None:
        """Choose the clips to evaluate on along the way; `kind` is "test" or "validation"."""
        self.kind, self.watched = kind, clips

    def restore(self, start: Callable | None = None) -> TrainState:
        """Return the state of the newest sound checkpoint, or a fresh one.

        start: experiment → `initial.Start`, to begin a fresh run with; None: random parameters.
        """
        template = self.experiment.abstract_state()
        restored = self.checkpoints.restore(template, mend=True, older=first_layout)
        restored = hosts.from_first(restored, template)
        if restored is None:
            run_config.keep(self.workdir, self.experiment.config)
            return self._first_state(start)
        state, extra, self.step = restored
        arrays = self.array_sums if self.step < self.n_steps else None
        provenance.refuse_another_run(
            extra, self.experiment, self.clips, self.watched, self.workdir, arrays
        )
        run_config.keep(self.workdir, self.experiment.config)
        for name, value in extra.get("partial_epoch", {}).items():
            setattr(self._sums, name, value)
        if self.step < self.n_steps:
            print(f"resuming {self.workdir} at step {self.step} of {self.n_steps}")
        return state

    @functools.cached_property
    def array_sums(self) -> dict[str, str]:
        """Return a hash of what each augmentation reads, by its label."""
        return provenance.array_sums(self.experiment.arrays())

    def _provenance(self, n_epochs: int) -> dict:
        return provenance.of_run(
            self.experiment, self.source, self.watched, n_epochs, self.array_sums
        )

    def _first_state(self, start: Callable | None) -> TrainState:
        if start is None:
            return self.experiment.new_state(self.experiment.variables(), self.tx)
        begin = start(self.experiment)
        print(*begin.report, sep="\n", flush=True)
        state = self.experiment.new_state(begin.variables, self.tx)
        inner = state.opt_state.inner._replace(factors=begin.factors)
        state = state.replace(opt_state=state.opt_state._replace(inner=inner))
        if begin.ranges is None:
            return state
        n_moving = self.experiment.config.quantise.freeze_epoch * self.steps_per_epoch
        ranges = aware.new_ranges(begin.ranges, n_moving)
        return state.replace(further={**state.further, RANGES: ranges})

    def owes_evaluation(self, every_epochs: int) -> bool:
        """Return whether the run was killed after it saved an epoch and before it evaluated it."""
        epoch, rest = divmod(self.step, self.steps_per_epoch)
        if not (every_epochs and epoch) or rest or self.watched is None:
            return False
        due = self.step >= self.n_steps or epoch % every_epochs == 0
        return due and not journal.has(self.workdir, kind=self.kind, step=self.step)

    def is_unfinished(self, eval_every_epochs: int) -> bool:
        """Return whether there is something to train or to evaluate."""
        owes = hosts.first_says(self.owes_evaluation(eval_every_epochs))
        return self.step < self.n_steps or owes

    def calls(self, steps_per_call: int) -> Iterator[Call]:
        """Return the rest of the training, cut into calls."""
        return self._batches.calls(self.clips, self.step, steps_per_call)

    def record(self, pending) -> None:
        """Wait for a call's metrics, check and add them up."""
        if pending is None:
            return
        call, metrics = pending
        n = len(call.batches)
        loss, n_correct, n_clips, skipped, lr = (
            np.asarray(replicas.unreplicate(metrics[name]))[:n]
            for name in ("loss", "n_correct", "n_clips", "skipped", "lr")
        )
        wrong = self._check.find(loss, skipped, call.first_step)
        if wrong is not None:
            raise self._not_finite(*wrong)
        self.step = call.first_step + n
        self._sums.add(loss, n_correct, n_clips, skipped)
        self.lr = float(lr[-1])
        self.journal.advance(
            n,
            int(n_clips.sum()),
            f"epoch {call.epoch + 1}/{self.n_epochs}",
            f"loss {loss[-1]:.3f}, accuracy {self._sums.accuracy:.3f}, lr {self.lr:.2g}",
        )

    def end_epoch(self, epoch: int) -> None:
        """Log the epoch's training figures."""
        entry = {
            "kind": "train",
            "epoch": epoch + 1,
            "step": self.step,
            "loss": self._sums.loss,
            "accuracy": self._sums.accuracy,
            "lr": self.lr,
            "clips_per_s": self.journal.clips_per_s,
            "n_skipped": self._sums.n_skipped,
        }
        self.journal.log(entry)
        speed = f"  {entry['clips_per_s']:.0f} clips/s" if entry["clips_per_s"] else ""
        skipped = f"  {self._sums.n_skipped} steps skipped" if self._sums.n_skipped else ""
        self.journal.say(
            f"epoch {epoch + 1}/{self.n_epochs}  loss {entry['loss']:.4f}  "
            f"accuracy {entry['accuracy']:.4f}{speed}{skipped}",
            also_with_bar=False,
        )
        self._sums = EpochSums()

    def save(self, state, epoch: int) -> None:
        """Save, unless a gradient went wrong that the next step's loss would have shown."""
        state = jax.tree.map(np.asarray, replicas.unreplicate(state))
        if not all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state)):
            what = f"the parameters or statistics are not finite after step {self.step}"
            raise self._not_finite(what, self.step)
        extra = self._provenance(epoch)
        extra["partial_epoch"] = dataclasses.asdict(self._sums)
        self.checkpoints.save(self.step, state, extra)

    def evaluate(self, state, epoch: int, keep_best: bool) -> None:
        """Evaluate on the clips to watch, in float32."""
        if self.watched is None:
            return
        self.evaluator = self.evaluator or self._make_evaluator(self.experiment)
        state = replicas.unreplicate(state)
        summary = self.evaluator(state.variables, self.watched).summary
        accuracy = summary["macro_accuracy"]
        if accuracy is None:
            raise UserError(f"{self.experiment.config.data.test_split} holds no labelled clips")
        if keep_best:
            extra = self._provenance(epoch + 1)
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

    def _not_finite(self, what: str, step: int) -> UserError:
        """Return an error that names the clips of the step's batch too."""
        return not_finite.error(
            self.workdir,
            what,
            names=self._batches.filenames(self.source, step - 1),
            good=self.checkpoints.latest_step(),
            half=self._half,
        )
