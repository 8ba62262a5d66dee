"""Write the network as an ONNX graph, operation by operation; ONNX Runtime reads it back.

Channels first, as ONNX convolutions are. Float16 weights are cast to float32 in the graph, which
ONNX Runtime does once, when it loads the file; it computes the dense mel filterbank from its
bands then, too.
"""

from collections.abc import Callable, Mapping

import numpy as np

from asc_jax.export.graph import ARTEFACTS, INPUT, N_SAMPLES, Deployment, Operation
from asc_jax.features.front_end import LOG_OFFSET
from asc_jax.machine.optional_packages import require

OPSET = 17  # the first with STFT
IR_VERSION = 8  # that opset's own
EXTENSION = ".onnx"


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
        self.nodes, self.constants = [], []

    def node(self, kind: str, *inputs: str, out: str | None = None, **attributes) -> str:
        out = out or f"{kind}_{len(self.nodes)}"
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
        value = op.arrays[name] if axes is None else op.arrays[name].transpose(axes)
        stored = self.constant(np.ascontiguousarray(value), f"{op.name}.{name}")
        if value.dtype == np.float32:
            return stored
        return self.node("Cast", stored, to=self.onnx.TensorProto.FLOAT)


def _model(deployment: Deployment, artefact: str) -> bytes:
    w = _Writer()
    n_classes = deployment.params["head"]["bias"].size
    n_mels, n_frames = deployment.features["n_mels"], deployment.n_frames
    if artefact == "waveform_to_probs":
        source, source_shape, result = "waveform", ("b", N_SAMPLES), "probs"
        _network(w, deployment, _log_mel(w, deployment))
        w.node("Softmax", "logits", out="probs", axis=1)
    else:
        source, source_shape, result = INPUT, ("b", n_mels, n_frames, 1), "logits"
        shape = w.constant(np.array([-1, 1, n_mels, n_frames]))
        _network(w, deployment, w.node("Reshape", INPUT, shape))
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
    """Add the front end, `waveform [b, 32000]` → `[b, 1, n_mels, n_frames]`."""
    f = deployment.features
    half = f["n_fft"] // 2
    pads = w.constant(np.array([0, half, 0, f["n_fft"] - half]))
    padded = w.node("Pad", "waveform", pads, mode="reflect")
    signal = w.node("Unsqueeze", padded, w.constant(np.array([2])))
    window = w.constant(deployment.window(), "window")
    spectrum = w.node("STFT", signal, w.constant(np.int64(f["hop_length"])), window, onesided=1)
    power = w.node("ReduceSumSquare", spectrum, axes=[3], keepdims=0)  # [b, t, bin]
    bank = _filterbank(w, f["n_mels"], *deployment.mel_bands())
    mel = w.node("Transpose", w.node("MatMul", power, bank), perm=[0, 2, 1])
    log = w.node("Log", w.node("Add", mel, w.scalar(LOG_OFFSET)))
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


def _network(w: _Writer, deployment: Deployment, image: str) -> None:
    """Add the network, `image [b, 1, n_mels, n_frames]` → `logits [b, n_classes]`."""
    for op in deployment.operations:
        inputs = [image if name == INPUT else name for name in op.inputs]
        out = op.name if op.activation is None else f"{op.name}.before_activation"
        _operation(w, op, inputs, out)
        if op.activation is not None:
            _activation(w, op.activation, out, op.name)


def _operation(w: _Writer, op: Operation, inputs: list[str], out: str) -> None:
    window = {"strides": op.strides, "out": out}
    if op.kind == "add":
        w.node("Add", *inputs, out=out)
    elif op.kind == "mean":
        w.node("ReduceMean", *inputs, out=out, axes=[2, 3], keepdims=0)
    elif op.kind == "avg_pool":
        options = {"kernel_shape": [3, 3], "pads": [1] * 4, "count_include_pad": 1}
        w.node("AveragePool", *inputs, **window, **options)
    elif op.kind == "grn":  # see `normalisation.GlobalResponseNorm`
        norm = w.node("ReduceL2", *inputs, axes=[2, 3])
        mean = w.node("ReduceMean", norm, axes=[1])
        ratio = w.node("Div", norm, w.node("Add", mean, w.scalar(1e-6)))
        gamma, beta = w.weight(op, "gamma"), w.weight(op, "beta")
        scaled = w.node("Mul", w.node("Mul", *inputs, ratio), gamma)
        w.node("Add", w.node("Add", *inputs, scaled), beta, out=out)
    else:
        size, _, _, n_channels = op.arrays["kernel"].shape
        kernel, bias = w.weight(op, "kernel", (3, 2, 0, 1)), w.weight(op, "bias")
        group = n_channels if op.kind == "depthwise" else 1
        options = {"kernel_shape": [size, size], "pads": [size // 2] * 4, "group": group}
        w.node("Conv", *inputs, kernel, bias, **window, **options)


def _activation(w: _Writer, name: str, x: str, out: str) -> None:
    if name == "relu6":
        w.node("Clip", x, w.scalar(0.0), w.scalar(6.0), out=out)
    elif name == "silu":
        w.node("Mul", x, w.node("Sigmoid", x), out=out)
    elif name == "gelu":  # the approximation by tanh, which is Flax's default
        cube = w.node("Mul", w.node("Mul", x, x), x)
        inner = w.node("Add", x, w.node("Mul", cube, w.scalar(0.044715)))
        tanh = w.node("Tanh", w.node("Mul", inner, w.scalar((2 / np.pi) ** 0.5)))
        half = w.node("Mul", x, w.scalar(0.5))
        w.node("Mul", half, w.node("Add", tanh, w.scalar(1.0)), out=out)
    else:
        w.node({"relu": "Relu", "hard_swish": "HardSwish"}[name], x, out=out)
