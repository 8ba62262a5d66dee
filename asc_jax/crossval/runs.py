"""One run of a cross-validation, and the splits it is made of."""

import dataclasses
import re
from collections.abc import Iterable, Sequence

from asc_jax.evaluation.campaign import runs


@dataclasses.dataclass(frozen=True)
class Run(runs.Run):
    """One run of many: a system, the fold that it is tested on, and a seed."""

    system: str  # "first" or "second"
    fold: str

    @property
    def title(self) -> str:
        return f"{self.system}, {self.fold}, seed {self.seed}"

    def read(self) -> runs.Answers:
        return runs.read_answers(self.workdir)


def folds_among(splits: Iterable[str]) -> list[str]:
    """Return the splits that are named as folds, by their numbers.

    Example:
      >>> folds_among(["fold10", "fold2", "test"])
      ['fold2', 'fold10']
    """
    found = [split for split in splits if re.fullmatch("fold[0-9]+", split)]
    return sorted(found, key=lambda split: (int(split.removeprefix("fold")), split))


def others(folds: Sequence[str], fold: str) -> str:
    """Return the training split of the runs that are tested on a fold: all other folds.

    Example:
      >>> others(["fold1", "fold2", "fold3"], "fold2")
      'fold1+fold3'
    """
    return "+".join(other for other in folds if other != fold)
