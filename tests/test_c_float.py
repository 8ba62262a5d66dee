"""The C library in float: the logits of the network in JAX, for any network that is exported."""

import json
import math
import shutil
import subprocess

import jax
import numpy as np
import pytest
from exported import Mixed, moved_variables
from ml_collections import ConfigDict
from short import NAME
from small import small_clips, small_config
from small_run import write_run
from test_c_library import SANITISED, STRICT, builds

from asc_jax import experiment
from asc_jax.cli import convert
from asc_jax.errors import UserError
from asc_jax.export.run import deploy
from asc_jax.operations.graph import INPUT, Deployment, Operation, compute
from asc_jax.quantisation import c_float, c_library

IMAGE = (6, 5, 4)
FEATURES = {"n_mels": 6, "hop_length": 100, "pre_emphasis": 0.0}  # 5 frames of 400 samples


@pytest.fixture(scope="module")
def compiler():
    path = c_library.compiler()
    if path is None:
        pytest.skip("no C compiler here")
    return path


def op(kind, shape, *inputs, activation=None, arrays=None, **options):
    return Operation(kind, kind, list(inputs), shape, options, arrays or {}, activation)


def random(*shape):
    return np.random.default_rng(len(shape)).uniform(-1, 1, shape).astype(np.float32)


# The operations that follow a convolution to `IMAGE`, which is called x. `y` is a constant.
CASES = {
    "slice": [op("slice", (2, 5, 2), "x", ranges=((1, 5, 2), (0, 5, 1), (1, 4, 2)))],
    "transpose": [op("transpose", (4, 6, 5), "x", permutation=(0, 3, 1, 2))],
    "concatenate": [op("concatenate", (6, 10, 4), "x", "x", axis=2, activation="silu")],
    "by channel": [op("div", IMAGE, "x", "y", activation="hard_swish")],
    "maximum of a reduction": [
        op("reduce_max", (6, 1, 4), "x", axis=(2,), keepdims=True),
        op("sub", IMAGE, "x", "reduce_max", activation="gelu"),
    ],
    "least": [op("reduce_min", (5,), "x", axis=(1, 3), keepdims=False)],
    "norm": [
        op("mul", IMAGE, "x", "x"),
        op("reduce_sum", (4,), "mul", axis=(1, 2), keepdims=False),
        op("sqrt", (4,), "reduce_sum"),
        op("log", (4,), "sqrt", activation="relu6"),
        op("exp", (4,), "log"),
        op("tanh", (4,), "exp"),
    ],
    "reshaped and still read": [
        op("reshape", (30, 4), "x", activation="relu"),
        op("reshape", IMAGE, "reshape"),
        op("max", IMAGE, "x", "y"),
        op("min", IMAGE, "max", "x"),
        op("abs", IMAGE, "min"),
        op("add", IMAGE, "abs", "x", activation="sigmoid"),
    ],
    "nothing but an activation": [op("activation", IMAGE, "x", activation="relu")],
}


@pytest.fixture(scope="module")
def flags(compiler, tmp_path_factory):
    more = SANITISED if builds(compiler, tmp_path_factory.mktemp("trial"), *SANITISED) else ()
    return (*STRICT, "-O0", *more)


@pytest.mark.parametrize("case", CASES)
def test_operations_are_those_of_jax(compiler, flags, case):
    kernel = {"kernel": random(3, 2, 1, 4), "bias": random(4)}
    padding = {"strides": (1, 1), "padding": ((1, 1), (0, 1)), "groups": 1}
    before = Operation("conv", "x", [INPUT], IMAGE, padding, kernel)
    constant = Operation("constant", "y", [], (1, 1, 4), {}, {"value": random(1, 1, 1, 4)})
    read = {name for op in CASES[case] for name in op.inputs}
    operations = [before, *([constant] if "y" in read else []), *CASES[case]]
    classes = json.dumps(["a"] * math.prod(operations[-1].shape))
    deployment = Deployment(operations, FEATURES, 400, {"classes": classes})
    x = random(3, 6, 5, 1)
    expected = jax.jit(lambda x: compute(operations, deployment.params, x))(x)
    with c_float.compiled(c_float.build(deployment), compiler, flags) as run:
        np.testing.assert_allclose(run(x), np.asarray(expected).reshape(3, -1), atol=1e-5)


def test_operation_without_a_rule_is_named():
    operations = [op("sort", IMAGE, INPUT)]
    with pytest.raises(UserError, match="the operation sort of sort has no rule in C"):
        c_float.build(Deployment(operations, FEATURES, 400, {"classes": "[]"}))


NETWORKS = {
    "every layer of ours": {"model": ConfigDict({"name": f"{Mixed.__module__}:Mixed"})},
    "tf_sepnet": {"model": ConfigDict({"name": "tf_sepnet", "width": 8})},
    "cnn_gru": {"model": ConfigDict({"name": "cnn_gru", "width": 8, "hidden": 8})},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_those_of_jax(compiler, flags, name):
    parts = experiment.make(small_config(**NETWORKS[name]))
    deployment = deploy(parts, moved_variables(parts), "float32", {})
    x = random(2, *deployment.input_shapes["log_mel_to_logits"])
    expected = np.asarray(jax.jit(lambda x: deployment.apply(deployment.variables, x))(x))
    with c_float.compiled(c_float.build(deployment), compiler, flags) as run:
        np.testing.assert_allclose(run(x), expected, atol=1e-5 * np.abs(expected).max())


def test_run_becomes_a_library_that_was_compared_first(compiler, tmp_path, monkeypatch, few_clips):
    write_run(tmp_path / "run", model__name=NAME)
    options = {"out_dir": tmp_path / "out", "clips": small_clips(8)}
    text = "\n".join(c_float.export_float32(tmp_path / "run", **options))
    folder = tmp_path / "out" / "asc_float32"
    assert "log_mel_to_logits: within " in text
    assert "waveform_to_probs: within " in text
    assert {path.name for path in folder.iterdir()} == {
        *("asc_model.h", "asc_model.c", "asc_float_kernels.h", "asc_float_kernels.c", "run.c"),
        *("asc_features.h", "asc_features.c", "asc_features_tables.h", "log_mel.c"),
        *("Makefile", "CMakeLists.txt"),
    }
    for tool, *command in (["make", "run", "log_mel"], ["cmake", "-S", ".", "-B", "build"]):
        if shutil.which(tool):
            subprocess.run([tool, *command], cwd=folder, check=True, capture_output=True)
    shutil.rmtree(folder)
    true = c_float.build

    def wrong(*args):
        files = true(*args)
        kernels = files["asc_float_kernels.c"].replace(b"return a + b;", b"return a - b;")
        kernels = kernels.replace(b"sum + conv->biases[k]", b"sum")
        return files | {"asc_float_kernels.c": kernels}

    monkeypatch.setattr(c_float, "build", wrong)
    with pytest.raises(UserError, match="is not our network"):
        c_float.export_float32(tmp_path / "run", **options)
    assert not folder.exists()


def test_network_without_a_header_of_data_has_the_library(monkeypatch):
    """Pass a network of operations that the header has no layer for, as TF-SepNet's."""

    def rejected(*args, **options):
        raise UserError("the header has no kind of layer for it")

    monkeypatch.setattr(convert, "export_float32", lambda *args, **options: ["the library"])
    monkeypatch.setattr(convert, "export_run", rejected)
    lines = convert._export_c("run", clips=None)
    assert lines[0] == "the library"
    assert lines[1] == "without the header of data: the header has no kind of layer for it"
