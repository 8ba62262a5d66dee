"""Checkpoints: what was saved comes back, or a person is told."""

import os
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from small import small_config

from asc_jax.errors import UserError
from asc_jax.machine import files
from asc_jax.training.workdir import checkpoints, run_config


def tree():
    return {
        "kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
        "half": jnp.asarray([1.5, -0.0], jnp.bfloat16),
        "step": np.asarray(7, np.int32),
    }


@pytest.fixture
def saved(tmp_path):
    """A `Checkpoints` of three saved trees, of which two are kept."""
    manager = checkpoints.Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        manager.save(step, {**tree(), "step": np.asarray(step, np.int32)}, {"epoch": step})
    yield manager
    manager.close()


def test_newest_comes_back_with_its_bits_and_its_extra(saved):
    state, extra, step = saved.restore(tree())
    assert step == 3
    assert extra == {"epoch": 3}
    expected = {**tree(), "step": np.asarray(3, np.int32)}
    assert checkpoints.digest(state) == checkpoints.digest(expected)
    assert {name: leaf.dtype for name, leaf in state.items()} == {
        name: leaf.dtype for name, leaf in expected.items()
    }


def test_only_the_newest_are_kept(saved):
    assert sorted(path.name for path in saved.directory.iterdir()) == ["2", "3"]
    assert saved.latest_step() == 3


def test_floats_of_extra_come_back_exactly(tmp_path):
    manager = checkpoints.Checkpoints(tmp_path)
    manager.save(1, tree(), {"partial_epoch": {"loss_sum": 0.1 + 0.2}})
    assert manager.restore(tree())[1] == {"partial_epoch": {"loss_sum": 0.1 + 0.2}}
    manager.close()


def test_empty_folder_holds_none(tmp_path):
    manager = checkpoints.Checkpoints(tmp_path)
    assert manager.restore(tree()) is None
    assert manager.latest_step() is None
    manager.close()


def test_arrays_of_another_shape_are_refused_and_left_alone(saved):
    with pytest.raises(
        UserError, match="holds other arrays than this network: kernel is float32 .2, 3. there"
    ):
        saved.restore({**tree(), "kernel": np.zeros((3, 3), np.float32)})
    assert saved.restore(tree())[2] == 3


@pytest.mark.parametrize("place", ["file/run", "/proc/asc_jax/run"])
def test_unwritable_workdir_is_an_error(tmp_path, place):
    (tmp_path / "file").write_text("not a folder")
    workdir = tmp_path / place
    with pytest.raises(UserError, match="cannot write to the workdir .*choose another --workdir"):
        run_config.save(workdir, "base.py", small_config())
    with pytest.raises(UserError, match="cannot write to the workdir"):
        checkpoints.Checkpoints(workdir)


def test_digest_changes_with_any_bit():
    before = checkpoints.digest(tree())
    assert checkpoints.digest(tree()) == before
    for name, leaf in tree().items():
        raw = bytearray(np.asarray(leaf).tobytes())
        for bit in range(8 * len(raw)):
            raw[bit // 8] ^= 1 << bit % 8
            other = np.frombuffer(bytes(raw), leaf.dtype).reshape(leaf.shape)
            assert checkpoints.digest({**tree(), name: other}) != before, (name, bit)
            raw[bit // 8] ^= 1 << bit % 8


@pytest.mark.parametrize(
    "change",
    [
        lambda t: {**t, "kernel": t["kernel"].reshape(3, 2)},
        lambda t: {**t, "kernel": t["kernel"].view(np.int32)},
        lambda t: {"kernal" if name == "kernel" else name: leaf for name, leaf in t.items()},
    ],
)
def test_digest_changes_with_shape_dtype_and_name(change):
    assert checkpoints.digest(change(tree())) != checkpoints.digest(tree())


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A workdir with the checkpoints of steps 1 and 2."""
    workdir = tmp_path_factory.mktemp("two")
    manager = checkpoints.Checkpoints(workdir)
    for step in (1, 2):
        manager.save(step, {"kernel": np.full(3, step, np.float32)}, {"epoch": step, "seed": 0})
    manager.close()
    return workdir


LIKE = {"kernel": np.zeros(3, np.float32)}


def restored(workdir, **options):
    manager = checkpoints.Checkpoints(workdir)
    try:
        return manager.restore(LIKE, **options)
    finally:
        manager.close()


def test_no_flipped_bit_of_what_it_says_of_itself_passes(two, tmp_path):
    workdir = shutil.copytree(two, tmp_path / "run")
    path = workdir / "checkpoints/2/meta/metadata"
    content = path.read_bytes()
    manager = checkpoints.Checkpoints(workdir)
    assert manager.newest_extra() == {"epoch": 2, "seed": 0}
    for place in range(0, 8 * len(content), 5):  # 5: every byte, and all its bits in turn
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(UserError, match="checkpoints/2 is damaged"):
            print(place, manager.newest_extra())
    assert manager.restore(LIKE)[1:] == ({"epoch": 1, "seed": 0}, 1)
    manager.close()


def test_checkpoint_of_another_step_is_not_taken_for_this_one(two, tmp_path):
    workdir = shutil.copytree(two, tmp_path / "run")
    shutil.move(workdir / "checkpoints/1", workdir / "checkpoints/3")
    assert restored(workdir)[2] == 2


def test_only_the_run_itself_puts_damaged_ones_aside_and_clears_up(two, tmp_path):
    workdir = shutil.copytree(two, tmp_path / "run")
    left = workdir / "checkpoints/3.orbax-checkpoint-tmp"
    left.mkdir()
    shutil.rmtree(workdir / "checkpoints/2/state")
    assert restored(workdir)[2] == 1
    assert left.exists()
    assert not (workdir / "damaged").exists()
    assert restored(workdir, mend=True)[2] == 1
    assert not left.exists()
    assert (workdir / "damaged/checkpoints-2/meta").is_dir()


def test_clock_that_goes_backwards_changes_nothing(two, tmp_path):
    workdir = shutil.copytree(two, tmp_path / "run")
    for path in (workdir / "checkpoints").rglob("*"):
        newer = "checkpoints/1" in str(path)
        os.utime(path, (0, 2_000_000_000 if newer else 0))
    metadata = workdir / "checkpoints/2/_CHECKPOINT_METADATA"
    metadata.write_text(metadata.read_text().replace('timestamp_nsecs": 1', 'timestamp_nsecs": '))
    assert restored(workdir)[2] == 2
    manager = checkpoints.Checkpoints(workdir, keep=2)
    manager.save(3, LIKE)
    manager.close()
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["2", "3"]


def test_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    files.write_atomically(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: os.close(-1))  # the disk is full
        with pytest.raises(OSError, match="Bad file"):
            files.write_atomically(path, "new")
    assert path.read_text() == "old"
