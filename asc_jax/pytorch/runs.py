"""A PyTorch file → a run that can be evaluated and trained on, and a run → a PyTorch file."""

import contextlib
import hashlib
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping

import jax
import ml_collections
import numpy as np

from asc_jax import experiment
from asc_jax.errors import UserError
from asc_jax.evaluation import evaluate
from asc_jax.machine import files, version
from asc_jax.models import precision
from asc_jax.pytorch import config as torch_config
from asc_jax.pytorch import files as torch_files
from asc_jax.pytorch import weights
from asc_jax.pytorch.layout import counter_names
from asc_jax.training.workdir import checkpoints, run_config

RUN = ("config.json", "checkpoints")  # what makes a workdir a run


def run_from_torch(
    path: str | os.PathLike,
    workdir: str | os.PathLike,
    *,
    name: str | None = None,
    config: ml_collections.ConfigDict | None = None,
    overrides: Mapping[str, object] | None = None,
) -> list[str]:
    """Make a run, before its first step, of a PyTorch file.

    Args:
      path: state dict or Lightning checkpoint.
      workdir: of the new run; must not hold one.
      name: of `config`; None: base.py, provided that the file tells its hop_length.
      config: for what the file does not tell.
      overrides: keys of `config` that were given explicitly, with their values.

    Returns:
      Lines for a person: what was read, each value of network and front end and where it comes
      from.

    Raises:
      UserError: the file or the workdir will not do, or the network is over budget. Nothing
        is left behind then.
    """
    workdir, path, overrides = pathlib.Path(workdir), pathlib.Path(path), overrides or {}
    for part in RUN:
        if (workdir / part).exists():
            raise UserError(f"{workdir} already holds a run ({part}): choose another --workdir")
    file = torch_files.read(path)
    variables, rounding = _to_float32(weights.from_torch(file.state_dict))
    config, sources = torch_config.infer(file, config or _base_config(), overrides)
    if name is None and "features.hop_length" not in sources:
        raise UserError(
            f"{path} does not tell its hop_length: pass --config base.py for the baseline's 500, "
            "--config splits/5pct.py for the report's 472, or after either "
            "--config.features.hop_length=N"
        )
    name = name or "base.py"
    parts = experiment.make(config)
    torch_config.check_front_end(file, config.features)
    extra = _origin(path) | {
        "over_budget": not parts.within_budget,
        "batch_counters": weights.read_counters(file.state_dict),
    }
    state = parts.new_state(variables, parts.tx(1))
    with _whole_or_nothing(workdir):
        _require_room(workdir, precision.tree_bytes(state)["total"])
        with contextlib.closing(checkpoints.Checkpoints(workdir)) as manager:
            manager.save(0, state, extra)
        run_config.save(workdir, name, config, over_budget=not parts.within_budget)
    head = f"{path} → {workdir}: {parts.cost['n_params']:,} parameters, {rounding}"
    return [head, *_provenance(config, sources, overrides, name)]


def run_to_torch(
    workdir: str | os.PathLike,
    path: str | os.PathLike,
    *,
    checkpoint: str = "last",
    dtype: str = "float32",
) -> list[str]:
    """Write a run's state dict for the baseline's own `load_state_dict(…, strict=True)`.

    Args:
      workdir: of a run.
      path: file to write; must not be there.
      checkpoint: "last" or "best".
      dtype: "float32" or "float16".

    Returns:
      Lines for a person.

    Raises:
      UserError: there is no such run, the file cannot be written, the network is over budget, or
        a value overflows float16.
    """
    if pathlib.Path(path).exists():
        raise UserError(f"{path} is already there: choose another name")
    parts = experiment.make(run_config.load(workdir)[1])
    folder = "best" if checkpoint == "best" else "checkpoints"
    state, extra, step = evaluate.restore(parts, workdir, name=folder)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    before = extra.get("batch_counters", {})
    counters = {name: before.get(name, 0) + step for name in counter_names()}
    tensors = weights.to_torch(precision.cast(variables, dtype), counters)
    torch_files.write_state_dict(path, tensors)
    over = "" if parts.within_budget else "; OVER BUDGET"
    return [f"{workdir}, step {step:,} → {path}: {len(tensors)} tensors in {dtype}{over}"]


def _base_config():
    from configs import base

    return base.get_config()


@contextlib.contextmanager
def _whole_or_nothing(workdir: pathlib.Path) -> Iterator[None]:
    """Take a run that was not finished away again: it would be in the way of the next try."""
    was_there = workdir.exists()
    try:
        yield
    except BaseException:
        for path in [workdir / part for part in RUN] if was_there else [workdir]:
            shutil.rmtree(path, ignore_errors=True)
        raise


def _require_room(workdir: pathlib.Path, n_bytes: int) -> None:
    """Orbax's threads go on, and say much, where a disk is full: try with a plain file first."""
    probe = workdir / "room.part"
    with files.writing_to(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(bytes(2 * n_bytes))
        finally:
            probe.unlink(missing_ok=True)


def _to_float32(variables) -> tuple[dict, str]:
    """Variables as a run keeps them, and what that cost in words."""
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


def _origin(path: pathlib.Path) -> dict:
    """What the checkpoint, and so `results.json`, says of where it comes from."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "epoch": 0,
        "code_version": f"converted from {path.name} by {version.code_version()}",
        "converted_from": path.name,
        "sha256": digest,
    }


def _provenance(config, sources: Mapping[str, str], overrides: Mapping, name: str) -> list[str]:
    """A line for each value of network and front end, and where it comes from."""
    rows = []
    for section in ("model", "features"):
        for key, value in config[section].items():
            key = f"{section}.{key}"
            given = "command line" if key in overrides else name
            rows.append((key, str(value), sources.get(key, given)))
    rows.append(("everything else", "", name))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return [f"  {a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in rows]
