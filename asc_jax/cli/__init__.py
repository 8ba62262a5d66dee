"""What every command shares: flags, the config file, and errors a person can read.

Exit status: 0 done, 1 over budget (`asc_jax.cli.complexity`) or out of tolerance
(`asc_jax.cli.parity`), 2 wrong input (`error: …` on stderr), 3 another process of the run is
lost, 130 or 143 stopped by Ctrl-C or SIGTERM with everything saved, 141 nobody reads its output.
"""

import difflib
import errno
import functools
import logging
import os
import pathlib
import sys
from collections.abc import Callable, Sequence

from absl import app, flags
from absl import logging as absl_logging

from asc_jax.errors import Interrupted, UserError

flags.disclaim_key_flags()  # flags defined here are those of the command, and --help lists them

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Parse the flags, call `main(argv)` and end the process."""
    quiet()
    sys.path.insert(0, str(ROOT))  # configs import each other from the repository root
    try:
        app.run(
            lambda argv: _guarded(main, argv),
            argv=_absolute_config(sys.argv),
            flags_parser=_parse,
        )
    except UserError as error:
        _fail(error)


def define_config_flag() -> None:
    """`--config splits/5pct.py` and `--config.section.key=value`."""
    from ml_collections import config_flags

    config_flags.DEFINE_config_file(
        "config",
        None,
        "Config file: a path, or a name inside configs/. --config.section.key=value changes "
        "one of its values.",
        lock_config=True,
    )
    flags.declare_key_flag("config")


def read_config(name: str, overrides: Sequence[str]):
    """The config that `train.py --config NAME OVERRIDES` would run, flags of this process aside."""
    from ml_collections import config_flags

    argv, values = _absolute_config(["", f"--config={name}", *overrides]), flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, lock_config=True, flag_values=values, sys_argv=argv
    )
    _parse(argv, values)
    return values.config.copy_and_resolve_references()


def keep_compiled(workdir: str | os.PathLike) -> None:
    """Keep compiled programs beside the workdir, for its next start and for its siblings."""
    import jax

    if not jax.config.jax_compilation_cache_dir:  # JAX_COMPILATION_CACHE_DIR says otherwise
        folder = pathlib.Path(workdir).absolute().parent / ".jax_cache"
        jax.config.update("jax_compilation_cache_dir", str(folder))


def config_name(path: str) -> str:
    """`…/configs/splits/5pct.py` → `splits/5pct.py`; other files by their own name."""
    resolved = pathlib.Path(path).resolve()
    if resolved.is_relative_to(CONFIGS):
        return resolved.relative_to(CONFIGS).as_posix()
    return resolved.name


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
    """`asc_jax.distributed` where a command has started it, otherwise None."""
    return sys.modules.get("asc_jax.distributed")


def _parse(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parse flags; whatever is wrong with them becomes a `UserError`."""
    try:
        return values(list(argv))
    except SystemExit as stop:  # absl ends with 1 after --help, which is no error
        raise SystemExit(0) from stop
    except flags.Error as error:
        needs_config = "config" in values and values["config"].value is None
        hint = "--config comes first; " if needs_config and "'config." in str(error) else ""
        raise UserError(f"{error} ({hint}--help lists the flags)") from error
    except (AttributeError, KeyError) as error:  # an unknown key: the message names near misses
        raise UserError(_unknown_key(error, argv)) from error
    except RecursionError as error:  # absl looks for a flag of a similar name, letter by letter
        longest = max(argv, key=len)
        raise UserError(f"no flag is like {longest[:60]}… (--help lists the flags)") from error
    except (ImportError, NameError, SyntaxError) as error:
        raise UserError(f"the config file cannot be loaded: {error}") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"a --config.… value does not fit its key: {error}") from error


def _unknown_key(error: Exception, argv: Sequence[str]) -> str:
    """One line: the message, in which the config's own may be wrapped, and what was given."""
    message = error.args[0] if error.args else error
    while isinstance(message, Exception) and message.args:
        message = message.args[0]
    kind = "unknown config key: " if isinstance(error, KeyError) else ""
    given = [arg.split("=")[0].lstrip("-") for arg in argv if arg.startswith("--config.")]
    where = f"given: {', '.join(given)}" if given else "in the config file"
    line = ". ".join(str(message).splitlines())
    return f"{kind}{line} ({where}; the keys are in configs/base.py)"


def _absolute_config(argv: Sequence[str]) -> list[str]:
    """Turn the value of `--config` into a path that exists from wherever we are."""
    argv = list(argv)
    for index, arg in enumerate(argv):
        name, equals, value = arg.partition("=")
        if name not in ("--config", "-config"):
            continue
        if equals:
            argv[index] = f"{name}={_find_config(value)}"
        elif index + 1 < len(argv):
            argv[index + 1] = str(_find_config(argv[index + 1]))
    return argv


def _find_config(name: str) -> pathlib.Path:
    for candidate in (pathlib.Path(name), ROOT / name, CONFIGS / name):
        if candidate.is_file():
            return candidate.resolve()
    known = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.py"))
    near = difflib.get_close_matches(name.removeprefix("configs/"), known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"no config {name!r}: {hint}Known: {', '.join(known)}")
