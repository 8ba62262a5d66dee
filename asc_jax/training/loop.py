"""`fit`: the only training loop.

A run is a pure function of its config and its clips. Stopped at any step and started again
it continues from the newest checkpoint to the same parameters, bit for bit: the order of clips
depends on (seed, epoch), every draw on (seed, step, position in the batch), and however the
steps are grouped into calls, one compiled program runs them.
"""

import contextlib
import dataclasses
import pathlib
import signal
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from asc_jax.errors import Interrupted, UserError
from asc_jax.machine import hosts, replicas
from asc_jax.machine.named_parts import errors_of_own_code
from asc_jax.machine.signals import stop_signals
from asc_jax.training.placement import place_state
from asc_jax.training.resident import place_clips, resident_steps
from asc_jax.training.run import Run
from asc_jax.training.state import TrainState
from asc_jax.training.workdir import provenance


def fit(experiment, clips, test_clips, workdir, **options) -> TrainState:
    """Train until the last epoch, resuming a run that was interrupted: `fit_seeds` of one run.

    Example:
      fit(experiment.make(config), clips, test_clips, "runs/mine",
          make_evaluator=make_evaluator, **config.train)
    """
    return fit_seeds([experiment], clips, test_clips, [workdir], **options)[0]


def fit_seeds(
    experiments: Sequence,
    clips,
    test_clips,
    workdirs: Sequence,
    *,
    make_evaluator: Callable,
    n_epochs: int,
    eval_every_epochs: int,
    checkpoint_every_epochs: int,
    keep_checkpoints: int,
    keep_best: bool,
    steps_per_call: int,
    resident: str = "off",
    n_seeds: int = 1,
    ema: float = 0.0,
    clip_norm: float = 0.0,
    validation_clips=None,
    start: Callable | None = None,
    together: bool | None = None,
) -> list[TrainState]:
    """Train runs that differ in nothing but their seed, as each would be trained alone.

    Args:
      experiments: the `Experiment` of each run.
      clips: training clips, as `data.clips.open_split` or `from_arrays` gives them.
      test_clips: clips to evaluate on along the way; their results choose nothing, unless
        `keep_best` asks for a second, labelled set of checkpoints.
      workdirs: where everything of a run goes; an unfinished run in it is resumed.
      make_evaluator: how to evaluate along the way, `evaluation.evaluate.make_evaluator`.
      n_epochs: passes over the clips.
      eval_every_epochs: evaluate after so many epochs, and after the last; 0: never.
      checkpoint_every_epochs: save after so many epochs, and after the last.
      keep_checkpoints: how many of the newest to keep.
      keep_best: also keep, under `best/`, the epoch with the highest macro accuracy.
      steps_per_call: training steps in one compiled call; more where the clips are resident:
        see `resident_steps`.
      resident: whether the training clips lie on the accelerators: see `place_clips`.
      n_seeds: not used here; the command makes the experiments.
      ema, clip_norm: not used here; the experiments have them.
      validation_clips: of training locations held out; if given, they are evaluated on along
        the way in place of the test clips, and `keep_best` selects by them.
      start: what a fresh run begins with: see `Run.restore`.
      together: in one program, or one run after the other. None: together on a GPU or TPU,
        which one run does not fill. Runs that stand at different steps are resumed one by one.

    Returns:
      The states after the last step, on the host.

    Raises:
      UserError: nothing to train on, other clips than those a run began with, a loss that
        is not finite, or a workdir that cannot be written.
      Interrupted: SIGTERM or Ctrl-C, after saving.
    """
    if not len(clips):
        raise UserError(f"split {experiments[0].config.data.train_split} holds no clips")
    runs = [
        Run(
            experiment,
            clips,
            test_clips,
            pathlib.Path(workdir),
            n_epochs,
            keep_checkpoints,
            make_evaluator,
        )
        for experiment, workdir in zip(experiments, workdirs, strict=True)
    ]
    if validation_clips is not None:
        for run in runs:
            run.watch("validation", validation_clips)
    states = [run.restore(start) for run in runs]
    source, held, arrays = clips, None, {}
    if any(run.is_unfinished(eval_every_epochs) for run in runs):
        arrays = runs[0].experiment.arrays()  # before clips are read: a file may be missing
        for run in runs:  # which differ in nothing but their seeds
            run.array_sums = provenance.array_sums(arrays)
        source, held = place_clips(clips, resident)
    if held is not None:
        steps_per_call = resident_steps(steps_per_call, runs[0].steps_per_epoch)
    if together is None:
        together = jax.default_backend() != "cpu"
    plan = _Plan(eval_every_epochs, checkpoint_every_epochs, keep_best, steps_per_call)
    return _train_all(runs, states, source, held, arrays, plan, together)


class Program:
    """The compiled training steps of one run, or of several at once, and their states."""

    def __init__(self, runs: list[Run], states, train: Callable, held, arrays, steps_per_call):
        self._runs, self._train = runs, train
        self._n_slots = steps_per_call
        self._one = len(runs) == 1
        self._held, self._arrays = held, arrays
        if self._one:
            config = runs[0].experiment.config
            self._state = place_state(states[0], config, config.data.batch_size)
        else:
            self._state = replicas.replicate(jax.tree.map(lambda *x: np.stack(x), *states))
        keys = [run.key for run in runs]
        self._key = keys[0] if self._one else jnp.stack(keys)

    def __call__(self, calls) -> list[tuple]:
        """Run a call of each run and return `(call, metrics)` of each, perhaps not computed yet."""
        batches = [replicas.stack_and_shard(call.batches, self._n_slots) for call in calls]
        stack = (lambda *x: x[0]) if self._one else (lambda *x: np.stack(x, axis=1))
        batches = jax.tree.map(stack, *batches)
        n_steps = len(calls[0].batches)
        with errors_of_own_code():
            self._state, metrics = self._train(
                self._state, batches, n_steps, self._key, self._held, self._arrays
            )
        return [(call, self._of(metrics, k)) for k, call in enumerate(calls)]

    def record(self, pending: list[tuple] | None) -> None:
        """Wait for the results of a call and add them up in every run; None: there are none yet."""
        for run, metrics in zip(self._runs, pending or [None] * len(self._runs), strict=True):
            run.record(metrics)

    def state(self, k: int) -> TrainState:
        """Return the state of the run with this number, `[replica, …]`, as it is saved."""
        return self._of(self._state.saved(), k)

    def save(self, n_epochs: int) -> None:
        """Save every run after `n_epochs` whole epochs."""
        for k, run in enumerate(self._runs):
            run.save(self.state(k), n_epochs)

    def _of(self, tree, k: int):
        return tree if self._one else jax.tree.map(lambda x: x[:, k], tree)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The options of `fit_seeds` that say how often something is done."""

    eval_every_epochs: int
    checkpoint_every_epochs: int
    keep_best: bool
    steps_per_call: int


def _train_all(
    runs: list[Run],
    states: list[TrainState],
    source,
    held: dict | None,
    arrays: dict,
    plan: _Plan,
    together,
) -> list[TrainState]:
    """Train the runs together, or one after the other."""
    apart = not together or len({run.step for run in runs}) > 1
    groups = [[k] for k in range(len(runs))] if apart else [list(range(len(runs)))]
    train = replicas.pmap_train(
        runs[0].experiment.train_steps(runs[0].tx, axis_name=replicas.AXIS),
        seeds=len(groups[0]) > 1,
    )
    arrays = {label: replicas.share(own) for label, own in arrays.items()}
    for group in groups:
        trained = _train(
            [runs[k] for k in group], [states[k] for k in group], train, source, held, arrays, plan
        )
        for k, state in zip(group, trained, strict=True):
            states[k] = state
        for run in runs:  # what it compiled serves the next one too
            run.evaluator = run.evaluator or runs[group[0]].evaluator
    return states


def _train(
    runs: list[Run], states: list[TrainState], train: Callable, source, held, arrays, plan: _Plan
) -> list[TrainState]:
    """Train runs that stand at the same step in one program."""
    unfinished = [run.is_unfinished(plan.eval_every_epochs) for run in runs]
    if not any(unfinished):
        for run in runs:
            run.checkpoints.close()
            print(f"{run.workdir}: nothing to do, all {run.n_steps} steps are done")
        return states
    program = Program(runs, states, train, held, arrays, plan.steps_per_call)
    with contextlib.ExitStack() as stack:
        for run in runs:
            run.clips = source
            stack.enter_context(run)
        stopped = stack.enter_context(stop_signals())
        for k, run in enumerate(runs):
            if hosts.first_says(run.owes_evaluation(plan.eval_every_epochs)):
                run.evaluate(program.state(k), run.step // run.steps_per_epoch - 1, plan.keep_best)
        _go_on(runs, program, plan, stopped)
    return [
        jax.tree.map(np.asarray, replicas.unreplicate(program.state(k))) for k in range(len(runs))
    ]


def _go_on(runs: list[Run], program: Program, plan: _Plan, stopped: list[int]) -> None:
    """Run one call after another, to the last or until a signal has come."""
    pending, is_first = None, True
    for calls in zip(*(run.calls(plan.steps_per_call) for run in runs), strict=True):
        before, pending = pending, program(calls)
        program.record(before)  # while the accelerators go on
        call = calls[0]
        last = call.ends_epoch and call.epoch + 1 == runs[0].n_epochs
        # Once: a later signal must not save a step not yet recorded.
        stop = hosts.any_process(stopped)
        # The speed is measured from the end of the first call, so that has to be before the next
        # one begins: a CPU may compute a call before it returns from it.
        if call.ends_epoch or stop or is_first:
            program.record(pending)
            pending, is_first = None, False
        if call.ends_epoch:
            n_done = call.epoch + 1
            for run in runs:
                run.end_epoch(call.epoch)
            with contextlib.ExitStack() as stack:
                for run in runs:
                    stack.enter_context(run.journal.paused())
                if last or stop or n_done % plan.checkpoint_every_epochs == 0:
                    program.save(n_done)
                if plan.eval_every_epochs and (last or n_done % plan.eval_every_epochs == 0):
                    for k, run in enumerate(runs):
                        run.evaluate(program.state(k), call.epoch, plan.keep_best)
            # It may have come during the evaluation.
            stop = hosts.any_process(stopped) and not last
        if stop:
            program.save(call.epoch + call.ends_epoch)
            raise _interrupted(runs, stopped)


def _interrupted(runs: list[Run], stopped: list[int]) -> Interrupted:
    where = ", ".join(str(run.workdir) for run in runs)
    return Interrupted(
        f"stopped after step {runs[0].step} of {runs[0].n_steps}, saved in {where}; run "
        "the same command again to continue",
        stopped[0] if stopped else signal.SIGTERM,  # sent to another process
    )
