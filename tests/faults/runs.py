"""One run, in this process or in one of its own, and how it ended."""

import contextlib
import dataclasses
import io
import logging
import os
import re
import subprocess
import threading
import time

from asc_jax.data.clips import open_split
from asc_jax.errors import Interrupted, UserError
from asc_jax.evaluation.evaluate import make_evaluator
from asc_jax.machine import lock
from asc_jax.training import loop
from asc_jax.training.workdir import run_config
from tests.faults.judge import Problem

SLOW_S = 900  # a process that takes longer hangs
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0",  # or it starts again, and imports twice
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
n_processes = 0  # started so far


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Exit status (of a process; what it would be, of a call), stdout, stderr."""

    status: int
    out: str
    err: str

    def require_done(self) -> "Outcome":
        if self.status:
            raise Problem(f"ended with status {self.status}: {self.err.strip()[-300:]}")
        return self

    def require_refused(self, pattern: str) -> str:
        """It must have said, in one line, what is wrong and what to do: `rejected`."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        if self.status != 2 or len(lines) != 1 or "Traceback" in self.err:
            raise Problem(f"no refusal but status {self.status}: {self.err.strip()[-300:]}")
        if not re.search(pattern, lines[0]):
            raise Problem(f"refused with {lines[0]!r}, expected {pattern!r}")
        return "rejected"

    @property
    def began_at(self) -> int | None:
        """The step it went on from; None where there was nothing left to train."""
        found = re.search(r"resuming .* at step (\d+) of", self.out)
        if not found and not re.search(r"epoch \d+/\d+  loss ", self.out):
            return None  # an evaluation at most
        return int(found[1]) if found else 0


def call(function, *args, **options) -> Outcome:
    """Call what a command calls, and end as `asc_jax.cli.run` would end the process.

    Anything else that is raised, here or in a thread, is a `Problem`: a traceback.
    """
    out, err, loose = io.StringIO(), io.StringIO(), []
    handler = logging.StreamHandler(err)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    log = logging.getLogger("asc_jax")
    kept, log.handlers = log.handlers, [handler]
    hook, threading.excepthook = threading.excepthook, lambda args: loose.append(args.exc_value)
    status = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            function(*args, **options)
    except UserError as error:
        status = 2
        err.write(f"error: {error}\n")
    except Interrupted as stop:
        status = 128 + stop.signal_number
        err.write(f"{stop}\n")
    except Exception as error:
        raise Problem(f"traceback: {error!r}"[:300]) from error
    finally:
        log.handlers, threading.excepthook = kept, hook
    if loose:
        raise Problem(f"traceback in a thread: {loose[0]!r}"[:300])
    return Outcome(status, out.getvalue(), err.getvalue())


def train(home, workdir, data, change) -> Outcome:
    """What `train.py` does after its flags, with clips changed by `change`."""
    return call(_train, home, workdir, data, change)


def _train(home, workdir, data, change) -> None:
    clips = open_split(data, home.config.data.train_split)
    test_clips = open_split(data, home.config.data.test_split)
    with lock.held(workdir):
        run_config.save(workdir, "demo.py", home.config)
        loop.fit(
            home.parts,
            change(clips),
            test_clips,
            workdir,
            make_evaluator=make_evaluator,
            **home.config.train,
        )


def start(home, command, *, compiled=None, **options) -> subprocess.Popen:
    """A process of its own, whose output is kept; compiled programs are those in a folder."""
    global n_processes
    n_processes += 1
    environment = os.environ | ENVIRONMENT
    environment["JAX_COMPILATION_CACHE_DIR"] = str(compiled or home.compiled)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **pipes, **options)


def start_training(home, workdir, *, compiled=None) -> subprocess.Popen:
    command = [*home.command, f"--workdir={workdir}"]
    return start(home, command, compiled=compiled, cwd=home.folder)


def wait(process: subprocess.Popen, timeout_s: float = SLOW_S) -> Outcome:
    """How it ended; a `Problem` if it hangs or shows a traceback."""
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise Problem(f"still running after {timeout_s:.0f} s") from None
    if "Traceback" in err:
        raise Problem(f"traceback, status {process.returncode}: {err.strip()[-300:]}")
    return Outcome(process.returncode, out, err)


def wait_until(process: subprocess.Popen, condition, every_s: float = 0.001) -> bool:
    """Whether it came true before the process ended."""
    while process.poll() is None:
        if condition():
            return True
        time.sleep(every_s)
    return False
