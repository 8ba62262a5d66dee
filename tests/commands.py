"""Verbs of `asc-jax` in the process of the tests, and other processes.

One of its own takes seconds to start.
"""

import contextlib
import io
import logging
import os
import signal
import subprocess
import sys
import warnings
from unittest import mock

from absl import flags
from absl import logging as absl_logging

from asc_jax import cli
from asc_jax.machine import huge_pages

HANGS_S = 540  # a process that takes longer hangs; pytest ends a test soon after


def call(*words, cwd, stdin=b"") -> subprocess.CompletedProcess:
    """Return what `asc-jax WORDS` prints in a folder, and the status it ends with.

    For what depends on a command line alone. A signal, a full disk, a missing package, exact
    bits of a training and what is imported need a process.

    Args:
      words: the verb and its arguments.
      cwd: folder that it is called from.
      stdin: bytes on its standard input.
    """
    streams = [io.TextIOWrapper(io.BytesIO(data), "utf-8") for data in (stdin, b"", b"")]
    status = 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(_as_before())
        stack.enter_context(contextlib.chdir(cwd))
        for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
            stack.enter_context(mock.patch.object(sys, name, stream))
        stack.enter_context(mock.patch.object(sys, "argv", ["asc-jax", *map(str, words)]))
        stack.enter_context(mock.patch.object(huge_pages, "start_again"))
        stack.enter_context(warnings.catch_warnings())
        # ml_collections loads config files that way.
        warnings.filterwarnings("ignore", "the load_module", DeprecationWarning)
        try:
            cli.main()
        except SystemExit as end:
            status = end.code or 0
    out, err = (stream.buffer.getvalue().decode() for stream in map(_flushed, streams[1:]))
    return subprocess.CompletedProcess(words, status, out, err)


def _flushed(stream):
    stream.flush()
    return stream


@contextlib.contextmanager
def started(command, **options):
    """Start a process with pipes; at the end it is killed if it still runs, and waited for.

    It can wait for a test by reading its standard input, which ends when the test does.
    """
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = list(map(str, command))
    with subprocess.Popen(command, **{**pipes, "text": True, **options}) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def _as_before():
    """Undo what a verb leaves in its process: flags, handlers, paths, modules of the configs."""
    known, paths = {*flags.FLAGS}, list(sys.path)
    log, hook, verbosity = (
        logging.getLogger("asc_jax"),
        sys.unraisablehook,
        absl_logging.get_verbosity(),
    )
    handlers, propagate, log.handlers = log.handlers, log.propagate, []
    root, asyncio_level = list(logging.root.handlers), logging.getLogger("asyncio").level
    stop = signal.getsignal(signal.SIGTERM)
    configs = {name: sys.modules.get(name) for name in _config_modules()}
    environment = dict(os.environ)
    try:
        yield
    finally:
        for name in {*flags.FLAGS} - known:
            if not name.startswith("grain_"):  # array_record's, read for as long as it is imported
                delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()
        sys.path[:], sys.unraisablehook = paths, hook
        log.handlers, log.propagate = handlers, propagate
        logging.root.handlers[:] = root
        logging.getLogger("asyncio").setLevel(asyncio_level)
        absl_logging.set_verbosity(verbosity)
        signal.signal(signal.SIGTERM, stop)
        for name in _config_modules():
            del sys.modules[name]
        sys.modules.update(configs)
        for words in _words_of_campaigns():
            words.clear()
        os.environ.clear()
        os.environ.update(environment)


def _words_of_campaigns() -> list[list[str]]:
    """The lists in which verbs that start runs keep what the command line says of their configs."""
    names = [f"asc_jax.cli.{verb}" for verb in ("table1", "crossval", "distil")]
    modules = [sys.modules[name] for name in names if name in sys.modules]
    lists = ("OVERRIDES", "OF_SECOND", "OF_STUDENT", "OF_TEACHERS")
    return [getattr(module, name) for module in modules for name in lists if hasattr(module, name)]


def _config_modules() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] == "configs"]
