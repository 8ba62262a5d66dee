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
from asc_jax.operations.program import (
    HIGHEST,
    LOWEST,
    Add,
    Concat,
    Constant,
    Conv,
    Energy,
    Lookup,
    Max,
    Mean,
    Mul,
    Pool,
    Program,
    Reshape,
    Slice,
    Step,
    Tensor,
    Transpose,
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
        w.layer, inputs = step.output.name, [w.results[x.name] for x in step.inputs]
        first = type(step) in FIRST and all(len(x.shape) == 3 for x in (*step.inputs, step.output))
        y = _RULES[type(step)](w, step, *inputs) if first else _last(w, step, inputs)
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
        self.codes: dict[str, str] = {}  # and of its int8 values
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
        self.codes[tensor.name] = self.node("QuantizeLinear", x, scale, point)
        return self.node("DequantizeLinear", self.codes[tensor.name], scale, point)

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


def _last(w: _Writer, step: Step, inputs: Sequence[str]) -> str:
    """Add a step whose images are channels last, between transpositions of those it has."""
    pairs = zip(inputs, step.inputs, strict=True)
    inputs = [w.node("Transpose", x, perm=TO_LAST) if len(t.shape) == 3 else x for x, t in pairs]
    y = _RULES[type(step)](w, step, *inputs)
    return w.node("Transpose", y, perm=TO_FIRST) if len(step.output.shape) == 3 else y


def _lookup(w: _Writer, step: Lookup, x: str) -> str:
    """Take the real value of a table's entry, which QuantizeLinear makes the entry again."""
    values = (step.table.astype(np.float32) - step.output.zero_point) * step.output.scale
    table, shift = w.constant(values, f"{w.layer}/table"), w.constant(-LOWEST, f"{w.layer}/shift")
    code = w.node("Cast", w.codes[step.inputs[0].name], to=w.onnx.TensorProto.INT64)
    return w.node("Gather", table, w.node("Add", code, shift))


def _constant(w: _Writer, step: Constant) -> str:
    values = (step.values.astype(np.float32) - step.output.zero_point) * step.output.scale
    return w.node("Identity", w.constant(values[None], f"{w.layer}/value"))


def _axes(step: Mean | Energy) -> list[int]:
    """Return the axes of an image's sum, channels first."""
    return [TO_FIRST.index(axis + 1) for axis in step.axis]


def _sum(w: _Writer, step: Mean, x: str) -> str:
    axes = _axes(step)
    if step.weight_scale == 1:
        return w.node("ReduceSum", x, w.constant(np.array(axes), f"{w.layer}/axes"), keepdims=1)
    return w.node("ReduceMean", x, axes=axes, keepdims=1)


def _energy(w: _Writer, step: Energy, x: str) -> str:
    return w.node("ReduceSumSquare", x, axes=_axes(step), keepdims=1)


def _reshape(w: _Writer, step: Reshape, x: str) -> str:
    shape = w.constant(np.array([-1, *step.output.shape]), f"{w.layer}/shape")
    return w.node("Reshape", x, shape)


def _slice(w: _Writer, step: Slice, x: str) -> str:
    starts, ends, steps = np.array(step.ranges).T
    parts = {"starts": starts, "ends": ends, "axes": np.arange(1, len(starts) + 1), "steps": steps}
    return w.node("Slice", x, *(w.constant(v, f"{w.layer}/{k}") for k, v in parts.items()))


# What adds a step and returns the name of its result, in real numbers and without activation. Those
# of `FIRST` take images channels first, if all of theirs are images; all others channels last.
_RULES: dict[type[Step], Callable[..., str]] = {
    Conv: _conv,
    Pool: _pool,
    Add: lambda w, step, *x: w.node("Add" if step.sign == 1 else "Sub", *x),
    Mul: lambda w, step, *x: w.node("Mul", *x),
    Max: lambda w, step, *x: w.node("Max", *x),
    Lookup: _lookup,
    Constant: _constant,
    Mean: _sum,
    Energy: _energy,
    Reshape: _reshape,
    Slice: _slice,
    Transpose: lambda w, step, x: w.node(
        "Transpose", x, perm=[0, *(axis + 1 for axis in step.permutation)]
    ),
    Concat: lambda w, step, *x: w.node("Concat", *x, axis=step.axis + 1),
}
FIRST = (Conv, Pool, Add, Mul, Max, Lookup, Mean, Energy)
