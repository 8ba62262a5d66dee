"""Training locations held out, so that what is chosen or fitted never sees the test split."""

from collections.abc import Sequence

import numpy as np

from asc_jax.data.clips import Clips, permutation
from asc_jax.data.tau import clip_names
from asc_jax.errors import UserError

READ_AT_ONCE = 64  # clips, while only their names are wanted
_STREAM = (1, 0)  # of the permutation; those of `clips.epoch_order` have one number


def split(clips: Clips, fraction: float, seed: int) -> tuple[Clips, Clips | None]:
    """Cut training clips in two, along locations; reads them once, for their names.

    Where clips have a column `recording`, what they were cut from takes the place of the location.

    Args:
      clips: of a training split; without such a column, named as TAU names them.
      fraction: of every class's locations to hold out, in [0, 1).
      seed: of the run.

    Returns:
      The clips left to train on and those held out, both in stored order. Fraction 0 reads
      nothing and gives back the same clips and None.

    Raises:
      UserError: a clip's name does not say where it was recorded, or no class has a location
        to spare.
    """
    if not fraction:
        return clips, None
    names, labels = [], []
    for batch in clips.in_order(READ_AT_ONCE):
        has_recording = "recording" in batch
        names += batch["recording" if has_recording else "filename"][batch["mask"]].tolist()
        labels += batch["label"][batch["mask"]].tolist()
    locations = names if has_recording else clip_names.location_names(names)
    held_out = np.isin(locations, choose(locations, labels, fraction, seed))
    return clips.subset(np.flatnonzero(~held_out)), clips.subset(np.flatnonzero(held_out))


def choose(
    locations: Sequence[str], labels: Sequence[int], fraction: float, seed: int
) -> list[str]:
    """Choose the locations to hold out: the nearest number to the fraction of every class's.

    Of a class's locations at least one is held out and at least one is left, unless it has
    one only, which is left. A location with several classes counts with those that have the
    same ones.

    Args:
      locations: `[n_clips]`, where each clip was recorded.
      labels: `[n_clips]` int, its class.
      fraction: in (0, 1).
      seed: of the run.

    Returns:
      Names of the locations, sorted.

    Raises:
      UserError: every class has a single location.

    Example:
      >>> choose(["a-1", "a-1", "a-2", "b-3"], [0, 0, 0, 1], fraction=0.5, seed=0)
      ['a-2']
    """
    scenes: dict[str, set[int]] = {name: set() for name in sorted(set(locations))}
    for name, label in zip(locations, labels, strict=True):
        scenes[name].add(int(label))
    names = list(scenes)
    alike: dict[tuple, list[str]] = {}
    for number in permutation(len(names), seed, *_STREAM):
        alike.setdefault(tuple(sorted(scenes[names[number]])), []).append(names[number])
    chosen = []
    for group in alike.values():
        nearest = int(fraction * len(group) + 0.5)
        chosen += group[: min(max(nearest, 1), len(group) - 1)]
    if not chosen:
        raise UserError(
            "no class has a training location to spare, each has one: take a larger "
            "config.data.train_split, or config.data.validation_locations=0"
        )
    return sorted(chosen)
