"""Detect numbers that are not finite, and report them with the clips that led to them."""

import pathlib
from collections.abc import Sequence

import numpy as np

from asc_jax.errors import UserError
from asc_jax.machine import files

NAME = "not_finite.txt"
N_NAMED = 3
MAX_SKIPPED = 40  # steps in a row; so many halvings take any loss scale below 1


class StepCheck:
    """Look for the first faulty step, call after call.

    Args:
      n_steps: of the run.
      half: whether the network computes in float16, which leaves a step out whose gradient is
        not finite.
    """

    def __init__(self, n_steps: int, *, half: bool):
        self._max_skipped, self._half = min(MAX_SKIPPED, n_steps), half
        self._skipped_in_a_row = 0

    def find(self, loss: np.ndarray, skipped: np.ndarray, step: int) -> tuple[str, int] | None:
        """Return a description of the first fault and its step, or None.

        Args:
          loss, skipped: `[n]`, of a call's steps.
          step: steps done before the call.
        """
        bad = ~np.isfinite(loss)
        if not self._half:
            bad |= skipped > 0
        if np.any(bad):
            first = int(np.flatnonzero(bad)[0])
            loss_too = not np.isfinite(loss[first])
            what = f"loss became {loss[first]}" if loss_too else "gradient became infinite or nan"
            return f"the {what} at step {step + first + 1}", step + first + 1
        # Halving the loss scale must help within some steps, or nothing is learned any more.
        for number, one in enumerate(skipped, step + 1):
            self._skipped_in_a_row = self._skipped_in_a_row + 1 if one else 0
            if self._skipped_in_a_row >= self._max_skipped:
                n = self._skipped_in_a_row
                return f"gradients overflowed in {n} steps in a row, to {number}", number
        return None


def error(
    workdir: pathlib.Path, what: str, *, names: Sequence[str], good: int | None, half: bool
) -> UserError:
    """Return an error with some of the batch's files; `not_finite.txt` lists all of them.

    Args:
      workdir: of the run.
      what: a description of the fault, with its step.
      names: files of the step's clips.
      good: step of the newest checkpoint, None without one.
      half: whether the network computes in float16.
    """
    with files.writing_to(workdir):
        files.write_atomically(workdir / NAME, "".join(f"{x}\n" for x in [what, *names]))
    more = f" and {len(names) - N_NAMED} more" if len(names) > N_NAMED else ""
    kept = f"the last good checkpoint is that of step {good}" if good else "no checkpoint yet"
    wider = "Take --config.precision.compute=bfloat16 or float32, or lower" if half else "Lower"
    return UserError(
        f"{what}; {kept} in {workdir}. Its clips: {', '.join(names[:N_NAMED])}{more} "
        f"(all in {NAME}). {wider} --config.schedule.peak_lr or lengthen "
        "--config.schedule.warmup_steps, in a new --workdir"
    )
