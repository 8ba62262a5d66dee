"""What a meta file of a submission must say, down to every accuracy and log loss.

Source: the layout and rules of DCASE 2024 Task 1.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from asc_jax.challenge.submission.author import DESCRIPTION, YAML_ERRORS, submission_problems
from asc_jax.complexity.limits import MAX_BYTES, MAX_MACS
from asc_jax.data.tau.taxonomy import DEVICES, N_SCENES, SCENES, TRAIN_PERCENTS
from asc_jax.errors import short

SPLITS = tuple(f"split_{percent}" for percent in TRAIN_PERCENTS)
COMPLEXITY = {"total_model_size": MAX_BYTES, "total_parameters": None, "macs": MAX_MACS}


def check_meta(path: Path, label: str) -> list[str]:
    """What is wrong with a meta file, one line each; empty if nothing is.

    Args:
      path: the file.
      label: of the entry, as its folder is named.
    """
    try:
        meta = yaml.safe_load(path.read_text("utf-8"))
    except YAML_ERRORS as error:
        return [f"cannot be read: {' '.join(str(error).split())}"]
    if not isinstance(meta, Mapping):
        return ["holds no sections"]
    submission = meta.get("submission")
    problems = submission_problems(submission)
    if isinstance(submission, Mapping) and submission.get("label") != label:
        problems.append(
            f"submission.label is {short(submission.get('label'))}, its folder is {label}"
        )
    sections = ("description", "complexity", "external_datasets", "source_code")
    problems += _missing(meta, "system", sections)
    problems += _missing(meta, "system.description", DESCRIPTION)
    problems += _complexity(_at(meta, "system.complexity"))
    return problems + _results(_at(meta, "results.development_dataset"))


def _complexity(given: Any) -> list[str]:
    problems = []
    for key, limit in COMPLEXITY.items():
        value = given.get(key) if isinstance(given, Mapping) else None
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            problems.append(f"system.complexity.{key} is {short(value)}, expected a number above 0")
        elif limit is not None and value > limit:
            given_value = f"{value:,}" if value < 1e15 else short(value)
            problems.append(
                f"system.complexity.{key} is {given_value}, over the budget of {limit:,}"
            )
    return problems


def _results(given: Any) -> list[str]:
    """Every split, scene and device with accuracy in percent and log loss."""
    if not isinstance(given, Mapping) or [*given] != [*SPLITS]:
        found = ", ".join(map(_key, given)) if isinstance(given, Mapping) else short(given)
        return [f"results.development_dataset holds {found or 'nothing'}, expected, in this order, "
                f"{', '.join(SPLITS)}"]  # fmt: skip
    problems = []
    for split in SPLITS:
        rows = {"overall": _at(given, f"{split}.overall")}
        for part, names in (("class_wise", SCENES), ("device_wise", DEVICES)):
            rows |= {f"{part}.{name}": _at(given, f"{split}.{part}.{name}") for name in names}
        bad = [problem for row in rows.items() if (problem := _figures(*row))]
        problems += [f"results, {split}: {problem}" for problem in bad]
        if not bad:
            scenes = [rows[f"class_wise.{scene}"]["accuracy"] for scene in SCENES]
            mean, overall = math.fsum(scenes) / N_SCENES, rows["overall"]["accuracy"]
            if abs(mean - overall) > 0.01:
                problems.append(
                    f"results, {split}: overall.accuracy is {overall}, the mean of the scenes "
                    f"{mean:.2f}"
                )
    return problems


def _key(key: Any) -> str:
    return key if isinstance(key, str) else short(key)


def _figures(name: str, given: Any) -> str | None:
    for key, high in (("accuracy", 100), ("logloss", math.inf)):
        value = given.get(key) if isinstance(given, Mapping) else None
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and 0 <= value <= high and value < math.inf):
            return f"{name}.{key} is {short(value)}, expected a number"
    return None


def _missing(meta: Mapping, where: str, keys: Sequence[str]) -> list[str]:
    given = _at(meta, where)
    absent = [key for key in keys if not isinstance(given, Mapping) or key not in given]
    return [f"{where}: {', '.join(absent)} missing"] if absent else []


def _at(tree: Any, path: str) -> Any:
    """The value at `a.b.c`, None if there is none."""
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree
