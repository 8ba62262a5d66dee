"""Write the network for LiteRT (TensorFlow Lite) by TensorFlow's converter, and read it back.

Built-in operations only. The converter writes float32, because its own float16 mode would also
round the window, the mel weights and the 1e-5 under the logarithm. Here only the weights of the
layers are stored in float16, each with an operation that widens it.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np

from asc_jax.errors import UserError
from asc_jax.features.front_end import LOG_OFFSET
from asc_jax.machine.optional_packages import require, require_tensorflow
from asc_jax.operations.graph import (
    ELEMENTWISE,
    INPUT,
    REDUCTIONS,
    Deployment,
    Operation,
)

EXTENSION = ".tflite"
METADATA_NAME = "asc_jax"


def build(deployment: Deployment) -> dict[str, bytes]:
    """Return two flatbuffers by artefact, with the metadata as JSON in the entry "asc_jax".

    Raises:
      UserError: TensorFlow is not installed, or n_fft is no power of two.
    """
    n_fft = deployment.features["n_fft"]
    if n_fft.bit_count() != 1:
        raise UserError(
            f"config.features.n_fft is {n_fft}, and LiteRT's Fourier transform takes powers of two "
            "only: export to another kind, or train with such an n_fft"
        )
    tf = require_tensorflow()

    def waveform_to_probs(waveform):
        return tf.nn.softmax(_network(tf, deployment, _log_mel(tf, deployment, waveform)))

    def log_mel_to_logits(log_mel):
        return _network(tf, deployment, log_mel)

    functions = {f.__name__: f for f in (waveform_to_probs, log_mel_to_logits)}
    return {
        artefact: _finish(_convert(tf, functions[artefact], shape), deployment)
        for artefact, shape in deployment.input_shapes.items()
    }


def load(files: Mapping[str, bytes]) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return the files of `build` as functions that LiteRT computes.

    Raises:
      UserError: the package ai-edge-litert is not installed.
    """
    return {artefact: runner(data) for artefact, data in files.items()}


def runner(data: bytes, *, reference: bool = False) -> Callable[[np.ndarray], np.ndarray]:
    """Return a file with one input and one output as a function that LiteRT computes.

    Args:
      data: the flatbuffer.
      reference: by LiteRT's plain kernels instead of the fast ones of this machine.

    Raises:
      UserError: the package ai-edge-litert is not installed.
    """
    package = require("ai_edge_litert.interpreter")
    kernels = package.OpResolverType.BUILTIN_REF if reference else package.OpResolverType.AUTO
    with _silent():
        interpreter = package.Interpreter(model_content=data, experimental_op_resolver_type=kernels)
        interpreter.allocate_tensors()
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(batch: np.ndarray) -> np.ndarray:
        if list(interpreter.get_input_details()[0]["shape"]) != list(batch.shape):
            interpreter.resize_tensor_input(source["index"], batch.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(source["index"], np.asarray(batch))
        interpreter.invoke()
        return interpreter.get_tensor(result["index"])

    return run


def _convert(tf, function: Callable, shape: tuple[int, ...]) -> bytes:
    module = tf.Module()
    spec = tf.TensorSpec([None, *shape], tf.float32)
    module.function = tf.function(function, input_signature=[spec], autograph=False)
    concrete = module.function.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
    with _silent():
        return converter.convert()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Discard what C++ libraries print on stderr; what goes wrong is raised anyway."""
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


def _log_mel(tf, deployment: Deployment, waveform):
    """Compute the front end, `[b, n_samples]` → `[b, n_mels, n_frames, 1]`."""
    f = deployment.features
    n_fft, n_mels, hop_length = (f[n] for n in ("n_fft", "n_mels", "hop_length"))
    half = n_fft // 2
    if f["pre_emphasis"]:
        waveform = waveform[:, 1:] - np.float32(f["pre_emphasis"]) * waveform[:, :-1]
    padded = tf.pad(waveform, [[0, 0], [half, n_fft - half]], "REFLECT")
    starts = range(0, deployment.n_frames * hop_length, hop_length)
    frames = tf.stack([padded[:, start : start + n_fft] for start in starts], 1)
    spectrum = tf.signal.rfft(frames * deployment.window(), [n_fft])
    power = tf.math.real(spectrum) ** 2 + tf.math.imag(spectrum) ** 2
    by_bin = tf.transpose(tf.reshape(power, [-1, half + 1]))  # [bin, b · t]
    band, here, below = deployment.mel_bands()
    mel = tf.math.unsorted_segment_sum(by_bin * here[:, None], band, n_mels)
    mel += tf.math.unsorted_segment_sum(by_bin * below[:, None], band, n_mels + 1)[1:]
    mel = tf.reshape(tf.transpose(mel), [-1, len(starts), n_mels])
    log_mel = tf.math.log(mel + LOG_OFFSET)
    if (f["norm_mean"], f["norm_std"]) != (0, 1):
        log_mel = (log_mel - np.float32(f["norm_mean"])) / np.float32(f["norm_std"])
    return tf.transpose(log_mel, [0, 2, 1])[..., None]


def _network(tf, deployment: Deployment, log_mel):
    """Compute the network, `[b, n_mels, n_frames, 1]` → `[b, n_classes]`."""
    activations = {
        None: lambda x: x,
        "relu": tf.nn.relu,
        "relu6": tf.nn.relu6,
        "hard_swish": lambda x: x * tf.nn.relu6(x + 3) / 6,
        "silu": lambda x: x * tf.sigmoid(x),
        "gelu": lambda x: tf.nn.gelu(x, approximate=True),  # Flax's default
        "sigmoid": tf.sigmoid,
    }
    results, constants = {INPUT: log_mel}, {}
    for op in deployment.operations:
        arrays = {name: np.asarray(value, np.float32) for name, value in op.arrays.items()}
        if op.kind == "dense":  # which may share its arrays
            made = {name: tf.constant(value) for name, value in arrays.items()}
            arrays = constants.setdefault(op.owner, made)
        y = OPERATIONS[op.kind](tf, op, arrays, *(results[name] for name in op.inputs))
        results[op.name] = activations[op.activation](y)
    return results[op.name]


def _conv(tf, op: Operation, arrays, x):
    kernel, groups, strides = arrays["kernel"], op.options["groups"], [1, *op.options["strides"], 1]
    same = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides[1:3], "SAME")
    # One operation less where TensorFlow's SAME padding is the wanted one.
    padding = "SAME" if tuple(same) == tuple(op.options["padding"]) else "VALID"
    x = x if padding == "SAME" else _pad(tf, op, x)
    if groups == x.shape[-1]:
        kernel = kernel.reshape(*kernel.shape[:2], groups, -1)
        y = tf.nn.depthwise_conv2d(x, kernel, strides, padding)
    else:
        parts = zip(tf.split(x, groups, -1), np.split(kernel, groups, -1), strict=True)
        parts = [tf.nn.conv2d(part, kernel, strides, padding) for part, kernel in parts]
        y = tf.concat(parts, -1)
    return tf.nn.bias_add(y, arrays["bias"])


def _pad(tf, op: Operation, x, value: float = 0.0):
    padding = op.options["padding"]
    if not np.any(padding):
        return x
    return tf.pad(x, [[0, 0], *map(list, padding), [0, 0]], constant_values=value)


def _avg_pool(tf, op: Operation, arrays, x):
    x = _pad(tf, op, x)  # TensorFlow does not count what it pads by itself
    return tf.nn.avg_pool2d(x, op.options["size"], op.options["strides"], "VALID")


def _max_pool(tf, op: Operation, arrays, x):
    x = _pad(tf, op, x, -np.inf)
    return tf.nn.max_pool2d(x, op.options["size"], op.options["strides"], "VALID")


def _grn(tf, op: Operation, arrays, x):  # see `layers.response_norm`
    norm = tf.sqrt(tf.reduce_sum(x * x, [1, 2], keepdims=True))
    ratio = norm / (tf.reduce_mean(norm, -1, keepdims=True) + 1e-6)
    return x + arrays["gamma"] * (x * ratio) + arrays["beta"]


OPERATIONS = {
    "conv": _conv,
    "avg_pool": _avg_pool,
    "max_pool": _max_pool,
    "grn": _grn,
    "activation": lambda tf, op, arrays, x: x,
    "constant": lambda tf, op, arrays: arrays["value"],
    "dense": lambda tf, op, arrays, x: tf.matmul(x, arrays["kernel"]) + arrays["bias"],
    "reshape": lambda tf, op, arrays, x: tf.reshape(x, [-1, *op.shape]),
    "transpose": lambda tf, op, arrays, x: tf.transpose(x, op.options["permutation"]),
    "concatenate": lambda tf, op, arrays, *x: tf.concat(x, op.options["axis"]),
    "slice": lambda tf, op, arrays, x: x[:, *(slice(*r) for r in op.options["ranges"])],
    **dict.fromkeys(
        ELEMENTWISE, lambda tf, op, arrays, *x: getattr(tf.math, ELEMENTWISE[op.kind])(*x)
    ),
    **dict.fromkeys(REDUCTIONS, lambda tf, op, arrays, x: getattr(tf, op.kind)(x, **op.options)),
}


def _finish(data: bytes, deployment: Deployment) -> bytes:
    """Store weights in float16 where the deployment's are, and add the metadata."""
    schema = require("tensorflow.lite.python.schema_py_generated")
    flatbuffers = require("flatbuffers")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    if deployment.metadata["weights"] == "float16":
        _store_weights_in_float16(schema, model)
    text = json.dumps(dict(deployment.metadata)).encode()
    entry = schema.MetadataT()
    entry.name = METADATA_NAME
    entry.buffer = _add_buffer(schema, model, np.frombuffer(text, np.uint8))
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _store_weights_in_float16(schema, model) -> None:
    """Store kernels and biases of all layers in float16, widened by DEQUANTIZE."""
    graph, kinds = model.subgraphs[0], schema.BuiltinOperator
    dequantize = schema.OperatorCodeT()
    dequantize.builtinCode = dequantize.deprecatedBuiltinCode = kinds.DEQUANTIZE
    dequantize.version = 3  # the first that takes float16
    model.operatorCodes.append(dequantize)
    kinds = {kinds.CONV_2D, kinds.DEPTHWISE_CONV_2D, kinds.FULLY_CONNECTED, kinds.BATCH_MATMUL}
    layers = {n for n, code in enumerate(model.operatorCodes) if code.builtinCode in kinds}
    weights = {
        int(i)
        for op in graph.operators
        for i in (op.inputs[1:] if op.opcodeIndex in layers else ())
        if i >= 0 and model.buffers[graph.tensors[i].buffer].data is not None
    }
    widenings = []
    for i in sorted(weights):
        tensor, narrow = graph.tensors[i], schema.TensorT()
        value = np.asarray(model.buffers[tensor.buffer].data, np.uint8).view(np.float32)
        narrow.shape, narrow.type = tensor.shape, schema.TensorType.FLOAT16
        narrow.name = tensor.name + b".float16"
        narrow.buffer = _add_buffer(schema, model, value.astype(np.float16).view(np.uint8))
        tensor.buffer = 0  # by convention the empty one
        widening = schema.OperatorT()
        widening.opcodeIndex = len(model.operatorCodes) - 1
        widening.inputs, widening.outputs = [len(graph.tensors)], [i]
        graph.tensors.append(narrow)
        widenings.append(widening)
    graph.operators = widenings + graph.operators
    # Tensors of equal values may share a buffer, also those that stay.
    used = {part.buffer for part in (*graph.tensors, *(model.metadata or []))}
    for number, buffer in enumerate(model.buffers):
        buffer.data = buffer.data if number in used else None


def _add_buffer(schema, model, data: np.ndarray) -> int:
    """Add bytes to a model and return the number of their buffer."""
    buffer = schema.BufferT()
    buffer.data = data
    model.buffers.append(buffer)
    return len(model.buffers) - 1
