"""The integer program as an ONNX file in QDQ form: near to it, and checked before it is written."""

import numpy as np
import pytest
from small import small_clips
from test_quantisation import NETWORKS, build, random_input, save_mini

from asc_jax.errors import UserError
from asc_jax.operations import simulate
from asc_jax.operations.program import Reshape
from asc_jax.quantisation import onnx, run

onnx_package = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("name", NETWORKS)
def test_every_operation_is_within_a_step_of_the_program(name):
    """Accept two values for one step where several operations follow each other."""
    integers, x = build(NETWORKS[name]), random_input(32)
    ours = np.asarray(simulate.simulator(integers)(x), np.int32)
    data = onnx.build(integers, {})
    for optimised in (False, True):
        theirs = onnx.load(data, integers, optimised=optimised)(x).astype(np.int32)
        assert theirs.shape == ours.shape
        n_rounded = sum(not isinstance(step, Reshape) for step in integers.steps)
        assert np.abs(ours - theirs).max() <= min(n_rounded, 2)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return save_mini(tmp_path_factory.mktemp("run"))


def test_run_becomes_a_file_with_int8_around_every_operation(workdir, tmp_path):
    clips = small_clips(40)
    options = {"kind": "onnx", "out_dir": tmp_path, "clips": clips, "n_calibration_clips": 12}
    text = "\n".join(run.export_int8(workdir, small_clips(30, seed=1), **options))
    (path,) = tmp_path.iterdir()
    assert path.name == "log_mel_to_logits.int8.onnx"
    assert f"{path}: {path.stat().st_size:,} bytes" in text
    assert "by ONNX Runtime's kernels in float32: other logits on" in text
    assert "int8 by ONNX Runtime's integer kernels on this machine" in text
    model = onnx_package.load(path)
    arrays = {a.name: onnx_package.numpy_helper.to_array(a) for a in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node}
    kinds = {node.op_type for node in model.graph.node}
    assert {"Conv", "Add", "AveragePool", "ReduceMean"} <= kinds
    for node in model.graph.node:
        if node.op_type in ("Conv", "Add", "AveragePool", "ReduceMean"):
            sources = [makers[name] for name in node.input]
            assert {source.op_type for source in sources} == {"DequantizeLinear"}
        if node.op_type == "Conv":
            kernel, bias = (arrays[source.input[0]] for source in sources[1:])
            scales = arrays[sources[1].input[1]]
            assert (kernel.dtype, bias.dtype) == (np.int8, np.int32)
            assert scales.shape == bias.shape == kernel.shape[:1]
        if node.op_type == "QuantizeLinear":
            before = makers.get(node.input[0])
            assert before is None or before.op_type not in ("QuantizeLinear", "DequantizeLinear")


def test_nothing_is_written_where_onnx_runtime_is_too_far(workdir, tmp_path, monkeypatch):
    options = {"kind": "onnx", "out_dir": tmp_path / "out"}
    with monkeypatch.context() as patch:
        patch.setattr(onnx, "MIN_AGREEMENT", 1.01)
        with pytest.raises(
            UserError, match="top class of the integer program on .* clips .* 101 %"
        ):
            run.export_int8(workdir, small_clips(4), **options)
    true = onnx.load

    def load(*args, **others):
        return lambda x: np.clip(true(*args, **others)(x), -128, 107) + np.int8(20)

    monkeypatch.setattr(onnx, "load", load)
    with pytest.raises(UserError, match=r"differ by 2. steps \(at most 16 allowed\)"):
        run.export_int8(workdir, small_clips(4), **options)
    assert not (tmp_path / "out").exists()
