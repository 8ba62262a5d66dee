"""Runs that version 0.1.0 began: `tests/golden/first_version` is one, after its first epoch."""

import functools
import pathlib
import shutil

import jax
import numpy as np
import pytest
from loop_runs import compiled_once, fit
from small import small_config

from asc_jax.cli.config_flag import read_config
from asc_jax.evaluation import evaluate
from asc_jax.training.workdir import checkpoints, run_config
from asc_jax.training.workdir.upgrade import MOVED, upgraded

FIRST_VERSION = pathlib.Path(__file__).parent / "golden" / "first_version"


@pytest.fixture(scope="module")
def experiment():
    with compiled_once() as whole:
        yield whole


def test_saved_config_is_that_of_today():
    name, config = run_config.load(FIRST_VERSION)
    assert name == "small.py"
    today = small_config(data__batch_size=8)
    assert config.to_dict() == today.to_dict()
    run_config.check(FIRST_VERSION, today)


def test_every_moved_key_leads_to_one_of_today():
    config = small_config()
    for new in MOVED.values():
        *sections, key = new.split(".")
        section = functools.reduce(lambda section, name: section[name], sections, config)
        assert key in section, new


def test_a_config_of_today_is_left_alone():
    config = small_config().to_dict()
    assert upgraded(config) == config
    del config["augment"]["time_roll"], config["train"]["n_seeds"]
    assert upgraded(config) == config | {"train": config["train"] | {"n_seeds": 1}}


@pytest.mark.nightly
def test_run_is_resumed_to_the_same_bits_from_its_state_in_either_layout(
    experiment, tmp_path, compiled_fast
):
    shutil.copytree(FIRST_VERSION, tmp_path / "old")
    state, extra, step = evaluate.restore(experiment, tmp_path / "old")
    assert (step, int(state.opt_state.count), int(state.opt_state.inner[0].count)) == (4, 4, 4)
    manager = checkpoints.Checkpoints(tmp_path / "new")
    manager.save(step, state, extra | {"config": experiment.config.to_dict()})
    manager.close()
    old, new = (fit(experiment, tmp_path / name) for name in ("old", "new"))
    assert int(old.step) == 12
    jax.tree.map(np.testing.assert_array_equal, old, new)


def test_sections_of_own_parts_are_left_alone():
    """An empty section, and a keyword that is called as one of the first version was."""
    config = small_config().to_dict()
    config["augment"] = {}
    config["optim"] = {"name": "my_parts:sgd", "warmup_steps": 7, "inner": {"decay": {}}}
    assert upgraded(config) == config


def test_keyword_of_a_part_that_has_another_name_now():
    section = {"name": "device_impulse_response", "p": 0.6, "column": "device"}
    config = small_config().to_dict()
    config["augment"] |= {"dir": {**section, "column_values": "a"}, "mine": {"values": "a"}}
    old = {**config, "augment": config["augment"] | {"dir": {**section, "values": "a"}}}
    assert upgraded(old) == config


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_command_line_takes_the_keys_of_the_first_version():
    given = ["--config.optim.peak_lr=0.25", "--config.network=cp_mobile"]
    config = read_config("demo.py", given)
    assert (config.schedule.peak_lr, config.model.name) == (0.25, "cp_mobile")
