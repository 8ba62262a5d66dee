"""Checkpoints and the config beside them: what was saved comes back, or a person is told."""

import json
import os
import shutil

import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from small import small_config

from asc_jax import checkpoints
from asc_jax.errors import UserError


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
    with pytest.raises(UserError, match="none of the 2 checkpoints"):
        saved.restore({**tree(), "kernel": np.zeros((3, 3), np.float32)})
    assert saved.restore(tree())[2] == 3


@pytest.mark.parametrize("place", ["file/run", "/proc/asc_jax/run"])
def test_unwritable_workdir_is_an_error(tmp_path, place):
    (tmp_path / "file").write_text("not a folder")
    workdir = tmp_path / place
    with pytest.raises(UserError, match="cannot write to the workdir .*choose another --workdir"):
        checkpoints.save_config(workdir, "base.py", small_config())
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


def test_code_version_names_the_package_and_the_commit(monkeypatch):
    assert checkpoints.code_version().startswith("0.")
    monkeypatch.setenv("PATH", "")  # no git
    assert checkpoints.code_version()


def test_config_comes_back_locked_with_its_name(tmp_path):
    config = small_config()
    checkpoints.save_config(tmp_path / "a" / "b", "splits/5pct.py", config)
    name, loaded = checkpoints.load_config(tmp_path / "a" / "b")
    assert name == "splits/5pct.py"
    assert loaded == config
    assert loaded.is_locked
    content = json.loads((tmp_path / "a" / "b" / "config.json").read_text())
    assert content["code_version"]
    assert content["jax_version"]


def test_same_config_goes_on_and_another_is_named(tmp_path):
    checkpoints.save_config(tmp_path, "base.py", small_config())
    checkpoints.save_config(tmp_path, "base.py", small_config())
    other = small_config(optim__peak_lr=0.125, data__batch_size=3)
    with pytest.raises(UserError) as caught:
        checkpoints.save_config(tmp_path, "base.py", other)
    message = str(caught.value)
    assert "config.data.batch_size was 256, now 3; config.optim.peak_lr was 0.005, now 0.125" in (
        message
    )
    assert "seed" not in message
    assert checkpoints.load_config(tmp_path)[1] == small_config()


def test_config_with_a_key_more_is_named(tmp_path):
    checkpoints.save_config(tmp_path, "base.py", small_config())
    more = ml_collections.ConfigDict(small_config().to_dict() | {"extra": 1})
    with pytest.raises(UserError, match="config.extra was None, now 1"):
        checkpoints.save_config(tmp_path, "base.py", more)


def test_run_older_than_a_key_goes_on_as_it_began(tmp_path):
    checkpoints.save_config(tmp_path, "base.py", small_config())
    content = json.loads((tmp_path / "config.json").read_text())
    del content["config"]["data"]["validation_locations"], content["sha256"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert checkpoints.load_config(tmp_path)[1] == small_config()
    checkpoints.save_config(tmp_path, "base.py", small_config())
    held_out = small_config(data__validation_locations=0.2)
    with pytest.raises(UserError, match="validation_locations was 0.0, now 0.2"):
        checkpoints.save_config(tmp_path, "base.py", held_out)


def test_missing_config_says_how_to_train(tmp_path):
    with pytest.raises(UserError, match=r"no run in .*: config\.json is missing. Train first"):
        checkpoints.load_config(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b"\xff\xfe", b"{}", b'{"name": "a"}', b'{"name": "a", "config": 3}']
    + [b'{"name": "a", "config": "text"}', b'{"name": "a", "config": [1]}'],
)
def test_unreadable_config_is_an_error(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        checkpoints.load_config(tmp_path)


def test_config_changed_behind_its_back_is_refused(tmp_path):
    checkpoints.save_config(tmp_path, "base.py", small_config())
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"peak_lr": 0.005', '"peak_lr": 0.004'))
    with pytest.raises(UserError, match="not the one it was written with. Put back"):
        checkpoints.load_config(tmp_path)


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
    checkpoints.write_atomically(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: os.close(-1))  # the disk is full
        with pytest.raises(OSError, match="Bad file"):
            checkpoints.write_atomically(path, "new")
    assert path.read_text() == "old"
