"""The flag --config: its file is found from anywhere, `--config.section.key=value` changes it.

Whatever is wrong with that or with another flag is said in one line.
"""

import difflib
import pathlib
from collections.abc import Sequence

from absl import flags

from asc_jax.errors import UserError

flags.disclaim_key_flags()  # flags defined here are those of the command, and --help lists them

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"


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

    argv, values = absolute_config(["", f"--config={name}", *overrides]), flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, lock_config=True, flag_values=values, sys_argv=argv
    )
    parse(argv, values)
    return values.config.copy_and_resolve_references()


def config_name(path: str) -> str:
    """`…/configs/splits/5pct.py` → `splits/5pct.py`; other files by their own name."""
    resolved = pathlib.Path(path).resolve()
    if resolved.is_relative_to(CONFIGS):
        return resolved.relative_to(CONFIGS).as_posix()
    return resolved.name


def parse(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
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


def absolute_config(argv: Sequence[str]) -> list[str]:
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
