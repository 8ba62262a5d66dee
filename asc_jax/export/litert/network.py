"""The front end and the network in TensorFlow's operations, as its converter takes them."""

from collections.abc import Callable

import numpy as np

from asc_jax.export.graph import (
    INPUT,
    N_SAMPLES,
    Deployment,
    Operation,
    mel_bands,
    operations,
    padded_window,
)
from asc_jax.features.front_end import LOG_OFFSET


def log_mel(
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


def network(tf, deployment: Deployment, log_mel):
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
    """See `normalisation.GlobalResponseNorm`."""
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
