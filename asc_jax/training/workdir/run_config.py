"""`config.json` of a workdir: the config that a run was started with, and checks against it.

The file carries a sum over the config, so that one changed by hand is noticed.
"""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping

import jax
import ml_collections

from asc_jax.errors import UserError
from asc_jax.machine import files
from asc_jax.machine.version import code_version
from asc_jax.training.workdir import checkpoints, upgrade

# What a run may be resumed with that it was not started with: the results are the same.
FREE = {
    "data": ("dir",),  # a checkpoint knows its clips
    "train": ("keep_checkpoints", "checkpoint_every_epochs", "steps_per_call"),
}


def save(
    workdir: str | os.PathLike,
    name: str,
    config: ml_collections.ConfigDict,
    *,
    over_budget: bool = False,
) -> None:
    """Write `config.json`, or check the config of a run that is resumed against it.

    Args:
      workdir: made if it is not there.
      name: of the config.
      config: of the run.
      over_budget: whether its network exceeds the limits, which is written into the file.

    Raises:
      UserError: the workdir belongs to a run with another config (the differing values are
        named), or cannot be written.
    """
    path = pathlib.Path(workdir) / "config.json"
    if path.exists():
        check(workdir, config)
        return
    _hold_against_checkpoint(workdir, config)
    content = {
        "name": name,
        "code_version": code_version(),
        "jax_version": jax.__version__,
        "over_budget": over_budget,
        "config": config.to_dict(),
        "sha256": _config_sum(config.to_dict()),
    }
    with files.writing_to(workdir):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, json.dumps(content, indent=1) + "\n")


def _hold_against_checkpoint(workdir: str | os.PathLike, config: ml_collections.ConfigDict) -> None:
    """Check the config of a run that has lost its `config.json` against its newest checkpoint's."""
    if not (pathlib.Path(workdir) / "checkpoints").is_dir():
        return
    with contextlib.closing(checkpoints.Checkpoints(workdir)) as manager:
        try:
            extra = manager.newest_extra() or {}
        except UserError:  # damaged: the one before it is looked at when the run is resumed
            return
    if "config" in extra:
        hold_against(extra["config"], config, workdir)


def keep(workdir: str | os.PathLike, config: ml_collections.ConfigDict) -> None:
    """Write into `config.json` what a run is resumed with: where its data lies now, say.

    Without such a file nothing is written.

    Raises:
      UserError: it cannot be read or written.
    """
    path = pathlib.Path(workdir) / "config.json"
    if not path.exists() or not _differences(
        *(_as_json(each.to_dict()) for each in (load(workdir)[1], config))
    ):
        return
    content = files.parse_json(files.read_text(path))
    content |= {"config": config.to_dict(), "sha256": _config_sum(config.to_dict())}
    with files.writing_to(workdir):
        files.write_atomically(path, json.dumps(content, indent=1) + "\n")


def check(
    workdir: str | os.PathLike,
    config: ml_collections.ConfigDict,
    *,
    flag: str = "--workdir",
    same_data: bool = False,
) -> None:
    """Compare the config of the run in a workdir with another.

    Args:
      workdir: of a run.
      config: what would be run now.
      flag: the command's flag that chooses the workdir.
      same_data: also reject another `data.dir`, where nothing else tells the clips apart.

    Raises:
      UserError: they differ (the values are named), or the run's cannot be read.
    """
    saved = load(workdir)[1].to_dict()
    hold_against(saved, config, workdir, flag=flag)
    before = saved["data"]["dir"]
    if same_data and os.path.realpath(before) != os.path.realpath(config.data.dir):
        raise UserError(
            f"{workdir} was trained on the data set in {before}, now config.data.dir is "
            f"{config.data.dir}: choose another {flag}, or give the data set of the training; if "
            "it has moved, put a link to it where it was"
        )


def hold_against(
    saved: dict,
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike,
    *,
    flag: str = "--workdir",
) -> None:
    """Do what `check` does for a saved config, such as that of a checkpoint."""
    differing = _differences(
        *(_as_json(_of_results(c)) for c in (upgrade.upgraded(saved), config.to_dict()))
    )
    if names := [each for each in differing if each.startswith("config.labels.")]:
        raise UserError(
            f"{workdir} belongs to a run on other classes or groups than those of the data set in "
            f"{config.data.dir}: {'; '.join(names)}. Choose another {flag}, or give the data set "
            "it was started with"
        )
    if differing:
        raise UserError(
            f"{workdir} belongs to a run with another config: {'; '.join(differing)}. "
            f"Choose another {flag}, or resume it with the config it was started with"
        )


def load(workdir: str | os.PathLike) -> tuple[str, ml_collections.ConfigDict]:
    """Return the name and config of the run in a workdir.

    Raises:
      UserError: there is no run, or its config cannot be read.
    """
    path = pathlib.Path(workdir) / "config.json"
    try:
        content = files.parse_json(files.read_text(path))
        saved = content["config"]
        if content.get("sha256", _config_sum(saved)) != _config_sum(saved):  # older ones have none
            raise ValueError(
                "its config is not the one it was written with. Put back the values the run was "
                "started with, or train in a new --workdir"
            )
        return content["name"], ml_collections.ConfigDict(upgrade.upgraded(saved)).lock()
    except (FileNotFoundError, NotADirectoryError) as error:
        folder = pathlib.Path(workdir)
        raise UserError(f"no run in {folder}: {_advice(folder)}") from error
    except OSError as error:
        words = files.system_words(error) or error.strerror
        raise UserError(f"{path} cannot be read: {words}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _advice(workdir: pathlib.Path) -> str:
    """Return what to do where there is no run: take one that lies near, or train."""
    inside = [sorted(workdir.glob(pattern)) for pattern in ("*/config.json", "*/*/config.json")]
    runs = [path.parent for path in inside[0] or inside[1]]
    runs = runs or [path for path in [*workdir.parents][:3] if (path / "config.json").is_file()]
    if runs:
        many = f"it holds {len(runs)}, " * (len(runs) > 1)
        return f"{many}did you mean {runs[0]}?"
    if (workdir / "checkpoints").is_dir():
        return (
            "config.json is missing, though checkpoints/ is there: put it back, or start the "
            "command that trained the run once more, which writes it and loses nothing"
        )
    return (
        "config.json is missing. Train first: "
        f"asc-jax train --config splits/5pct.py --workdir {workdir}"
    )


def _as_json(config: dict) -> dict:
    """Return a config as it is read back from a file: tuples are lists there."""
    return json.loads(json.dumps(config))


def _of_results(config: dict) -> dict:
    """Return the part of a config that changes results, in which runs must agree."""
    config = {
        key: dict(part) if isinstance(part, Mapping) else part for key, part in config.items()
    }
    for section, names in FREE.items():
        for name in names:
            config.get(section, {}).pop(name, None)
    if distill := config.get("distill", {}):  # a checkpoint knows the logits themselves
        distill["logits"] = "given" if distill.get("logits") else ""
        distill.pop("meta_csv", None)
    train = config.get("train", {})
    if train.get("resident") in ("auto", "off", "float32"):  # float32 all of them
        train["resident"] = "float32"
    if not (train.get("keep_best") or config.get("data", {}).get("validation_locations")):
        train.pop("eval_every_epochs", None)  # nothing is selected by it
    return config


def _config_sum(config: dict) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _differences(saved: dict, given: dict, prefix: str = "config") -> list[str]:
    """Return `config.schedule.peak_lr was 0.005, now 0.01` for every value that differs."""
    out = []
    for key in sorted(set(saved) | set(given)):
        old, new = saved.get(key), given.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            out += _differences(old, new, f"{prefix}.{key}")
        elif old != new:
            out.append(f"{prefix}.{key} was {old!r}, now {new!r}")
    return out
