"""Convert a PyTorch file to a run that can be evaluated and trained, and a run to such a file."""

import contextlib
import hashlib
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping

import jax
import ml_collections
import numpy as np

from asc_jax.errors import UserError
from asc_jax.evaluation.evaluate import open_run
from asc_jax.experiment import make as make_experiment
from asc_jax.machine import version
from asc_jax.machine.files import require_folder, writing_to
from asc_jax.models import from_config, precision
from asc_jax.models.cp_mobile import STRIDES
from asc_jax.pytorch import front_end, parts, weights
from asc_jax.pytorch.config import infer
from asc_jax.pytorch.files import read, write_state_dict
from asc_jax.training.workdir import checkpoints, run_config

RUN_PATHS = ("config.json", "checkpoints")  # a workdir with one of them holds a run


def run_from_torch(
    path: str | os.PathLike,
    workdir: str | os.PathLike,
    *,
    name: str | None = None,
    config: ml_collections.ConfigDict | None = None,
    overrides: Mapping[str, object] | None = None,
    part: str | None = None,
) -> list[str]:
    """Make a run, before its first step, of a PyTorch file.

    Args:
      path: state dict or Lightning checkpoint.
      workdir: of the new run; must not hold one.
      name: of `config`; None: base.py, provided that the file tells its hop_length.
      config: for the values that the file does not tell.
      overrides: keys of `config` that were set explicitly, with their values.
      part: network to take, of a file that holds several.

    Returns:
      Lines to print: what was read, each value of network and front end and where it comes from.

    Raises:
      UserError: the file cannot be read or does not fit, the workdir holds a run or cannot be
        written, or the network is over the budget. Nothing is left behind then.
    """
    workdir, path, overrides = pathlib.Path(workdir), pathlib.Path(path), overrides or {}
    for found in RUN_PATHS:
        if (workdir / found).exists():
            raise UserError(f"{workdir} already holds a run ({found}): choose another --workdir")
    file = read(path)
    chosen = parts.choose(file, part)
    network = file.arrays(chosen.names)
    with _naming(path):
        variables, rounding = _to_float32(weights.from_torch(network))
    config = config or _base_config()
    near = front_end.nearest(front_end.front_ends(file.tensors), chosen.prefix)
    near = {place: file.arrays(names) for place, names in near.items()}
    constants = front_end.choose(near, chosen.prefix, config.features, overrides)
    with _naming(path):
        config, sources = infer(network, constants, file.hyper_parameters, config, overrides)
    if name is None and "features.hop_length" not in sources:
        raise UserError(
            f"{path} does not contain its hop_length: pass --config base.py for the baseline's "
            "500, --config splits/5pct.py for the report's 472, or after either "
            "--config.features.hop_length=N"
        )
    name = name or "base.py"
    experiment = make_experiment(config)
    front_end.check(constants, config.features)
    extra = _origin(path, chosen.name) | {
        "over_budget": not experiment.within_budget,
        "batch_counters": weights.read_counters(network),
    }
    state = experiment.new_state(variables, experiment.tx(1))
    with _removed_on_failure(workdir):
        _require_room(workdir, precision.tree_bytes(state)["total"])
        with contextlib.closing(checkpoints.Checkpoints(workdir)) as manager:
            manager.save(0, state, extra)
        run_config.save(workdir, name, config, over_budget=not experiment.within_budget)
    taken = "" if chosen.name == "." else f" ({chosen.name})"
    head = f"{path}{taken} → {workdir}: {experiment.cost['n_params']:,} parameters, {rounding}"
    return [head, *_provenance(config, sources, overrides, name), *_unsaid(config, sources)]


def list_torch(path: str | os.PathLike) -> list[str]:
    """Return lines that say what a PyTorch file holds, and what of it can be converted.

    Raises:
      UserError: as `run_from_torch`, of the file.
    """
    return parts.describe(read(path))


def run_to_torch(
    workdir: str | os.PathLike,
    path: str | os.PathLike,
    *,
    checkpoint: str = "last",
    dtype: str = "float32",
    as_trained: bool = False,
) -> list[str]:
    """Write a run's state dict for the PyTorch network's own `load_state_dict(…, strict=True)`.

    Args:
      workdir: of a run.
      path: file to write; must not be there.
      checkpoint: "last" or "best".
      dtype: "float32" or "float16".
      as_trained: write the form that was trained, such as a network with its branches, where
        another one is deployed.

    Returns:
      Lines to print.

    Raises:
      UserError: there is no such run, the file cannot be written, the network is over the budget,
        or a value overflows float16.
    """
    if pathlib.Path(path).exists():
        raise UserError(f"{path} is already there: choose another name")
    try:
        require_folder(pathlib.Path(path).parent)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    run = open_run(workdir, checkpoint=checkpoint, as_trained=as_trained)
    before = run.extra.get("batch_counters", {})
    attributes = from_config.attributes(run.experiment.config)
    names = weights.counter_names(run.variables, attributes)
    counters = {name: before.get(name, 0) + run.step for name in names}
    tensors = weights.to_torch(precision.cast(run.variables, dtype), counters, attributes)
    write_state_dict(path, tensors)
    over = "" if run.experiment.within_budget else "; OVER BUDGET"
    return [f"{workdir}, step {run.step:,} → {path}: {len(tensors)} tensors in {dtype}{over}"]


def _base_config():
    from configs import base

    return base.get_config()


@contextlib.contextmanager
def _naming(path: pathlib.Path) -> Iterator[None]:
    """Put the file's name before what is wrong with it."""
    try:
        yield
    except UserError as error:
        first, *others = error.args
        raise UserError(f"{path}: {first}", *others) from error


@contextlib.contextmanager
def _removed_on_failure(workdir: pathlib.Path) -> Iterator[None]:
    """Remove an unfinished run, which would be in the way of the next try."""
    was_there = workdir.exists()
    try:
        yield
    except BaseException:
        for path in [workdir / name for name in RUN_PATHS] if was_there else [workdir]:
            shutil.rmtree(path, ignore_errors=True)
        raise


def _require_room(workdir: pathlib.Path, n_bytes: int) -> None:
    """Try with a plain file first: Orbax's threads continue, and print much, on a full disk."""
    probe = workdir / "room.part"
    with writing_to(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(bytes(2 * n_bytes))
        finally:
            probe.unlink(missing_ok=True)


def _to_float32(variables) -> tuple[dict, str]:
    """Return variables in float32, as a run keeps them, and what rounding cost, in words."""
    with np.errstate(over="ignore", under="ignore"):
        narrow = jax.tree.map(lambda leaf: leaf.astype(np.float32), variables)
    for path, leaf in jax.tree_util.tree_leaves_with_path(narrow):
        if not np.all(np.isfinite(leaf)):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise UserError(f"{name} holds values beyond float32's range, {np.finfo('f4').max:g}")
    rows = precision.rounding(variables, narrow)
    for row in rows:
        if row.n_zero:
            raise UserError(
                f"{row.leaf}: {row.n_zero} values would become 0 in float32, whose smallest is "
                "1.4e-45; where 0 will do, save model.float().state_dict() instead"
            )
    dtypes = " and ".join(sorted({leaf.dtype.name for leaf in jax.tree.leaves(variables)}))
    largest = max(row.max_relative for row in rows)
    if largest:
        return narrow, f"{dtypes} rounded to float32, by up to {largest:.1e} of a value"
    return narrow, f"{dtypes} kept exactly in float32"


def _origin(path: pathlib.Path, part: str) -> dict:
    """Return what the checkpoint, and so `results.json`, says about its source."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "epoch": 0,
        "code_version": f"converted from {path.name} by {version.code_version()}",
        "converted_from": path.name,
        "part": part,
        "sha256": digest,
    }


def _unsaid(config, sources: Mapping[str, str]) -> list[str]:
    """Return a line on what no tensor contains, where nothing else says it either."""
    if config.model.name != "cp_mobile" or "model.strides" in sources:
        return []
    strides = config.model.get("strides", STRIDES)
    whose = "the baseline's" if strides == STRIDES else "the config's"
    told = (f"b{block} {pair}" for block, pair in enumerate(strides, 1) if pair != (1, 1))
    return [
        f"the strides are taken to be {whose}, {' and '.join(told)}: tensors do not contain them"
    ]


def _provenance(config, sources: Mapping[str, str], overrides: Mapping, name: str) -> list[str]:
    """Return a line for each value of network and front end, with its source."""
    rows = []
    for section in ("model", "features"):
        for key, value in config[section].items():
            key = f"{section}.{key}"
            fallback = "command line" if key in overrides else name
            rows.append((key, str(value), sources.get(key, fallback)))
    rows.append(("everything else", "", name))
    key_width, value_width = (max(len(row[column]) for row in rows) for column in range(2))
    return [f"  {k:<{key_width}}  {v:<{value_width}}  {source}" for k, v, source in rows]
