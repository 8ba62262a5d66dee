"""The cores and the memory of this machine that the process may use."""

import os
import pathlib
import re

MEMORY = pathlib.Path("/proc/meminfo")
GROUPS = pathlib.Path("/proc/self/cgroup")  # the control groups this process is in
MOUNT = pathlib.Path("/sys/fs/cgroup")
# Of a group: its limit, what is taken of it, and of that the files read, which can be given back.
VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
VERSION_2 = ("memory.max", "memory.current", "inactive_file")


def n_cores() -> int:
    """Return the cores this process may use, or all where the system does not tell them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory() -> int:
    """Return the bytes this process could still take, within the limits of its container or job.

    0 where the system does not tell them.
    """
    free = [_number(r"^MemAvailable: +(\d+) kB$", _text(MEMORY)) * 1024]
    for line in _text(GROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            free += _left(MOUNT, path, *VERSION_2)
        elif "memory" in controllers.split(","):
            free += _left(MOUNT / "memory", path, *VERSION_1)
    return min(free)


def _left(mount: pathlib.Path, path: str, limit: str, taken: str, files: str) -> list[int]:
    """Return what is left of a group's limit, and of those of the groups it is in.

    In a container the path may be that outside, and the group itself the mount.
    """
    group = mount / path.strip("/")
    left = []
    for folder in [group, *group.parents]:
        if not folder.is_relative_to(mount):
            break
        most, now = _text(folder / limit).strip(), _text(folder / taken).strip()
        if most.isdecimal() and now.isdecimal():  # "max" where there is no limit
            reclaimable = _number(rf"^{files} (\d+)$", _text(folder / "memory.stat"))
            left.append(max(int(most) - int(now) + reclaimable, 0))
    return left


def _number(pattern: str, text: str) -> int:
    match = re.search(pattern, text, re.MULTILINE)
    return int(match[1]) if match else 0


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
