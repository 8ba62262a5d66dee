"""`python -m tests.fuzz --n 1000000 [--only wav,archive] [--state DIR] [--seed 0]`.

The inputs are a pure function of (reader, seed, number), shared out over the readers by their
weight. Each reader has a process, so that a crash in C costs only that one and is named. Exit
status 1 if anything was found; the inputs found are in DIR/found/.
"""

import argparse
import json
import logging
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import warnings

from tests.fuzz.judge import judge, limits, make_input
from tests.fuzz.readers import READERS, open_reader

MAX_FOUND = 20  # inputs kept of one reader; what is wrong with more is nothing new
STALLED_S = 300  # without an input done: hangs where Python cannot stop it


def main() -> int:
    given = _parse()
    if given.worker:
        return _work(given.worker, given.n, given.seed, given.state)
    total = sum(READERS[name].weight for name in given.only)
    failed = False
    print(f"{'reader':<14}{'inputs':>9}{'rejected':>9}{'found':>6}{'inputs/s':>10}{'MiB':>6}")
    for name in given.only:
        n = math.ceil(given.n * READERS[name].weight / total)
        status = _supervise(name, n, given.seed, given.state)
        row = _read_count(given.state, name)
        failed |= bool(status or row["found"])
        print(
            f"{name:<14}{row['number']:>9,}{row['refused']:>9,}{row['found']:>6}"
            f"{row['number'] / max(row['cpu_s'], 1e-3):>10,.0f}{row['mib']:>6,.0f}"
            f"{'  ' + status if status else ''}",
            flush=True,
        )
    if failed:
        print(f"look into {given.state}: found/ has the inputs, what.txt there what is wrong")
    return int(failed)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--n", type=int, default=20_000, help="inputs over all readers")
    parser.add_argument("--only", default=",".join(READERS), help="readers, with commas between")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--state", type=pathlib.Path, help="folder to go on from")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.only = given.only.split(",")
    if unknown := [name for name in given.only if name not in READERS]:
        parser.error(f"unknown readers {', '.join(unknown)}; known are {', '.join(READERS)}")
    given.state = given.state or pathlib.Path(tempfile.mkdtemp(prefix="fuzz-"))
    return given


def _supervise(name: str, n: int, seed: int, state: pathlib.Path) -> str:
    """Run a reader's process to its end; what befell it, empty if nothing."""
    state.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.fuzz", "--worker", name]
    command += ["--n", str(n), "--seed", str(seed), "--state", str(state)]
    # Libraries in C and progress bars say much on stderr.
    with (state / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(command, stderr=log, env=os.environ | _QUIET)
    last, since = -1, time.monotonic()
    while process.poll() is None:
        time.sleep(0.2)
        done = _read_count(state, name)["number"]
        if done != last:
            last, since = done, time.monotonic()
        if time.monotonic() - since > STALLED_S:
            process.kill()
            process.wait()
    if process.returncode == 0:
        return ""
    number = _read_count(state, name)["number"]
    return f"process ended with {process.returncode} after input {number}, see {name}.log"


_QUIET = {"TQDM_DISABLE": "1", "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
_START = {"number": 0, "refused": 0, "found": 0, "cpu_s": 0.0, "mib": 0.0}


def _work(name: str, n: int, seed: int, state: pathlib.Path) -> int:
    """Judge a reader's inputs from where it stopped to number `n`."""
    count = _read_count(state, name)
    with tempfile.TemporaryDirectory(dir=_scratch()) as scratch:
        reader = open_reader(name, pathlib.Path(scratch))
        logging.disable()
        for data in reader.seeds:  # compiles and imports once, outside the limits
            reader.read(data)
        before, began, base = time.process_time(), count["cpu_s"], _peak_mib()
        with limits(), warnings.catch_warnings(action="error"):
            # Of ml_collections, which loads a config file with it.
            warnings.filterwarnings("ignore", "the load_module", DeprecationWarning)
            while count["number"] < n:
                data = make_input(name, reader, seed, count["number"])
                refused, problem = judge(reader, data)
                count["number"] += 1
                count["refused"] += refused
                if problem:
                    count["found"] += 1
                    _keep(state, name, count, data, problem)
                if count["number"] % 200 == 0 or problem or count["number"] == n:
                    count["cpu_s"] = began + time.process_time() - before
                    count["mib"] = max(count["mib"], _peak_mib() - base)
                    _write_count(state, name, count)
    return 0


def _scratch() -> str | None:
    return "/dev/shm" if os.path.isdir("/dev/shm") else None  # in memory, where there is such


def _keep(state, name, count, data, problem) -> None:
    folder = state / "found"
    folder.mkdir(exist_ok=True)
    if count["found"] <= MAX_FOUND:
        (folder / f"{name}-{count['number'] - 1}").write_bytes(data)
        with (folder / "what.txt").open("a") as file:
            file.write(f"{name}-{count['number'] - 1}\t{problem}\n")


def _read_count(state: pathlib.Path, name: str) -> dict:
    path = state / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else dict(_START)


def _write_count(state: pathlib.Path, name: str, count: dict) -> None:
    part = state / f"{name}.json.part"
    part.write_text(json.dumps(count))
    part.replace(state / f"{name}.json")


def _peak_mib() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
