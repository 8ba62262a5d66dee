"""All kinds of faults, and how many of each there are in a round."""

from tests.faults import on_building, on_disks, on_files, on_kills

KINDS = on_files.KINDS | on_disks.KINDS | on_building.KINDS | on_kills.KINDS
REAL = (  # they start processes of their own, which takes seconds
    "SIGKILL of prepare_data",
    "SIGKILL",
    "SIGKILL while saving",
    "SIGTERM",
    "two processes",
    "compiled program damaged",
)
MORE = {  # than one in a round
    "checkpoint truncated": 3,
    "checkpoint bit-flipped": 4,
    "checkpoint file deleted": 3,
    "metrics.jsonl cut": 2,
    "config.json damaged": 3,
    "data set bit-flipped": 2,
    "disk full": 3,
    "killed at a file operation": 5,
    "building killed at a file operation": 2,
    "SIGKILL": 2,
    "SIGKILL while saving": 2,
}


def a_round(names) -> list[str]:
    """Every kind once, then those there are more of."""
    names = list(names)
    left = {name: MORE.get(name, 1) for name in names}
    order = []
    while any(left.values()):
        for name in names:
            if left[name]:
                order.append(name)
                left[name] -= 1
    return order
