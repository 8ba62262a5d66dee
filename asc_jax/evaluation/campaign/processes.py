"""Train and evaluate many runs, one after the other: those that are not done yet.

Each run is trained and evaluated by processes of its own, so that the crash of one leaves the
others alone, and a command that was interrupted at any moment resumes when it is given again.
Beside each workdir lies `<workdir>.log`; a process that works on the run holds a lock on it, also
when the command that started it is gone.
"""

import contextlib
import dataclasses
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import BinaryIO

import filelock
import tqdm

from asc_jax.errors import Interrupted
from asc_jax.evaluation.campaign.runs import Run, unfinished
from asc_jax.machine import files
from asc_jax.machine.signals import stop_signals

COMMAND = (sys.executable, "-m", "asc_jax")  # found as this process found it
POLL_S = 0.2


class Progress(tqdm.tqdm):
    """A bar over the clips that all runs train on, and the time left.

    runs: all runs. done: titles of those that are done.
    """

    def __init__(self, runs: Sequence[Run], done: set[str]):
        self._before = self._ended = sum(run.work for run in runs if run.title in done)
        self._began = time.monotonic()
        super().__init__(
            total=sum(run.work for run in runs),
            initial=self._before,
            unit=" clips",
            unit_scale=True,
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )
        if self._before == self.total:
            self.say(f"all {len(runs)} runs are done")

    def say(self, text: str) -> None:
        """Print a line without tearing the bar."""
        self.write(text)
        sys.stdout.flush()

    def within(self, run: Run) -> None:
        """Move the bar to the last epoch that the run has logged."""
        epoch = _last_epoch(run.workdir / "metrics.jsonl")
        trained = run.work * min(1, epoch / run.config.train.n_epochs)
        self.update(self._ended + trained - self.n)

    def end(self, run: Run) -> None:
        """Move the bar to the end of a run."""
        self._ended += run.work
        self.update(self._ended - self.n)

    def left(self) -> str:
        """Return `, about 12 min left`; nothing before this command has ended a run."""
        trained = self._ended - self._before
        if not trained:
            return ""
        seconds = (time.monotonic() - self._began) * (self.total - self._ended) / trained
        return f", about {_duration(seconds)} left"


def _last_epoch(path: pathlib.Path) -> int:
    """Return the last epoch of a training log, whose last line may be incomplete; 0: none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            return int(files.parse_json(file.read().rstrip().splitlines()[-1])["epoch"])
    except (OSError, ValueError, IndexError, KeyError, TypeError, OverflowError):
        return 0


def _duration(seconds: float) -> str:
    """Return a duration in words.

    Example:
        >>> _duration(50), _duration(3000), _duration(200_000)
        ('50 s', '50 min', '55.6 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def carry_out(
    runs: Sequence[Run], cache: pathlib.Path, *, together: bool = False
) -> dict[str, str]:
    """Train and evaluate all runs that are not done, in order.

    Args:
      runs: workdirs must differ. Nothing starts if one belongs to another config.
      cache: folder for compiled programs, which runs of equal shapes share.
      together: first train runs that differ in nothing but consecutive seeds in one process,
        and on a GPU or TPU in one program.

    Returns:
      Title of each run that failed → how it ended, the last line of its log and where that is.

    Raises:
      UserError: a workdir belongs to a run with another config, or cannot be written.
      Interrupted: SIGTERM or Ctrl-C, passed on to the run, which saves first.
    """
    done = {run.title for run in runs if unfinished(run) is None}
    failed = {}
    environment = _environment(cache)
    with Progress(runs, done) as progress, stop_signals() as stopped:
        for group in seed_groups([run for run in runs if together and run.title not in done]):
            progress.say(f"training {len(group)} seeds at once: {group[0].workdir.parent}")
            with _locked(group[0].workdir, stopped, progress.say) as log:
                # An error here shows again below, where each run is tried by itself.
                _finish(train_seeds(group), log, environment, stopped, lambda: None)
        for number, run in enumerate(runs, 1):
            if run.title in done:
                continue
            progress.say(f"{number}/{len(runs)}  {run.title} → {run.workdir}{progress.left()}")
            with _locked(run.workdir, stopped, progress.say) as log:
                # Another command may have done it while we waited.
                reason = unfinished(run)
                if reason:
                    reason = _train_and_evaluate(run, log, environment, stopped, progress)
            if reason:
                failed[run.title] = f"{reason} (see {log.name})"
                progress.say(f"failed: {run.title}: {failed[run.title]}")
            progress.end(run)
    return failed


def make(
    target: pathlib.Path, words: Sequence[str], cache: pathlib.Path, made: Callable[[], bool]
) -> str | None:
    """Make a file with a verb of `asc-jax`, in a process of its own; `<target>.log` is its log.

    Args:
      target: the file; no other process works on it at the same time.
      words: the verb and its arguments.
      cache: folder for compiled programs.
      made: returns whether the file is there as it should be.

    Returns:
      None if it is made, otherwise how the process ended, and where its log is.

    Raises:
      UserError: the log cannot be written.
      Interrupted: SIGTERM or Ctrl-C, passed on to the process.
    """
    with stop_signals() as stopped, _locked(target, stopped, print) as log:
        if made():  # another command may have made it while we waited
            return None
        status = _finish([*COMMAND, *words], log, _environment(cache), stopped, lambda: None)
        if status:
            return f"{words[0]} ended with status {status}; {_last_line(log.name)} (see {log.name})"
        return None if made() else f"{target} is not what was asked for (see {log.name})"


def _environment(cache: pathlib.Path) -> dict[str, str]:
    return {"JAX_COMPILATION_CACHE_DIR": str(cache.absolute()), **os.environ}


def seed_groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Return groups of two runs or more that differ in nothing but consecutive seeds."""
    groups: list[list[Run]] = []
    for run in sorted(runs, key=lambda run: (str(run.workdir.parent), run.seed)):
        previous = groups[-1][-1] if groups else None
        if previous and (previous.seed + 1, _seedless(previous)) == (run.seed, _seedless(run)):
            groups[-1].append(run)
        else:
            groups.append([run])
    return [group for group in groups if len(group) > 1]


def _seedless(run: Run) -> Run:
    words = tuple(word for word in run.overrides if not word.startswith("--config.seed="))
    return dataclasses.replace(run, seed=0, overrides=words, workdir=run.workdir.parent)


def train_seeds(group: Sequence[Run]) -> list[str]:
    """Return the command that trains a group of `seed_groups` in one process."""
    run = _seedless(group[0])
    seeds = (f"--config.seed={group[0].seed}", f"--config.train.n_seeds={len(group)}")
    words = (f"--config={run.config_name}", *run.overrides, *seeds)
    return [*COMMAND, "train", *words, f"--workdir={run.workdir}"]


def _train_and_evaluate(
    run: Run, log, environment: Mapping[str, str], stopped: list[int], progress: Progress
) -> str | None:
    """Run both processes; return None if the run is done then, otherwise the reason."""
    workdir = f"--workdir={run.workdir}"
    train = ("train", f"--config={run.config_name}", *run.overrides, workdir)
    for words in (train, ("eval", workdir)):
        command = [*COMMAND, *words]
        status = _finish(command, log, environment, stopped, lambda: progress.within(run))
        if status:
            return f"{words[0]} ended with status {status}; {_last_line(log.name)}"
    return unfinished(run)


def _finish(
    command: Sequence[str], log, environment: Mapping[str, str], stopped: list[int], poll
) -> int:
    """Return the exit status of a process that inherits the log and the lock on it."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=environment,
        process_group=0,  # Ctrl-C reaches it through us, once
    )
    try:
        while process.poll() is None and not stopped:
            poll()
            time.sleep(POLL_S)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    _check_stop(stopped)
    return process.returncode


@contextlib.contextmanager
def _locked(
    target: pathlib.Path, stopped: list[int], say: Callable[[str], None]
) -> Iterator[BinaryIO]:
    """Yield the log beside a target, opened for appending, once no other process works on it."""
    path = pathlib.Path(f"{target}.log")
    with files.writing_to(target):
        path.parent.mkdir(parents=True, exist_ok=True)
        log = path.open("ab", buffering=0)
    with log:
        if not filelock.lock_descriptor(log.fileno(), blocking=False):
            say(f"waiting: another process still works on {target}")
            while not filelock.lock_descriptor(log.fileno(), blocking=False):
                time.sleep(POLL_S)
                _check_stop(stopped)
        yield log


def _check_stop(stopped: list[int]) -> None:
    if stopped:
        raise Interrupted("stopped; run the same command again to resume", stopped[0])


def _last_line(path: str) -> str:
    text = pathlib.Path(path).read_text("utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"its last line: {lines[-1][-300:]}" if lines else "it said nothing"
