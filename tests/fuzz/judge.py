"""One input → what is wrong with the answer, under limits of processor time and memory."""

import contextlib
import dataclasses
import resource
import signal
import traceback
from collections.abc import Callable, Iterator
from random import Random

from asc_jax.errors import UserError

MAX_CPU_S = 2.0  # of one input; processor time, since the machine may be busy with other things
MAX_GROWTH = 2**30  # bytes of address space that one reader may take beyond what it began with
MAX_MESSAGE = 20_000  # characters


@dataclasses.dataclass(frozen=True)
class Reader:
    """read: called with an input. mutate: `(rng, seed) → input`. seeds: good inputs.

    many_lines: its message may list several problems, one a line.
    """

    read: Callable[[bytes], object]
    mutate: Callable[[Random, bytes], bytes]
    seeds: tuple[bytes, ...]
    many_lines: bool = False


class TooSlow(BaseException):
    """No `except Exception` of a reader may stop it."""


def make_input(name: str, reader: Reader, seed: int, number: int) -> bytes:
    """Input `number` of a reader, always the same."""
    rng = Random(f"{name}/{seed}/{number}")
    return reader.mutate(rng, rng.choice(reader.seeds))


def judge(reader: Reader, data: bytes) -> tuple[bool, str | None]:
    """Whether the input was refused, and what is wrong with how that was done, if anything."""
    signal.setitimer(signal.ITIMER_PROF, MAX_CPU_S)
    try:
        reader.read(data)
    except UserError as error:
        return True, _message_problem(str(error), reader.many_lines)
    except TooSlow:
        return False, f"took more than {MAX_CPU_S} s of processor time"
    except (Exception, SystemExit) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {str(error)[:200]!r}"
        return False, f"{what} ({where.filename}:{where.lineno})"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return False, None


@contextlib.contextmanager
def limits() -> Iterator[None]:
    """Within it `judge` can stop a reader that takes too long, and memory is bounded."""
    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    handler = signal.signal(signal.SIGPROF, _too_slow)
    resource.setrlimit(resource.RLIMIT_AS, (now + MAX_GROWTH, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))
        signal.signal(signal.SIGPROF, handler)


def _too_slow(*_):
    raise TooSlow


def _message_problem(message: str, many_lines: bool) -> str | None:
    lines = message.splitlines()
    if not message.strip() or len(message) > MAX_MESSAGE:
        return f"a message of {len(message)} characters"
    if len(lines) > 1 and not many_lines:
        return f"a message of {len(lines)} lines: {message[:200]!r}"
    if not all(line.isprintable() for line in lines):
        return f"a message that cannot be printed: {message[:200]!r}"
    return None
