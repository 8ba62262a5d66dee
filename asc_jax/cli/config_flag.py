"""The flag --config: its file is found from any folder, `--config.section.key=value` changes it.

Errors in that or in another flag become one line.
"""

import difflib
import pathlib
import re
import sys
import types
from collections.abc import Iterable, Sequence

from absl import flags

from asc_jax.errors import UserError
from asc_jax.training.workdir.upgrade import MOVED

PACKAGE = pathlib.Path(__file__).resolve().parents[1]
# An installed package holds the configs; in a checkout they lie beside it.
CONFIGS = next(p for p in (PACKAGE / "configs", PACKAGE.parent / "configs") if p.is_dir())


def define_config_flag() -> None:
    """Define `--config splits/5pct.py` and `--config.section.key=value`."""
    from ml_collections import config_flags

    config_flags.DEFINE_config_file(
        "config",
        None,
        "Config file: a path, or a name as splits/5pct.py that comes with asc_jax. After it, "
        "--config.SECTION.KEY=VALUE changes one of its values; `asc-jax config show NAME` lists "
        "them",
        lock_config=True,
    )


def make_configs_importable() -> None:
    """Register a module `configs`, so that every config file can say `from configs import base`.

    It finds first our own files, wherever this package lies, then those in `configs/` of the
    current folder. A module, not an entry of sys.path: there, anybody's folder of that name could
    come first.
    """
    module = types.ModuleType("configs")
    module.__path__ = [str(CONFIGS), str(pathlib.Path("configs").absolute())]
    sys.modules["configs"] = module


def read_config(name: str, overrides: Sequence[str]):
    """Return the config that `asc-jax train --config NAME OVERRIDES` would run.

    Raises:
      UserError: there is no such file, it cannot be loaded, or an override does not fit it.
    """
    from ml_collections import config_flags

    make_configs_importable()
    argv, values = absolute_config(["", f"--config={name}", *overrides]), flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, lock_config=True, flag_values=values, sys_argv=argv
    )
    parse(argv, values)
    return values.config.copy_and_resolve_references()


def config_path(name: str) -> str:
    """Return the path of a config file that is named as for --config.

    Raises:
      UserError: there is no such file.
    """
    return absolute_config(["", f"--config={name}"])[1].partition("=")[2]


def config_name(path: str) -> str:
    """`…/configs/splits/5pct.py` → `splits/5pct.py`; other files by their own name."""
    resolved = pathlib.Path(path).resolve()
    if resolved.is_relative_to(CONFIGS):
        return resolved.relative_to(CONFIGS).as_posix()
    return resolved.name


def flat(config: dict, prefix: str = "config") -> dict[str, object]:
    """Return the values of nested dicts by their full names, such as `config.schedule.peak_lr`."""
    values = {}
    for key, value in config.items():
        name = f"{prefix}.{key}"
        values |= flat(value, name) if isinstance(value, dict) else {name: value}
    return values


def parse(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parse flags and return the words that are none.

    Args:
      argv: as `absolute_config` returns it.
      values: the flags, which get their values here.

    Raises:
      UserError: a flag or its value is wrong.
    """
    try:
        return values(list(argv))
    except flags.Error as error:
        needs_config = "config" in values and values["config"].value is None
        hint = "--config comes first; " if needs_config and "'config." in str(error) else ""
        raise UserError(f"{_in_words(error)} ({hint}--help lists the flags)") from error
    except (AttributeError, KeyError) as error:
        raise UserError(_unknown_key(error, argv)) from error
    except RecursionError as error:  # absl looks for a flag of a similar name, letter by letter
        longest = max(argv, key=len)
        raise UserError(f"unknown flag {longest[:60]}… (--help lists the flags)") from error
    except (ImportError, NameError, SyntaxError) as error:
        raise UserError(f"the config file cannot be loaded: {error}") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"a --config.… value does not fit its key: {error}") from error


def _in_words(error: flags.Error) -> str:
    """Return the message of an error of absl, where its own is none for a person."""
    text = str(error)
    if found := re.match(r"flag (--\S+?)=(.*): Failed to parse .* as a ConfigDict", text):
        return (
            f"{found[1]} is a section: name the key in it too, for example "
            f"{found[1]}.name={found[2]}"
        )
    return re.sub(r"\('Non-boolean argument to boolean flag', .*\)", "expected true or false", text)


def _unknown_key(error: Exception, argv: Sequence[str]) -> str:
    """Name the override whose key the config lacks; without one, the config file itself is wrong.

    ml_collections names neither the whole key nor the override.
    """
    overrides = [match[1] for arg in argv if (match := re.match(r"--?(?:no)?(config\.[^=]+)", arg))]
    file = next((arg for arg in argv if arg.startswith("--config=")), None)
    if overrides and file:
        known = flat(read_config(file.removeprefix("--config="), []).to_dict())
        for name in overrides:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
                hint = f"did you mean {near[0]}? " if near else _no_section(name, known)
                return f"unknown config key {name}: {hint}`asc-jax config show NAME` lists the keys"
    message = error.args[0] if error.args else error
    while isinstance(message, Exception) and message.args:  # ml_collections wraps its own
        message = message.args[0]
    line = ". ".join(str(message).splitlines())
    for old, new in MOVED.items():
        if f'Key "{old.rpartition(".")[2]}" does not exist' in line:
            return f"unknown key in the config file: config.{old} is now config.{new}"
    return f"unknown key in the config file: {line} (`asc-jax config show base.py` lists the keys)"


def _no_section(name: str, known: Iterable[str]) -> str:
    """Return what to do where the section of a key is missing in the config; "" if it is there."""
    section, dot, _ = name.removeprefix("config.augment.").partition(".")
    there = any(key.startswith(f"config.augment.{section}.") for key in known)
    if not name.startswith("config.augment.") or (dot and there):
        return ""
    return (
        f"there is no section config.augment.{section}, and an augmentation is added in a config "
        "file, as docs/augmentation.md shows; "
    )


def absolute_config(argv: Sequence[str]) -> list[str]:
    """Turn `--config NAME` into `--config=PATH`, a path that exists from any folder.

    `--config.KEY` of an earlier version becomes that of this one.
    """
    argv = list(argv)
    for index, arg in enumerate(argv):
        name, equals, value = arg.partition("=")
        if name not in ("--config", "-config"):
            continue
        if not equals and index + 1 < len(argv):
            equals, value = "=", argv.pop(index + 1)
        if equals:
            argv[index] = f"--config={_find_config(value)}"
    return _with_moved_keys(argv)


def _with_moved_keys(argv: list[str]) -> list[str]:
    """Replace `--config.KEY` of an earlier version by that of this one, where the file lacks it."""
    old = {f"--config.{key}": f"--config.{new}" for key, new in MOVED.items()}
    file = next((arg for arg in argv if arg.startswith("--config=")), None)
    if file is None or not any(arg.partition("=")[0] in old for arg in argv):
        return argv
    known = flat(read_config(file.removeprefix("--config="), []).to_dict())
    words = [arg.partition("=") for arg in argv]
    return [
        (name if name.removeprefix("--") in known else old.get(name, name)) + equals + value
        for name, equals, value in words
    ]


def _find_config(name: str) -> pathlib.Path:
    for candidate in (pathlib.Path(name), CONFIGS / name, CONFIGS.parent / name):
        if candidate.is_file():
            if candidate.suffix == ".json":
                raise UserError(
                    f"{name} is no Python file, as a config is: the run that it is of is opened by "
                    f"--workdir {candidate.parent}"
                )
            return candidate.resolve()
    known = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.py"))
    near = difflib.get_close_matches(name.removeprefix("configs/"), known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"no config {name!r}: {hint}Known: {', '.join(known)}")
