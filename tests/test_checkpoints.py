"""Checkpoints and the config beside them: what was saved comes back, or a person is told."""

import json

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
