"""Parts of a run by the names that a config gives them.

A section of a config is `{name, …keywords}`. The name is an entry of a dictionary such as
`models.MODELS`, or `my_module:MyPart`: a part in a module of the current folder or of an
installed package, so that nobody has to change this package to add one.
"""

import contextlib
import difflib
import functools
import importlib
import inspect
import numbers
import os
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping

from asc_jax.errors import BadValue, Interrupted, UserError, short

# The annotations of parameters by which values are checked: what fits, and how it is called.
TYPES = {
    float: (numbers.Real, "a number"),
    int: (numbers.Integral, "a whole number"),
    bool: (bool, "True or False"),
    str: (str, "text"),
}
OF_MODULES = ("name", "parent")  # parameters of every flax.linen.Module
REPLACE = "For another part replace the whole section, in a config file: see docs/configs.md. "
# What an ml_collections.ConfigDict has itself: such a key of a section cannot be read or changed
# by its name. (Written out, because this module runs without that package.)
NAMES_OF_SECTIONS = """
allow_dotted_keys convert_dict copy_and_resolve_references eq_as_configdict get get_oneway_ref
get_ref get_type ignore_type is_locked is_type_safe items iteritems iterkeys itervalues keys lock
to_dict to_json to_json_best_effort to_yaml unlock unlocked update update_from_flattened_dict values
"""


def find(parts: Mapping[str, Callable], name: str, where: str) -> Callable:
    """Return the part of this name.

    Args:
      parts: the dictionary of this kind of part.
      name: one of its keys, or `module:attribute`.
      where: the section that holds the name, such as "config.model".

    Raises:
      UserError: there is no such part, or its module cannot be imported.
    """
    if isinstance(name, str) and ":" in name:
        return _imported(name, where)
    if not isinstance(name, str) or name not in parts:
        raise UserError(
            f"{where}.name is {short(name)}: unknown; known are {', '.join(parts)}, and "
            "my_module:MyPart loads a part of yours from the current folder"
        )
    return parts[name]


def bind(
    parts: Mapping[str, Callable], section: Mapping, where: str, *, supplied: Collection[str] = ()
) -> Callable:
    """Return the part that a section names, with the section's keywords bound.

    Args:
      parts, where: see `find`.
      section: `{name, …keywords}` of a config.
      supplied: keywords that the program passes itself.

    Raises:
      UserError: no such part, one with a keyword of a name that no section can have, a keyword
        that it does not take or one that it needs, or a value that is not of the type that the
        part says it takes, if that is one of `TYPES`.
    """
    require_section(section, where)
    name = section.get("name")
    part = find(parts, name, where)
    keywords = {key: _fixed(value) for key, value in section.items() if key != "name"}
    try:
        parameters = inspect.signature(part).parameters.values()
    except ValueError as error:
        raise UserError(f"{where}.name is {short(name)}: {error}") from error
    taken = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    for key in taken:
        if key not in supplied:
            check_name(key, f"{where}.name is {short(name)}: its keyword {key}")
    unknown = [key for key in keywords if key not in taken or key in supplied]
    if unknown and not any(p.kind == p.VAR_KEYWORD for p in parameters):
        free = [key for key in taken if key not in (*supplied, *OF_MODULES)]
        near = difflib.get_close_matches(unknown[0], free, n=1)
        hint = f"did you mean {near[0]}? " if near else REPLACE * (":" not in name)
        own = "A part of yours gets a section of its own in a config file: see docs/extend.md. "
        raise UserError(
            f"{where}.{', '.join(unknown)}: {name} takes no such value. {hint}"
            f"{own if ':' in name else ''}It takes {', '.join(free) or 'none'}"
        )
    for p in parameters:
        needed = p.kind == p.KEYWORD_ONLY and p.default is p.empty
        if needed and p.name not in keywords and p.name not in supplied:
            raise UserError(f"{where}.{p.name} is missing: {section['name']} needs it")
        if p.name in keywords:
            _check_type(f"{where}.{p.name}", keywords[p.name], p.annotation)
    return functools.partial(part, **keywords)


def check_name(name: str, what: str) -> None:
    """Raise a `UserError` for a name of `NAMES_OF_SECTIONS`; what: what has it."""
    if name in NAMES_OF_SECTIONS.split():
        raise UserError(
            f"{what} has a name that every section of a config has itself, so it could not be set "
            "on the command line. Give it another name"
        )


def _check_type(key: str, value, annotation) -> None:
    """Raise a `UserError` for a value that is not of its annotated type, if that is in `TYPES`."""
    if not isinstance(annotation, type) or annotation not in TYPES:
        return
    kind, expected = TYPES[annotation]
    if not isinstance(value, kind) or (isinstance(value, bool) and annotation is not bool):
        raise UserError(f"{key} is {short(value)}, expected {expected}")


def require_section(section, where: str) -> None:
    """Raise a `UserError` unless a value of a config is a section."""
    if not hasattr(section, "items"):
        raise UserError(f"{where} is {short(section)}, expected a section {{name, …}}")


def _fixed(value):
    """Return a value with tuples for lists, as which a saved config gives them back."""
    return tuple(map(_fixed, value)) if isinstance(value, list | tuple) else value


def takes(part: Callable, name: str) -> bool:
    """Return whether a function, or the constructor of a class, has a parameter of this name."""
    return name in inspect.signature(part).parameters


@contextlib.contextmanager
def errors_named(where: str) -> Iterator[None]:
    """Put the section's name before the error of a part that rejects one of its values.

    Args:
      where: such as "config.loss".
    """
    try:
        yield
    except BadValue as error:
        raise UserError(f"{where}.{error}") from error
    except UserError:
        raise
    except (AttributeError, OSError, OverflowError, TypeError, ValueError) as error:
        raise UserError(f"{where}: {describe(error)}") from error


def describe(error: BaseException) -> str:
    """Return an error's type and message in one line, and the place in the user's own code."""
    line = " ".join(str(error).split())
    return f"{type(error).__name__}: {line}{_place(error)}"


@contextlib.contextmanager
def errors_of_own_code() -> Iterator[None]:
    """Turn an error that the user's own code has raised into one line that names the place."""
    try:
        yield
    except (UserError, Interrupted):
        raise
    except Exception as error:
        if not _place(error):
            raise
        raise UserError(f"a part of yours failed: {describe(error)}") from error


def _place(error: BaseException) -> str:
    """Return " (file, line n)" of the user's own code that raised an error, where there is any."""
    own = os.path.dirname(os.path.dirname(__file__))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if "site-packages" not in frame.filename and not frame.filename.startswith((own, "<")):
            return f" ({os.path.basename(frame.filename)}, line {frame.lineno})"
    return ""


def _imported(name: str, where: str) -> Callable:
    """Return `attribute` of `module` for the name `module:attribute`."""
    module_name, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name.partition(".")[0] and error.name != module_name:
            raise UserError(f"{where}.name is {short(name)}: it needs {error.name}") from error
        raise UserError(
            f"{where}.name is {short(name)}: there is no module {module_name} in {os.getcwd()} "
            "and none is installed. Run the command in the folder that holds it"
        ) from error
    except Exception as error:  # whatever the module does when it is imported
        raise UserError(
            f"{where}.name is {short(name)}: importing {module_name} failed: {describe(error)}"
        ) from error
    part = getattr(module, attribute, None)
    if not callable(part):
        raise UserError(
            f"{where}.name is {short(name)}: "
            f"{getattr(module, '__file__', module_name)} has no {attribute}"
        )
    return part
