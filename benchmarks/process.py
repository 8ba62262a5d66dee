"""A contestant's process, seen from the parent."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping

from benchmarks import inputs
from benchmarks.contestants import CONTESTANTS


class Process:
    """Asks a `benchmarks.worker` in the environment of its contestant, one thing at a time."""

    def __init__(self, name: str, threads: int, scratch: pathlib.Path, env: Mapping | None = None):
        contestant = CONTESTANTS[name]
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # a GPU is shared with the peers
            "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
        }
        self.log = scratch / f"{name}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.worker"],
                env={**environment, **contestant.env, **(env or {})},
                cwd=inputs.ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        setting = {"module": contestant.module, "options": dict(contestant.options)}
        self._send(setting | {"threads": threads})

    def ask(self, do: str, **content) -> dict:
        """Send a request and wait for its answer."""
        self._send({"do": do, **content})
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        return {"failed": f"its process ended with status {self.process.wait()}"}

    def close(self) -> None:
        """End the process, which holds nothing that must be saved."""
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def _send(self, content: Mapping) -> None:
        with contextlib.suppress(BrokenPipeError):  # the missing answer will say so
            print(json.dumps(content), file=self.process.stdin, flush=True)
