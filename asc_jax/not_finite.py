"""What to tell a person whose run met a number that is not finite."""

import pathlib
from collections.abc import Sequence

from asc_jax import files
from asc_jax.errors import UserError

NAME = "not_finite.txt"
N_NAMED = 3


def error(
    workdir: pathlib.Path, what: str, *, names: Sequence[str], good: int | None, half: bool
) -> UserError:
    """One line, with some of the batch's files; all of them go to `not_finite.txt`.

    Args:
      workdir: of the run.
      what: went wrong, with its step.
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
        f"(all in {NAME}). {wider} --config.optim.peak_lr or lengthen "
        "--config.optim.warmup_steps, in a new --workdir"
    )
