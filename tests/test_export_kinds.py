"""Every kind of file computes what the network in JAX does."""

import json
import pathlib
import shutil
import subprocess
import sys

import by_day
import jax
import numpy as np
import pytest
from exported import kind_of, kinds, moved_variables, results_in_jax
from ml_collections import ConfigDict
from small import noise, small_config

from asc_jax import experiment
from asc_jax.data.tau import taxonomy
from asc_jax.errors import UserError
from asc_jax.export import c_header
from asc_jax.export.run import KINDS, deploy
from asc_jax.features import filters
from asc_jax.models import evaluation
from asc_jax.models.from_config import model
from asc_jax.models.layers import ACTIVATIONS
from asc_jax.operations.graph import Deployment
from asc_jax.pytorch.weights import from_torch

MAX_BYTES = 128_000
N_CLIPS = 8 if by_day.BY_DAY else 32
NIGHTLY = [pytest.mark.slow, pytest.mark.nightly]


@pytest.fixture(scope="module")
def report_experiment():
    from configs import base

    config = base.get_config().unlock()
    config.features.hop_length = 472
    return experiment.make(config.lock())


@pytest.fixture(scope="module")
def small_deployment():
    return deploy_small()


def deploy_small(weights="float16", **overrides):
    small = experiment.make(small_config(**overrides))
    return deploy(small, moved_variables(small), weights, {"config": "small.py"})


def assert_same(results, expected, n):
    """Logits within 1e-3, probabilities within 1e-3 of themselves, the same top class.

    Where float32 has no normal numbers any more, each runtime rounds in its own way.
    """
    assert results["logits"].shape == expected["log_mel_to_logits"][:n].shape
    np.testing.assert_allclose(results["logits"], expected["log_mel_to_logits"][:n], atol=1e-3)
    probs = expected["waveform_to_probs"][:n]
    np.testing.assert_allclose(results["probs"], probs, rtol=1e-3, atol=1e-37)
    top = expected["log_mel_to_logits"][:n].argmax(-1)
    assert np.array_equal(results["logits"].argmax(-1), top)
    assert np.array_equal(results["probs"].argmax(-1), top)


def run_back(functions, inputs, n):
    return {
        "logits": functions["log_mel_to_logits"](inputs["log_mel_to_logits"][:n]),
        "probs": functions["waveform_to_probs"](inputs["waveform_to_probs"][:n]),
    }


@pytest.mark.parametrize(
    ("kind", "weights"),
    [
        ("stablehlo", "float32"),
        ("onnx", "float16"),
        pytest.param("litert", "float32", marks=pytest.mark.slow),
        ("c", "float16"),
        pytest.param("stablehlo", "float16", marks=NIGHTLY),
        pytest.param("onnx", "float32", marks=NIGHTLY),
        pytest.param("litert", "float16", marks=NIGHTLY),
        pytest.param("c", "float32", marks=NIGHTLY),
    ],
)
def test_trained_network_of_the_baseline_keeps_its_logits(golden, report_experiment, kind, weights):
    module = kind_of(kind)
    variables = from_torch(golden("c_state_calib"))
    deployment = deploy(report_experiment, variables, weights, {})
    functions = module.load(module.build(deployment))
    inputs, expected = results_in_jax(deployment, noise(N_CLIPS)[0])
    for n in (1, 3, N_CLIPS):  # one file for every batch size
        assert_same(run_back(functions, inputs, n), expected, n)
    if weights == "float32":
        log_mel = golden("b_frontend")["logmel_hop472"][..., None]
        logits = functions["log_mel_to_logits"](log_mel.astype(np.float32))
        np.testing.assert_allclose(logits, golden("c_logits_calib")["logits_hop472"], atol=1e-3)


@pytest.mark.parametrize("kind", kinds())
def test_network_of_other_classes_and_clips_keeps_its_logits(kind):
    module, classes = kind_of(kind), ("Tür", "a | b", "c")
    config = small_config(data__clip_s=0.7).unlock()
    config.labels = ConfigDict({"classes": classes, "groups": {}})
    own = experiment.make(config.lock())
    deployment = deploy(own, moved_variables(own), "float16", {})
    assert deployment.classes == [*classes]
    assert deployment.input_shapes["waveform_to_probs"] == (22_400,)
    functions = module.load(module.build(deployment))
    inputs, expected = results_in_jax(deployment, noise(3)[0][:, :22_400])
    assert expected["log_mel_to_logits"].shape == (3, 3)
    assert_same(run_back(functions, inputs, 3), expected, 3)


def unknown(what):
    return {"model": ConfigDict({"name": "exported:Unknown", "what": what})}


def label(overrides):
    ((key, value),) = overrides.items()
    return value.name if key == "model" else f"{key}-{value}"


MIXED = {"model": ConfigDict({"name": "exported:Mixed"})}
SEPNET = {"model": ConfigDict({"name": "tf_sepnet", "width": 8})}
OVERRIDES = [
    {"model__grn": True},
    {"model__width": 16},
    MIXED,
    SEPNET,
    *({"model__activation": name} for name in ACTIVATIONS if name != "relu"),
]
BY_DAY = {  # every kind of file and every network once; by night each with each
    "litert": [{"model__grn": True}, MIXED],
    "c": [{"model__activation": "silu"}, {"model__activation": "hard_swish"}],
    "onnx": [SEPNET, {"model__activation": "relu6"}, MIXED],
    "stablehlo": [MIXED],
}


@pytest.mark.parametrize(
    ("kind", "overrides"),
    [
        pytest.param(
            kind,
            overrides,
            marks=() if overrides in BY_DAY[kind] else NIGHTLY,
            id=f"{kind}-{label(overrides)}",
        )
        for kind in BY_DAY
        for overrides in OVERRIDES
    ],
)
def test_every_kind_of_network_keeps_its_logits(kind, overrides):
    if (kind, overrides) == ("c", SEPNET):
        pytest.skip("rejected: see below")
    module = kind_of(kind)
    deployment = deploy_small(**overrides)
    inputs, expected = results_in_jax(deployment, noise(4)[0])
    assert_same(run_back(module.load(module.build(deployment)), inputs, 4), expected, 4)


@pytest.mark.parametrize("overrides", [{"model__grn": True}, MIXED, SEPNET], ids=label)
def test_operations_compute_what_the_network_does(overrides):
    small = experiment.make(small_config(**overrides))
    variables = moved_variables(small)
    deployment = deploy(small, variables, "float32", {})
    log_mel = np.random.default_rng(0).normal(-5, 3, (3, 32, deployment.n_frames, 1))
    log_mel = log_mel.astype(np.float32)
    logits = jax.jit(deployment.apply)(deployment.variables, log_mel)
    expected = jax.jit(evaluation(model(small.config)))(variables, log_mel)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-4)
    names = {name.rpartition("/")[2].partition("#")[0] for name in deployment.params}
    assert names.isdisjoint({"max", "min", "tanh"})  # every activation is found


@pytest.mark.slow
def test_header_of_a_network_that_says_the_same_of_every_clip_keeps_its_logits(report_experiment):
    """A head of zeros, which XLA would compute wrongly if it knew them when it compiles."""
    variables = moved_variables(report_experiment)
    variables["params"]["head"]["kernel"][:] = 0
    deployment = deploy(report_experiment, variables, "float16", {})
    functions = c_header.load(c_header.build(deployment))
    inputs, expected = results_in_jax(deployment, noise(4)[0])
    assert_same(run_back(functions, inputs, 4), expected, 4)


@pytest.mark.parametrize("kind", kinds(["stablehlo", "onnx", "c"]))
def test_front_end_with_an_odd_n_fft_keeps_its_logits(kind):
    module = kind_of(kind)
    deployment = deploy_small(features__n_fft=4095)  # hop 2000: a frame at the very end
    inputs, expected = results_in_jax(deployment, noise(4)[0])
    assert_same(run_back(module.load(module.build(deployment)), inputs, 4), expected, 4)


@pytest.mark.parametrize(
    "kind", [*kinds(["onnx", "litert", "c"]), pytest.param("stablehlo", marks=NIGHTLY)]
)
def test_another_front_end_keeps_its_logits(kind):
    """Pre-emphasis that takes a frame off, another window and bank, a scaled log-mel."""
    module = kind_of(kind)
    deployment = deploy_small(
        features__pre_emphasis=0.97,
        features__window="hann_symmetric",
        features__mel_scale="kaldi",
        features__norm_mean=-4.5,
        features__norm_std=5.0,
        features__f_max=15_500.0,
        features__f_max_jitter=1000.0,
    )
    assert deployment.n_frames == 16
    inputs, expected = results_in_jax(deployment, noise(4)[0])
    assert_same(run_back(module.load(module.build(deployment)), inputs, 4), expected, 4)


@pytest.mark.parametrize(
    "kind", ["onnx", *(pytest.param(kind, marks=NIGHTLY) for kind in ("litert", "c"))]
)
def test_front_end_at_44100_hz_keeps_its_logits(kind):
    module = kind_of(kind)
    wide = {"sample_rate": 44_100, "n_fft": 8192, "win_length": 8192, "f_max": 22_050.0}
    deployment = deploy_small(**{f"features__{name}": value for name, value in wide.items()})
    audio = np.random.default_rng(0).standard_normal((4, 44_100)).astype(np.float32) * 0.1
    inputs, expected = results_in_jax(deployment, audio)
    assert_same(run_back(module.load(module.build(deployment)), inputs, 4), expected, 4)


@pytest.mark.parametrize("n_fft", [4095, 4000])
def test_n_fft_that_litert_cannot_transform_is_refused_by_name(n_fft):
    deployment = deploy_small(features__n_fft=n_fft)
    with pytest.raises(UserError, match=f"config.features.n_fft is {n_fft}, and LiteRT's"):
        KINDS["litert"].build(deployment)


def test_network_in_onnx_is_float16_within_the_budget_and_well_formed(golden, report_experiment):
    onnx = pytest.importorskip("onnx")
    kind_of("onnx")
    variables = from_torch(golden("c_state_calib"))
    deployment = deploy(report_experiment, variables, "float16", {"config": "x.py"})
    for data in KINDS["onnx"].build(deployment).values():
        model = onnx.load_from_string(data)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        halves = [c for c in model.graph.initializer if c.data_type == onnx.TensorProto.FLOAT16]
        n_bytes = sum(len(c.raw_data) for c in halves)
        assert n_bytes == 2 * 59_794 <= MAX_BYTES
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        assert metadata["config"] == "x.py"
        assert json.loads(metadata["classes"])[0] == "airport"
    network = {node.op_type for node in model.graph.node}
    assert network == {"Reshape", "Cast", "Conv", "Relu", "Add", "AveragePool", "ReduceMean"}


@pytest.mark.slow
def test_network_in_litert_is_float16_and_of_builtin_operations(report_experiment):
    kind_of("litert")
    from ai_edge_litert.interpreter import Interpreter

    variables = moved_variables(report_experiment)
    files = KINDS["litert"].build(
        deploy(report_experiment, variables, "float16", {"config": "x.py"})
    )
    for data in files.values():
        assert b"Flex" not in data
        assert b'"config": "x.py"' in data
        details = Interpreter(model_content=data).get_tensor_details()
        halves = [d["shape"] for d in details if d["dtype"] == np.float16]
        assert sum(int(np.prod(shape)) for shape in halves) == 59_794
    # The float32 values that the converter wrote are gone: 119,588 bytes and the structure.
    assert len(files["log_mel_to_logits"]) < 1.5 * MAX_BYTES


@pytest.mark.parametrize(("kind", "package"), [("onnx", "onnx"), ("litert", "tensorflow")])
def test_missing_package_is_named(monkeypatch, small_deployment, kind, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"{package} cannot be imported.*pip install -r"):
        KINDS[kind].build(small_deployment)


@pytest.mark.parametrize("network", ["baseline", "mixed"])
def test_c_compiler_reads_the_header_and_computes_the_network(
    tmp_path, golden, report_experiment, network
):
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here")
    if network == "mixed":
        deployment = deploy_small(**MIXED)
        functions = c_header.load(c_header.build(deployment))
    else:
        deployment = deploy(report_experiment, from_torch(golden("c_state_calib")), "float16", {})
    (tmp_path / "asc_model.h").write_bytes(c_header.build(deployment)["asc_model"])
    program = tmp_path / "run_model"
    source = pathlib.Path(__file__).parent / "run_model.c"
    flags = ["-std=c99", "-O2", "-Wall", "-Wextra", "-pedantic", "-Werror", "-I", str(tmp_path)]
    unused = ["-Wno-unused-variable", "-Wno-unused-const-variable"]  # the program has no front end
    command = [compiler, *flags, *unused, str(source), "-o", str(program), "-lm"]
    subprocess.run(command, check=True)
    inputs, expected = results_in_jax(deployment, noise(1)[0])
    log_mel = inputs["log_mel_to_logits"].tobytes()
    printed = subprocess.run([program], input=log_mel, capture_output=True, check=True)
    rows = [line.split("\t") for line in printed.stdout.decode().splitlines()]
    classes, logits = zip(*rows, strict=True)
    assert classes == taxonomy.SCENES
    logits = np.array(logits, np.float32)
    np.testing.assert_allclose(logits, expected["log_mel_to_logits"][0], atol=1e-3)
    if network == "mixed":
        assert_same(run_back(functions, inputs, 1), expected, 1)


def test_layer_without_a_place_in_the_header_is_named():
    deployment = deploy_small(**unknown("maximum"))
    with pytest.raises(
        UserError, match="no kind of layer for the reduce_max reduce_max: --to onnx"
    ):
        c_header.build(deployment)


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("sort", "the primitive sort has no export rule: --to stablehlo writes any network"),
        ("mean", "the primitive reduce_sum has no export rule where clips are not the first"),
    ],
)
def test_primitive_without_a_rule_is_named(what, expected):
    with pytest.raises(UserError, match=expected):
        deploy_small(**unknown(what))


def test_stablehlo_says_how_long_it_can_be_read_and_where_it_runs(small_deployment):
    (data, _) = KINDS["stablehlo"].build(small_deployment).values()
    exported = jax.export.deserialize(bytearray(data))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert exported.fun_name == (
        f"waveform_to_probs, written by JAX {jax.__version__}, read by JAX released at most "
        "6 months after it or 3 weeks before it"
    )


@pytest.mark.parametrize("mel_scale", filters.FILTERBANKS)
@pytest.mark.parametrize("f_max", [16_000.0, 8_000.0])
@pytest.mark.parametrize("n_mels", [512, 256, 40])
def test_bands_are_the_mel_filterbank(n_mels, f_max, mel_scale):
    bank = {"n_fft": 4096, "n_mels": n_mels, "sample_rate": 32_000, "f_min": 50.0, "f_max": f_max}
    bank |= {"mel_scale": mel_scale}
    band, here, below = Deployment([], bank, 32_000, {}).mel_bands()
    dense = np.zeros((2049, n_mels), np.float32)
    rows, inner = np.arange(2049), band > 0
    dense[rows, band] = here
    dense[rows[inner], band[inner] - 1] = below[inner]
    np.testing.assert_array_equal(dense, filters.filterbank(**bank))
    assert np.all(np.diff(band) >= 0)
