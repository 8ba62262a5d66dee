"""The metadata that say which run a checkpoint is of, checked before the run is resumed."""

import pathlib

from asc_jax.errors import UserError
from asc_jax.machine import version
from asc_jax.training.workdir import run_config


def of_run(experiment, clips, watched, n_epochs: int) -> dict:
    """Return the metadata of a checkpoint.

    Args:
      experiment: the `Experiment` of the run.
      clips: it is trained on.
      watched: clips it is evaluated on along the way, or None.
      n_epochs: whole epochs done.
    """
    return {
        "epoch": n_epochs,
        "n_train_clips": len(clips),
        "train_data": _identity(clips),
        "watched_data": _identity(watched),
        "config": experiment.config.to_dict(),
        "code_version": version.code_version(),
        "over_budget": not experiment.within_budget,
    }


def refuse_another_run(extra: dict, experiment, clips, watched, workdir: pathlib.Path) -> None:
    """Check that a checkpoint is of this config and these clips, as far as it says so.

    The clips it is evaluated on along the way matter where the best epoch is kept.

    Raises:
      UserError: it is of others.
    """
    if "config" in extra:
        run_config.hold_against(extra["config"], experiment.config, workdir)
    before = extra.get("n_train_clips", len(clips))
    if before != len(clips):
        raise UserError(
            f"{workdir} was trained on {before} clips, the split now holds "
            f"{len(clips)}: choose another --workdir, or resume it with the same data set"
        )
    if extra.get("train_data") not in (None, _identity(clips)):
        raise UserError(
            f"{workdir} was trained on other clips than the split now holds, though as many, or "
            "with other logits of teachers: choose another --workdir, or resume it with the same "
            "data set and the same config.distill.logits"
        )
    before, now = extra.get("watched_data"), _identity(watched)
    if experiment.config.train.keep_best and None not in (before, now) and before != now:
        raise UserError(
            f"{workdir} keeps its best epoch, and was evaluated on other clips than "
            f"{experiment.config.data.test_split} now holds: choose another --workdir, or resume "
            "it with the same data set"
        )


def _identity(clips) -> str | None:
    """Hash of the clips' content, where it is known."""
    return getattr(clips, "identity", None)
