"""The command `asc-jax`: its verbs, its help, and how each verb starts and ends.

Exit status: 0 done, 1 over budget (`complexity`), out of tolerance (`parity`) or some runs failed
(`table1`, `crossval`, `distil`), 2 wrong input, or a machine that lacks something (`error: …` on
stderr), 3 another process of the run is lost, 128 + its number stopped by a signal with everything
saved (130 by Ctrl-C, 143 by SIGTERM), 141 nobody reads its output any more.
"""

import difflib
import errno
import functools
import importlib
import logging
import os
import pathlib
import re
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Collection, Sequence

from absl import flags
from absl import logging as absl_logging

import asc_jax
from asc_jax.cli.config_flag import absolute_config, make_configs_importable, parse
from asc_jax.errors import Interrupted, UserError
from asc_jax.machine import (
    environment,
    huge_pages,
    optional_packages,
    signals,
    system_errors,
)

VERBS = (  # each is a module of this folder
    *("train", "eval", "predict", "logits", "prepare-data", "synthesize", "complexity"),
    *("config", "convert", "parity", "table1", "crossval", "distil", "compare", "submission"),
)
STOPPED = "stopped; what was there before still is: run the same command again to continue"
SEND_AGAIN_S = 0.05  # after a signal that came where nothing can be raised
OVERVIEW = """\
usage: asc-jax VERB [options]
       asc-jax VERB --help, or asc-jax help VERB

Acoustic scene classification with little data on a small model.

verbs:
{}

A flag takes its value as --name VALUE or --name=VALUE; --name and --noname switch one on and off.

examples:
  asc-jax complexity --config splits/5pct.py
  asc-jax train --config splits/5pct.py --workdir runs/5pct
  asc-jax eval --workdir runs/5pct
  asc-jax predict clip.wav --workdir runs/5pct

exit status: 0 done, 2 wrong input, others as each verb says
"""


def main(verb: str | None = None) -> None:
    """Run the command line of `asc-jax`, or of the one verb that a script stands for."""
    _guarded(functools.partial(_dispatch, sys.argv[1:] if verb is None else [verb, *sys.argv[1:]]))


def _dispatch(words: Sequence[str]) -> None:
    environment.settle()
    verb, *words = words or ["--help"]
    if verb == "help" and words:
        verb, *words = words[0], "--help"
    if verb in ("-h", "--help", "help"):
        sentences = [f"  {name:<14}{_sentence(name)}" for name in VERBS]
        print(OVERVIEW.format("\n".join(sentences)), end="")
        return
    if verb == "--version":
        print(f"asc-jax {asc_jax.__version__}")
        return
    verb = verb.replace("_", "-")
    if verb not in VERBS:
        near = difflib.get_close_matches(verb.lower(), VERBS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"unknown verb {verb!r}: {hint}Known: {', '.join(VERBS)}")
    if verb in ("train", "eval"):
        huge_pages.start_again()  # before the imports that take seconds
    sys.argv = [f"asc-jax {verb}", *words]
    module = importlib.import_module(f"{__name__}.{verb.replace('-', '_')}")
    _start(module.main, module.define_flags)


def _sentence(verb: str) -> str:
    """First line of a verb's module, read without the import, which may take seconds."""
    file = pathlib.Path(__file__).with_name(f"{verb.replace('-', '_')}.py")
    return _docstring(file).splitlines()[0]


def _docstring(file: str | os.PathLike) -> str:
    """Read the docstring of a module from its file; Python started with -OO drops it."""
    return pathlib.Path(file).read_text("utf-8").split('"""')[1]


def run(main: Callable[[Sequence[str]], None], define_flags: Callable = lambda: None) -> None:
    """Run one module as a program: parse its flags, call `main(argv)` and end the process."""

    def start():
        environment.settle()
        _start(main, define_flags)

    _guarded(start)


def _start(main: Callable, define_flags: Callable) -> None:
    absl_logging.use_absl_handler()  # which holds what other packages log to `quiet`'s level too
    sys.path.append(os.getcwd())  # a config may name a user's own modules
    make_configs_importable()
    known = {*flags.FLAGS}
    define_flags()
    if {"-h", "--help"} & {*sys.argv[1:]}:
        own = [flags.FLAGS[name] for name in flags.FLAGS if name not in known]
        print(help_text(_docstring(sys.modules[main.__module__].__file__), own))
        return
    sys.argv = absolute_config([with_home(_with_underscores(_typed(arg))) for arg in sys.argv])
    main(parse(sys.argv))


def _with_underscores(arg: str) -> str:
    """`--data-dir=a-b` → `--data_dir=a-b`."""
    name, equals, value = arg.partition("=")
    if name.startswith("--") and "." not in name:
        name = "--" + name[2:].replace("-", "_")
    return name + equals + value


def _typed(arg: str) -> str:
    """Return an argument; raise a `UserError` for a flag with a dash or quote that nobody types."""
    if re.match("[—–−‐‑]+[a-z]|[“”„]-", arg) and not os.path.lexists(arg):
        raise UserError(
            f"{arg} begins with {arg[0]}, which text programs put in place of -- or of a quote: "
            "type it anew"
        )
    return arg


def with_home(arg: str) -> str:
    """`--workdir=~/runs/a` → `--workdir=/home/…/runs/a`; a shell does so for whole words alone."""
    name, equals, value = arg.partition("=")
    if arg.startswith("~"):
        return os.path.expanduser(arg)
    return name + equals + (os.path.expanduser(value) if value.startswith("~") else value)


def help_text(doc: str, own: Sequence[flags.Flag]) -> str:
    """Put a module's docstring and its flags into the form of every help.

    Args:
      doc: a sentence, "usage: …", prose, "examples: …" and "exit status: …", in paragraphs.
      own: the module's flags.
    """
    paragraphs = doc.strip().split("\n\n")
    if paragraphs[1].startswith("usage:"):
        paragraphs[:2] = paragraphs[1::-1]
    end = [text.startswith("examples:") for text in paragraphs + ["examples:"]].index(True)
    paragraphs[end:end] = ["\n".join(["options:", *map(_option, own)])] if own else []
    return "\n\n".join(paragraphs)


def _option(flag: flags.Flag) -> str:
    """Return `  --name a|b   What it means (default: a)`."""
    name, text = f"  --{'[no]' * flag.boolean}{flag.name}", " ".join(flag.help.split())
    if values := getattr(flag.parser, "enum_values", None):
        name, text = f"{name} {'|'.join(values)}", text.partition(">: ")[2]  # absl puts them before
    if "(default:" not in text and not (flag.default is None or flag.default is False):
        default = "on" if flag.boolean else flag.default_as_str.strip("'")
        text += f" (default: {default})"
    wrapped = textwrap.fill(text, 96, initial_indent=" " * 22, subsequent_indent=" " * 22)
    return f"{name:<22}{wrapped[22:]}" if len(name) < 21 else f"{name}\n{wrapped}"


def reject_words(words: Sequence[str]) -> None:
    """Raise a `UserError` if words are left on a command line that takes flags alone."""
    if words:
        hint = {"true", "false"} & {word.lower() for word in words}
        raise UserError(
            f"unexpected words on the command line: {' '.join(words)}"
            + " (a flag is switched on by --name, off by --noname)" * bool(hint)
        )


def align(rows: Sequence[Sequence[str]], to_right: Collection[int]) -> list[str]:
    """Return rows of cells as lines; the columns of these numbers are set to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if column in to_right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def prepare_jax(workdir: str | os.PathLike) -> None:
    """Keep compiled programs beside the workdir, for its next start and for its siblings.

    Raises:
      UserError: JAX computes on another device than `JAX_PLATFORMS` names first.
    """
    import jax

    wanted = os.environ.get("JAX_PLATFORMS", "").split(",")[0]
    if wanted and wanted != "cpu" and jax.default_backend() == "cpu":  # JAX skips it in silence
        raise UserError(system_errors.NO_PLATFORM.format(wanted))
    if not jax.config.jax_compilation_cache_dir:  # JAX_COMPILATION_CACHE_DIR says otherwise
        folder = pathlib.Path(workdir).absolute().parent / ".jax_cache"
        jax.config.update("jax_compilation_cache_dir", str(folder))


def quiet() -> None:
    """Reduce warnings of our own and of Orbax to one line each, and silence chatter."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    absl_logging.set_verbosity(absl_logging.FATAL)  # Orbax logs tracebacks of what it raises too
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # and so does what it is built on
    if getattr(sys.unraisablehook, "func", None) is not _report_unraisable:
        sys.unraisablehook = functools.partial(_report_unraisable, sys.unraisablehook)
    log = logging.getLogger("asc_jax")
    log.setLevel(logging.WARNING)  # whatever the root logger is set to
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        log.addHandler(handler)
        log.propagate = False


def _report_unraisable(report: Callable, unraisable) -> None:
    """Report what was raised where Python goes on regardless, as in a callback of its collector.

    A signal that came there is sent again, or it would be lost. Reads that TensorStore continues
    after one has failed are ignored: nobody waits for them.
    """
    error = unraisable.exc_value
    if isinstance(error, KeyboardInterrupt):
        number = getattr(error, "signal_number", signal.SIGINT)
        threading.Timer(SEND_AGAIN_S, os.kill, (os.getpid(), number)).start()  # not in here
    elif str(error) != "Event loop is closed":
        report(unraisable)


def _guarded(start: Callable[[], None]) -> None:
    """Call `start`; turn the errors that a person can fix into a line and an exit status."""
    quiet()
    before = signals.catch(_stop, signals.BESIDE_CTRL_C)
    try:
        start()
        sys.stdout.flush()
    except UserError as error:
        _fail(error)
    except _Stopped as stop:
        _say(stop)
        _end(128 + stop.signal_number)
    except Interrupted as stop:  # by a training, in all its processes together
        _say(stop)
        sys.exit(128 + stop.signal_number)
    except KeyboardInterrupt:
        _say(STOPPED)
        _end(130)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.ENOSPC):
            _end_if_output_failed()
        if isinstance(error, ModuleNotFoundError) and optional_packages.extra_of(error.name):
            _fail(optional_packages.missing(error.name, sys.argv[0]))
        if message := _several() and _several().lost_process(error):
            _say(f"error: {message}")
            _end(_several().LOST)
        if message := system_errors.explain(error):
            _fail(UserError(message))
        raise
    finally:
        signals.restore(before)


class _Stopped(Interrupted):
    """A signal has come to a process that was not training."""


def _stop(number: int, frame) -> None:
    raise _Stopped(STOPPED, number)


def _end_if_output_failed() -> None:
    """End if standard output is what failed: printing one more line fails as well."""
    try:
        print(flush=True)
        return
    except OSError as error:
        failed = error
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or it fails at the end too
    if failed.errno != errno.EPIPE:
        _fail(UserError(f"cannot write to standard output: {failed.strerror}"))
    _end(141)  # the reader has read enough, as `head` does: no error, and no message


def _fail(error: Exception) -> None:
    _say(f"error: {error}")
    _end(2)


def _say(words: object) -> None:
    """Print to standard error; where that is full or closed, the exit status has to do."""
    try:
        print(words, file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # or it fails at the end


def _end(status: int) -> None:
    """Exit; one process of several does so without waiting for the others."""
    if _several():
        _several().leave(status)
    sys.exit(status)


def _several():
    """Return `asc_jax.machine.process_exit` where a command has loaded it, otherwise None."""
    return sys.modules.get("asc_jax.machine.process_exit")
