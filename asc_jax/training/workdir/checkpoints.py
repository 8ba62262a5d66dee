"""Save and restore: the only module that imports Orbax.

A workdir holds `checkpoints/<step>/`, and `config.json` (`run_config`). Every checkpoint carries
a digest of its arrays and a seal over all else it says, so that a damaged one is noticed; the run
that is resumed then moves it to `damaged/` and uses the one before it.
"""

import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
from collections.abc import Callable

import jax
import numpy as np
import orbax.checkpoint as ocp

from asc_jax.errors import UserError
from asc_jax.machine import files

STATE_LAYOUT = 2  # the first, that of version 0.1.0, is not written into its checkpoints
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
        files.require_utf8(workdir)
        with files.writing_to(workdir):
            self.directory.mkdir(parents=True, exist_ok=True)
        try:
            self._manager = ocp.CheckpointManager(self.directory, options=options)
        except OSError as error:
            words = files.system_words(error) or files.reason(error)
            raise UserError(f"{self.directory} cannot be read: {words}") from error

    def save(self, step: int, state, extra: dict | None = None) -> None:
        """Save a pytree of arrays under `step`; what already stands there is kept."""
        if step in self._manager.all_steps():
            return
        arrays = jax.tree.map(np.asarray, state)
        extra = {**(extra or {}), "state_layout": STATE_LAYOUT}
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
            cause = _cause(error)
            raise UserError(
                f"checkpoint {step} could not be written to {self.directory}: "
                f"{cause.strerror or cause}; {files.what_to_do(cause)}choose another --workdir"
            ) from error

    def restore(
        self, like, *, mend: bool = False, older: Callable | None = None
    ) -> tuple[object, dict, int] | None:
        """Return the newest sound checkpoint, `(state, extra, step)`, or None if there is none.

        Args:
          like: a state of the wanted structure, shapes and dtypes.
          older: for checkpoints of the first layout, `like -> (like, convert)`: the structure that
            they have, and the function that makes a state of today's structure of it.
          mend: for the process that will save here, and for it alone: move damaged checkpoints
            newer than the good one to `damaged/`, and remove what a killed process left half
            written.

        Raises:
          UserError: there are checkpoints and none is good, or the system does not let them be
            read; they are left where they are.
        """
        if mend:
            self._remove_unfinished()
        steps = sorted(self._manager.all_steps(), reverse=True)
        damaged = []
        for step in steps:
            try:
                state, meta = self._read(step, like, older)
            except MemoryError:
                raise
            except Exception as error:  # whatever a damaged file makes the reader raise
                if words := files.system_words(error):
                    raise UserError(
                        f"the checkpoint {self.directory}/{step} cannot be read: {words}"
                    ) from error
                if other := self._difference(step, like, older):
                    raise UserError(
                        f"the checkpoint {self.directory}/{step} holds other arrays than this "
                        f"network: {other}. Nothing of it is lost: it needs the code, the config "
                        "and the JAX_… variables that it was written with"
                    ) from error
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
                f"none of the {len(steps)} checkpoints in {self.directory} is sound ({reason}): "
                "put back a copy of the folder if there is one, otherwise train again in a new "
                "--workdir"
            )
        return None

    def newest_extra(self) -> dict | None:
        """Return the metadata of the newest checkpoint; None if there is none.

        Raises:
          UserError: it cannot be read.
        """
        newest = self._newest()
        return newest and newest[0]

    def newest_digest(self) -> str | None:
        """Return the sha256 that the newest checkpoint has of its arrays; None if there is none.

        Raises:
          UserError: it cannot be read.
        """
        newest = self._newest()
        return newest and newest[1]

    def _newest(self) -> tuple[dict, str] | None:
        step = self._manager.latest_step()
        if step is None:
            return None
        try:
            return _checked(self._meta(step), step)
        except Exception as error:  # as in `restore`
            raise UserError(
                f"{self.directory}/{step} is damaged: remove {self.directory} to continue "
                "without it, or train again in a new --workdir"
            ) from error

    def latest_step(self) -> int | None:
        """Step of the newest checkpoint, good or not."""
        return self._manager.latest_step()

    def close(self) -> None:
        self._manager.close()

    def _read(self, step: int, like, older: Callable | None):
        like, convert = self._layout(step, like, older)
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
        state = restored["state"]
        return (convert(state) if convert else state), extra

    def _layout(self, step: int, like, older: Callable | None):
        """Return `(like, convert)` of a checkpoint's layout; None: it needs no conversion."""
        if older is not None and self._meta(step).get("state_layout", 1) == 1:
            return older(like)
        return like, None

    def _difference(self, step: int, like, older: Callable | None) -> str | None:
        """Return how a checkpoint that can be read differs from a state; None for other ones."""
        try:
            _checked(self._meta(step), step)
            like, _ = self._layout(step, like, older)
            args = ocp.args.Composite(state=ocp.args.StandardRestore())
            there = _by_name(self._manager.restore(step, args=args)["state"])
        except Exception:  # damaged
            return None
        here = _by_name(like)
        for name in sorted(there.keys() | here.keys()):
            if there.get(name) != here.get(name):
                absent = "nothing"
                return f"{name} is {there.get(name, absent)} there, {here.get(name, absent)} here"
        return None

    def _meta(self, step: int) -> dict:
        """Return the metadata of a checkpoint, unchecked."""
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return self._manager.restore(step, args=args)["meta"]

    def _put_aside(self, steps: list[int]) -> None:
        """Move checkpoints out of the way of the run, which will save these steps again."""
        workdir = self.directory.parent
        with files.writing_to(workdir):
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


def _cause(error: Exception) -> OSError:
    """Return the system's error, which Orbax wraps into names of its own files."""
    found = re.search(r"os_error_code='(\d+)'", str(error))
    if found:
        return OSError(int(found[1]), os.strerror(int(found[1])))
    return error if isinstance(error, OSError) else OSError(str(error))


def digest(tree) -> str:
    """Return the sha256 over names, shapes, dtypes and bytes of a pytree's leaves."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        head = f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}"
        sha.update(head.encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def _alone() -> ocp.options.MultiprocessingOptions:
    """Return options by which Orbax waits for no other process: one writes and reads for all."""
    if not jax.distributed.is_initialized():
        return ocp.options.MultiprocessingOptions()
    own = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process{own}"
    )


def _by_name(tree) -> dict[str, str]:
    """`{"params.b1.kernel": "float32 (3, 3)"}` of a state, or of the plain dicts Orbax reads."""
    return {
        re.sub(r"\['([^']*)'\]", r".\1", jax.tree_util.keystr(path)).lstrip("."): (
            f"{leaf.dtype} {tuple(leaf.shape)}"
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _shapes(tree) -> list:
    return [(np.shape(leaf), leaf.dtype) for leaf in jax.tree.leaves(tree)]


def _seal(extra: dict, step: int, expected: str) -> str:
    """Return the sha256 over the metadata of a checkpoint, its step and its arrays' digest."""
    content = json.dumps([step, extra, expected], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _checked(meta: dict, step: int) -> tuple[dict, str]:
    """Return the metadata of a checkpoint, and the digest of its arrays."""
    extra = dict(meta)
    expected, *seal = extra.pop("digest").split(" ")  # older ones have no seal
    if len(expected) != 64 or seal not in ([], [_seal(extra, step, expected)]):
        raise ValueError("what it says of itself does not match its seal")
    extra.pop("state_layout", None)
    return extra, expected
