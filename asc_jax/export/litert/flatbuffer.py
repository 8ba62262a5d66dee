"""What is added to the flatbuffer that TensorFlow's converter wrote: float16 weights, metadata.

The converter's own float16 mode would also round the window, the mel weights and the 1e-5 under
the logarithm. Here only weights of the convolutions are, each with an operation that widens it.
"""

import json

import numpy as np

from asc_jax.export.graph import Deployment
from asc_jax.machine.optional_packages import require

METADATA_NAME = "asc_jax"


def finish(data: bytes, deployment: Deployment) -> bytes:
    """Float16 weights where the deployment's are, and the metadata."""
    schema = require("tensorflow.lite.python.schema_py_generated")
    flatbuffers = require("flatbuffers")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    if deployment.params["head"]["kernel"].dtype == np.float16:
        _halve(schema, model)
    text = json.dumps(dict(deployment.metadata)).encode()
    model.buffers.append(_buffer(schema, np.frombuffer(text, np.uint8)))
    entry = schema.MetadataT()
    entry.name, entry.buffer = METADATA_NAME, len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _halve(schema, model) -> None:
    """Store kernels and biases of all convolutions in float16, widened by DEQUANTIZE."""
    graph = model.subgraphs[0]
    kinds = schema.BuiltinOperator
    codes = [code.builtinCode for code in model.operatorCodes]
    convs = {kinds.CONV_2D, kinds.DEPTHWISE_CONV_2D}
    used = [op.inputs[1:] for op in graph.operators if codes[op.opcodeIndex] in convs]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = kinds.DEQUANTIZE
    code.version = 3  # the first that takes float16
    model.operatorCodes.append(code)
    wide = {int(i): graph.tensors[i] for i in sorted({int(i) for inputs in used for i in inputs})}
    halves = {index: _float16(model.buffers[tensor.buffer]) for index, tensor in wide.items()}
    for tensor in wide.values():
        model.buffers[tensor.buffer].data = None
    widened = []
    for index, tensor in wide.items():
        narrow = schema.TensorT()
        narrow.shape, narrow.type = tensor.shape, schema.TensorType.FLOAT16
        narrow.name, narrow.buffer = tensor.name + b".float16", len(model.buffers)
        model.buffers.append(_buffer(schema, halves[index]))
        tensor.buffer = 0  # by convention the empty one
        op = schema.OperatorT()
        op.opcodeIndex = len(model.operatorCodes) - 1
        op.inputs, op.outputs = [len(graph.tensors)], [index]
        graph.tensors.append(narrow)
        widened.append(op)
    graph.operators = widened + graph.operators


def _float16(buffer) -> np.ndarray:
    """Bytes of a buffer's float32 values in float16, which the deployment's weights fit."""
    return np.asarray(buffer.data, np.uint8).view(np.float32).astype(np.float16).view(np.uint8)


def _buffer(schema, data: np.ndarray):
    buffer = schema.BufferT()
    buffer.data = data
    return buffer
