"""A folder as a kill at any moment would leave it, without a process to kill.

A kill changes no file: what it leaves is what the folder holds at that moment. The moments are
those before each opening, making, renaming and removing of a file in the folder by Python.
"""

import contextlib
import functools
import os
import pathlib
import shutil
import sys

_EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")
_watching = []  # audit hooks stay for good: one, that asks what there is to do


def _hook(event, args):
    if _watching and event in _EVENTS:
        for one in _watching:
            one.saw(event, args)


@functools.cache
def _install() -> None:
    sys.addaudithook(_hook)


class _Moments:
    """Counts; copies the folder at the moment of a number."""

    def __init__(self, folder, number, copy):
        self.folder, self.number, self.copy, self.n = os.fspath(folder), number, copy, 0
        self.busy = False

    def saw(self, event, args) -> None:
        reads = event == "open" and not (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if self.busy or reads or not isinstance(args[0], str | os.PathLike):
            return
        if not os.path.abspath(os.fspath(args[0])).startswith(self.folder):
            return
        self.n += 1
        if self.n - 1 == self.number:
            self.busy = True
            with contextlib.suppress(shutil.Error):  # a file that goes meanwhile
                shutil.copytree(self.folder, self.copy, dirs_exist_ok=True)
            self.busy = False


@contextlib.contextmanager
def watched(folder: pathlib.Path, number: int = -1, copy: pathlib.Path | None = None):
    """Copy a folder to `copy` at the moment of a number; `.n` says how many there were."""
    _install()
    moments = _Moments(pathlib.Path(folder).absolute(), number, copy)
    _watching.append(moments)
    try:
        yield moments
    finally:
        _watching.remove(moments)


_counted = {}


def count(home, what: str, start: pathlib.Path | None, go) -> int:
    """How many moments `go(folder)` has, in a copy of `start` or in a new folder; counted once."""
    if what not in _counted:
        folder = home.folder / f"counted-{what}"
        if start is not None:
            shutil.copytree(start, folder)
        with watched(folder) as seen:
            go(folder).require_done()
        _counted[what] = seen.n
    return _counted[what]
