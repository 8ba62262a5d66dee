"""The best epoch so far: a second set of checkpoints, and `best.json` that says which it is."""

import contextlib
import json
import pathlib

from asc_jax.machine import files
from asc_jax.training.workdir import checkpoints

SELECTED_ON = {
    "test": "selected on the test split: not a result to report",
    "validation": "selected on training locations held out",
}


def keep(workdir: pathlib.Path, state, extra: dict, *, step: int, kind: str, accuracy: float):
    """Save a state as the best, unless there is one as good; interrupted, this can be repeated.

    What `best.json` says lies in the checkpoint too, and counts: the file may be lost.

    Args:
      workdir: of the run.
      state: to save.
      extra: what a checkpoint says of itself, with `epoch` and `over_budget`.
      step: of the state.
      kind: of the clips it was evaluated on: "test" or "validation".
      accuracy: macro accuracy on them.

    Raises:
      UserError: the best so far is damaged, or the workdir cannot be written.
    """
    path = workdir / "best.json"
    content = {
        "epoch": extra["epoch"],
        "macro_accuracy": accuracy,
        "note": SELECTED_ON[kind],
        "selected_on": kind,
        "over_budget": extra["over_budget"],
    }
    with contextlib.closing(checkpoints.Checkpoints(workdir, keep=1, name="best")) as best:
        saved = best.newest_extra()
        known = None if saved is None else saved.get("best") or _read(path)  # older ones: the file
        if known is None or accuracy > known["macro_accuracy"]:
            best.save(step, state, extra | {"note": content["note"], "best": content})
            known = content
    if _read(path) != known:
        with files.writing_to(workdir):
            files.write_atomically(path, json.dumps(known) + "\n")


def _read(path: pathlib.Path) -> dict | None:
    """Return the content of the file; None where it is missing or damaged."""
    try:
        content = files.parse_json(path.read_bytes())
        return content if "macro_accuracy" in content else None
    except (OSError, ValueError):
        return None
