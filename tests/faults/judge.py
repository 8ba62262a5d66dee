"""What a fault may lead to: the same end, or a refusal that says what to do."""

import dataclasses
import json
import pathlib

from asc_jax.errors import UserError
from asc_jax.training.workdir import checkpoints


class Problem(Exception):
    """What must not be; its class names the column of the table."""


class SilentDifference(Problem):
    """A run that ended well, in another result."""


class LostCheckpoint(Problem):
    """A run that did not go on from its newest good checkpoint, or did away with one."""


@dataclasses.dataclass(frozen=True)
class End:
    """The last step, a digest of its arrays, one of the best epoch's, and the figures logged."""

    step: int
    digest: str
    best: str
    lines: tuple


def end_of(home, workdir: pathlib.Path) -> End:
    """The end of a finished run, read anew from the disk."""
    digest, step = _restored(home, workdir, "checkpoints")
    best = _restored(home, workdir, "best")
    said = (workdir / "best.json").read_text()
    return End(step, digest, f"{best} {said}", _figures(workdir))


def require_same_end(home, workdir, outcome, *, lost_lines=False, lost_best=False) -> str:
    """The run must have ended as the undisturbed one: `same`.

    Args:
      home: `home.Home`.
      workdir: of the run.
      outcome: how it ended.
      lost_lines: whether lines of its log may be missing; those there must be right.
      lost_best: whether the best epoch was damaged and may be another now.
    """
    outcome.require_done()
    end, whole = end_of(home, workdir), home.whole
    if lost_lines and set(end.lines) <= set(whole.lines):
        end = dataclasses.replace(end, lines=whole.lines)
    if lost_best:
        end = dataclasses.replace(end, best=whole.best)
    differing = [name for name, value in vars(whole).items() if value != getattr(end, name)]
    if differing:
        raise SilentDifference(f"another {', '.join(differing)}: {end}, expected {whole}")
    return "same"


def complete_steps(workdir: pathlib.Path) -> list[int]:
    """Steps of the checkpoints that stand under their final names, the newest last."""
    folder = workdir / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())


def require_went_on_from(outcome, expected: int) -> None:
    """From this step at least; a run with nothing left to do went on from its last."""
    if outcome.began_at is not None and outcome.began_at < expected:
        raise LostCheckpoint(f"began at step {outcome.began_at}, though {expected} was good")


def _restored(home, workdir, name):
    manager = checkpoints.Checkpoints(workdir, name=name)
    try:
        restored = manager.restore(home.parts.abstract_state())
    except UserError:
        return "damaged", None  # noticed, as `eval.py` would
    finally:
        manager.close()
    if restored is None:
        return "none", None
    state, _, step = restored
    return checkpoints.digest(state), step


def _figures(workdir) -> tuple:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    for entry in entries:
        entry.pop("clips_per_s", None)
    return tuple(json.dumps(entry, sort_keys=True) for entry in entries)
