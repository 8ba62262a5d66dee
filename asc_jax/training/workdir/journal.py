"""The records of a run while it runs: `metrics.jsonl`, TensorBoard event files, a progress bar."""

import contextlib
import json
import logging
import os
import pathlib
import sys
import time
from collections.abc import Iterator

import tqdm

from asc_jax.errors import UserError
from asc_jax.machine import files

log = logging.getLogger("asc_jax")

NAME = "metrics.jsonl"


class Journal:
    """Log files and progress bar of one run; a context manager.

    Args:
      workdir: where the files go.
      step: steps done before; what was logged later than that is dropped.
      n_steps: steps of the whole run.
      n_epochs: whole epochs done before; entries that are missing of them are named.
      over_budget: stamp every entry with it.

    Raises:
      UserError: the files cannot be written.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        step: int,
        n_steps: int,
        *,
        n_epochs: int = 0,
        over_budget: bool = False,
    ):
        self._workdir, self._step, self._n_steps = workdir, step, n_steps
        self._n_epochs = n_epochs
        self._stamp = {"over_budget": True} if over_budget else {}
        self._since, self._clips = None, 0

    def __enter__(self) -> "Journal":
        import tensorboardX  # imports PyTorch where there is one, which takes seconds

        path = self._workdir / NAME
        logdir = str(self._workdir / "tensorboard")
        self._stack = contextlib.ExitStack()
        with files.writing_to(self._workdir):
            _drop_after(path, self._step, self._n_epochs)
            self._jsonl = self._stack.enter_context(path.open("a"))
            self._tensorboard = tensorboardX.SummaryWriter(logdir, purge_step=self._step + 1)
        self._stack.callback(self._tensorboard.close)
        for name in self._stamp:
            self._tensorboard.add_text(name, "outside the task's limits", self._step)
        bar = tqdm.tqdm(
            total=self._n_steps,
            initial=self._step,
            unit="step",
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )
        self._bar = self._stack.enter_context(bar)
        return self

    def __exit__(self, *exception) -> None:
        self._stack.close()

    @property
    def clips_per_s(self) -> float | None:
        """Training speed; None until a call after the first has ended."""
        if not self._clips:
            return None
        return round(self._clips / (self._now - self._since), 1)

    def advance(self, n_steps: int, n_clips: int, title: str, figures: str) -> None:
        """Advance the bar and show `title` before it and `figures` behind it."""
        self._now = time.perf_counter()
        if self._since is None:  # the first call was mostly compilation
            self._since = self._now
        else:
            self._clips += n_clips
        self._bar.update(n_steps)
        self._bar.set_description(title, refresh=False)
        speed = f", {self.clips_per_s:.0f} clips/s" if self.clips_per_s else ""
        self._bar.set_postfix_str(figures + speed)

    @contextlib.contextmanager
    def paused(self):
        """Leave out of the speed what is not training."""
        began = time.perf_counter()
        yield
        if self._since is not None:
            self._since += time.perf_counter() - began

    def log(self, entry: dict) -> None:
        """Append an entry with `kind` (train, test, validation) and `step`; floats are plotted."""
        with files.writing_to(self._workdir):
            self._jsonl.write(json.dumps(entry | self._stamp) + "\n")
            self._jsonl.flush()
            os.fsync(self._jsonl.fileno())  # a checkpoint that follows counts on it
        for name, value in entry.items():
            if isinstance(value, float):
                self._tensorboard.add_scalar(f"{entry['kind']}/{name}", value, entry["step"])
        self._tensorboard.flush()

    def say(self, text: str, *, also_with_bar: bool = True) -> None:
        """Print a line without tearing the bar."""
        if also_with_bar or self._bar.disable:
            self._bar.write(text)
            sys.stdout.flush()


def has(workdir: pathlib.Path, *, kind: str, step: int) -> bool:
    """Return whether `metrics.jsonl` has an entry of this kind and step."""
    return any((x.get("kind"), x["step"]) == (kind, step) for x, _ in _entries(workdir / NAME))


def _drop_after(path: pathlib.Path, step: int, n_epochs: int) -> None:
    """Drop entries of steps that will be run again, and lines that were damaged or cut off.

    Says so if entries of the first `n_epochs` are then missing: nothing brings them back.
    """
    kept = [(entry, line) for entry, line in _entries(path) if entry["step"] <= step]
    if path.exists():
        files.write_atomically(path, "".join(line + "\n" for _, line in kept))
    logged = [entry.get("epoch") for entry, _ in kept if entry.get("kind") == "train"]
    missing = [str(epoch) for epoch in range(1, n_epochs + 1) if epoch not in logged]
    if missing:
        log.warning(
            "%s lacks epoch %s: its lines were lost. The parameters are not concerned",
            path,
            ", ".join(missing),
        )


def _entries(path: pathlib.Path) -> Iterator[tuple[dict, str]]:
    """Yield the entries that can be read, each with its line."""
    if not path.exists():
        return
    try:
        lines = path.read_text("utf-8", errors="replace").split("\n")
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}; fix that, or move it away"
        ) from error
    for line in lines:
        try:
            entry = files.parse_json(line)
        except ValueError:
            continue
        if isinstance(entry.get("step"), int):
            yield entry, line
