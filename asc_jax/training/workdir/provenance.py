"""The metadata that say which run a checkpoint is of, checked before the run is resumed."""

import hashlib
import pathlib
from collections.abc import Mapping

import numpy as np

from asc_jax.errors import UserError
from asc_jax.machine import version
from asc_jax.training.workdir import run_config


def of_run(
    experiment, clips, watched, n_epochs: int, arrays: Mapping[str, str] | None = None
) -> dict:
    """Return the metadata of a checkpoint.

    Args:
      experiment: the `Experiment` of the run.
      clips: it is trained on.
      watched: clips it is evaluated on along the way, or None.
      n_epochs: whole epochs done.
      arrays: `array_sums` of those that the augmentations read.
    """
    return {
        "epoch": n_epochs,
        "n_train_clips": len(clips),
        "train_data": _identity(clips),
        "watched_data": _identity(watched),
        "augment_arrays": dict(arrays or {}),
        "config": experiment.config.to_dict(),
        "code_version": version.code_version(),
        "over_budget": not experiment.within_budget,
    }


def array_sums(arrays: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, str]:
    """Return a hash of the arrays of each augmentation, by its label.

    Of arrays with an entry `identity`, that is all that counts: the others may have been computed
    from files, to other last bits on another machine.
    """
    sums = {}
    for label, own in arrays.items():
        content = hashlib.sha256()
        for name, values in sorted(own.items()):
            if name == "identity" or "identity" not in own:
                content.update(f"{name} {values.dtype} {values.shape}".encode())
                content.update(np.ascontiguousarray(values).tobytes())
        sums[label] = content.hexdigest()
    return sums


def refuse_another_run(
    extra: dict,
    experiment,
    clips,
    watched,
    workdir: pathlib.Path,
    arrays: Mapping[str, str] | None = None,
) -> None:
    """Check that a checkpoint is of this config and these clips, as far as it says so.

    The clips it is evaluated on along the way matter where the best epoch is kept. The arrays that
    augmentations read are compared where both are known.

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
    saved_arrays = extra.get("augment_arrays", {})
    for label, now in (arrays or {}).items():
        if saved_arrays.get(label, now) != now:
            raise UserError(
                f"{workdir} was trained with other files of config.augment.{label} than there are "
                "now: put those back, or choose another --workdir"
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
