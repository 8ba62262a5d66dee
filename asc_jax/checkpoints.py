"""Save and restore, with the config and the code version beside: only here is Orbax named.

A workdir holds `config.json` (the config and what made it) and `checkpoints/<step>/`. Every
checkpoint carries a digest of its arrays, so that a damaged one is noticed; it is then moved
to `damaged/` and the one before it is used.
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import pathlib
import shutil
import subprocess

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp

import asc_jax
from asc_jax.errors import UserError

log = logging.getLogger("asc_jax")


class Checkpoints:
    """The checkpoints of one workdir.

    Args:
      workdir: made if it is not there.
      keep: how many of the newest to keep.
      name: folder inside the workdir.
    """

    def __init__(self, workdir: str | os.PathLike, *, keep: int = 2, name: str = "checkpoints"):
        self.directory = pathlib.Path(workdir).absolute() / name
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=False, create=True
        )
        with writing_to(workdir):
            self._manager = ocp.CheckpointManager(self.directory, options=options)

    def save(self, step: int, state, extra: dict | None = None) -> None:
        """Save a pytree of arrays under `step`; what already stands there is kept."""
        if step in self._manager.all_steps():
            return
        arrays = jax.tree.map(np.asarray, state)
        meta = {"digest": digest(arrays), **(extra or {})}
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(arrays), meta=ocp.args.JsonSave(meta)
                ),
            )
        except (OSError, ValueError) as error:
            raise UserError(
                f"checkpoint {step} could not be written to {self.directory}: {error}"
            ) from error

    def restore(self, like) -> tuple[object, dict, int] | None:
        """The newest good checkpoint: `(state, extra, step)`, or None if there is none.

        Args:
          like: a state of the wanted structure, shapes and dtypes.

        Raises:
          UserError: there are checkpoints and none is good; they are left where they are.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        damaged = []
        for step in steps:
            try:
                state, meta = self._read(step, like)
            except Exception as error:  # whatever a damaged file makes the reader raise
                reason = str(error).splitlines()[0][:200] if str(error) else repr(error)
                log.warning("the checkpoint of step %d is damaged (%s)", step, reason)
                damaged.append(step)
                continue
            if damaged:
                self._put_aside(damaged)
                log.warning("going back to the checkpoint of step %d", step)
            return state, meta, step
        if steps:
            raise UserError(
                f"none of the {len(steps)} checkpoints in {self.directory} can be read. Train "
                "again in a new --workdir"
            )
        return None

    def latest_step(self) -> int | None:
        """Step of the newest checkpoint, good or not."""
        return self._manager.latest_step()

    def close(self) -> None:
        self._manager.close()

    def _read(self, step: int, like):
        template = jax.tree.map(lambda x: np.zeros(np.shape(x), x.dtype), like)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(template), meta=ocp.args.JsonRestore()
            ),
        )
        meta = dict(restored["meta"])
        if digest(restored["state"]) != meta.pop("digest"):
            raise ValueError("its arrays do not match their digest")
        if _shapes(restored["state"]) != _shapes(template):  # Orbax gives what it finds
            raise ValueError("its arrays are of other shapes or types than this program's")
        return restored["state"], meta

    def _put_aside(self, steps: list[int]) -> None:
        """Out of the way of the run, which will save these steps again."""
        workdir = self.directory.parent
        with writing_to(workdir):
            for step in steps:
                target = workdir / "damaged" / f"{self.directory.name}-{step}"
                target.parent.mkdir(exist_ok=True)
                shutil.rmtree(target, ignore_errors=True)
                shutil.move(self.directory / str(step), target)
        self._manager.reload()


def digest(tree) -> str:
    """sha256 over names, shapes, dtypes and bytes of a pytree's leaves."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        head = f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}"
        sha.update(head.encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def _shapes(tree) -> list:
    return [(np.shape(leaf), leaf.dtype) for leaf in jax.tree.leaves(tree)]


@functools.cache
def code_version() -> str:
    """Package version, with the commit when the code lies in a git checkout."""
    root = pathlib.Path(asc_jax.__file__).parent.parent
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return asc_jax.__version__
    commit = described.stdout.strip()
    return f"{asc_jax.__version__}+{commit}" if commit else asc_jax.__version__


def save_config(
    workdir: str | os.PathLike,
    name: str,
    config: ml_collections.ConfigDict,
    *,
    over_budget: bool = False,
) -> None:
    """Write `config.json`, or hold a run that goes on against the one already there.

    Args:
      workdir: made if it is not there.
      name: of the config.
      config: of the run.
      over_budget: the verdict on its network, to be stamped into the file.

    Raises:
      UserError: the workdir belongs to a run with another config (the differing values are
        named), or cannot be written.
    """
    path = pathlib.Path(workdir) / "config.json"
    if path.exists():
        check_config(workdir, config)
        return
    content = {
        "name": name,
        "code_version": code_version(),
        "jax_version": jax.__version__,
        "over_budget": over_budget,
        "config": config.to_dict(),
    }
    with writing_to(workdir):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(content, indent=1) + "\n")


def check_config(
    workdir: str | os.PathLike, config: ml_collections.ConfigDict, *, flag: str = "--workdir"
) -> None:
    """Hold the config of the run in a workdir against another.

    Args:
      workdir: of a run.
      config: what would be run now.
      flag: the command's flag that chooses the workdir.

    Raises:
      UserError: they differ (the values are named), or the run's cannot be read.
    """
    differing = _differences(load_config(workdir)[1].to_dict(), config.to_dict())
    if differing:
        raise UserError(
            f"{workdir} belongs to a run with another config: {'; '.join(differing)}. "
            f"Choose another {flag}, or go on with the config it was started with"
        )


def load_config(workdir: str | os.PathLike) -> tuple[str, ml_collections.ConfigDict]:
    """Name and config of the run in a workdir.

    Raises:
      UserError: there is no run, or its config cannot be read.
    """
    path = pathlib.Path(workdir) / "config.json"
    try:
        content = json.loads(path.read_text())
        return content["name"], ml_collections.ConfigDict(content["config"]).lock()
    except FileNotFoundError as error:
        raise UserError(
            f"no run in {workdir}: {path.name} is missing. Train first: "
            f"python train.py --config splits/5pct.py --workdir {workdir}"
        ) from error
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


@contextlib.contextmanager
def writing_to(workdir: str | os.PathLike):
    """What goes wrong while a workdir is written becomes a `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write to the workdir {workdir}: {error.strerror or error}; free some "
            "space, or choose another --workdir"
        ) from error


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
    """Write a whole file or nothing of it."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(part, path)


def _differences(saved: dict, given: dict, prefix: str = "config") -> list[str]:
    """`config.optim.peak_lr was 0.005, now 0.01` for every value that differs."""
    out = []
    for key in sorted(set(saved) | set(given)):
        old, new = saved.get(key), given.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            out += _differences(old, new, f"{prefix}.{key}")
        elif old != new:
            out.append(f"{prefix}.{key} was {old!r}, now {new!r}")
    return out
