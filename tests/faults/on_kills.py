"""Kills and signals. Moments in this process, real signals to processes of their own."""

import json
import shutil
import signal
import time

from asc_jax.machine import lock
from tests.faults import damage, moments, runs
from tests.faults.home import HALF
from tests.faults.judge import Problem, complete_steps, require_same_end, require_went_on_from


def moment_of_training(home, rng, folder):
    """Of a run from its start or from half-way: while it saves, evaluates, logs, ends."""
    workdir, killed = folder / "run", folder / "killed"
    if rng.random() < 0.5:
        home.copy_half(folder)
    with moments.watched(workdir, rng.randrange(_n_moments(home, workdir.exists())), killed):
        home.train(workdir).require_done()
    if not killed.exists():
        return "not reached"
    return _goes_on(home, killed)


def _n_moments(home, half: bool) -> int:
    """How many there are in a run, from its start or from half-way."""
    return moments.count(home, f"run-{half}", home.half if half else None, home.train)


def _goes_on(home, workdir, real=False):
    """In this process or in one of its own, to the same end."""
    newest = max(complete_steps(workdir), default=0)
    outcome = home.train(workdir) if not real else runs.wait(runs.start_training(home, workdir))
    require_went_on_from(outcome, newest)
    return require_same_end(home, workdir, outcome)


def _begun(home, rng, folder):
    """A process that trains, from the start or from half-way."""
    workdir = folder / "run"
    if rng.random() < 0.5:
        home.copy_half(folder)
    return runs.start_training(home, workdir), workdir


def _wait_for_any_moment(rng, process, workdir):
    """While it starts, from its lock to its first steps, or between two of its epochs."""
    place = rng.choice(["start", "lock", "log", "log"])
    if place == "start":
        time.sleep(rng.uniform(0, 4))
        return
    log, known = workdir / "metrics.jsonl", _size(workdir / "metrics.jsonl")
    runs.wait_until(
        process, lambda: _holds(process, workdir) if place == "lock" else _size(log) > known
    )
    time.sleep(rng.uniform(0, 3) if place == "lock" else rng.uniform(0, 0.3))


def _size(path) -> int:
    return path.stat().st_size if path.exists() else 0


def kill(home, rng, folder):
    """At any moment of a process's life."""
    process, workdir = _begun(home, rng, folder)
    _wait_for_any_moment(rng, process, workdir)
    return _killed(home, rng, process, workdir)


def kill_while_saving(home, rng, folder):
    """While Orbax' temporary folder is there, of the checkpoint or of the best."""
    process, workdir = _begun(home, rng, folder)
    name = rng.choice(["checkpoints", "checkpoints", "best"])
    runs.wait_until(process, lambda: any((workdir / name).glob("*.orbax-checkpoint-tmp*")))
    time.sleep(rng.choice([0, rng.uniform(0, 0.05)]))
    return _killed(home, rng, process, workdir)


def _killed(home, rng, process, workdir):
    process.kill()
    outcome = runs.wait(process)
    if outcome.status == 0:  # it had come to its end
        return "not reached"
    if outcome.status != -signal.SIGKILL:
        raise Problem(f"before it was killed: status {outcome.status}: {outcome.err[-300:]}")
    return _goes_on(home, workdir, real=rng.random() < 0.25)


def terminate(home, rng, folder):
    """SIGTERM: saved, status 143; before training there is nothing to save."""
    process, workdir = _begun(home, rng, folder)
    _wait_for_any_moment(rng, process, workdir)
    process.send_signal(signal.SIGTERM)
    outcome = runs.wait(process)
    if outcome.status == 0:  # in the last step or later: it finishes
        return require_same_end(home, workdir, outcome)
    if outcome.status not in (143, -signal.SIGTERM):
        raise Problem(f"SIGTERM ended it with status {outcome.status}: {outcome.err[-300:]}")
    return _goes_on(home, workdir, real=rng.random() < 0.25)


def two_processes(home, rng, folder):
    """The second is refused, and the first goes on undisturbed."""
    process, workdir = _begun(home, rng, folder)
    if not runs.wait_until(process, lambda: _holds(process, workdir), every_s=0.02):
        return "not reached"
    time.sleep(rng.uniform(0, 1))
    second = home.train(workdir)
    if process.poll() is not None and not second.status:
        runs.wait(process)
        return "not reached"
    refused = second.require_refused(f"is in use by process {process.pid} on ")
    require_same_end(home, workdir, runs.wait(process))
    return refused


def compiled_damaged(home, rng, folder):
    """Programs kept from an earlier start, in files that a kill cut off, say."""
    workdir = home.copy_half(folder)
    compiled = shutil.copytree(home.compiled, folder / "compiled")
    for path in sorted(compiled.glob("*-cache")):
        if rng.random() < 0.8:
            rng.choice(damage.ANY)(rng, path)
    outcome = runs.wait(runs.start_training(home, workdir, compiled=compiled))
    require_went_on_from(outcome, HALF[1])
    return require_same_end(home, workdir, outcome)


def _holds(process, workdir) -> bool:
    try:
        return json.loads((workdir / lock.NAME).read_text())["pid"] == process.pid
    except (OSError, ValueError):
        return False


KINDS = {
    "killed at a file operation": moment_of_training,
    "SIGKILL": kill,
    "SIGKILL while saving": kill_while_saving,
    "SIGTERM": terminate,
    "two processes": two_processes,
    "compiled program damaged": compiled_damaged,
}
