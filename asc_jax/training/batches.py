"""The steps of a run and the batches they take, cut into compiled calls."""

import dataclasses
from collections.abc import Iterator

from asc_jax.data.clips import (
    NO_CLIP,
    epoch_order,
    n_batches,  # imports TensorFlow only to read a built data set
)
from asc_jax.errors import UserError
from asc_jax.machine import replicas

MAX_STEPS = 2**31 - 1  # what a step's number holds


@dataclasses.dataclass(frozen=True)
class Call:
    """The batches of one compiled call: some consecutive steps of one epoch."""

    epoch: int
    first_step: int
    batches: list
    ends_epoch: bool


@dataclasses.dataclass(frozen=True)
class StepBatches:
    """Which clips every step of a run takes, wherever the run was resumed.

    n_clips: of the training split. batch_size: clips in a step, of all processes together.
    n_epochs: passes over the clips. seed: of the run.
    """

    n_clips: int
    batch_size: int
    n_epochs: int
    seed: int

    def __post_init__(self):
        if self.n_steps > MAX_STEPS:
            raise UserError(
                f"config.train.n_epochs is {self.n_epochs:,}: {self.n_steps:,} steps in all, "
                f"expected at most {MAX_STEPS:,}"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps of an epoch, of which the last may have fewer clips."""
        return n_batches(self.n_clips, self.batch_size)

    @property
    def n_steps(self) -> int:
        """Number of steps of the whole run."""
        return self.n_epochs * self.steps_per_epoch

    def calls(self, clips, step: int, steps_per_call: int) -> Iterator[Call]:
        """Yield this process's batches of the calls that are left after `step` steps."""
        while step < self.n_steps:
            epoch, first = divmod(step, self.steps_per_epoch)
            order = epoch_order(self.n_clips, self.seed, epoch)
            order, n_rows = replicas.own_share(order, self.batch_size, NO_CLIP)
            batches = []
            for batch in clips.batches(order, n_rows, first=first):
                batches.append(batch)
                ends = first + len(batches) == self.steps_per_epoch
                if ends or len(batches) == steps_per_call:
                    yield Call(epoch, step, batches, ends)
                    step, first, batches = step + len(batches), first + len(batches), []

    def filenames(self, clips, step: int) -> list[str]:
        """Return the names of the clips, of all processes, that a step takes, counted from 0."""
        epoch, first = divmod(step, self.steps_per_epoch)
        order = epoch_order(self.n_clips, self.seed, epoch)
        batch = next(clips.batches(order, self.batch_size, first=first))
        return batch["filename"][batch["mask"]].tolist()
