"""Write the network as an ONNX graph, operation by operation; ONNX Runtime reads it back.

Channels first, as ONNX convolutions are. Float16 weights are cast to float32 in the graph, which
ONNX Runtime does once, when it loads the file; it computes the dense mel filterbank from its
bands then, too. Its `quantize_dynamic` does not see weights through a cast: it takes float32 files.
"""

from collections.abc import Callable, Mapping

import numpy as np

from asc_jax.features.front_end import LOG_OFFSET
from asc_jax.machine.optional_packages import require
from asc_jax.operations.graph import (
    ARTEFACTS,
    ELEMENTWISE,
    INPUT,
    REDUCTIONS,
    Deployment,
    Operation,
)

OPSET = 17  # the first with STFT
IR_VERSION = 8  # that opset's own
EXTENSION = ".onnx"
INT8 = {  # by the dtype of the weights: how to quantise the files
    "float32": (
        "to quantise to int8 with ONNX Runtime: quantize_dynamic(FILE, NEW_FILE, "
        "weight_type=QuantType.QUInt8), without quant_pre_process"
    ),
    "float16": "to quantise to int8 with ONNX Runtime, write the files with --dtype float32",
}


def build(deployment: Deployment) -> dict[str, bytes]:
    """Return two serialised models by artefact.

    Raises:
      UserError: the package onnx is not installed.
    """
    return {artefact: _model(deployment, artefact) for artefact in ARTEFACTS}


def load(files: Mapping[str, bytes]) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return the files of `build` as functions that ONNX Runtime computes on the CPU.

    Raises:
      UserError: the package onnxruntime is not installed.
    """
    runtime = require("onnxruntime")

    def session(data: bytes):
        opened = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
        name = opened.get_inputs()[0].name
        return lambda batch: opened.run(None, {name: batch})[0]

    return {artefact: session(data) for artefact, data in files.items()}


class _Writer:
    """The nodes and constants of a graph; every method returns the name of what it added."""

    def __init__(self):
        self.onnx = require("onnx")
        self.nodes, self.constants, self.weights = [], [], {}
        self.layer = "front_end"  # for names

    def node(self, kind: str, *inputs: str, **attributes) -> str:
        out = f"{self.layer}.{kind}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [out], name=out, **attributes))
        return out

    def constant(self, value, name: str | None = None) -> str:
        """Store an array as it is."""
        name = name or f"constant_{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def scalar(self, value: float) -> str:
        return self.constant(np.float32(value))

    def weight(self, op: Operation, name: str, axes: tuple[int, ...] | None = None) -> str:
        """Store an array of an operation, with its axes reordered; used in float32."""
        known = f"{op.owner}.{name}"
        if known not in self.weights:
            value = op.arrays[name] if axes is None else op.arrays[name].transpose(axes)
            stored = self.constant(np.ascontiguousarray(value), known)
            if value.dtype != np.float32:
                stored = self.node("Cast", stored, to=self.onnx.TensorProto.FLOAT)
            self.weights[known] = stored
        return self.weights[known]


def _model(deployment: Deployment, artefact: str) -> bytes:
    w = _Writer()
    (n_classes,) = deployment.operations[-1].shape
    n_mels, n_frames = deployment.features["n_mels"], deployment.n_frames
    if artefact == "waveform_to_probs":
        source, source_shape, result = "waveform", ("b", deployment.n_samples), "probs"
        w.node("Softmax", _network(w, deployment, _log_mel(w, deployment)), axis=1)
    else:
        source, source_shape, result = INPUT, ("b", n_mels, n_frames, 1), "logits"
        shape = w.constant(np.array([-1, 1, n_mels, n_frames]))
        _network(w, deployment, w.node("Reshape", INPUT, shape))
    w.nodes[-1].output[0] = result
    helper, float32 = w.onnx.helper, w.onnx.TensorProto.FLOAT
    graph_input = helper.make_tensor_value_info(source, float32, source_shape)
    graph_output = helper.make_tensor_value_info(result, float32, ("b", n_classes))
    model = helper.make_model(
        helper.make_graph(w.nodes, artefact, [graph_input], [graph_output], w.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="asc_jax",
    )
    helper.set_model_props(model, dict(deployment.metadata))
    w.onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _log_mel(w: _Writer, deployment: Deployment) -> str:
    """Add the front end, `waveform [b, n_samples]` → `[b, 1, n_mels, n_frames]`."""
    f, waveform = deployment.features, "waveform"
    half = f["n_fft"] // 2
    if f["pre_emphasis"]:
        n, axis = deployment.n_samples, w.constant(np.array([1]))
        before, here = (
            w.node("Slice", waveform, *(w.constant(np.array([at])) for at in ends), axis)
            for ends in ((0, n - 1), (1, n))
        )
        waveform = w.node("Sub", here, w.node("Mul", before, w.scalar(f["pre_emphasis"])))
    pads = w.constant(np.array([0, half, 0, f["n_fft"] - half]))
    padded = w.node("Pad", waveform, pads, mode="reflect")
    signal = w.node("Unsqueeze", padded, w.constant(np.array([2])))
    window = w.constant(deployment.window(), "window")
    spectrum = w.node("STFT", signal, w.constant(np.int64(f["hop_length"])), window, onesided=1)
    power = w.node("ReduceSumSquare", spectrum, axes=[3], keepdims=0)  # [b, t, bin]
    bank = _filterbank(w, f["n_mels"], *deployment.mel_bands())
    mel = w.node("Transpose", w.node("MatMul", power, bank), perm=[0, 2, 1])
    log = w.node("Log", w.node("Add", mel, w.scalar(LOG_OFFSET)))
    if (f["norm_mean"], f["norm_std"]) != (0, 1):
        log = w.node("Sub", log, w.scalar(f["norm_mean"]))
        log = w.node("Div", log, w.scalar(f["norm_std"]))
    return w.node("Unsqueeze", log, w.constant(np.array([1])))


def _filterbank(w: _Writer, n_mels: int, band, here, below) -> str:
    """Add the dense filterbank `[bin, n_mels]`, computed from `graph.mel_bands`."""
    band = w.constant(band[:, None], "band")
    numbers = np.arange(n_mels, dtype=np.int32)[None]
    terms = []
    for weights, columns, name in ((here, numbers, "here"), (below, numbers + 1, "below")):
        is_band = w.node("Equal", band, w.constant(columns))
        is_band = w.node("Cast", is_band, to=w.onnx.TensorProto.FLOAT)
        terms.append(w.node("Mul", is_band, w.constant(weights[:, None], name)))
    return w.node("Add", *terms)


def _network(w: _Writer, deployment: Deployment, image: str) -> str:
    """Add the network, `image [b, 1, n_mels, n_frames]`; return the name of the logits.

    Results of four axes are channels first, all others as in JAX.
    """
    results, images = {INPUT: image}, {INPUT}
    for op in deployment.operations:
        w.layer, inputs = op.name, [results[name] for name in op.inputs]
        images.update([op.name] if len(op.shape) == 3 else ())
        if op.kind in FIRST:
            y = FIRST[op.kind](w, op, *inputs)
        elif op.kind in REDUCTIONS and op.inputs[0] in images and _keeps_order(op):
            y = _reduce(w, op, *inputs, order=TO_FIRST)
        else:
            last = [
                w.node("Transpose", x, perm=TO_LAST) if name in images else x
                for x, name in zip(inputs, op.inputs, strict=True)
            ]
            y = LAST[op.kind](w, op, *last)
            y = w.node("Transpose", y, perm=TO_FIRST) if op.name in images else y
        results[op.name] = _activation(w, op.activation, y)
    return results[op.name]


def _conv(w: _Writer, op: Operation, x: str) -> str:
    kernel, bias = w.weight(op, "kernel", (3, 2, 0, 1)), w.weight(op, "bias")
    window = _window(op.arrays["kernel"].shape[:2], op.options)
    return w.node("Conv", x, kernel, bias, group=op.options["groups"], **window)


def _window(size, options: Mapping) -> dict:
    before, after = zip(*options["padding"], strict=True)
    return {"kernel_shape": size, "strides": options["strides"], "pads": [*before, *after]}


def _grn(w: _Writer, op: Operation, x: str) -> str:  # see `layers.response_norm`
    norm = w.node("ReduceL2", x, axes=[2, 3])
    mean = w.node("ReduceMean", norm, axes=[1])
    ratio = w.node("Div", norm, w.node("Add", mean, w.scalar(1e-6)))
    scaled = w.node("Mul", w.node("Mul", x, ratio), w.weight(op, "gamma"))
    return w.node("Add", w.node("Add", x, scaled), w.weight(op, "beta"))


def _keeps_order(op: Operation) -> bool:
    """Return whether a reduction of an image leaves its axes in order in both layouts."""
    axes = op.options["axis"]
    return op.options["keepdims"] or 3 in axes or {1, 2} <= {*axes}


def _reduce(w: _Writer, op: Operation, x: str, order=range(9)) -> str:
    kind = "Reduce" + op.kind.removeprefix("reduce_").capitalize()
    axes, keepdims = [order.index(axis) for axis in op.options["axis"]], int(op.options["keepdims"])
    if kind == "ReduceSum":  # the one of which the axes are an input in this opset
        return w.node(kind, x, w.constant(np.array(axes)), keepdims=keepdims)
    return w.node(kind, x, axes=axes, keepdims=keepdims)


def _slice(w: _Writer, op: Operation, x: str) -> str:
    start, end, step = np.array(op.options["ranges"]).T
    return w.node("Slice", x, *map(w.constant, (start, end, np.arange(1, len(start) + 1), step)))


def _activation(w: _Writer, name: str | None, x: str) -> str:
    if name is None:
        return x
    if name == "relu6":
        return w.node("Clip", x, w.scalar(0.0), w.scalar(6.0))
    if name == "silu":
        return w.node("Mul", x, w.node("Sigmoid", x))
    if name == "gelu":  # the approximation by tanh, which is Flax's default
        cube = w.node("Mul", w.node("Mul", x, x), x)
        inner = w.node("Add", x, w.node("Mul", cube, w.scalar(0.044715)))
        tanh = w.node("Tanh", w.node("Mul", inner, w.scalar((2 / np.pi) ** 0.5)))
        half = w.node("Mul", x, w.scalar(0.5))
        return w.node("Mul", half, w.node("Add", tanh, w.scalar(1.0)))
    return w.node({"relu": "Relu", "hard_swish": "HardSwish", "sigmoid": "Sigmoid"}[name], x)


TO_FIRST, TO_LAST = (0, 3, 1, 2), (0, 2, 3, 1)
# What adds an operation and returns the name of its result: images channels first, and last.
FIRST = {
    "conv": _conv,
    "avg_pool": lambda w, op, x: w.node(
        "AveragePool", x, count_include_pad=1, **_window(op.options["size"], op.options)
    ),
    "max_pool": lambda w, op, x: w.node("MaxPool", x, **_window(op.options["size"], op.options)),
    "grn": _grn,
    "activation": lambda w, op, x: x,
    "constant": lambda w, op: w.weight(op, "value", TO_FIRST if len(op.shape) == 3 else None),
    **dict.fromkeys(ELEMENTWISE, lambda w, op, *x: w.node(op.kind.capitalize(), *x)),
}
LAST = {
    "dense": lambda w, op, x: w.node(
        "Add", w.node("MatMul", x, w.weight(op, "kernel")), w.weight(op, "bias")
    ),
    "reshape": lambda w, op, x: w.node("Reshape", x, w.constant(np.array([-1, *op.shape]))),
    "transpose": lambda w, op, x: w.node("Transpose", x, perm=op.options["permutation"]),
    "concatenate": lambda w, op, *x: w.node("Concat", *x, axis=op.options["axis"]),
    "slice": _slice,
    **dict.fromkeys(REDUCTIONS, _reduce),
}
