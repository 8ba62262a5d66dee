"""The contest: a process per contestant, one at work at a time, medians with their spread."""

import dataclasses
import pathlib
import time
from collections.abc import Iterable, Mapping, Sequence

from asc_jax.errors import UserError
from benchmarks import inputs
from benchmarks.contestants import CONTESTANTS, OURS
from benchmarks.parts import Row
from benchmarks.process import Process
from benchmarks.summary import summarise

PAUSE_S = 0.05  # until the thread pool of the one before has gone to sleep
AT_LEAST_S = 0.2  # a shorter job is repeated
N_FRESH_MEMORY = 3  # peaks hardly vary


class Contest:
    """Long-lived processes by contestant; a context manager, so that none outlives it."""

    def __init__(self, size: inputs.Size, scratch, *, threads: int, only: Sequence[str] = ()):
        self.size, self.scratch, self.threads = size, pathlib.Path(scratch), threads
        self.only = set(only)
        self.processes: dict[str, Process] = {}
        self.notes: dict[str, str] = {}  # contestant or part left out → why
        self.common = {
            "slots": size.steps_per_call,
            "peer_steps": size.peer_steps,
            "tau_dir": str(self.scratch / "scenes"),
            "data_dir": str(self.scratch / "data"),
        }

    def __enter__(self) -> "Contest":
        return self

    def __exit__(self, *exception) -> None:
        for process in self.processes.values():
            process.close()

    def about(self) -> dict:
        """`backend` and `kind` of the accelerator that ours runs on."""
        return self._checked(OURS, self._process(OURS).ask("about"))

    def measure(self, row: Row) -> dict[str, dict]:
        """Measure a row: contestant → what `summarise` says of it.

        Raises:
          UserError: ours failed, or a peer is not equal to ours.
        """
        names = [name for name in row.contestants if not self.only or name in {OURS, *self.only}]
        if row.needs_data and not self._data_ready():
            return {}
        spec = self._spec(row)
        if any(CONTESTANTS[name].module != "ours" for name in names):
            self._make_reference(spec)
        if row.fresh:
            return self._measure_fresh(row, names)
        work, first = {}, {}
        for name in names:
            reply = self._ask(name, "prepare", job=row.job, spec=spec)
            done = reply and self._ask(name, "run")
            if done:
                work[name], first[name] = reply["work"], done["seconds"]
        seconds = self._alternate(list(work))
        for name in work:
            self._ask(name, "drop")
        values = {
            name: [s / work[name] for s in series]
            for name, series in seconds.items()
            if len(series) == self.size.repeats
        }
        return summarise(values, first)

    def _spec(self, row: Row) -> dict:
        """Return what a row's contestants are told."""
        network = row.spec.get("network", "cp_mobile")
        config = inputs.make_config(self.size, network).to_json()
        reference = str(self.scratch / f"reference_{network}.npz")
        return {**self.common, "config": config, "reference": reference, **row.spec}

    def _alternate(self, names: list[str]) -> dict[str, list[float]]:
        """Seconds of a run, round by round; who begins changes from round to round."""
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(-1, self.size.repeats):  # round −1 warms up
            shift = turn % max(len(names), 1)
            for name in [*names[shift:], *names[:shift]]:
                time.sleep(PAUSE_S)
                reply = self._ask(name, "run", at_least_s=AT_LEAST_S)
                if reply and turn >= 0:
                    seconds[name].append(reply["seconds"])
        return seconds

    def _measure_fresh(self, row: Row, names: Iterable[str]) -> dict[str, dict]:
        """What only a new process can show: its start, or its peak of memory."""
        spec = self._spec(row) | {"unchecked": True}
        values: dict[str, list[float]] = {name: [] for name in names}
        n_repeats = 1 if row.fresh.endswith("run") else self.size.repeats
        if row.fresh == "memory":
            n_repeats = min(n_repeats, N_FRESH_MEMORY)
        for repeat in range(n_repeats):
            for name in list(values):
                value = self._fresh_value(name, row, spec, repeat)
                if value is None:
                    del values[name]
                else:
                    values[name].append(value)
        return summarise(values, {})

    def _fresh_value(self, name: str, row: Row, spec: Mapping, repeat: int) -> float | None:
        whole = row.fresh.endswith("run")
        cache = self.scratch / f"cache_{name}{'_' + spec['dtype'] if whole else ''}"
        if row.fresh.startswith("cold") and not whole:
            cache = self.scratch / f"cache_{name}_{row.fresh.replace(' ', '_')}_{repeat}"
        folders = ("JAX_COMPILATION_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
        env = {} if row.fresh == "memory" else dict.fromkeys(folders, str(cache))
        if row.fresh.startswith("cached") and not cache.exists():
            self._fresh_value(name, dataclasses.replace(row, fresh="fill"), spec, repeat)
        start = time.perf_counter()
        process = Process(name, self.threads, self.scratch, env)
        try:
            for request in ({"do": "prepare", "job": row.job, "spec": spec}, {"do": "run"}):
                first = self._checked(name, process.ask(**request))
                if first is None:
                    return None
            if whole:
                return first["seconds"]
            to_first = time.perf_counter() - start
            again = self._checked(name, process.ask("run"))
            if row.fresh == "memory":
                return process.ask("peak")["bytes"]
            if row.fresh.endswith("compile"):
                return first["seconds"] - again["seconds"]
            return to_first
        finally:
            process.close()

    def _process(self, name: str) -> Process:
        if name not in self.processes:
            self.processes[name] = Process(name, self.threads, self.scratch)
        return self.processes[name]

    def _ask(self, name: str, do: str, **content) -> dict | None:
        """An answer, or None from a contestant that cannot take part."""
        if name in self.notes:
            return None
        return self._checked(name, self._process(name).ask(do, **content))

    def _checked(self, name: str, reply: dict) -> dict | None:
        if "mismatch" in reply:
            raise UserError(f"{name} cannot be compared: {reply['mismatch']}")
        problem = reply.get("missing") or reply.get("failed")
        if problem is None:
            return reply
        if name == OURS:
            log = (self.scratch / f"{name}.log").read_text(errors="replace")
            raise UserError(f"{name}: {problem}; its log ends: {log[-500:]}")
        self._leave_out(name, problem)
        return None

    def _leave_out(self, name: str, why: str) -> None:
        if name not in self.notes:
            self.notes[name] = why
            print(f"without {name}: {why}")

    def _make_reference(self, spec: Mapping) -> None:
        """What peers are compared with, once."""
        if not pathlib.Path(spec["reference"]).exists():
            self._ask(OURS, "prepare", job="reference", spec=spec)
            self._ask(OURS, "run")

    def _data_ready(self) -> bool:
        """Scenes on disk, made once; False where a package for it is missing."""
        if "scenes" in self.notes or pathlib.Path(self.common["tau_dir"]).exists():
            return "scenes" not in self.notes
        try:
            inputs.write_scenes(pathlib.Path(self.common["tau_dir"]), self.size.n_segments)
        except UserError as error:
            self._leave_out("scenes", str(error))
        return "scenes" not in self.notes
