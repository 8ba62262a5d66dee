"""What of this machine the process may use: cores, memory."""

import os
import pathlib
import re

MEMORY = pathlib.Path("/proc/meminfo")
GROUPS = pathlib.Path("/sys/fs/cgroup")  # as a container sees its own
LIMITS = (  # of memory, and what of it is taken: version 2, version 1
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


def n_cores() -> int:
    """Cores this process may use; not every system tells them from those there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory() -> int:
    """Bytes this process could still take, within its container's limit; 0: nothing tells."""
    available = re.search(r"^MemAvailable: +(\d+) kB$", _text(MEMORY), re.MULTILINE)
    free = [int(available[1]) * 1024] if available else [0]
    for limit, taken in LIMITS:
        limit, taken = _text(GROUPS / limit).strip(), _text(GROUPS / taken).strip()
        if limit.isdecimal() and taken.isdecimal():  # "max" where there is no limit
            free.append(max(int(limit) - int(taken), 0))
    return min(free)


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
