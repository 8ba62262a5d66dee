"""Quantisation-aware training: its gradients, its ranges, and that its integers are deployed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exported import moved_variables
from loop_runs import N_CLIPS, Stopping, assert_same_end, fit
from ml_collections import ConfigDict
from small import small_clips, small_config
from test_quantisation import Mini

from asc_jax import experiment
from asc_jax.errors import Interrupted, UserError
from asc_jax.evaluation import evaluate, initial, int8
from asc_jax.machine import replicas
from asc_jax.models import MODELS, evaluation
from asc_jax.operations import fake, network, program, reader, simulate
from asc_jax.operations.graph import INPUT
from asc_jax.quantisation import litert, run
from asc_jax.training import aware
from asc_jax.training.state import RANGES
from asc_jax.training.workdir import checkpoints, run_config


def config_of(**changes):
    config = small_config(data__dir="nowhere", data__batch_size=8, **changes).unlock()
    config.model = ConfigDict({"name": "test_quantisation:Mini"})
    return config.lock()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A workdir with the state of a run that was not aware."""
    workdir = tmp_path_factory.mktemp("trained")
    config = config_of()
    parts = experiment.make(config)
    manager = checkpoints.Checkpoints(workdir)
    manager.save(3, parts.new_state(moved_variables(parts), parts.tx(1)))
    manager.close()
    run_config.save(workdir, "mini.py", config)
    return workdir


@pytest.fixture(scope="module")
def whole(trained, tmp_path_factory):
    """Parts of a run of 12 steps whose ranges move for 8 of them, its workdir and last state."""
    changes = {"quantise__aware": True, "quantise__freeze_epoch": 2, "schedule__peak_lr": 1e-3}
    config = config_of(init__from_run=str(trained), **changes)
    parts, workdir = experiment.make(config), tmp_path_factory.mktemp("aware")
    run_config.save(workdir, "mini.py", config)
    make, programs = replicas.pmap_train, []
    with pytest.MonkeyPatch.context() as patch:  # one compiled program for all runs

        def pmap_train(*args, **options):
            programs.append(programs[0] if programs else make(*args, **options))
            return programs[0]

        patch.setattr(replicas, "pmap_train", pmap_train)
        yield parts, workdir, fit(parts, workdir, start=start(), checkpoint_every_epochs=1)


def start():
    return functools.partial(initial.start, clips=small_clips(N_CLIPS))


def obvious_gradient(x, scale, zero_point):
    """1 for each value that is rounded to one of the 256, 0 for one that is cut off."""
    return [float(-128 <= round(v / scale) + zero_point <= 127) for v in x]


def test_gradient_of_an_activation_passes_where_it_is_not_cut_off():
    at = fake.point(jnp.float32(-1.0), jnp.float32(3.0))
    x = np.linspace(-2, 4, 97, dtype=np.float32)
    value, gradient = jax.vmap(jax.value_and_grad(lambda x: fake.activations(x, at)))(x)
    np.testing.assert_array_equal(gradient, obvious_gradient(x, float(at.scale), at.zero_point))
    own = program.tensor("x", (), (-1.0, 3.0))
    assert (own.zero_point, own.scale) == (int(at.zero_point), pytest.approx(float(at.scale)))
    expected = simulate.dequantise(own, simulate.quantise(own, x))
    np.testing.assert_allclose(value, expected, atol=1e-6)
    assert fake.activations(jnp.float32(0), at) == 0


def test_gradient_of_a_kernel_and_a_bias_is_that_of_what_they_are_rounded_to():
    rng = np.random.default_rng(0)
    params = {"kernel": rng.normal(0, 1, (3, 3, 4, 5)), "bias": rng.normal(0, 1, 5)}
    params = jax.tree.map(jnp.float32, params)
    at = fake.point(jnp.float32(0), jnp.float32(6.0))
    weigh = jax.tree.map(lambda x: rng.normal(0, 1, x.shape).astype(np.float32), params)

    def loss(params):
        rounded, _ = fake.weights(params, at)
        return sum(jnp.sum(weigh[name] * rounded[name] ** 2) for name in params)

    rounded, scale = fake.weights(params, at)
    for name, gradient in jax.grad(loss)(params).items():
        np.testing.assert_allclose(gradient, 2 * weigh[name] * rounded[name], rtol=1e-6)
    steps = np.asarray(rounded["kernel"]) / np.asarray(scale)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)
    assert np.abs(steps).max(axis=(0, 1, 2)) == pytest.approx(127)


def test_weights_rounded_before_batch_normalisation_have_the_same_integers():
    """A channel's scale follows its factor, so that folding changes no integer."""
    rng = np.random.default_rng(0)
    kernel, factor = rng.normal(0, 1, (3, 3, 4, 5)), np.array([0.2, -1.7, 1, 30, -1e-3])
    at = fake.point(jnp.float32(0), jnp.float32(6.0))

    def integers(kernel):
        rounded, scale = fake.weights({"kernel": jnp.float32(kernel), "bias": jnp.zeros(5)}, at)
        return np.rint(np.asarray(rounded["kernel"]) / np.asarray(scale))

    np.testing.assert_array_equal(integers(kernel * factor), integers(kernel) * np.sign(factor))


@pytest.mark.parametrize(
    ("made", "shape"),
    [
        (Mini(), (16, 9, 1)),
        pytest.param(MODELS["cp_mobile"](), (32, 17, 1), marks=pytest.mark.nightly),
        pytest.param(MODELS["cp_resnet"](), (64, 9, 1), marks=pytest.mark.nightly),
    ],
)
def test_arrays_are_the_same_function_of_the_variables_as_the_reader_computes(made, shape):
    variables = jax.jit(made.init, static_argnames="train")(
        jax.random.key(0), jnp.zeros((1, *shape)), train=False
    )
    variables = jax.tree.map(
        lambda x: x + 0.1 * jax.random.uniform(jax.random.key(1), x.shape), variables
    )
    operations, arrays = reader.read_function(evaluation(made), variables, shape)
    found = jax.jit(arrays)(variables)
    expected = reader.read(evaluation(made), variables, shape)
    assert [(op.name, op.kind, op.inputs) for op in operations] == [
        (op.name, op.kind, op.inputs) for op in expected
    ]
    for op in expected:
        for array, value in op.arrays.items():
            np.testing.assert_allclose(found[op.owner][array], value, rtol=1e-3, atol=1e-5)


def test_training_computes_what_the_integers_will(whole):
    parts, _, state = whole
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    log_mel = network.compute_log_mel(parts.config, small_clips(8, seed=1), 8)
    operations, arrays = aware.read(parts.config)
    ranges = state.further[RANGES]
    ours, exact = jax.jit(lambda v, x: fake.compute(operations, arrays(v), ranges, x))(
        variables, log_mel
    )
    assert {*exact} == {*fake.names(operations)} == ranges["low"].keys()
    integers = int8.make_program(parts, variables, state.ranges)
    q = simulate.simulator(integers)(simulate.quantise(integers.input, log_mel))
    steps = (ours - simulate.dequantise(integers.output, q)) / integers.output.scale
    assert np.abs(steps).max() < 3.5  # measured: 1


def test_ranges_move_with_the_batches_until_they_are_frozen():
    ranges = aware.new_ranges({"a": (-1.0, 2.0)}, 1)
    exact = {"a": jnp.array([[4.0, -3.0], [100.0, -100.0]])}
    mask = jnp.array([True, False])
    ends = aware.extremes(exact, mask)
    moved = aware.moved(ranges, ends, 0.75, None)
    assert (moved["low"]["a"], moved["high"]["a"], moved["n_moving"]) == (-1.5, 2.5, 0)
    assert aware.moved(moved, ends, 0.75, None) == moved


@pytest.mark.nightly
def test_a_few_clips_at_a_time_give_what_all_at_once_do(whole, monkeypatch):
    parts, _, state = whole
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    variables[RANGES] = {**state.further[RANGES], "n_moving": np.int32(3)}
    batch = {"log_mel": network.compute_log_mel(parts.config, small_clips(8, seed=2), 8)}
    batch["mask"] = np.arange(8) < 7

    def run_with(n_clips):
        monkeypatch.setattr(aware, "CPU_CLIPS", n_clips)
        forward = aware.forward(parts.config)

        def loss(params):
            logits, updates = forward({**variables, "params": params}, batch, None)
            return (logits**2).sum(), updates[RANGES]

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(state.params)

    some, every = run_with(2), run_with(8)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4), some, every)
    assert some[0][1]["low"][INPUT] != state.ranges[INPUT][0]


def test_run_has_moved_ranges_and_statistics_of_the_run_it_began_with(whole, trained):
    parts, _, state = whole
    before = evaluate.open_run(trained)
    jax.tree.map(np.testing.assert_array_equal, state.batch_stats, before.variables["batch_stats"])
    begun = aware.find_ranges(parts.config, before.variables, small_clips(N_CLIPS))
    assert state.ranges.keys() == begun.keys()
    assert state.ranges[INPUT] != begun[INPUT]
    assert state.further[RANGES]["n_moving"] == 0
    for name, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        old = functools.reduce(lambda tree, part: tree[part.key], name, before.variables["params"])
        assert not np.array_equal(leaf, old), name


@pytest.mark.slow
def test_run_that_was_stopped_ends_with_the_same_bits(whole, tmp_path):
    parts, workdir, state = whole
    with pytest.raises(Interrupted):
        fit(parts, tmp_path, Stopping(small_clips(N_CLIPS), at=6), start=start())
    again = fit(parts, tmp_path, start=start())
    assert_same_end(again, tmp_path, (workdir, state))


@pytest.mark.nightly
def test_evaluation_and_file_have_the_integers_of_the_training(whole, tmp_path):
    pytest.importorskip("ai_edge_litert.interpreter")
    _, workdir, state = whole
    opened = evaluate.open_run(workdir, stored="int8")
    assert opened.ranges == state.ranges
    clips = small_clips(12, seed=3)
    given = evaluate.evaluate_stored(
        opened.experiment, opened.variables, clips, ranges=opened.ranges
    )
    lines = run.export_int8(workdir, small_clips(N_CLIPS), out_dir=tmp_path)
    assert any("calibration: of the training; 28 clips to report on" in line for line in lines)
    (path,) = tmp_path.iterdir()
    integers = int8.make_program(opened.experiment, opened.variables, opened.ranges)
    log_mel = network.compute_log_mel(opened.experiment.config, clips, 12)
    x = np.asarray(simulate.quantise(integers.input, log_mel))
    theirs = litert.load(path.read_bytes())(x)
    np.testing.assert_array_equal(given.logits, simulate.dequantise(integers.output, theirs))


def test_ranges_of_the_training_are_those_that_are_deployed(whole):
    _, workdir, state = whole
    opened = evaluate.open_run(workdir)
    assert opened.ranges == state.ranges
    integers = int8.make_program(opened.experiment, opened.variables, opened.ranges)
    for step in integers.steps:
        name = step.output.name
        if name in state.ranges:
            own = program.tensor(name, (), state.ranges[name])
            assert (step.output.scale, step.output.zero_point) == (own.scale, own.zero_point)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "config.init.from_run is '', expected a run, for quantise.aware"),
        (
            {"init__from_run": "x", "precision__compute": "bfloat16"},
            "config.precision.compute is 'bfloat16', expected float32, for quantise.aware",
        ),
        (
            {"init__from_run": "x", "quantise__momentum": 1.0},
            "quantise.momentum is 1.0, expected",
        ),
        ({"init__from_run": "x", "quantise__calibration": "max"}, "quantise.calibration is 'max'"),
    ],
)
def test_what_cannot_be_trained_so_is_named(changes, expected):
    with pytest.raises(UserError, match=expected):
        experiment.make(config_of(quantise__aware=True, **changes))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"name": "test_quantisation:Quotient"}, "the operation div of div has no rule in int"),
        (
            {"name": "cp_mobile", "width": 8, "depthwise": "branches"},
            "deployed in another form: give it that form",
        ),
    ],
)
def test_networks_without_integers_are_named(model, expected):
    config = small_config(init__from_run="x", quantise__aware=True).unlock()
    config.model = ConfigDict(model)
    with pytest.raises(UserError, match=expected):
        experiment.make(config.lock())
