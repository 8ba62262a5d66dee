"""The evaluated runs to compare, as two systems: what a person named on the command line."""

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from asc_jax.errors import UserError
from asc_jax.evaluation.campaign import runs
from asc_jax.evaluation.campaign.runs import Answers
from asc_jax.evaluation.evaluate import output_folder
from asc_jax.training.workdir import run_config

HOW_MANY = "expected two systems: two runs or folders of seeds, or more runs of two configs"


class System(NamedTuple):
    """One run, or several that differ in the seed.

    label: of the tables. answers: workdir → what its evaluation left. config: the values of the
    first run's config by section, the seed aside; empty where there is no config.json.
    """

    label: str
    answers: Mapping[Path, Answers]
    config: Mapping[str, Any]


def read_systems(
    words: Sequence[str],
    checkpoint: str = "last",
    cluster: str | None = None,
    labels: Sequence[str] = (),
) -> list[System]:
    """Return the two systems that paths name.

    Two paths are two systems, each a run or a folder of runs named seed<k>. More paths are runs, of
    which those with one config but for the seed are one system.

    Args:
      words: paths.
      checkpoint: "last" or "best": whose evaluation is read.
      cluster: group column whose values are resampled; None: recordings or moments.
      labels: names of the systems; none: their folders, or, where those are one, their runs.

    Raises:
      UserError: a run is not evaluated, the runs are not two systems or were tested on different
        clips, or the labels do not fit.
    """
    found = {word: runs_in(Path(word)) for word in words}
    if len(words) < 2 or len(found) < len(words):
        raise UserError(f"{' '.join(words) or 'no run is named'}: {HOW_MANY}, each once")
    if len(words) == 2:
        groups = list(found.values())
    else:
        by_config: dict[str, list[Path]] = {}
        for folder in [each for several in found.values() for each in several]:
            by_config.setdefault(json.dumps(config_of(folder), sort_keys=True), []).append(folder)
        groups = list(by_config.values())
    if len(groups) != 2:
        several = "; ".join(f"{group[0]} and {len(group) - 1} more" for group in groups)
        raise UserError(f"these runs are of {len(groups)} configs ({several}): {HOW_MANY}")
    folders = words if len(words) == 2 else [os.path.commonpath(group) for group in groups]
    names = list(labels) or _labels(folders)
    if not labels and len({*names}) == 1:  # runs of both lie side by side in one folder
        names = ["+".join(os.path.relpath(run, folders[0]) for run in group) for group in groups]
    if len({*names}) != 2 or not all(names):
        raise UserError(f"--labels={','.join(names)}: expected two different names")
    systems = []
    for name, group in zip(names, groups, strict=True):
        answers = {
            folder: runs.clustered(runs.read_answers(output_folder(folder, checkpoint)), cluster)
            for folder in group
        }
        systems.append(System(name, answers, config_of(group[0])))
    _check(systems)
    return systems


def runs_in(folder: Path) -> list[Path]:
    """Return the runs that a path names: itself, or its folders seed<k>, in their order.

    Raises:
      UserError: there is neither.
    """
    if any((folder / name).is_file() for name in ("results.json", "config.json")):
        return [folder]
    seeds = [path.parent for path in folder.glob("seed*/config.json")]
    if not seeds:
        raise UserError(
            f"{folder} is no run and holds none in folders seed<k>: config.json and results.json "
            "are missing. Train one with asc-jax train and evaluate it with asc-jax eval"
        )
    return sorted(seeds, key=lambda path: (len(path.name), path.name))


def config_of(folder: Path) -> dict[str, Any]:
    """Return what may differ between systems: a run's config but for seed, folder and labels."""
    for workdir in (folder, folder.parent):
        with contextlib.suppress(UserError):
            config = run_config.load(workdir)[1].to_dict()
            break
    else:
        return {}
    for section, keys in ({None: ("seed", "labels")} | run_config.FREE).items():
        for key in keys:
            (config if section is None else config.get(section, {})).pop(key, None)
    config.get("train", {}).pop("n_seeds", None)
    return json.loads(json.dumps(config))  # tuples as lists


def _labels(folders: Sequence[str]) -> list[str]:
    """Return the folders of the systems, as far as they differ."""
    folders = [os.path.abspath(folder) for folder in folders]
    common = os.path.commonpath(folders)
    names = [os.path.relpath(folder, common) for folder in folders]
    return [Path(common).name if name == "." else name for name in names]


def _check(systems: Sequence[System]) -> None:
    """Raise a `UserError` unless all runs were tested on the same clips, each seed once."""
    first, *others = [pair for system in systems for pair in system.answers.items()]
    for folder, answers in others:
        runs.require_same_test(folder, answers, *first)
    for system in systems:
        seeds = [answers.results["seed"] for answers in system.answers.values()]
        if len({*seeds}) < len(seeds):
            listed = ", ".join(map(str, seeds))
            raise UserError(f"{system.label} has runs of the seeds {listed}: expected each once")
