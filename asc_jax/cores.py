"""How many cores this process may use."""

import os


def n_cores() -> int:
    """Cores this process may use; not every system tells them from those there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
