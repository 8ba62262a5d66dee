"""Students and teachers against arrays of their authors' implementations.

`golden/*.npz` hold, in PyTorch's names, the `state` of a network with random weights, log-mels, and
what it made of them in float64: logits in evaluation, and in training logits, running statistics
`after` the step and the gradients `grad` of the mean cross-entropy for the labels 0 to 3.
"""

import functools
import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from exported import kind_of, kinds, moved_variables
from flax import traverse_util
from small import small_config

from asc_jax import experiment
from asc_jax.complexity import count_macs
from asc_jax.errors import BadValue, UserError
from asc_jax.evaluation import evaluate
from asc_jax.export import check
from asc_jax.export.run import deploy
from asc_jax.models import CNNGRU, MODELS, CPMobile, CPResNet, TFSepNet, evaluation, training
from asc_jax.models.from_config import deployed, log_mel_shape
from asc_jax.models.layers import KERNEL_INITS
from asc_jax.models.precision import n_params
from asc_jax.operations import graph, reader
from asc_jax.operations.graph import ARTEFACTS
from asc_jax.pytorch import files as torch_files
from asc_jax.pytorch import runs as torch_runs
from asc_jax.pytorch.networks import layouts
from asc_jax.pytorch.weights import from_torch, infer_config, read_counters, recognise, to_torch
from asc_jax.training import state
from configs import base

GOLDEN = pathlib.Path(__file__).parent / "golden"
HALF = (1, 1), (2, 2), (1, 1), (2, 1), (1, 1), (1, 1)
WIDE = {"width_multiplier": 2.3, "expansion": 3.0, "grn": True, "strides": HALF}
SMALL = {"width": 8, "width_multiplier": 2.8, "expansion": 2.2, "grn": True}
NETWORKS = {
    "cp_mobile_half": CPMobile(strides=HALF),
    "cp_mobile_126952": CPMobile(**WIDE),
    "cp_mobile_12310": CPMobile(**SMALL),
    "cp_resnet": CPResNet(),
    "cnn_gru": CNNGRU(dropout=0.0, step_dropout=0.0),
    "tf_sepnet_40": TFSepNet(norm="res_norm", dropout=0.0),
    "tf_sepnet_64": TFSepNet(width=64, depth=17, norm="res_norm", dropout=0.0),
}
CONFIGS = (
    "students/cp_mobile_12310",
    "students/cp_mobile_61160",
    "students/cp_mobile_half",
    "students/rep_mobile",
    "students/cnn_gru",
    "tf_sepnet_40",
    "teachers/cp_resnet",
    "teachers/cp_mobile_126952",
    "teachers/tf_sepnet_64",
)
NIGHTLY = [pytest.mark.slow, pytest.mark.nightly]
IN_TRAINING = [name for name in NETWORKS if not name.startswith("tf_sepnet")]  # which has its own


@functools.cache
def golden(name):
    return dict(np.load(GOLDEN / f"{name}.npz"))


def part(name, prefix):
    """Return the golden arrays whose names begin so, without it."""
    prefix += "/"
    return {k.removeprefix(prefix): v for k, v in golden(name).items() if k.startswith(prefix)}


def variables_of(name, **changed):
    return from_torch(part(name, "state") | changed)


def log_mel_of(name):
    return jnp.moveaxis(jnp.asarray(golden(name)["log_mel"]), 1, -1)


def config_of(name):
    """Return the config of that name, such as `students/cnn_gru`."""
    return importlib.import_module(f"configs.{name.replace('/', '.')}").get_config()


def shapes_of(network, shape):
    clip = jax.ShapeDtypeStruct((1, *shape, 1), jnp.float32)
    return clip, jax.eval_shape(network.init, jax.random.key(0), clip)


@pytest.mark.parametrize(
    ("network", "shape", "params", "macs"),
    [
        (CPMobile(grn=True), (256, 65), 61_160, 29_416_448),
        (CPMobile(grn=True, strides=HALF), (256, 64), 61_160, 17_047_552),
        (CPMobile(**SMALL), (256, 65), 12_310, 4_292_864),
        (CPMobile(**WIDE), (256, 64), 126_952, 28_889_088),
        (CPMobile(**WIDE), (256, 65), 126_952, 31_680_000),
        (CNNGRU(), (256, 33), 58_171, 10_889_944),
        (CPResNet(), (256, 43), 127_684, 28_839_120),
        (CPResNet(), (256, 65), 127_684, 45_980_032),
        (TFSepNet(), (256, 64), 53_370, 7_025_200),
        (TFSepNet(width=80), (256, 64), 196_730, 24_171_200),
        (TFSepNet(width=64, depth=17, norm="res_norm"), (512, 64), 126_858, 29_413_888),
        (TFSepNet(width=64, depth=17, norm="res_norm"), (512, 65), 126_858, 30_734_848),
    ],
)
def test_size_is_the_published_one(network, shape, params, macs):
    clip, variables = shapes_of(network, shape)
    assert n_params(variables["params"]) == params
    assert count_macs(evaluation(network), variables, clip).total == macs


@pytest.mark.parametrize(
    ("name", "n_frames", "params", "macs"),
    [
        ("students/cp_mobile_12310", 64, 12_310, 3_883_008),
        ("students/cp_mobile_61160", 65, 61_160, 29_416_448),
        ("students/cp_mobile_half", 64, 61_160, 17_047_552),
        ("students/cnn_gru", 33, 58_171, 10_889_944),
        ("students/rep_mobile", 64, 60_664, 17_047_552),
        ("teachers/cp_mobile_126952", 64, 126_952, 28_889_088),
        ("teachers/cp_resnet", 43, 127_684, 28_839_120),
        ("teachers/tf_sepnet_64", 64, 126_858, 29_413_888),
    ],
)
def test_config_is_the_published_network_behind_its_front_end(name, n_frames, params, macs):
    config = config_of(name)
    made = experiment.make(config)
    assert log_mel_shape(config)[1] == n_frames
    assert (made.cost["n_params"], made.cost["macs"]) == (params, macs)
    text = importlib.import_module(f"configs.{name.replace('/', '.')}").__doc__
    assert f"{params:,} parameters" in " ".join(text.split())
    assert f"{macs:,} multiply-accumulates" in " ".join(text.split())
    assert made.is_teacher == name.startswith("teachers/")


@pytest.mark.parametrize(
    ("name", "macs"),
    [("teachers/tf_sepnet_64", 30_734_848), ("teachers/cp_mobile_126952", 31_680_000)],
)
def test_without_pre_emphasis_the_clip_has_a_frame_more_and_the_network_is_over(name, macs):
    config = config_of(name).unlock()
    config.budget.update(role="submission", max_bytes=128_000)
    config.precision.stored = "float32"
    config.features.pre_emphasis = 0.0
    with pytest.raises(
        UserError, match=rf"{macs:,} MACs are \d+,\d+,?\d* over the limit of 30,000,0"
    ):
        experiment.make(config.lock())


def test_recurrent_layer_is_counted_step_by_step():
    clip, variables = shapes_of(CNNGRU(), (256, 33))
    macs = count_macs(evaluation(CNNGRU()), variables, clip)
    assert macs.by_layer["gru"] == 28 * 3 * 64 * (16 + 64) == 430_080
    assert not macs.uncounted


@pytest.mark.parametrize("name", IN_TRAINING)
def test_evaluation_logits_are_the_authors(name):
    logits = jax.jit(evaluation(NETWORKS[name]))(variables_of(name), log_mel_of(name))
    np.testing.assert_allclose(logits, golden(name)["logits"], atol=1e-5)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("name", IN_TRAINING)
def test_in_float64_everything_is_the_authors(name, x64):
    network, given = NETWORKS[name], (variables_of(name), log_mel_of(name))
    variables, log_mel = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), given)
    logits = jax.jit(evaluation(network))(variables, log_mel)
    np.testing.assert_allclose(logits, golden(name)["logits"], atol=1e-10)

    @jax.jit
    def gradient(params):
        def loss(params):
            logits, updated = training(network)({**variables, "params": params}, log_mel)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(4))
            return losses.mean(), (logits, updated)

        return jax.grad(loss, has_aux=True)(params)

    grads, (logits, updated) = gradient(variables["params"])
    np.testing.assert_allclose(logits, golden(name)["train_logits"], atol=1e-10)
    expected = variables_of(name, **part(name, "after"))["batch_stats"]
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6), updated["batch_stats"], expected
    )
    if of_authors := part(name, "grad"):
        expected = variables_of(name, **of_authors)["params"]
        largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
        close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7 * largest)
        jax.tree.map(close, grads, expected)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("name", IN_TRAINING)
def test_training_logits_and_statistics_are_the_authors(name):
    forward = jax.jit(training(NETWORKS[name]))
    logits, updated = forward(variables_of(name), log_mel_of(name))
    np.testing.assert_allclose(logits, golden(name)["train_logits"], atol=1e-4)
    expected = variables_of(name, **part(name, "after"))["batch_stats"]
    close = functools.partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-5)
    jax.tree.map(close, updated["batch_stats"], expected)


def assert_same(ours, theirs):
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert (ours[name].shape, ours[name].dtype) == (value.shape, value.dtype), name
        assert ours[name].tobytes() == value.tobytes(), name


@pytest.mark.parametrize("name", NETWORKS)
def test_state_dict_is_recognised_and_comes_back_bit_for_bit(name):
    network, tensors = NETWORKS[name], part(name, "state")
    attributes = infer_config(tensors)
    kind = MODELS[recognise(tensors).network]
    kept = {k: getattr(network, k) for k in attributes}
    if kind is CPMobile:  # whose channels are rounded: a range of numbers makes the same
        kept |= {k: attributes[k] for k in ("width_multiplier", "expansion")}
    assert (kind, attributes) == (type(network), kept)
    back = to_torch(from_torch(tensors), read_counters(tensors) or 0, attributes)
    if name.startswith("tf_sepnet"):  # stored without counters
        back = {k: v for k, v in back.items() if not k.endswith("num_batches_tracked")}
    assert_same(back, tensors)


@pytest.mark.parametrize("layout", layouts(), ids=lambda each: f"{each.network} {each.variant}")
def test_every_variant_goes_to_pytorch_and_back(layout):
    network = MODELS[layout.network](**layout.variant)
    _, shapes = shapes_of(network, (64, 32))
    rng = np.random.default_rng(0)
    draw = lambda x: rng.uniform(0.5, 1.5, x.shape).astype(np.float32)  # noqa: E731
    variables = jax.tree.map(draw, shapes)
    tensors = to_torch(variables, 3, layout.variant)
    assert [*recognise(tensors).tensors] == [*layout.tensors]
    jax.tree.map(np.testing.assert_array_equal, from_torch(tensors), variables)
    assert set(read_counters(tensors).values()) == {3}
    wrapped = {f"model.{name}": value for name, value in tensors.items()}
    assert infer_config(wrapped) == infer_config(tensors)
    assert traverse_util.flatten_dict(shapes).keys() == {t.path for t in layout.tensors}


@pytest.mark.parametrize(
    "name",
    ["cp_resnet", *(pytest.param(name, marks=NIGHTLY) for name in ("cnn_gru", "tf_sepnet"))],
)
@pytest.mark.parametrize("kernel_init", KERNEL_INITS)
def test_kernels_start_as_they_are_told_to(name, kernel_init):
    small = {"width": 16} if name == "tf_sepnet" else {}
    network = MODELS[name](kernel_init=kernel_init, **small)
    clip = jax.ShapeDtypeStruct((1, 32, 32, 1), jnp.float32)
    variables = network.lazy_init(jax.random.key(0), clip)
    layer = {"cnn_gru": "merge", "tf_sepnet": "stem2", "cp_resnet": "b4"}[name]
    params = variables["params"][layer]
    kernel = np.asarray(params.get("kernel", params.get("conv1", params).get("kernel")))
    kf, kt, c_in, c_out = kernel.shape
    fan_in, fan_out = kf * kt * c_in, kf * kt * c_out
    of = {"kaiming_fan_out": 2 / fan_out, "kaiming_fan_in": 2 / fan_in, "pytorch": 1 / 3 / fan_in}
    assert kernel.std() == pytest.approx(of[kernel_init] ** 0.5, rel=0.15)
    if kernel_init == "pytorch":
        assert np.abs(kernel).max() <= fan_in**-0.5


def test_head_of_the_teacher_starts_at_zero():
    variables = state.init_variables(CPResNet(), jax.random.key(0), (64, 32, 1))
    assert not np.any(variables["params"]["head"]["kernel"])


@pytest.mark.parametrize(
    ("network", "attribute"),
    [
        (CPMobile(strides=HALF[:5]), "strides"),
        (CPMobile(strides=(*HALF[:5], (0, 1))), "strides"),
        (CPMobile(strides=(*HALF[:5], 2)), "strides"),
        (CNNGRU(width=6), "width"),
        (CNNGRU(dropout=1.0), "dropout"),
        (CNNGRU(hidden=0), "hidden"),
        (CPResNet(widths=(31, 64, 92)), "widths"),
        (CPResNet(widths=(32, 64)), "widths"),
    ],
)
def test_attribute_outside_its_range_is_named(network, attribute):
    with pytest.raises(BadValue, match=attribute):
        jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 64, 32, 1)))


@pytest.mark.parametrize("name", ["cnn_gru", "tf_sepnet", "cp_resnet"])
def test_unknown_kernel_init_is_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match="known: kaiming_fan_out"):
        shapes_of(MODELS[name](kernel_init="xavier"), (64, 32))


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("kind", kinds(("onnx", "litert")))
@pytest.mark.parametrize("name", CONFIGS)
def test_files_give_the_same_top_class_on_256_clips(name, kind):
    """Compare them as `asc-jax convert` does, from the waveform and from the log-mel."""
    module = kind_of(kind)
    config = config_of(name)
    variables = moved_variables(experiment.make(config))
    config, fuse = deployed(config)
    made, variables = experiment.make(config), fuse(variables)
    deployment = deploy(made, variables, "float16", {})
    reference = check.make_reference(made, variables, deployment)
    batches = check.clip_batches(None, made.n_samples)
    tally = check.compare(reference, module.load(module.build(deployment)), batches)
    assert tally["n_clips"] == 256
    for artefact in ARTEFACTS:
        assert tally["n_same"][artefact] >= 0.999 * 256, (artefact, tally)
        assert tally["gap"][artefact] < 1e-3, (artefact, tally)


def test_recurrent_layer_is_read_step_by_step_with_its_weights_once():
    variables = variables_of("cnn_gru")
    operations = reader.read(evaluation(NETWORKS["cnn_gru"]), variables, (256, 33, 1))
    steps = [op for op in operations if op.kind == "dense" and op.arrays["kernel"].shape[0] == 64]
    assert len(steps) in (27, 28)  # before the first the state is 0
    assert len({op.owner for op in steps}) == 1
    params = {op.owner: jax.tree.map(np.float32, op.arrays) for op in operations}
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) < n_params(variables["params"])
    logits = graph.compute(operations, params, log_mel_of("cnn_gru"))
    np.testing.assert_allclose(logits, golden("cnn_gru")["logits"], atol=1e-5)


@pytest.mark.parametrize(
    "name",
    ["cnn_gru", *(pytest.param(name, marks=NIGHTLY) for name in ("cp_resnet", "tf_sepnet_64"))],
)
def test_pytorch_file_of_any_network_makes_a_run_and_comes_back(tmp_path, name):
    pytest.importorskip("torch")
    tensors = part(name, "state")
    torch_files.write_state_dict(tmp_path / "in.pt", tensors)
    folder = "students" if name == "cnn_gru" else "teachers"
    config = config_of(f"{folder}/{name}")
    options = {"name": f"{folder}/{name}.py", "config": config}
    lines = torch_runs.run_from_torch(tmp_path / "in.pt", tmp_path / "run", **options)
    assert f"{n_params(variables_of(name)['params']):,} parameters" in lines[0]
    assert any("could" not in line and "can be converted" in line for line in listed(tmp_path))
    torch_runs.run_to_torch(tmp_path / "run", tmp_path / "out.pt")
    back = torch_files.read_state_dict(tmp_path / "out.pt")
    for key, value in tensors.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)


def listed(folder):
    return torch_runs.list_torch(folder / "in.pt")


def test_network_of_a_file_replaces_that_of_the_config(tmp_path):
    pytest.importorskip("torch")
    torch_files.write_state_dict(tmp_path / "in.pt", part("cp_resnet", "state"))
    config = base.get_config()
    with config.unlocked():
        config.budget.role = "teacher"
    options = {"name": "base.py", "config": config}
    lines = torch_runs.run_from_torch(tmp_path / "in.pt", tmp_path / "run", **options)
    assert any("model.name" in line and "cp_resnet" in line for line in lines)
    options["overrides"] = {"model.width": 16}
    with pytest.raises(UserError, match="model.width is set, but the file holds a cp_resnet"):
        torch_runs.run_from_torch(tmp_path / "in.pt", tmp_path / "other", **options)


def test_teacher_may_exceed_the_limits_and_says_so_and_what_it_is():
    config = small_config(budget__max_bytes=1000, budget__role="teacher")
    teacher = experiment.make(config)
    assert not teacher.within_budget
    assert teacher.is_teacher
    described = evaluate.describe(teacher, "teacher.py", {}, 1)
    assert (described["role"], described["over_budget"]) == ("teacher", True)
    deployment = deploy(teacher, moved_variables(teacher), "float16", {})
    assert deployment.metadata["role"] == "TEACHER: not a submission"
    assert "budget" not in deployment.metadata
    with pytest.raises(UserError, match="budget.role is 'professor', expected submission or teac"):
        experiment.make(small_config(budget__role="professor"))


@pytest.mark.nightly
def test_network_in_bfloat16_is_near_and_gives_float32():
    name = "cnn_gru"
    logits = NETWORKS[name].clone(dtype="bfloat16").apply(variables_of(name), log_mel_of(name))
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, golden(name)["logits"], atol=0.05)
