"""Logits of trained runs for a split, which a network can be distilled from."""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from asc_jax.data.clips import open_for
from asc_jax.data.teacher_logits import class_order, write_teacher_logits
from asc_jax.errors import UserError
from asc_jax.evaluation import evaluate
from asc_jax.training.workdir import checkpoints


def store(
    workdirs: Sequence[str | os.PathLike],
    split: str,
    path: str | os.PathLike,
    *,
    checkpoint: str = "last",
    data_dir: str | os.PathLike | None = None,
    say: Callable[[str], None] = print,
) -> tuple[int, int]:
    """Write the logits of trained runs, the teachers, for the clips of a split.

    The clips are not augmented, and the networks are as trained: nothing is rounded to a storage
    dtype. Every teacher hears the clips through its own front end.

    Args:
      workdirs: of the runs.
      split: such as "train_25pct", or several with "+" between.
      path: of the file, in an existing folder; see `write_teacher_logits`.
      checkpoint: "last" or "best".
      data_dir: the data set; None: that of each run's training.
      say: takes a line of each teacher.

    Returns:
      The number of teachers and that of clips.

    Raises:
      UserError: a run or its data cannot be opened, the runs have other classes or clips than the
        first, logits are not finite, or a run is given twice.
    """
    places = [os.path.realpath(workdir) for workdir in workdirs]
    if twice := [
        workdir for workdir, place in zip(workdirs, places, strict=True) if places.count(place) > 1
    ]:
        raise UserError(
            f"{twice[0]} is given more than once: name each teacher once, since all count alike"
        )
    names: list[str] = []
    classes: tuple[str, ...] = ()
    logits, sources = [], []
    for workdir in workdirs:
        run = evaluate.open_run(workdir, checkpoint=checkpoint)
        config = run.experiment.config
        clips = open_for(config, split, data_dir)
        given = evaluate.make_evaluator(run.experiment)(run.variables, clips)
        evaluate.require_finite(given.logits, f"the network in {workdir}, step {run.step},")
        rows = {name: row for row, name in enumerate(given.filenames)}
        names, classes = names or list(rows), classes or given.labels.classes
        if {*names} != {*rows}:
            n_other = len({*names} ^ {*rows})
            raise UserError(
                f"{split} of {workdir} and of {workdirs[0]} differ in {n_other:,} clips: teachers "
                "need the same ones, which --data_dir can name"
            )
        order = class_order(given.labels.classes, classes, f"the network in {workdir}")
        logits.append(given.logits[[rows[name] for name in names]][:, order])
        sources.append(
            {
                "workdir": os.path.abspath(workdir),
                "checkpoint": checkpoint,
                "step": run.step,
                "sha256": checkpoints.digest(jax.tree.map(np.asarray, run.variables)),
                "checkpoint_sha256": checkpoint_sum(workdir, run.step, checkpoint),
                "split": split,
                "config_name": run.name,
                "config": config.to_dict(),
            }
        )
        accuracy = given.summary["macro_accuracy"]
        figure = "" if accuracy is None else f", macro accuracy {100 * accuracy:.2f} %"
        say(f"{workdir}, step {run.step}: {len(names):,} clips{figure}")
    write_teacher_logits(path, names, np.stack(logits), classes, sources)
    return len(logits), len(names)


def checkpoint_sum(
    workdir: str | os.PathLike, step: int | None = None, checkpoint: str = "last"
) -> str | None:
    """Return the sha256 that a run's newest checkpoint has of its arrays, which are not read.

    Args:
      workdir: of the run.
      step: that the checkpoint should be of; None: whichever it is.
      checkpoint: "last" or "best".

    Returns:
      None if there is no checkpoint of that step, or it is damaged.
    """
    name = evaluate.CHECKPOINTS[checkpoint]
    if not (Path(workdir) / name).is_dir():
        return None
    with contextlib.closing(checkpoints.Checkpoints(workdir, name=name)) as manager:
        if step not in (None, manager.latest_step()):
            return None
        with contextlib.suppress(UserError):
            return manager.newest_digest()
    return None
