"""The processors and memory that a process may use, and files that are written atomically."""

import os

import pytest

from asc_jax.machine import files, resources

GIB = 2**30


def test_cores_are_those_this_process_may_use():
    assert 1 <= resources.n_cores() <= os.cpu_count()


MEMINFO = f"MemTotal:       24683640 kB\nMemAvailable: {8 * GIB // 1024} kB\nSwapFree: 9 kB\n"
V1 = ("memory/job/memory.limit_in_bytes", "memory/job/memory.usage_in_bytes")
IN_V1 = "9:name=systemd:/\n4:cpu,memory:/job\n0::/\n"


def group(folder, limit, taken, files=0):
    """The files of a group of version 2."""
    return {
        f"{folder}memory.max": f"{limit}\n",
        f"{folder}memory.current": f"{taken}\n",
        f"{folder}memory.stat": f"anon 5\ninactive_file {files}\n",
    }


@pytest.mark.parametrize(
    ("meminfo", "groups", "mounted", "free"),
    [
        (MEMINFO, "", {}, 8 * GIB),
        (MEMINFO, "0::/\n", group("", "max", 5), 8 * GIB),
        (MEMINFO, "0::/\n", group("", 3 * GIB, GIB), 2 * GIB),  # as a container sees itself
        (MEMINFO, "0::/outside\n", group("", 3 * GIB, GIB), 2 * GIB),  # or as others see it
        (MEMINFO, "0::/job/step\n", group("job/step/", 4 * GIB, GIB), 3 * GIB),
        (
            MEMINFO,
            "0::/job/step\n",
            group("job/step/", "max", GIB) | group("job/", 2 * GIB, GIB),
            GIB,
        ),
        (MEMINFO, "0::/\n", group("", 3 * GIB, 3 * GIB, files=2 * GIB), 2 * GIB),
        (MEMINFO, IN_V1, {V1[0]: f"{GIB}\n", V1[1]: f"{2 * GIB}\n"}, 0),
        (MEMINFO, IN_V1, {V1[0]: f"{2**63 - 4096}\n", V1[1]: f"{2 * GIB}\n"}, 8 * GIB),
        ("nothing that we know", "", {}, 0),
    ],
)
def test_free_memory_is_the_systems_and_that_of_the_groups(
    tmp_path, monkeypatch, meminfo, groups, mounted, free
):
    monkeypatch.setattr(resources, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(resources, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(resources, "MOUNT", tmp_path / "mount")
    files = {f"mount/{name}": text for name, text in mounted.items()}
    for name, text in {"meminfo": meminfo, "groups": groups, **files}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert resources.free_memory() == free


def test_system_that_tells_nothing_has_no_free_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "MEMORY", tmp_path / "none")
    monkeypatch.setattr(resources, "GROUPS", tmp_path / "none")
    assert resources.free_memory() == 0


def test_files_written_together_are_all_there_or_none(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    files.write_together({first: "old", second: b"old"})
    second.unlink()
    second.mkdir()
    with pytest.raises(IsADirectoryError):
        files.write_together({first: "new", second: "new"}, sync=False)
    assert first.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_block_that_fails_leaves_the_old_file(tmp_path):
    files.write_atomically(tmp_path / "a", "old")
    with pytest.raises(TypeError), files.atomic_writer(tmp_path / "a") as file:
        file.write("text into a binary file")
    assert (tmp_path / "a").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1
