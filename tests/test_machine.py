"""What of this machine a process may use."""

import os

import pytest

from asc_jax import machine

GIB = 2**30


def test_cores_are_those_this_process_may_use():
    assert 1 <= machine.n_cores() <= os.cpu_count()


@pytest.fixture
def system(tmp_path, monkeypatch):
    """`system(meminfo, limits)`: what the kernel says of memory."""

    def say(meminfo, limits):
        monkeypatch.setattr(machine, "MEMORY", tmp_path / "meminfo")
        monkeypatch.setattr(machine, "GROUPS", tmp_path / "cgroup")
        for name, text in {"meminfo": meminfo, **limits}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return say


MEMINFO = f"MemTotal:       24683640 kB\nMemAvailable: {8 * GIB // 1024} kB\nSwapFree: 9 kB\n"
V1 = ("cgroup/memory/memory.limit_in_bytes", "cgroup/memory/memory.usage_in_bytes")


@pytest.mark.parametrize(
    ("meminfo", "limits", "free"),
    [
        (MEMINFO, {}, 8 * GIB),
        (MEMINFO, {"cgroup/memory.max": "max\n", "cgroup/memory.current": "5\n"}, 8 * GIB),
        (
            MEMINFO,
            {"cgroup/memory.max": f"{3 * GIB}\n", "cgroup/memory.current": f"{GIB}\n"},
            2 * GIB,
        ),
        (MEMINFO, {V1[0]: f"{GIB}\n", V1[1]: f"{2 * GIB}\n"}, 0),
        (MEMINFO, {V1[0]: f"{2**63 - 4096}\n", V1[1]: f"{2 * GIB}\n"}, 8 * GIB),
        ("nothing that we know", {}, 0),
    ],
)
def test_free_memory_is_the_systems_and_the_containers(system, meminfo, limits, free):
    system(meminfo, limits)
    assert machine.free_memory() == free


def test_system_that_tells_nothing_has_no_free_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "MEMORY", tmp_path / "none")
    monkeypatch.setattr(machine, "GROUPS", tmp_path / "none")
    assert machine.free_memory() == 0
