"""How far many runs have come: a bar, and an estimate of the time left."""

import pathlib
import sys
import time
from collections.abc import Sequence

import tqdm

from asc_jax.machine import files


class Progress:
    """A bar over the clips that all runs train on; a context manager.

    Args:
      runs: `campaign.Run`s.
      done: titles of those that are done.
    """

    def __init__(self, runs: Sequence, done: set[str]):
        self._runs = runs
        self._before = sum(run.work for run in runs if run.title in done)
        self._ended = self._before
        self._began = time.monotonic()

    def __enter__(self) -> "Progress":
        total = sum(run.work for run in self._runs)
        self._bar = tqdm.tqdm(
            total=total,
            initial=self._before,
            unit=" clips",
            unit_scale=True,
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )
        if self._before == total:
            self.say(f"all {len(self._runs)} runs are done")
        return self

    def __exit__(self, *exception) -> None:
        self._bar.close()

    def say(self, text: str) -> None:
        """Print a line without tearing the bar."""
        self._bar.write(text)
        sys.stdout.flush()

    def within(self, run) -> None:
        """Move the bar to the last epoch that the run has logged."""
        epoch = _last_epoch(run.workdir / "metrics.jsonl")
        self._move(self._ended + run.work * min(1, epoch / run.config.train.n_epochs))

    def end(self, run) -> None:
        self._ended += run.work
        self._move(self._ended)

    def left(self) -> str:
        """`, about 12 min left`; empty until there is something to tell it by."""
        trained = self._ended - self._before
        if not trained:
            return ""
        rest = sum(run.work for run in self._runs) - self._ended
        seconds = (time.monotonic() - self._began) * rest / trained
        return f", about {_duration(seconds)} left"

    def _move(self, to: float) -> None:
        self._bar.update(to - self._bar.n)


def _last_epoch(path: pathlib.Path) -> int:
    """Of a training log, whose last line may be half written."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            return int(files.parse_json(file.read().rstrip().splitlines()[-1])["epoch"])
    except (OSError, ValueError, IndexError, KeyError, TypeError, OverflowError):
        return 0


def _duration(seconds: float) -> str:
    """
    >>> _duration(50), _duration(3000), _duration(200_000)
    ('50 s', '50 min', '55.6 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
