"""What a run tells while it runs: `metrics.jsonl`, TensorBoard event files, a progress bar."""

import contextlib
import json
import pathlib
import sys
import time

import tensorboardX
import tqdm

from asc_jax import checkpoints


class Journal:
    """Log files and progress bar of one run; a context manager.

    Args:
      workdir: where the files go.
      step: steps done before; what was logged later than that is dropped.
      n_steps: steps of the whole run.
      over_budget: stamp every entry with it.

    Raises:
      UserError: the files cannot be written.
    """

    def __init__(
        self, workdir: pathlib.Path, step: int, n_steps: int, *, over_budget: bool = False
    ):
        self._workdir, self._step, self._n_steps = workdir, step, n_steps
        self._stamp = {"over_budget": True} if over_budget else {}
        self._since, self._clips = None, 0

    def __enter__(self) -> "Journal":
        path = self._workdir / "metrics.jsonl"
        logdir = str(self._workdir / "tensorboard")
        self._stack = contextlib.ExitStack()
        with checkpoints.writing_to(self._workdir):
            _drop_after(path, self._step)
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
        """Training speed; None until there is something to tell it by."""
        if not self._clips:
            return None
        return round(self._clips / (self._now - self._since), 1)

    def advance(self, n_steps: int, n_clips: int, title: str, figures: str) -> None:
        """Move the bar on and show `title` before it and `figures` behind it."""
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
        """Time that is not training time."""
        began = time.perf_counter()
        yield
        if self._since is not None:
            self._since += time.perf_counter() - began

    def log(self, entry: dict) -> None:
        """Append an entry with `kind` ("train" or "test") and `step`; floats are plotted."""
        with checkpoints.writing_to(self._workdir):
            self._jsonl.write(json.dumps(entry | self._stamp) + "\n")
            self._jsonl.flush()
        for name, value in entry.items():
            if isinstance(value, float):
                self._tensorboard.add_scalar(f"{entry['kind']}/{name}", value, entry["step"])
        self._tensorboard.flush()

    def say(self, text: str, *, also_with_bar: bool = True) -> None:
        """Print a line without tearing the bar."""
        if also_with_bar or self._bar.disable:
            self._bar.write(text)
            sys.stdout.flush()


def _drop_after(path: pathlib.Path, step: int) -> None:
    """Drop log lines of steps that will be run again, and a line that was cut off."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("step", 0) <= step:
            kept.append(line)
    checkpoints.write_atomically(path, "".join(line + "\n" for line in kept))
