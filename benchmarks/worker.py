"""One contestant in a process of its own.

The first line on stdin is its setting (module, options, threads), every other one a request; each
is a JSON object, and so is each answer: `missing` (a package is not there), `mismatch`, `failed`,
or what was asked for.
"""

import ctypes
import gc
import importlib
import json
import os
import pathlib
import statistics
import sys
import time
import traceback
from collections.abc import Mapping

from benchmarks import inputs

MAX_CALLS = 1000


class Worker:
    """The state between requests: one job at a time."""

    def __init__(self, setting: Mapping):
        self.setting, self.job = setting, None
        self.not_its_own = 0  # bytes of libraries that only the harness needs
        cores = sorted(os.sched_getaffinity(0))[: setting["threads"]]
        os.sched_setaffinity(0, cores)  # XLA makes as many threads as it sees cores

    def prepare(self, job: str, spec: Mapping) -> dict:
        """Make a job ready to run; `work` is how much a run does."""
        if self.setting["module"] != "ours" and spec.get("memory"):
            self.not_its_own = _cost_of_import("asc_jax.pytorch.twin")
        module, options = self._module()
        self.job = module.JOBS[job]({**spec, **options})
        return {"work": self.job.work}

    def _module(self):
        """The contestant's module, set up, and its options."""
        module = importlib.import_module(f"benchmarks.{self.setting['module']}")
        options = {"threads": self.setting["threads"], **self.setting["options"]}
        if hasattr(module, "set_up"):
            module.set_up(**options)
        return module, options

    def run(self, at_least_s: float = 0.0) -> dict:
        """Time the job; a short one is repeated until it has taken long enough."""
        times: list[float] = []
        while not times or (sum(times) < at_least_s and len(times) < MAX_CALLS):
            start = time.perf_counter()
            self.job.run()
            times.append(time.perf_counter() - start)
        return {"seconds": statistics.median(times)}

    def drop(self) -> dict:
        """Forget the job and give its memory back, so that the next row finds it free."""
        self.job = None
        gc.collect()
        if hasattr(ctypes.CDLL(None), "malloc_trim"):
            ctypes.CDLL(None).malloc_trim(0)
        return {}

    def peak(self) -> dict:
        """The most memory this process has held, bytes."""
        return {"bytes": _status("VmHWM") - self.not_its_own}

    def about(self) -> dict:
        """Which accelerator JAX sees."""
        self._module()
        jax = importlib.import_module("jax")
        return {"backend": jax.default_backend(), "kind": jax.devices()[0].device_kind}


def _cost_of_import(name: str) -> int:
    importlib.import_module("numpy")  # a peer needs it anyway
    before = _status("VmRSS")
    importlib.import_module(name)
    return _status("VmRSS") - before


def _status(field: str) -> int:
    """A size from the kernel's account of this process, bytes."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")


def answer(worker: Worker, request: dict) -> dict:
    """Do what a request says; whatever goes wrong becomes an answer."""
    try:
        return getattr(worker, request.pop("do"))(**request)
    except inputs.Mismatch as error:
        return {"mismatch": str(error)}
    except (ImportError, inputs.UserError) as error:
        traceback.print_exc()
        return {"missing": " ".join(str(error).split())}
    except Exception as error:
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}


def main() -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print do so into the log
    worker = Worker(json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        print(json.dumps(answer(worker, json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
