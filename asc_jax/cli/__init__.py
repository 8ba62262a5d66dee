"""How every command starts and ends: flags parsed, errors that a person can read, an exit status.

Exit status: 0 done, 1 over budget (`asc_jax.cli.complexity`) or out of tolerance
(`asc_jax.cli.parity`), 2 wrong input (`error: …` on stderr), 3 another process of the run is
lost, 130 or 143 stopped by Ctrl-C or SIGTERM with everything saved, 141 nobody reads its output.
"""

import errno
import functools
import logging
import os
import pathlib
import sys
from collections.abc import Callable, Sequence

from absl import app
from absl import logging as absl_logging

from asc_jax.cli.config_flag import ROOT, absolute_config, parse
from asc_jax.errors import Interrupted, UserError


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Parse the flags, call `main(argv)` and end the process."""
    quiet()
    sys.path.insert(0, str(ROOT))  # configs import each other from the repository root
    try:
        app.run(
            lambda argv: _guarded(main, argv),
            argv=absolute_config(sys.argv),
            flags_parser=parse,
        )
    except UserError as error:
        _fail(error)


def keep_compiled(workdir: str | os.PathLike) -> None:
    """Keep compiled programs beside the workdir, for its next start and for its siblings."""
    import jax

    if not jax.config.jax_compilation_cache_dir:  # JAX_COMPILATION_CACHE_DIR says otherwise
        folder = pathlib.Path(workdir).absolute().parent / ".jax_cache"
        jax.config.update("jax_compilation_cache_dir", str(folder))


def quiet() -> None:
    """Warnings of our own and of Orbax reach a person as one line; chatter does not."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    absl_logging.set_verbosity(absl_logging.FATAL)  # Orbax logs tracebacks of what it raises too
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # and so does what it is built on
    if getattr(sys.unraisablehook, "func", None) is not _report_unless_late:
        sys.unraisablehook = functools.partial(_report_unless_late, sys.unraisablehook)
    log = logging.getLogger("asc_jax")
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        log.addHandler(handler)
        log.propagate = False


def _report_unless_late(report: Callable, unraisable) -> None:
    """Reads that TensorStore goes on with when one has failed find nobody to report to."""
    if str(unraisable.exc_value) != "Event loop is closed":
        report(unraisable)


def _guarded(main, argv) -> None:
    try:
        main(argv)
        if sys.stdout is not None:  # closed
            sys.stdout.flush()
    except UserError as error:
        _fail(error)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + stop.signal_number)
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        _end(130)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.ENOSPC):
            _end_if_output_failed()
        message = _several() and _several().lost_process(error)
        if not message:
            raise
        print(f"error: {message}", file=sys.stderr)
        _end(_several().LOST)


def _end_if_output_failed() -> None:
    """End if standard output is what failed: a line more then fails as well."""
    try:
        print(flush=True)
        return
    except OSError as error:
        failed = error
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or it fails at the end too
    if failed.errno != errno.EPIPE:
        _fail(UserError(f"cannot write to standard output: {failed.strerror}"))
    # Whoever read our lines has had enough, as `head` does.
    print(
        "stopped: nobody reads standard output; run the same command again to go on",
        file=sys.stderr,
    )
    _end(141)


def _fail(error: Exception) -> None:
    print(f"error: {error}", file=sys.stderr)
    _end(2)


def _end(status: int) -> None:
    """Exit; one process of several does so without waiting for the others."""
    if _several():
        _several().leave(status)
    sys.exit(status)


def _several():
    """`asc_jax.machine.process_exit` where a command has loaded it, otherwise None."""
    return sys.modules.get("asc_jax.machine.process_exit")
