"""One run of a distillation campaign, and the teachers that a file of logits is of."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from asc_jax.data.teacher_logits import read_sources
from asc_jax.errors import UserError
from asc_jax.evaluation.campaign import runs
from asc_jax.evaluation.teachers import checkpoint_sum

STUDENTS = ("undistilled", "distilled")


@dataclasses.dataclass(frozen=True)
class Run(runs.Run):
    """One run of many: a teacher, or the student without or with its teachers; and a seed."""

    system: str  # the teacher's name, or one of `STUDENTS`

    @property
    def is_teacher(self) -> bool:
        """Return whether the students learn from it."""
        return self.system not in STUDENTS

    @property
    def title(self) -> str:
        kind = f"teacher {self.system}" if self.is_teacher else f"{self.system} student"
        return f"{kind}, seed {self.seed}"

    def read(self) -> runs.Answers:
        return runs.read_answers(self.workdir)


def in_file(path: Path, teachers: Sequence[Run], split: str) -> list[Run] | None:
    """Return the teachers whose logits a file has, in its order.

    Args:
      path: of the file.
      teachers: the runs it may be of.
      split: whose clips it should have the logits of.

    Returns:
      None where there is no such file, it is damaged, or has the logits of other checkpoints.
    """
    try:
        sources = read_sources(path)
    except UserError:
        return None
    by_sum = {checkpoint_sum(run.workdir): run for run in teachers}
    by_sum.pop(None, None)
    found = [by_sum.get(str(each.get("checkpoint_sha256"))) for each in sources]
    if None in found or any(each.get("split") != split for each in sources):
        return None
    return found
