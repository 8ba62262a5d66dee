"""The front end and the network as nodes of an ONNX graph, channels first."""

import numpy as np

from asc_jax.export.graph import INPUT, Deployment, Operation, mel_bands, operations, padded_window
from asc_jax.export.onnx.writer import Writer
from asc_jax.features.front_end import LOG_OFFSET


def log_mel(
    w: Writer,
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
    log = w.node("Log", w.node("Add", mel, w.scalar(LOG_OFFSET)))
    return w.node("Unsqueeze", log, w.constant(np.array([1])))


def _filterbank(w: Writer, n_mels: int, band, here, below) -> str:
    """The dense filterbank `[bin, n_mels]` from the bands of `graph.mel_bands`."""
    band = w.constant(band[:, None], "band")
    numbers = np.arange(n_mels, dtype=np.int32)[None]
    parts = []
    for weights, columns, name in ((here, numbers, "here"), (below, numbers + 1, "below")):
        hit = w.node("Equal", band, w.constant(columns))
        hit = w.node("Cast", hit, to=w.onnx.TensorProto.FLOAT)
        parts.append(w.node("Mul", hit, w.constant(weights[:, None], name)))
    return w.node("Add", *parts)


def network(w: Writer, deployment: Deployment, image: str) -> None:
    """`image [b, 1, n_mels, n_frames]` → `logits [b, n_classes]`."""
    results = {INPUT: image}
    for op in operations(deployment.params, deployment.model["activation"]):
        out = op.name if op.activation is None else f"{op.name}.before_activation"
        _WRITERS[op.kind](w, op, [results[name] for name in op.inputs], out)
        results[op.name] = op.name
        if op.activation is not None:
            _ACTIVATIONS[op.activation](w, out, op.name)


def _conv(w: Writer, op: Operation, inputs, out: str) -> None:
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


def _avg_pool(w: Writer, op: Operation, inputs, out: str) -> None:
    w.node(
        "AveragePool",
        *inputs,
        out=out,
        kernel_shape=[3, 3],
        strides=op.strides,
        pads=[1] * 4,
        count_include_pad=1,
    )


def _grn(w: Writer, op: Operation, inputs, out: str) -> None:
    """See `normalisation.GlobalResponseNorm`."""
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


def _gelu(w: Writer, x: str, out: str) -> None:
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
