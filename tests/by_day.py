"""`make test` or `make nightly`: fewer examples by day, of what night has many."""

import os

BY_DAY = os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS") == "1"  # `conftest.py` sets it


def examples(by_night: int) -> int:
    """Return how many examples are drawn: by day a quarter of those by night."""
    return by_night // 4 if BY_DAY else by_night
