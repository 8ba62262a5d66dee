"""Define the flags that commands of many runs share: lists of values, overrides for every run."""

import sys
from collections.abc import Mapping, Sequence

from absl import flags

from asc_jax.cli import with_home
from asc_jax.errors import UserError


def take_overrides(prefix: str = "config") -> list[str]:
    """Return the words `--PREFIX.…` of the command line, and take them off it.

    They are flags of the runs, not of this command.
    """
    starts = f"-{prefix}.", f"--{prefix}."
    found = [arg for arg in sys.argv[1:] if arg.startswith(starts)]
    sys.argv = [arg for arg in sys.argv if arg not in found]
    return [with_home(arg) for arg in found]


def check_overrides(overrides: Sequence[str], chosen: Mapping[str, str]) -> None:
    """Raise a `UserError` for an override without a value, or that the command sets itself.

    chosen: key, without the word before its first dot, → what to do instead.
    """
    for arg in overrides:
        key, equals, _ = arg.lstrip("-").partition("=")
        if not equals:
            raise UserError(f"{arg}: expected --{key}=value, in one word")
        if instead := chosen.get(key.partition(".")[2]):
            raise UserError(f"--{key} {instead}")


def some_of(flag: str, values: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return the values of a flag; raise a `UserError` unless they are known, each once."""
    unknown = [value for value in values if value not in known]
    if unknown or not values or len({*values}) < len(values):
        raise UserError(
            f"--{flag}={','.join(map(str, values))}: expected some of "
            f"{','.join(map(str, known))}, each once"
        )
    return list(values)


def numbers(flag: str, values: Sequence[str], known: Sequence[int] | None = None) -> list[int]:
    """Return the values of a flag as whole numbers; known: those that may be given."""
    if known is not None:
        return [int(value) for value in some_of(flag, values, [str(k) for k in known])]
    if not values or not all(value.isdecimal() for value in values):
        raise UserError(f"--{flag}={','.join(values)}: expected whole numbers from 0, with commas")
    return some_of(flag, [int(value) for value in values], sorted({*map(int, values)}))


def define_cluster_flag() -> None:
    """Define which clips go together in intervals and tests."""
    flags.DEFINE_string(
        "cluster",
        None,
        "Group column whose clips go together in intervals (default: the recording or, in TAU's "
        "layout, the moment that several devices recorded)",
    )


def keep_accelerator_free() -> None:
    """Compute on the CPU: this process only reads files, and the runs need the accelerator."""
    import jax

    jax.config.update("jax_platforms", "cpu")


def end_if_failed(failed: Mapping[str, str]) -> None:
    """Print which runs failed, and exit with status 1 if some did."""
    if failed:
        for title, reason in failed.items():
            print(f"failed: {title}: {reason}", file=sys.stderr)
        sys.exit(1)
