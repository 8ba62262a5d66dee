"""Write the network for LiteRT (TensorFlow Lite) by TensorFlow's converter, and read it back.

Built-in operations only. The converter's own float16 mode would also round the window, the
mel weights and the 1e-5 under the logarithm; here it writes float32, and the weights of the
convolutions are turned to float16 afterwards, each with an operation that widens it.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from asc_jax.errors import UserError
from asc_jax.features import LOG_OFFSET
from asc_jax.interop.graph import (
    ARTEFACTS,
    INPUT,
    N_SAMPLES,
    Deployment,
    Operation,
    mel_bands,
    operations,
    padded_window,
)
from asc_jax.interop.optional import require

EXTENSION = ".tflite"
METADATA_NAME = "asc_jax"


def build(deployment: Deployment) -> dict[str, bytes]:
    """`{"waveform_to_probs": …, "log_mel_to_logits": …}`, two flatbuffers.

    The one takes `waveform [b, 32000]` and gives `probs [b, n_classes]`, the other `log_mel
    [b, n_mels, n_frames, 1]` and `logits [b, n_classes]`; all float32, any b. The metadata is
    JSON in the entry "asc_jax".

    Raises:
      UserError: TensorFlow is not installed, or n_fft is no power of two.
    """
    n_fft = deployment.features["n_fft"]
    if n_fft.bit_count() != 1:
        raise UserError(
            f"config.features.n_fft is {n_fft}, and LiteRT's Fourier transform takes powers of two "
            "only: export to another kind, or train with such an n_fft"
        )
    tf = _import_tensorflow()

    def waveform_to_probs(waveform):
        log_mel = _log_mel(tf, waveform, **deployment.features)
        return tf.nn.softmax(_network(tf, deployment, log_mel))

    def log_mel_to_logits(log_mel):
        return _network(tf, deployment, log_mel)

    functions = (waveform_to_probs, log_mel_to_logits)
    shapes = (N_SAMPLES,), (deployment.features["n_mels"], deployment.n_frames, 1)
    return {
        artefact: _finish(_convert(tf, function, shape), deployment)
        for artefact, function, shape in zip(ARTEFACTS, functions, shapes, strict=True)
    }


def load(files: Mapping[str, bytes]) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """What `build` returned, as functions that LiteRT computes.

    Raises:
      UserError: the package ai-edge-litert is not installed.
    """
    interpreter_class = require("ai_edge_litert.interpreter").Interpreter

    def runner(data: bytes):
        with _silent():
            interpreter = interpreter_class(model_content=data)
            interpreter.allocate_tensors()
        (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()

        def run(batch: np.ndarray) -> np.ndarray:
            if list(interpreter.get_input_details()[0]["shape"]) != list(batch.shape):
                interpreter.resize_tensor_input(given["index"], batch.shape)
                interpreter.allocate_tensors()
            interpreter.set_tensor(given["index"], np.asarray(batch))
            interpreter.invoke()
            return interpreter.get_tensor(result["index"])

        return run

    return {artefact: runner(data) for artefact, data in files.items()}


def _import_tensorflow():
    """TensorFlow, quiet and off the GPU, whose memory belongs to JAX."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    tf = require("tensorflow", "requirements.txt")
    with contextlib.suppress(RuntimeError):  # already in use, by whoever chose its devices
        tf.config.set_visible_devices([], "GPU")
    return tf


def _convert(tf, function: Callable, shape: tuple[int, ...]) -> bytes:
    module = tf.Module()
    spec = tf.TensorSpec([None, *shape], tf.float32)
    module.function = tf.function(function, input_signature=[spec])
    concrete = module.function.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
    with _silent():
        return converter.convert()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Libraries in C++ say on stderr what interests nobody; what goes wrong is raised anyway."""
    sys.stderr.flush()
    before = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)


def _log_mel(
    tf,
    waveform,
    *,
    sample_rate: int,
    n_fft: int,
    win_length: int,
    hop_length: int,
    n_mels: int,
    f_min: float,
    f_max: float,
):
    """`[b, 32000]` → `[b, n_mels, n_frames, 1]`."""
    half = n_fft // 2
    padded = tf.pad(waveform, [[0, 0], [half, n_fft - half]], "REFLECT")
    starts = range(0, N_SAMPLES + 1, hop_length)
    frames = tf.stack([padded[:, start : start + n_fft] for start in starts], 1)
    spectrum = tf.signal.rfft(frames * padded_window(n_fft, win_length), [n_fft])
    power = tf.math.real(spectrum) ** 2 + tf.math.imag(spectrum) ** 2
    by_bin = tf.transpose(tf.reshape(power, [-1, half + 1]))  # [bin, b · t]
    band, here, below = mel_bands(n_fft, n_mels, sample_rate, f_min, f_max)

    def add_up(weights, numbers, n_bands):
        return tf.math.unsorted_segment_sum(by_bin * weights[:, None], numbers, n_bands)

    mel = add_up(here, band, n_mels) + add_up(below, band, n_mels + 1)[1:]
    mel = tf.reshape(tf.transpose(mel), [-1, len(starts), n_mels])
    return tf.transpose(tf.math.log(mel + LOG_OFFSET), [0, 2, 1])[..., None]


def _network(tf, deployment: Deployment, log_mel):
    """`log_mel` → `logits [b, n_classes]`."""
    results = {INPUT: log_mel}
    for op in operations(deployment.params, deployment.model["activation"]):
        out = _operation(tf, op, [results[name] for name in op.inputs])
        activate = _activations(tf)[op.activation] if op.activation else tf.identity
        results[op.name] = activate(out)
    return results["logits"]


def _operation(tf, op: Operation, inputs):
    arrays = {name: np.asarray(value, np.float32) for name, value in op.arrays.items()}
    x, strides = inputs[0], [1, *op.strides, 1]
    if op.kind == "add":
        return x + inputs[1]
    if op.kind == "mean":
        return tf.reduce_mean(x, [1, 2])
    if op.kind == "grn":
        return _grn(tf, x, **arrays)
    # With stride 1 TensorFlow's SAME padding is the wanted one, and one operation less.
    padding = "VALID"
    if op.strides == (1, 1):
        padding = "SAME"
    else:
        x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
    if op.kind == "avg_pool":
        return tf.nn.avg_pool2d(x, 3, strides, padding)
    kernel = arrays["kernel"]
    if op.kind == "depthwise":
        y = tf.nn.depthwise_conv2d(x, kernel.transpose(0, 1, 3, 2), strides, padding)
    else:
        y = tf.nn.conv2d(x, kernel, strides, padding)
    return tf.nn.bias_add(y, arrays["bias"])


def _grn(tf, x, gamma, beta):
    """See `blocks.GlobalResponseNorm`."""
    norm = tf.sqrt(tf.reduce_sum(x * x, [1, 2], keepdims=True))
    ratio = norm / (tf.reduce_mean(norm, -1, keepdims=True) + 1e-6)
    return x + gamma * (x * ratio) + beta


def _activations(tf) -> dict[str, Callable]:
    return {
        "relu": tf.nn.relu,
        "relu6": tf.nn.relu6,
        "hard_swish": lambda x: x * tf.nn.relu6(x + 3) / 6,
        "silu": lambda x: x * tf.sigmoid(x),
        "gelu": lambda x: tf.nn.gelu(x, approximate=True),  # Flax's default
    }


def _finish(data: bytes, deployment: Deployment) -> bytes:
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
