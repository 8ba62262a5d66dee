"""`python -m tests.faults --n 200 [--only KIND,KIND] [--seed 0] [--state DIR] [--in_process]`.

A fault is a pure function of (kind, seed, number), its moment in a real process aside. A campaign
interrupted is resumed where it was. Exit status 1 if any fault led to what must not be.
"""

import argparse
import json
import pathlib
import random
import shutil
import sys
import tempfile
import time

from tests.faults import home, runs
from tests.faults.judge import LostCheckpoint, Problem, SilentDifference
from tests.faults.kinds import KINDS, REAL, a_round
from tests.faults.on_disks import Skipped

ANSWERS = ("same", "rejected", "not reached", "skipped")


def main() -> int:
    given = _parse()
    given.state.mkdir(parents=True, exist_ok=True)
    results = given.state / "results.jsonl"
    done = {row["number"] for row in _rows(results)}
    names = a_round(given.only)
    todo = [number for number in range(given.n) if number not in done]
    if todo:
        with home.opened(given.state / "home") as ground:
            for number in todo:
                row = _do(ground, names[number % len(names)], given.seed, number, given.state)
                with results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(f"{number:>4} {row['kind']}: {row['answer']} {row['why']}", flush=True)
    rows = _rows(results)
    print(table(rows))
    return int(any(row["answer"] not in ANSWERS for row in rows))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--n", type=int, default=200, help="faults over all kinds")
    parser.add_argument("--only", default=",".join(KINDS), help="kinds, with commas between")
    parser.add_argument("--in_process", action="store_true", help="start no other process")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--state", type=pathlib.Path, help="folder to go on from")
    given = parser.parse_args()
    given.only = [name.strip() for name in given.only.split(",")]
    if unknown := [name for name in given.only if name not in KINDS]:
        parser.error(f"unknown kinds {', '.join(unknown)}; known are {', '.join(KINDS)}")
    if given.in_process:
        given.only = [name for name in given.only if name not in REAL]
    given.state = (given.state or pathlib.Path(tempfile.mkdtemp(prefix="faults-"))).absolute()
    return given


def _do(ground, kind, seed, number, state) -> dict:
    """One fault; what it was hurt on stays where something was wrong."""
    rng, before = random.Random(f"{kind} {seed} {number}"), runs.n_processes
    folder, began = state / f"fault-{number}", time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        answer, why = KINDS[kind](ground, rng, folder), ""
    except Skipped as reason:
        answer, why = "skipped", str(reason)
    except Problem as problem:
        columns = {SilentDifference: "silent difference", LostCheckpoint: "lost checkpoint"}
        answer, why = columns.get(type(problem), "other"), str(problem)
    if answer in ANSWERS:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "number": number,
        "kind": kind,
        "answer": answer,
        "why": why,
        "processes": runs.n_processes - before,
        "seconds": round(time.monotonic() - began, 2),
    }


def _rows(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(rows: list[dict]) -> str:
    """By kind; a fault that was not reached, or was skipped, is none."""
    columns = ("same", "rejected", "silent difference", "lost checkpoint", "other")
    lines = [f"| kind | faults | processes | {' | '.join(columns)} |", "|---|" + "---|" * 7]
    kinds = [name for name in KINDS if any(row["kind"] == name for row in rows)]
    for name in [*kinds, "**all**"]:
        some = [row for row in rows if name in (row["kind"], "**all**")]
        counts = [sum(row["answer"] == column for row in some) for column in columns]
        processes = sum(row["processes"] for row in some)
        lines.append(f"| {name} | {sum(counts)} | {processes} | {' | '.join(map(str, counts))} |")
    skipped = {row["why"] for row in rows if row["answer"] == "skipped"}
    return "\n".join([*lines, *(f"skipped: {why}" for why in sorted(skipped))])


if __name__ == "__main__":
    sys.exit(main())
