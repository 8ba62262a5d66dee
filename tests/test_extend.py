"""The page "Extend": its files are saved as they stand, trained, resumed and converted."""

import dataclasses
import importlib
import importlib.util
import pathlib
import re
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exported import PACKAGES
from loop_runs import Stopping, compiled_once
from ml_collections import ConfigDict
from small import small_clips

import asc_jax
from asc_jax import experiment
from asc_jax.cli.config_flag import make_configs_importable
from asc_jax.errors import Interrupted, UserError
from asc_jax.evaluation import evaluate
from asc_jax.export.run import export_run
from asc_jax.machine.named_parts import NAMES_OF_SECTIONS, bind
from asc_jax.training import loop
from asc_jax.training.workdir import run_config

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "extend.md"
OPTIONS = {
    "make_evaluator": evaluate.make_evaluator,
    "n_epochs": 2,
    "eval_every_epochs": 2,
    "checkpoint_every_epochs": 1,
    "keep_checkpoints": 1,
    "keep_best": False,
    "steps_per_call": 2,
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The page's config, with a front end that is quick, in the folder of the page's files."""
    folder = tmp_path_factory.mktemp("mine")
    files = re.findall(r"`(my_\w+\.py)`\n\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert [name for name, _ in files] == ["my_parts.py", "my_config.py"]
    for name, code in files:
        (folder / name).write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        make_configs_importable()
        config = importlib.import_module("my_config").get_config()
        config.features.n_mels = 32
        config.features.hop_length = 2000
        config.augment.freq_mask.max_width = 8
        config.data.batch_size = 4
        yield config
    del sys.modules["my_parts"], sys.modules["my_config"]


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    """`(experiment, workdir, final state, final state of one that was stopped and resumed)`."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    workdir = tmp_path_factory.mktemp("run")
    own = experiment.make(config)
    run_config.save(workdir, "my_config.py", config)
    with compiled_once(own):
        whole = loop.fit(own, small_clips(10), small_clips(4), workdir, **OPTIONS)
        stopped = tmp_path_factory.mktemp("stopped")
        with pytest.raises(Interrupted):
            loop.fit(own, Stopping(small_clips(10), 4), small_clips(4), stopped, **OPTIONS)
        resumed = loop.fit(own, small_clips(10), small_clips(4), stopped, **OPTIONS)
    yield own, workdir, whole, resumed
    jax.config.update("jax_disable_most_optimizations", before)


def test_own_network_is_counted(config):
    cost = experiment.make(config).cost
    assert cost["n_params"] == 27 * 24 + 2 * 24 + 6 * 24 * 24 + 4 * 24 + 24 * 10 + 10
    convolution, gru, head = 4 * 9 * 27 * 24, 9 * 6 * 24 * 24, 24 * 10
    assert cost["macs"] == convolution + gru + head


def test_own_parts_train_and_a_resumed_run_ends_in_the_same_bits(trained):
    own, _, whole, resumed = trained
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    moved = jax.tree.map(lambda a, b: np.any(a != b), whole.params, own.variables()["params"])
    assert all(jax.tree.leaves(moved))


def test_own_network_predicts_and_is_converted(trained, few_clips):
    _, workdir, whole, _ = trained
    run = asc_jax.load_run(workdir)
    jax.tree.map(np.testing.assert_array_equal, run.variables, whole.variables)
    prediction = run.predict(np.zeros(48_000), 32_000)
    np.testing.assert_allclose(prediction.probs.sum(-1), [1, 1])
    for kind in ("stablehlo", "onnx"):
        if not all(map(importlib.util.find_spec, PACKAGES[kind])):
            continue  # an optional package is not installed
        lines = export_run(workdir, kind, out_dir=workdir / kind)
        assert {path.name for path in (workdir / kind).iterdir()} == {
            f"waveform_to_probs.{kind}",
            f"log_mel_to_logits.{kind}",
        }
        assert any("same top class on 100.00 %" in line for line in lines)


def test_own_augmentation_reads_the_device(config):
    (gain,) = (a for a in experiment.make(config).augmentations if a.label == "gain")
    batch = {
        "audio": jnp.ones((4, 8)),
        "device_id": jnp.array([0, 1, 0, 5]),
        "batch_row": jnp.arange(4),
    }
    changed = np.asarray(gain(jax.random.key(0), batch, None)["audio"])
    assert np.all(changed[[1, 3]] == 1)
    assert np.all(changed[[0, 2]] != 1)
    assert changed[0, 0] != changed[2, 0]


@pytest.mark.nightly
def test_arrays_are_loaded_for_training_and_can_be_indexed(config, tmp_path, compiled_fast):
    """The second example of the page, seeds in one program included."""
    code = re.findall(r"```python\n(import jax\n.*?)```", PAGE.read_text(), re.DOTALL)[0]
    pathlib.Path("my_arrays.py").write_text(code)
    np.save(tmp_path / "gains.npy", np.array([0.5, 2.0], np.float32))
    changed = config.copy_and_resolve_references().unlock()
    section = {"name": "my_arrays:gain_of_a_device", "path": str(tmp_path / "gains.npy")}
    changed.augment.gain = section
    own = experiment.make(changed.lock())
    for together in (False, True):
        runs = [tmp_path / f"{together}{k}" for k in range(2)]
        options = OPTIONS | {"n_epochs": 1, "resident": "int16", "together": together}
        loop.fit_seeds([own, own], small_clips(10), small_clips(4), runs, **options)
    (tmp_path / "gains.npy").unlink()
    experiment.make(changed)  # evaluating does not need them
    with pytest.raises(UserError, match=r"config.augment.gain: FileNotFoundError: .*gains.npy"):
        own.arrays()


def test_error_of_own_code_in_the_first_step_is_one_line(config, tmp_path, compiled_fast):
    own = experiment.make(config)
    for loss_fn, expected in (
        (
            lambda logits, batch: batch["lable"],
            "a part of yours failed: KeyError: 'lable' .test_ext",
        ),
        (lambda logits, batch: logits.mean(), r"config.loss gives \(\) for a batch of 1 clips"),
        (lambda logits, batch: logits[:, :1], r"config.loss gives \(1, 1\) for a batch of 1 clips"),
    ):
        broken = dataclasses.replace(own, loss_fn=loss_fn)
        with pytest.raises(UserError, match=expected):
            loop.fit(broken, small_clips(4), None, tmp_path, **OPTIONS)


class Wide(nn.Module):
    """A network whose attributes are a tuple and a word that the program uses otherwise."""

    widths: tuple[int, ...] = (2,)
    body: str = "small"

    @nn.compact
    def __call__(self, log_mel, train):
        assert (self.widths, self.body) == ((4, 5), "small")
        x = log_mel.reshape(len(log_mel), -1)[:, :20]
        return nn.Dense(10)(nn.Dense(sum(self.widths))(x))


def test_tuples_and_other_attributes_come_back(config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wide", sys.modules[__name__])
    changed = config.copy_and_resolve_references().unlock()
    changed.model = ConfigDict({"name": "wide:Wide", "widths": (4, 5), "body": "small"})
    changed.augment = ConfigDict()
    run_config.save(tmp_path, "mine.py", changed)
    run_config.save(tmp_path, "mine.py", changed)  # as a run that is resumed does
    assert experiment.make(run_config.load(tmp_path)[1]).cost["n_params"] == 20 * 9 + 9 + 100


@pytest.mark.parametrize(
    ("section", "key", "value", "expected"),
    [
        ("model", "name", "my_parts:Missing", "my_parts.py has no Missing"),
        ("model", "name", "no_such_module:Net", "there is no module no_such_module in .*/mine"),
        ("model", "wdith", 8, "config.model.wdith: my_parts:ConvGru takes no such value.*width"),
        ("model", "name", ["a"], r"config.model.name is \['a'\]: unknown"),
        ("augment", "gain", 3, "config.augment.gain is 3, expected a section"),
        (
            "augment",
            "gain",
            {"name": "time_roll", "max_s": 0.1, "order": "first"},
            "expected a num",
        ),
        ("optim", "name", "optax:polyak_sgd", "config.optim.momentum: optax:polyak_sgd takes no"),
        (
            "augment",
            "gain",
            {"name": "my_parts:gain_of_device_a", "max_db": "loud"},
            r"config.augment.gain: TypeError: .* \(my_parts.py, line \d+\)",
        ),
        ("optim", "name", "adamw", "config.optim.momentum: adamw takes no such value"),
        ("augment", "gain", {"name": "my_parts:sgd"}, "not marked with"),
        ("precision", "compute", "bfloat16", "ConvGru has no attribute dtype"),
        ("augment", "items", {"name": "time_roll", "max_s": 0.1}, "the section items of config.a"),
    ],
)
def test_mistake_in_an_own_part_is_one_line(config, section, key, value, expected):
    changed = config.copy_and_resolve_references().unlock()
    with changed.ignore_type():
        changed[section][key] = value
    with pytest.raises(UserError, match=expected) as caught:
        experiment.make(changed.lock())
    assert "\n" not in str(caught.value)


def with_values(logits, batch, *, values=1.0):
    """A loss with a keyword that no section can have."""
    return logits[:, 0] * values


@pytest.mark.parametrize("section", [{}, {"values": 2.0}])
def test_keyword_with_a_name_of_every_section_is_rejected(section):
    where = r"config.loss.name is 'with_values': its keyword values has a name that every section"
    with pytest.raises(UserError, match=where):
        bind({"with_values": with_values}, {"name": "with_values", **section}, "config.loss")


def test_names_of_every_section_are_those_of_config_dict():
    own = {name for name in dir(ConfigDict) if not name.startswith("_")}
    assert own <= set(NAMES_OF_SECTIONS.split())
