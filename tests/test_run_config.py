"""The config of a run: it comes back as it was, or a person is told."""

import json

import ml_collections
import pytest
from small import small_config

from asc_jax.errors import UserError
from asc_jax.machine import version
from asc_jax.training.workdir import run_config


def test_code_version_names_the_package_and_the_commit(monkeypatch):
    assert version.code_version().startswith("0.")
    monkeypatch.setenv("PATH", "")  # no git
    assert version.code_version()


def test_config_comes_back_locked_with_its_name(tmp_path):
    config = small_config()
    run_config.save(tmp_path / "a" / "b", "splits/5pct.py", config)
    name, loaded = run_config.load(tmp_path / "a" / "b")
    assert name == "splits/5pct.py"
    assert loaded == config
    assert loaded.is_locked
    content = json.loads((tmp_path / "a" / "b" / "config.json").read_text())
    assert content["code_version"]
    assert content["jax_version"]


def test_same_config_goes_on_and_another_is_named(tmp_path):
    run_config.save(tmp_path, "base.py", small_config())
    run_config.save(tmp_path, "base.py", small_config())
    other = small_config(schedule__peak_lr=0.125, data__batch_size=3)
    with pytest.raises(UserError) as caught:
        run_config.save(tmp_path, "base.py", other)
    message = str(caught.value)
    assert (
        "config.data.batch_size was 256, now 3; config.schedule.peak_lr was 0.005, now 0.125"
        in (message)
    )
    assert "seed" not in message
    assert run_config.load(tmp_path)[1] == small_config()


def test_config_with_a_key_more_is_named(tmp_path):
    run_config.save(tmp_path, "base.py", small_config())
    more = ml_collections.ConfigDict(small_config().to_dict() | {"extra": 1})
    with pytest.raises(UserError, match="config.extra was None, now 1"):
        run_config.save(tmp_path, "base.py", more)


def test_run_older_than_a_key_goes_on_as_it_began(tmp_path):
    run_config.save(tmp_path, "base.py", small_config())
    content = json.loads((tmp_path / "config.json").read_text())
    del content["config"]["data"]["validation_locations"], content["sha256"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert run_config.load(tmp_path)[1] == small_config()
    run_config.save(tmp_path, "base.py", small_config())
    held_out = small_config(data__validation_locations=0.2)
    with pytest.raises(UserError, match="validation_locations was 0.0, now 0.2"):
        run_config.save(tmp_path, "base.py", held_out)


def test_missing_config_says_how_to_train(tmp_path):
    with pytest.raises(UserError, match=r"no run in .*: config\.json is missing. Train first"):
        run_config.load(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b"\xff\xfe", b"{}", b'{"name": "a"}', b'{"name": "a", "config": 3}']
    + [b'{"name": "a", "config": "text"}', b'{"name": "a", "config": [1]}'],
)
def test_unreadable_config_is_an_error(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        run_config.load(tmp_path)


def test_config_changed_behind_its_back_is_refused(tmp_path):
    run_config.save(tmp_path, "base.py", small_config())
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"peak_lr": 0.005', '"peak_lr": 0.004'))
    with pytest.raises(UserError, match="not the one it was written with. Put back"):
        run_config.load(tmp_path)
