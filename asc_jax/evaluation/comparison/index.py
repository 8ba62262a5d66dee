"""An index of the runs in a folder: a page with their figures that links their pages."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asc_jax.errors import UserError
from asc_jax.evaluation import intervals
from asc_jax.evaluation.campaign.runs import read_results
from asc_jax.evaluation.comparison.report import address, pages_of
from asc_jax.evaluation.report import tables as words
from asc_jax.evaluation.report.tables import NONE, Table, between, count, decimals, percent
from asc_jax.evaluation.result_files import stored_summary
from asc_jax.machine import files

HERE = Path(__file__).parent
NAME = "index.html"
PAGES = ("compare.html", "table1.html", "crossval.html", "distil.html")  # of several runs
MAX_RUNS = 2_000


def write(folder: str | Path) -> tuple[Path, dict[str, Any]]:
    """Write `index.html` into a folder of runs, and return its path and what it lists.

    Raises:
      UserError: there is no run in the folder, or it cannot be written.
    """
    folder = Path(folder)
    found = collect(folder)
    contents = {NAME: as_html(found, folder) + "\n"}
    return files.write_folder(folder, contents)[0], found


def collect(folder: str | Path) -> dict[str, Any]:
    """Return what lies in a folder, at any depth.

    Returns:
      `tests`: a list of `test_split`, `n_clips`, `classes` and `runs` of each set of test clips;
      a run is a dict of `workdir`, `results` (the content of its results.json); the most accurate
      comes first. `unfinished`: workdir → why it has no figures. `pages`: of several runs.

    Raises:
      UserError: there is no run in the folder.
    """
    folder = Path(folder)
    tests: dict[tuple, list[dict]] = {}
    unfinished, pages = {}, []
    for workdir, names in _folders(folder):
        pages += [str(workdir / name) for name in PAGES if name in names]
        if not {"config.json", "results.json"} & {*names}:
            continue
        if "results.json" not in names:
            unfinished[str(workdir)] = "not evaluated"
            continue
        try:
            results = read_results(workdir / "results.json")
        except UserError as error:
            unfinished[str(workdir)] = str(error)
            continue
        summary = stored_summary(results)
        key = results["test_split"], summary["n_clips"], tuple(summary["classes"])
        tests.setdefault(key, []).append({"workdir": str(workdir), "results": results})
    if not tests and not unfinished:
        raise UserError(f"no run in {folder}, at any depth: train one with asc-jax train")
    return {
        "tests": [
            {
                "test_split": split,
                "n_clips": n_clips,
                "classes": list(classes),
                "runs": sorted(runs, key=lambda run: -(_macro(run) or 0)),
            }
            for (split, n_clips, classes), runs in tests.items()
        ],
        "unfinished": unfinished,
        "pages": pages,
    }


def _folders(folder: Path) -> list[tuple[Path, list[str]]]:
    """Return the folders in and below a folder with the names of their files, in order."""
    found = []
    for path, folders, names in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if name not in ("checkpoints", "best", "tensorboard")
        )
        folders[:] = [name for name in folders if not name.startswith(".")]
        found.append((Path(path), names))
        if len(found) > 20 * MAX_RUNS:
            raise UserError(f"{folder} holds too many folders: name one that holds runs alone")
    return found


def _macro(run: Mapping[str, Any]) -> float | None:
    return stored_summary(run["results"])["macro_accuracy"]


def as_html(found: Mapping[str, Any], folder: str | Path) -> str:
    """Return the page that lists what `collect` found."""
    workdirs = [run["workdir"] for test in found["tests"] for run in test["runs"]]
    inside = {path: os.path.relpath(path, folder) for path in [*workdirs, *found["unfinished"]]}
    return words.fill(
        HERE / NAME,
        title=f"Runs in {Path(folder).absolute().name}",
        tables=[_table(test, inside) for test in found["tests"]],
        pages={inside[path]: page for path, page in pages_of(workdirs, folder).items()},
        unfinished={inside[path]: reason for path, reason in found["unfinished"].items()},
        several={
            os.path.relpath(page, folder): address(Path(page), folder) for page in found["pages"]
        },
    )


def _table(test: Mapping[str, Any], inside: Mapping[str, str]) -> Table:
    rows = []
    for run in test["runs"]:
        results = run["results"]
        summary, cost = stored_summary(results), results["complexity"]
        flaws = {
            "over budget": results["over_budget"],
            "teacher": bool(results.get("role")),
            "tested on training clips": bool(results.get("trained_and_tested")),
            "selected on the test split": results.get("checkpoint") == "best"
            and not results.get("validation"),
        }
        rows.append(
            [
                inside[run["workdir"]],
                percent(summary["macro_accuracy"]),
                between(intervals.of(results, "macro_accuracy"), percent),
                decimals(summary["log_loss"]),
                str(results["seed"]),
                results["config"],
                results["split"],
                *(count(cost[key]) if key in cost else NONE for key in ("n_params", "macs")),
                results["stored_dtype"],
                "; ".join(name for name, holds in flaws.items() if holds),
            ]
        )
    header = ["run", "macro average, %", "95 % interval", "log loss", "seed", "config"]
    header += ["trained on", "parameters", "MACs", "stored as", "note"]
    if not any(row[-1] for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    heading = f"Tested on {count(test['n_clips'])} clips of {test['test_split']}, "
    heading += f"{len(test['classes'])} classes"
    return Table(heading, header, rows)
