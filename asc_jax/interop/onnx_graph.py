"""Write the network as an ONNX graph, operation by operation; ONNX Runtime reads it back.

Channels first, as ONNX convolutions are. Float16 weights are cast to float32 in the graph, which
ONNX Runtime does once, when it loads the file; the dense mel filterbank is made of its bands
then, too.
"""

from collections.abc import Callable, Mapping

import numpy as np

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

OPSET = 17  # the first with STFT
IR_VERSION = 8  # that opset's own
EXTENSION = ".onnx"


def build(deployment: Deployment) -> dict[str, bytes]:
    """`{"waveform_to_probs": …, "log_mel_to_logits": …}`, two serialised models.

    The one takes `waveform [b, 32000]` and gives `probs [b, n_classes]`, the other `log_mel
    [b, n_mels, n_frames, 1]` and `logits [b, n_classes]`; all float32, any b.

    Raises:
      UserError: the package onnx is not installed.
    """
    return {artefact: _model(deployment, artefact) for artefact in ARTEFACTS}


def load(files: Mapping[str, bytes]) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """What `build` returned, as functions that ONNX Runtime computes on the CPU.

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
    """Nodes and constants of a graph in the making."""

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

    def weight(self, value: np.ndarray, name: str) -> str:
        """Store an array of weights; whatever its dtype, the graph computes in float32."""
        stored = self.constant(np.ascontiguousarray(value), name)
        if value.dtype == np.float32:
            return stored
        return self.node("Cast", stored, to=self.onnx.TensorProto.FLOAT)

    def scalar(self, value: float) -> str:
        return self.constant(np.float32(value))

    def tensor(self, name: str, *shape):
        return self.onnx.helper.make_tensor_value_info(name, self.onnx.TensorProto.FLOAT, shape)


def _model(deployment: Deployment, artefact: str) -> bytes:
    w = _Writer()
    n_classes = deployment.params["head"]["bias"].size
    n_mels, n_frames = deployment.features["n_mels"], deployment.n_frames
    if artefact == "waveform_to_probs":
        given, result = w.tensor("waveform", "b", N_SAMPLES), w.tensor("probs", "b", n_classes)
        image = _log_mel(w, "waveform", **deployment.features)
        _network(w, deployment, image)
        w.node("Softmax", "logits", out="probs", axis=1)
    else:
        given = w.tensor(INPUT, "b", n_mels, n_frames, 1)
        result = w.tensor("logits", "b", n_classes)
        shape = w.constant(np.array([-1, 1, n_mels, n_frames]))
        _network(w, deployment, w.node("Reshape", INPUT, shape))
    helper = w.onnx.helper
    model = helper.make_model(
        helper.make_graph(w.nodes, artefact, [given], [result], w.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="asc_jax",
    )
    helper.set_model_props(model, dict(deployment.metadata))
    w.onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _log_mel(
    w: _Writer,
    waveform: str,
    *,
    sample_rate: int,
    n_fft: int,
    win_length: int,
    hop_length: int,
    n_mels: int,
    f_min: float,
    f_max: float,
) -> str:
    """`[b, 32000]` → `[b, 1, n_mels, n_frames]`."""
    half = n_fft // 2
    pads = w.constant(np.array([0, half, 0, n_fft - half]))
    padded = w.node("Pad", waveform, pads, mode="reflect")
    signal = w.node("Unsqueeze", padded, w.constant(np.array([2])))
    window = w.constant(padded_window(n_fft, win_length), "window")
    spectrum = w.node("STFT", signal, w.constant(np.int64(hop_length)), window, onesided=1)
    power = w.node("ReduceSumSquare", spectrum, axes=[3], keepdims=0)  # [b, t, bin]
    bank = _filterbank(w, n_mels, *mel_bands(n_fft, n_mels, sample_rate, f_min, f_max))
    mel = w.node("Transpose", w.node("MatMul", power, bank), perm=[0, 2, 1])
    log_mel = w.node("Log", w.node("Add", mel, w.scalar(LOG_OFFSET)))
    return w.node("Unsqueeze", log_mel, w.constant(np.array([1])))


def _filterbank(w: _Writer, n_mels: int, band, here, below) -> str:
    """The dense filterbank `[bin, n_mels]` from the bands of `graph.mel_bands`."""
    band = w.constant(band[:, None], "band")
    numbers = np.arange(n_mels, dtype=np.int32)[None]
    parts = []
    for weights, columns, name in ((here, numbers, "here"), (below, numbers + 1, "below")):
        hit = w.node("Equal", band, w.constant(columns))
        hit = w.node("Cast", hit, to=w.onnx.TensorProto.FLOAT)
        parts.append(w.node("Mul", hit, w.constant(weights[:, None], name)))
    return w.node("Add", *parts)


def _network(w: _Writer, deployment: Deployment, image: str) -> None:
    """`image [b, 1, n_mels, n_frames]` → `logits [b, n_classes]`."""
    results = {INPUT: image}
    for op in operations(deployment.params, deployment.model["activation"]):
        out = op.name if op.activation is None else f"{op.name}.before_activation"
        _WRITERS[op.kind](w, op, [results[name] for name in op.inputs], out)
        results[op.name] = op.name
        if op.activation is not None:
            _ACTIVATIONS[op.activation](w, out, op.name)


def _conv(w: _Writer, op: Operation, inputs, out: str) -> None:
    kernel = op.arrays["kernel"].transpose(3, 2, 0, 1)
    w.node(
        "Conv",
        *inputs,
        w.weight(kernel, f"{op.name}.kernel"),
        w.weight(op.arrays["bias"], f"{op.name}.bias"),
        out=out,
        kernel_shape=kernel.shape[2:],
        strides=op.strides,
        pads=[kernel.shape[2] // 2] * 4,
        group=len(kernel) if op.kind == "depthwise" else 1,
    )


def _avg_pool(w: _Writer, op: Operation, inputs, out: str) -> None:
    w.node(
        "AveragePool",
        *inputs,
        out=out,
        kernel_shape=[3, 3],
        strides=op.strides,
        pads=[1] * 4,
        count_include_pad=1,
    )


def _grn(w: _Writer, op: Operation, inputs, out: str) -> None:
    """See `blocks.GlobalResponseNorm`."""
    norm = w.node("ReduceL2", *inputs, axes=[2, 3])
    mean = w.node("ReduceMean", norm, axes=[1])
    ratio = w.node("Div", norm, w.node("Add", mean, w.scalar(1e-6)))
    gamma, beta = (w.weight(op.arrays[name], f"{op.name}.{name}") for name in ("gamma", "beta"))
    scaled = w.node("Mul", w.node("Mul", *inputs, ratio), gamma)
    w.node("Add", w.node("Add", *inputs, scaled), beta, out=out)


_WRITERS = {
    "conv3x3": _conv,
    "pointwise": _conv,
    "depthwise": _conv,
    "avg_pool": _avg_pool,
    "add": lambda w, op, inputs, out: w.node("Add", *inputs, out=out),
    "grn": _grn,
    "mean": lambda w, op, inputs, out: w.node(
        "ReduceMean", *inputs, out=out, axes=[2, 3], keepdims=0
    ),
}


def _gelu(w: _Writer, x: str, out: str) -> None:
    """The approximation by tanh, which is Flax's default."""
    cube = w.node("Mul", w.node("Mul", x, x), x)
    inner = w.node("Add", x, w.node("Mul", cube, w.scalar(0.044715)))
    tanh = w.node("Tanh", w.node("Mul", inner, w.scalar((2 / np.pi) ** 0.5)))
    half = w.node("Mul", x, w.scalar(0.5))
    w.node("Mul", half, w.node("Add", tanh, w.scalar(1.0)), out=out)


_ACTIVATIONS = {
    "relu": lambda w, x, out: w.node("Relu", x, out=out),
    "relu6": lambda w, x, out: w.node("Clip", x, w.scalar(0.0), w.scalar(6.0), out=out),
    "hard_swish": lambda w, x, out: w.node("HardSwish", x, out=out),
    "silu": lambda w, x, out: w.node("Mul", x, w.node("Sigmoid", x), out=out),
    "gelu": _gelu,
}
