"""The exceptions that mean something to a person: no traceback is shown for them."""

import reprlib


class UserError(Exception):
    """Wrong input or surroundings; the message names it, says what was expected and what to do.

    Several arguments are several problems, a line each. What a message quotes may come from
    anywhere: it can neither begin a line of its own nor command the terminal.

    Example:
      >>> print(UserError("no scene 'a\\n\\x1b[31mb'", "no device"))
      no scene 'a \\x1b[31mb'
      no device
    """

    def __str__(self) -> str:
        return "\n".join(printable(str(problem)) for problem in self.args)


class BadValue(UserError, ValueError):
    """A value outside its range, reported by the function that takes it.

    Example:
      >>> print(BadValue("gamma", -1, "at least 0"))
      gamma is -1, expected at least 0
    """

    def __init__(self, name: str, value: object, expected: str):
        super().__init__(f"{name} is {short(value)}, expected {expected}")


def expect(name: str, value: object, holds: bool, expected: str) -> None:
    """Raise `BadValue` unless the condition on a value holds."""
    if not holds:
        raise BadValue(name, value, expected)


def short(value: object) -> str:
    """Its `repr` as a message can hold it: a small file may unfold into a huge value."""
    try:
        return _SHORT.repr(value)
    except (ValueError, RecursionError):  # more digits than Python prints
        return f"a huge {type(value).__name__}"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100


def printable(text: str) -> str:
    """One line, in which what a terminal would act on is spelt out."""
    if text.isprintable():
        return text
    one_line = " ".join(text.splitlines())
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in one_line)


class Interrupted(KeyboardInterrupt):
    """A command was stopped from outside, by a signal, and has lost nothing."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number
