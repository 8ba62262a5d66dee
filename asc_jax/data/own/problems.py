"""Collect what is wrong with an input or odd about it, so that it is told at once."""

from collections.abc import Sequence

from asc_jax.errors import UserError

N_NAMED = 5  # a message names this many of the offending files


def first(names: Sequence[str], n_named: int = N_NAMED, between: str = ", ") -> str:
    """Return the first few names, and how many more there are.

    Example:
      >>> first(["a", "b", "c"], 2)
      'a, b and 1 more'
    """
    more = f" and {len(names) - n_named:,} more" if len(names) > n_named else ""
    return between.join(names[:n_named]) + more


class Problems:
    """Kinds of problems, each with the names of what has it; notes are collected alike.

    Example:
      >>> problems = Problems()
      >>> problems.add("files are empty", "a.wav")
      >>> problems.add("files are empty", "b.wav")
      >>> problems.lines()
      ['2 files are empty: a.wav; b.wav']
    """

    def __init__(self):
        self._names: dict[str, list[str]] = {}
        self._sentences: list[str] = []

    def add(self, what: str, name: str) -> None:
        """Note one of a kind; `what` follows the number of them."""
        self._names.setdefault(what, []).append(name)

    def say(self, sentence: str) -> None:
        """Note what is told in its own words."""
        self._sentences.append(sentence)

    def lines(self) -> list[str]:
        """Return a line for each kind, with the first few names, and every sentence."""
        kinds = [
            f"{len(names):,} {what}: {first(names, between='; ')}"
            for what, names in self._names.items()
        ]
        return kinds + self._sentences

    def raise_if_any(self) -> None:
        """Raise a `UserError` with all lines, if there are any."""
        if lines := self.lines():
            raise UserError(*lines)
