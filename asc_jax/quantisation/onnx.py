"""Write an integer program as an ONNX file in QDQ form, and read it back.

Every result is followed by a QuantizeLinear and a DequantizeLinear with the program's scale and
zero point, and weights (int8, a scale for each channel) and biases (int32) by a DequantizeLinear.
The operations between stand in float32, so that any runtime computes the file; one for integers
joins each with the pairs around it. Log-mel and logits are float32. Images are channels first, but
for the log-mel.

The bits are not the program's: a runtime requantises by one rounding of a float32 number where the
program rounds twice in integers. An operation alone differs by one step in a few values of a
thousand; behind twenty of them most logits differ by a step or two.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from asc_jax.errors import UserError
from asc_jax.export.onnx import IR_VERSION, OPSET, TO_FIRST, TO_LAST
from asc_jax.machine.optional_packages import require
from asc_jax.quantisation.program import (
    HIGHEST,
    LOWEST,
    Add,
    Conv,
    Mean,
    Pool,
    Program,
    Reshape,
    Step,
    Tensor,
)

ARTEFACT = "log_mel_to_logits.int8"
EXTENSION = ".onnx"
RESULT = "logits"
N_CLIPS = "b"
MAX_STEPS = 16  # of 255, by which logits may differ from the program's; measured: 5
MIN_AGREEMENT = 0.95  # fraction of clips with the program's top class; measured: 0.98


def build(program: Program, metadata: Mapping[str, str]) -> bytes:
    """Return the file, `[b, *program.input.shape]` float32 → `[b, *program.output.shape]` float32.

    Raises:
      UserError: the package onnx is not installed, or a step has no rule here.
    """
    w = _Writer(require("onnx"))
    w.results[program.input.name] = w.quantised(program.input.name, program.input)
    for step in program.steps:
        if type(step) not in _RULES:
            raise UserError(
                f"{step.output.name} is computed by an operation that --to onnx --dtype int8 does "
                f"not write ({type(step).__name__}): --to litert and c do"
            )
        w.layer = step.output.name
        y = _RULES[type(step)](w, step, *(w.results[x.name] for x in step.inputs))
        w.results[step.output.name] = w.quantised(_activated(w, step, y), step.output)
    if len(program.output.shape) == 3:
        w.node("Transpose", w.results[program.output.name], perm=TO_LAST)
    w.nodes[-1].output[0] = RESULT
    return w.finish(program, metadata)


def load(
    data: bytes, program: Program, *, optimised: bool = False
) -> Callable[[np.ndarray], np.ndarray]:
    """Return the file of `build` as a function of int8 arrays that ONNX Runtime computes.

    Args:
      data: the file.
      program: that it was made of; its scales turn int8 log-mels into real ones, and real logits
        into int8 ones.
      optimised: by the integer kernels of this machine, rather than node by node in float32.

    Raises:
      UserError: the package onnxruntime is not installed.
    """
    runtime = require("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    if not optimised:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    source, result = program.input, program.output
    name = session.get_inputs()[0].name

    def run(x: np.ndarray) -> np.ndarray:
        log_mel = (x.astype(np.float32) - source.zero_point) * source.scale
        logits = session.run(None, {name: log_mel})[0]
        q = np.rint(logits / result.scale) + result.zero_point
        return np.clip(q, LOWEST, HIGHEST).astype(np.int8)

    return run


class _Writer:
    """The nodes and constants of a graph; `results`: the name of a result by that of its tensor."""

    def __init__(self, onnx):
        self.onnx, self.nodes, self.constants = onnx, [], []
        self.results: dict[str, str] = {}
        self.layer = "log_mel"

    def node(self, kind: str, *inputs: str, **attributes) -> str:
        out = f"{self.layer}.{kind}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [out], name=out, **attributes))
        return out

    def constant(self, value, name: str) -> str:
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def quantised(self, x: str, tensor: Tensor) -> str:
        """Bring a result to the int8 values of a tensor, and back to real ones."""
        scale = self.constant(np.float32(tensor.scale), f"{tensor.name}/scale")
        point = self.constant(np.int8(tensor.zero_point), f"{tensor.name}/zero_point")
        if x == tensor.name and len(tensor.shape) == 3:  # the log-mel
            x = self.node("Transpose", x, perm=TO_FIRST)
        q = self.node("QuantizeLinear", x, scale, point)
        return self.node("DequantizeLinear", q, scale, point)

    def dequantised(self, name: str, values: np.ndarray, scales: np.ndarray) -> str:
        """Add a constant with a scale for each of its first axis and the zero point 0."""
        stored = self.constant(np.ascontiguousarray(values), name)
        scale = self.constant(scales.astype(np.float32), f"{name}/scale")
        point = self.constant(np.zeros(len(scales), values.dtype), f"{name}/zero_point")
        return self.node("DequantizeLinear", stored, scale, point, axis=0)

    def finish(self, program: Program, metadata: Mapping[str, str]) -> bytes:
        helper, float32 = self.onnx.helper, self.onnx.TensorProto.FLOAT
        source, result = (
            helper.make_tensor_value_info(name, float32, (N_CLIPS, *tensor.shape))
            for name, tensor in ((program.input.name, program.input), (RESULT, program.output))
        )
        graph = helper.make_graph(self.nodes, ARTEFACT, [source], [result], self.constants)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="asc_jax",
        )
        helper.set_model_props(model, dict(metadata))
        self.onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString()


def _activated(w: _Writer, step: Step, x: str) -> str:
    """Bound a result as its activation does, where the range of its int8 values does not."""
    if step.activation == "relu":
        return w.node("Relu", x)
    if step.activation == "relu6":
        ends = (w.constant(np.float32(v), f"{w.layer}/{v}") for v in (0, 6))
        return w.node("Clip", x, *ends)
    return x


def _conv(w: _Writer, step: Conv, x: str) -> str:
    name, unit = step.output.name, np.float32(step.inputs[0].scale) * step.kernel_scale
    kernel = w.dequantised(f"{name}/kernel", step.kernel.transpose(3, 2, 0, 1), step.kernel_scale)
    bias = w.dequantised(f"{name}/bias", step.bias, unit)
    return w.node("Conv", x, kernel, bias, group=step.groups, **_window(step, step.kernel.shape))


def _window(step: Conv | Pool, size: Sequence[int]) -> dict:
    before, after = zip(*step.padding, strict=True)
    return {"kernel_shape": size[:2], "strides": step.strides, "pads": [*before, *after]}


def _pool(w: _Writer, step: Pool, x: str) -> str:
    window = _window(step, step.size)
    if step.kind == "max":
        return w.node("MaxPool", x, **window)
    return w.node("AveragePool", x, count_include_pad=1, **window)


def _reshape(w: _Writer, step: Reshape, x: str) -> str:
    shapes = step.inputs[0].shape, step.output.shape
    if len(shapes[0]) == 3:
        x = w.node("Transpose", x, perm=TO_LAST)
    shape = w.constant(np.array([-1, *step.output.shape]), f"{w.layer}/shape")
    x = w.node("Reshape", x, shape)
    return w.node("Transpose", x, perm=TO_FIRST) if len(shapes[1]) == 3 else x


# What adds a step and returns the name of its result, in real numbers and without activation.
_RULES: dict[type[Step], Callable[..., str]] = {
    Conv: _conv,
    Add: lambda w, step, *x: w.node("Add", *x),
    Pool: _pool,
    Mean: lambda w, step, x: w.node("ReduceMean", x, axes=[2, 3], keepdims=1),
    Reshape: _reshape,
}
