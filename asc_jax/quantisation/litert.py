"""Write an integer program as a LiteRT file, int8 in and out, and read it back.

The file is written here and by no converter, so that its scales and zero points are the program's.
Every operation, `VERSIONS`, has a kernel in LiteRT and in LiteRT for Microcontrollers. A dense
layer is a CONV_2D of 1×1, because scales by channel are older there than in FULLY_CONNECTED. A mean
is a DEPTHWISE_CONV_2D or a CONV_2D of weights of 1: an AVERAGE_POOL_2D would keep its input's
scale, so that logits had few steps, and the kernels of MEAN have computed in several ways. A
function of one value is a table that GATHER looks up: kernels of LOGISTIC and its like compute in
several ways. The numbers of its entries are the only results of 32 bits, without a scale. Sums of
squares are products of rows and columns, BATCH_MATMUL, which is exact until it is rounded.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from asc_jax.export.litert import METADATA_NAME, runner
from asc_jax.machine.optional_packages import require
from asc_jax.operations.program import (
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
EXTENSION = ".tflite"
SCHEMA_VERSION = 3
# Operation → the version from which on it takes int8, with scales by channel where it has weights.
VERSIONS = {
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "ADD": 2,
    "PAD": 2,
    "PADV2": 2,
    "AVERAGE_POOL_2D": 2,
    "MAX_POOL_2D": 2,
    "RESHAPE": 1,
    "SUB": 2,
    "MUL": 2,
    "MAXIMUM": 2,
    "CAST": 1,
    "GATHER": 2,
    "BATCH_MATMUL": 2,
    "TRANSPOSE": 2,
    "STRIDED_SLICE": 2,
    "CONCATENATION": 2,
}


def build(program: Program, metadata: Mapping[str, str]) -> bytes:
    """Return the flatbuffer, with the metadata as JSON in the entry "asc_jax".

    Raises:
      UserError: the package ai-edge-litert is not installed.
    """
    writer = _Writer(require("ai_edge_litert.schema_py_generated"))
    source = writer.activation(program.input)
    for step in program.steps:
        _RULES[type(step)](writer, step)
    return writer.finish(source, writer.numbers[program.output.name], metadata)


def load(data: bytes, *, reference: bool = True) -> Callable[[np.ndarray], np.ndarray]:
    """Return the file of `build` as a function of int8 arrays that LiteRT computes.

    Args:
      data: the file.
      reference: by the reference kernels, which compute what the program says, rather than by the
        fast ones of this machine, some of which round otherwise.

    Raises:
      UserError: the package ai-edge-litert is not installed.
    """
    return runner(data, reference=reference)


class _Writer:
    """A model in the making; `numbers`: those of the tensors by name."""

    def __init__(self, schema):
        self.schema = schema
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.subgraphs = SCHEMA_VERSION, [self.graph]
        self.model.operatorCodes, self.graph.tensors, self.graph.operators = [], [], []
        self.model.buffers = [schema.BufferT()]  # by convention the empty one
        self.numbers: dict[str, int] = {}

    def activation(self, tensor: Tensor, name: str | None = None, shape=None) -> int:
        """Add a tensor that is computed, for any number of clips; another name and shape."""
        scale = [tensor.scale], [tensor.zero_point]
        number = self._tensor(name or tensor.name, (1, *(shape or tensor.shape)), np.int8, scale)
        self.graph.tensors[number].shapeSignature = [-1, *(shape or tensor.shape)]
        self.numbers[name or tensor.name] = number
        return number

    def integers(self, name: str, shape: Sequence[int]) -> int:
        """Add a tensor of int32 that is computed, plain numbers without a scale."""
        number = self._tensor(name, (1, *shape), np.int32, None)
        self.graph.tensors[number].shapeSignature = [-1, *shape]
        return number

    def constant(self, name: str, value: np.ndarray, scales=None, zero_points=None, axis=0) -> int:
        """Add an array; scales along an axis, none for plain numbers."""
        pair = None if scales is None else (scales, zero_points or [0] * len(scales))
        number = self._tensor(name, value.shape, value.dtype, pair, axis)
        buffer = self.schema.BufferT()
        buffer.data = np.frombuffer(value.tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        self.graph.tensors[number].buffer = len(self.model.buffers) - 1
        return number

    def _tensor(self, name: str, shape: Sequence[int], dtype, scales, axis: int = 0) -> int:
        tensor = self.schema.TensorT()
        tensor.name, tensor.shape = name, list(shape)
        tensor.type = getattr(self.schema.TensorType, np.dtype(dtype).name.upper())
        if scales is not None:
            tensor.quantization = self.schema.QuantizationParametersT()
            tensor.quantization.scale = [float(scale) for scale in scales[0]]
            tensor.quantization.zeroPoint = [int(point) for point in scales[1]]
            tensor.quantization.quantizedDimension = axis
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def operator(self, name: str, inputs: Sequence[int], output: int, kind: str, **options) -> None:
        """Add an operation; kind: of its options, which are given by their names in the schema."""
        code = getattr(self.schema.BuiltinOperator, name)
        codes = [known.builtinCode for known in self.model.operatorCodes]
        if code not in codes:
            entry = self.schema.OperatorCodeT()
            entry.builtinCode, entry.version = code, VERSIONS[name]
            entry.deprecatedBuiltinCode = code
            self.model.operatorCodes.append(entry)
            codes.append(code)
        operator = self.schema.OperatorT()
        operator.opcodeIndex = codes.index(code)
        operator.inputs, operator.outputs = list(inputs), [output]
        operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, kind)
        operator.builtinOptions = getattr(self.schema, f"{kind}T")()
        for option, value in options.items():
            if not hasattr(operator.builtinOptions, option):
                raise ValueError(f"{kind} has no option {option}")
            setattr(operator.builtinOptions, option, value)
        self.graph.operators.append(operator)

    def window(self, step: Step, strides: Sequence[int]) -> dict[str, Any]:
        """Return the options of every operation over windows; nothing is padded by it."""
        return {
            "padding": self.schema.Padding.VALID,
            "strideH": strides[0],
            "strideW": strides[1],
            **self.fused(step),
        }

    def fused(self, step: Step) -> dict[str, int]:
        """Return the activation that gives the step's bounds."""
        kinds = self.schema.ActivationFunctionType
        known = {None: kinds.NONE, "relu": kinds.RELU, "relu6": kinds.RELU6}
        return {"fusedActivationFunction": known[step.activation]}

    def finish(self, source: int, result: int, metadata: Mapping[str, str]) -> bytes:
        text = json.dumps(dict(metadata)).encode()
        buffer, entry = self.schema.BufferT(), self.schema.MetadataT()
        buffer.data = np.frombuffer(text, np.uint8)
        entry.name, entry.buffer = METADATA_NAME, len(self.model.buffers)
        self.model.buffers.append(buffer)
        self.model.metadata = [entry]
        self.graph.inputs, self.graph.outputs = [source], [result]
        builder = require("flatbuffers").Builder(1 << 16)
        builder.Finish(self.model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


def _padded(writer: _Writer, step: Step, padding, value: int | None = None) -> int:
    """Return the number of the step's input, padded; value: an int8, None for the real value 0."""
    (x,) = step.inputs
    if not np.any(padding):
        return writer.numbers[x.name]
    name = f"{step.output.name}/pad"
    (top, bottom), (left, right) = padding
    shape = x.shape[0] + top + bottom, x.shape[1] + left + right, x.shape[2]
    widths = np.array([[0, 0], *padding, [0, 0]], np.int32)
    inputs = [writer.numbers[x.name], writer.constant(f"{name}/widths", widths)]
    if value is not None:
        array = np.array([value], np.int8)
        inputs.append(writer.constant(f"{name}/value", array, [x.scale], [x.zero_point]))
    output = writer.activation(x, name, shape)
    kind = "PAD" if value is None else "PADV2"
    writer.operator(kind, inputs, output, "PadOptions" if value is None else "PadV2Options")
    return output


def _conv(writer: _Writer, step: Conv) -> None:
    (x,) = step.inputs
    size = step.kernel.shape[:2]
    same = jax.lax.padtype_to_pads(x.shape[:2], size, step.strides, "SAME")
    options = writer.window(step, step.strides)
    if np.any(step.padding) and tuple(map(tuple, same)) == step.padding:
        options["padding"] = writer.schema.Padding.SAME  # one operation less
        source = writer.numbers[x.name]
    else:
        source = _padded(writer, step, step.padding)
    depthwise = step.groups == x.shape[-1] and step.groups > 1
    if depthwise:
        kernel, axis = step.kernel.reshape(1, *size, -1), 3
        options["depthMultiplier"] = step.kernel.shape[-1] // step.groups
    else:
        kernel, axis = step.kernel.transpose(3, 0, 1, 2), 0
    name, bias_scale = step.output.name, np.float32(x.scale) * step.kernel_scale
    inputs = [
        source,
        writer.constant(f"{name}/kernel", kernel, step.kernel_scale, axis=axis),
        writer.constant(f"{name}/bias", step.bias, bias_scale),
    ]
    output = writer.activation(step.output)
    kind = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    writer.operator(
        kind,
        inputs,
        output,
        "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions",
        **options,
    )


def _mean(writer: _Writer, step: Mean) -> None:
    (x,) = step.inputs
    if 2 not in step.axis:
        _mean_over_image(writer, step)
        return
    # Over channels, and axes before them: a convolution to one channel.
    name, n = step.output.name, math.prod(x.shape[axis] for axis in step.axis)
    image = (x.shape[0], 1, n) if 1 in step.axis else (*x.shape[:2], n)
    source = writer.numbers[x.name]
    if image != x.shape:
        source = _reshaped(writer, source, x, f"{name}/flat", image)
    scales = np.full(1, step.weight_scale)
    inputs = [
        source,
        writer.constant(f"{name}/ones", np.ones((1, 1, 1, n), np.int8), scales),
        writer.constant(f"{name}/zeros", np.zeros(1, np.int32), np.float32(x.scale) * scales),
    ]
    output = writer.activation(step.output)
    writer.operator("CONV_2D", inputs, output, "Conv2DOptions", **writer.window(step, (1, 1)))


def _mean_over_image(writer: _Writer, step: Mean) -> None:
    """Write a mean over mel bins, frames or both as a convolution of each channel by itself."""
    (x,) = step.inputs
    name, n = step.output.name, x.shape[-1]
    scales = np.full(n, step.weight_scale)
    size = [x.shape[axis] if axis in step.axis else 1 for axis in (0, 1)]
    inputs = [
        writer.numbers[x.name],
        writer.constant(f"{name}/ones", np.ones((1, *size, n), np.int8), scales, axis=3),
        writer.constant(f"{name}/zeros", np.zeros(n, np.int32), np.float32(x.scale) * scales),
    ]
    options = writer.window(step, (1, 1)) | {"depthMultiplier": 1}
    output = writer.activation(step.output)
    writer.operator("DEPTHWISE_CONV_2D", inputs, output, "DepthwiseConv2DOptions", **options)


def _energy(writer: _Writer, step: Energy) -> None:
    """Write sums of squares as products of rows and columns of the same values."""
    (x,) = step.inputs
    name, source = step.output.name, writer.numbers[x.name]
    first, last = step.axis[0], step.axis[-1] + 1
    outer, n, inner = (math.prod(x.shape[part]) for part in _parts(first, last))
    rows = (outer * inner, 1, n)
    if inner > 1:
        # Several ranges of one energy share what is transposed.
        order, transposed = [0, 1, 3, 2], f"{x.name}/by_channel"
        if transposed not in writer.numbers:
            image = _reshaped(writer, source, x, f"{x.name}/flat", (outer, n, inner))
            _transposed(writer, image, x, transposed, (outer, inner, n), order)
        source = writer.numbers[transposed]
    key = f"{x.name}/rows{first}{last}"
    if key not in writer.numbers:
        _reshaped(writer, source, x, key, rows)
    source = writer.numbers[key]
    output = writer.activation(step.output, f"{name}/product", (outer * inner, 1, 1))
    options = {"adjX": False, "adjY": True, "asymmetricQuantizeInputs": False}
    writer.operator("BATCH_MATMUL", [source, source], output, "BatchMatMulOptions", **options)
    _reshaped(writer, output, step.output, name, step.output.shape)


def _parts(first: int, last: int) -> list[slice]:
    return [slice(0, first), slice(first, last), slice(last, None)]


def _reshaped(writer: _Writer, source: int, like: Tensor, name: str, shape) -> int:
    """Add a reshape of a tensor, with the scale of another, and return its number."""
    shape = [-1, *shape]
    widths = writer.constant(f"{name}/shape", np.array(shape, np.int32))
    output = writer.activation(like, name, shape[1:])
    writer.operator("RESHAPE", [source, widths], output, "ReshapeOptions", newShape=shape)
    return output


def _transposed(writer: _Writer, source: int, like: Tensor, name: str, shape, order) -> int:
    permutation = writer.constant(f"{name}/order", np.array(order, np.int32))
    output = writer.activation(like, name, shape)
    writer.operator("TRANSPOSE", [source, permutation], output, "TransposeOptions")
    return output


def _add(writer: _Writer, step: Add) -> None:
    kind = "ADD" if step.sign == 1 else "SUB"
    options = "AddOptions" if step.sign == 1 else "SubOptions"
    _of_inputs(writer, step, kind, options, **writer.fused(step))


def _mul(writer: _Writer, step: Mul) -> None:
    _of_inputs(writer, step, "MUL", "MulOptions", **writer.fused(step))


def _max(writer: _Writer, step: Max) -> None:
    _of_inputs(writer, step, "MAXIMUM", "MaximumMinimumOptions")


def _concat(writer: _Writer, step: Concat) -> None:
    kinds = writer.schema.ActivationFunctionType
    options = {"axis": step.axis + 1, "fusedActivationFunction": kinds.NONE}
    _of_inputs(writer, step, "CONCATENATION", "ConcatenationOptions", **options)


def _of_inputs(writer: _Writer, step: Step, name: str, kind: str, **options) -> None:
    inputs = [writer.numbers[x.name] for x in step.inputs]
    writer.operator(name, inputs, writer.activation(step.output), kind, **options)


def _constant(writer: _Writer, step: Constant) -> None:
    tensor = step.output
    scale = [tensor.scale], [tensor.zero_point]
    writer.numbers[tensor.name] = writer.constant(tensor.name, step.values[None], *scale)


def _lookup(writer: _Writer, step: Lookup) -> None:
    """Write a table: the int8 values become numbers from 0 to 255, of int32, then the entries."""
    (x,), output = step.inputs, step.output
    wide, numbers = (writer.integers(f"{output.name}/{word}", x.shape) for word in ("wide", "at"))
    types = writer.schema.TensorType
    kinds = {"inDataType": types.INT8, "outDataType": types.INT32}
    writer.operator("CAST", [writer.numbers[x.name]], wide, "CastOptions", **kinds)
    if "lowest" not in writer.numbers:
        writer.numbers["lowest"] = writer.constant("lowest", np.array([-LOWEST], np.int32))
    inputs = [wide, writer.numbers["lowest"]]
    none = writer.schema.ActivationFunctionType.NONE
    writer.operator("ADD", inputs, numbers, "AddOptions", fusedActivationFunction=none)
    key = f"table {step.table.tobytes().hex()} {output.scale} {output.zero_point}"
    if key not in writer.numbers:  # several layers may have one
        scale = [output.scale], [output.zero_point]
        writer.numbers[key] = writer.constant(f"{output.name}/table", step.table, *scale)
    inputs = [writer.numbers[key], numbers]
    writer.operator("GATHER", inputs, writer.activation(output), "GatherOptions", axis=0)


def _slice(writer: _Writer, step: Slice) -> None:
    name = step.output.name
    starts, ends, strides = zip((0, 0, 1), *step.ranges, strict=True)
    inputs = [writer.numbers[step.inputs[0].name]]
    for word, values in (("start", starts), ("end", ends), ("strides", strides)):
        inputs.append(writer.constant(f"{name}/{word}", np.array(values, np.int32)))
    options = dict.fromkeys(("ellipsisMask", "newAxisMask", "shrinkAxisMask"), 0)
    options |= {"beginMask": 1, "endMask": 1, "offset": False}  # all clips
    writer.operator(
        "STRIDED_SLICE", inputs, writer.activation(step.output), "StridedSliceOptions", **options
    )


def _transpose(writer: _Writer, step: Transpose) -> None:
    order = [0, *(axis + 1 for axis in step.permutation)]
    source, output = writer.numbers[step.inputs[0].name], step.output
    _transposed(writer, source, output, output.name, output.shape, order)


def _pool(writer: _Writer, step: Pool) -> None:
    average = step.kind == "avg"
    source = _padded(writer, step, step.padding, None if average else LOWEST)
    options = writer.window(step, step.strides)
    options |= {"filterHeight": step.size[0], "filterWidth": step.size[1]}
    output = writer.activation(step.output)
    kind = "AVERAGE_POOL_2D" if average else "MAX_POOL_2D"
    writer.operator(kind, [source], output, "Pool2DOptions", **options)


def _reshape(writer: _Writer, step: Reshape) -> None:
    source, output = writer.numbers[step.inputs[0].name], step.output
    _reshaped(writer, source, output, output.name, output.shape)


_RULES: dict[type[Step], Callable[..., None]] = {
    Conv: _conv,
    Add: _add,
    Mul: _mul,
    Lookup: _lookup,
    Max: _max,
    Constant: _constant,
    Pool: _pool,
    Mean: _mean,
    Energy: _energy,
    Reshape: _reshape,
    Slice: _slice,
    Transpose: _transpose,
    Concat: _concat,
}
