"""JSON from a file that anything may have happened to."""

import json


def parse(text: str | bytes) -> dict:
    """Read a JSON object.

    Raises:
      ValueError: it is damaged, nested too deeply, or no object.

    Example:
      >>> parse('{"a": 1}')
      {'a': 1}
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__}, expected an object")
    return value
