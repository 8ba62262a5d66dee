"""Save and restore, with the config and the code version beside: only here is Orbax named.

A workdir holds `config.json` (the config and what made it) and `checkpoints/<step>/`. Every
checkpoint carries a digest of its arrays and a seal over all else it says, so that a damaged one
is noticed; the run that goes on then moves it to `damaged/` and uses the one before it.
"""

import contextlib
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp

from asc_jax import json_object
from asc_jax.errors import UserError
from asc_jax.files import write_atomically
from asc_jax.version import code_version

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
            max_to_keep=keep,
            enable_async_checkpointing=False,
            create=False,
            multiprocessing_options=_alone(),
        )
        with writing_to(workdir):
            self.directory.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(self.directory, options=options)

    def save(self, step: int, state, extra: dict | None = None) -> None:
        """Save a pytree of arrays under `step`; what already stands there is kept."""
        if step in self._manager.all_steps():
            return
        arrays = jax.tree.map(np.asarray, state)
        extra = extra or {}
        expected = digest(arrays)
        meta = {**extra, "digest": f"{expected} {_seal(extra, step, expected)}"}
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(arrays), meta=ocp.args.JsonSave(meta)
                ),
            )
        except (OSError, ValueError) as error:
            raise UserError(
                f"checkpoint {step} could not be written to {self.directory}: {_cause(error)}; "
                "free some space, or choose another --workdir"
            ) from error

    def restore(self, like, *, mend: bool = False) -> tuple[object, dict, int] | None:
        """The newest good checkpoint: `(state, extra, step)`, or None if there is none.

        Args:
          like: a state of the wanted structure, shapes and dtypes.
          mend: for the process that will save here, and for it alone: move damaged checkpoints
            newer than the good one to `damaged/`, and remove what a killed process left half
            written.

        Raises:
          UserError: there are checkpoints and none is good; they are left where they are.
        """
        if mend:
            self._remove_unfinished()
        steps = sorted(self._manager.all_steps(), reverse=True)
        damaged = []
        for step in steps:
            try:
                state, meta = self._read(step, like)
            except MemoryError:
                raise
            except Exception as error:  # whatever a damaged file makes the reader raise
                reason = str(error).splitlines()[0][:200] if str(error) else repr(error)
                log.warning("the checkpoint of step %d is damaged (%s)", step, reason)
                damaged.append(step)
                continue
            if damaged:
                if mend:
                    self._put_aside(damaged)
                log.warning("going back to the checkpoint of step %d", step)
            return state, meta, step
        if steps:
            raise UserError(
                f"none of the {len(steps)} checkpoints in {self.directory} can be read. Train "
                "again in a new --workdir"
            )
        return None

    def newest_extra(self) -> dict | None:
        """What the newest checkpoint says of itself; None if there is none.

        Raises:
          UserError: it cannot be read.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        try:
            return _checked(
                self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))[
                    "meta"
                ],
                step,
            )[0]
        except Exception as error:  # as in `restore`
            raise UserError(
                f"{self.directory}/{step} is damaged: remove {self.directory} to go on without "
                "it, or train again in a new --workdir"
            ) from error

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
        extra, expected = _checked(restored["meta"], step)
        if digest(restored["state"]) != expected:
            raise ValueError("its arrays do not match their digest")
        if _shapes(restored["state"]) != _shapes(template):  # Orbax gives what it finds
            raise ValueError("its arrays are of other shapes or types than this program's")
        return restored["state"], extra

    def _put_aside(self, steps: list[int]) -> None:
        """Out of the way of the run, which will save these steps again."""
        workdir = self.directory.parent
        with writing_to(workdir):
            for step in steps:
                target = workdir / "damaged" / f"{self.directory.name}-{step}"
                target.parent.mkdir(exist_ok=True)
                while target.exists():  # nothing is thrown away
                    target = target.with_name(target.name + "+")
                shutil.move(self.directory / str(step), target)
        self._manager.reload()

    def _remove_unfinished(self) -> None:
        """A process killed while it saved leaves a folder that Orbax never looks at again."""
        for path in self.directory.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(path, ignore_errors=True)


def _cause(error: Exception) -> str:
    """What the system said, where Orbax wraps it into names of its own files."""
    found = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(found[1])) if found else str(error)


def digest(tree) -> str:
    """sha256 over names, shapes, dtypes and bytes of a pytree's leaves."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        head = f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}"
        sha.update(head.encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def _alone() -> ocp.options.MultiprocessingOptions:
    """Orbax must not wait for other processes: one of them writes and reads for all."""
    if not jax.distributed.is_initialized():
        return ocp.options.MultiprocessingOptions()
    own = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process{own}"
    )


def _shapes(tree) -> list:
    return [(np.shape(leaf), leaf.dtype) for leaf in jax.tree.leaves(tree)]


def _seal(extra: dict, step: int, expected: str) -> str:
    """sha256 over what a checkpoint says of itself, its step and its arrays' digest."""
    content = json.dumps([step, extra, expected], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _checked(meta: dict, step: int) -> tuple[dict, str]:
    """What a checkpoint says of itself, and the digest of its arrays."""
    extra = dict(meta)
    expected, *seal = extra.pop("digest").split(" ")  # older ones have no seal
    if len(expected) != 64 or seal not in ([], [_seal(extra, step, expected)]):
        raise ValueError("what it says of itself does not match its seal")
    return extra, expected


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
        "sha256": _config_sum(config.to_dict()),
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
    hold_against(load_config(workdir)[1].to_dict(), config, workdir, flag=flag)


def hold_against(
    saved: dict,
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike,
    *,
    flag: str = "--workdir",
) -> None:
    """`check_config` for a saved config that is at hand, such as a checkpoint's own."""
    differing = _differences(_completed(saved), config.to_dict())
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
        content = json_object.parse(path.read_text("utf-8"))
        saved = content["config"]
        if content.get("sha256", _config_sum(saved)) != _config_sum(saved):  # older ones have none
            raise ValueError(
                "its config is not the one it was written with. Put back the values the run was "
                "started with, or train in a new --workdir"
            )
        return content["name"], ml_collections.ConfigDict(_completed(saved)).lock()
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


def _completed(saved: dict) -> dict:
    """A saved config with the keys that did not exist when it was saved."""
    added = {"data": {"validation_locations": 0.0}, "train": {"resident": "auto", "n_seeds": 1}}
    return saved | {section: values | saved[section] for section, values in added.items()}


def _config_sum(config: dict) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


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
