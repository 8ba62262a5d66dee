"""Read a header of `c_header` back and compute by it, layer by layer.

Only the numbers in the text are used, so that what is compared is what the file says.
"""

import functools
import re
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from asc_jax.errors import UserError
from asc_jax.export.c.header import C_TYPES, KINDS, STEM
from asc_jax.export.graph import ARTEFACTS
from asc_jax.models import blocks, normalisation
from asc_jax.models.kernels import convolution
from asc_jax.types import Array

CONVOLUTIONS = {
    "conv3x3": convolution.conv3x3,
    "pointwise": lambda x, kernel, strides: convolution.pointwise_conv(x, kernel),
    "depthwise": convolution.depthwise_conv,
}


def load(files: Mapping[str, bytes]) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """What `c_header.build` returned, as the functions `waveform_to_probs [b, 32000]` →
    `[b, n_classes]` and `log_mel_to_logits [b, n_mels, n_frames, 1]` → `[b, n_classes]`.

    Raises:
      UserError: the text is not such a header.
    """
    try:
        text = files[STEM].decode()
        layers, values = _layers(text), _array(text, "VALUES").astype(np.float32)
        activation = _define(text, "ACTIVATION")
    except (AttributeError, OverflowError, ValueError) as error:
        raise UserError(f"{STEM} is not a header of ours, or damaged: {error}") from error
    # The values are an argument: XLA's CPU compiler mistakes some that it knows, such as a head
    # of zeros, and then reads memory that nobody wrote.
    network = jax.jit(functools.partial(_network, layers, activation))

    def logits(log_mel: np.ndarray) -> np.ndarray:
        return np.asarray(network(values, log_mel))

    def probs(waveform: np.ndarray) -> np.ndarray:
        return np.asarray(jax.nn.softmax(logits(_log_mel(text, waveform))))

    return dict(zip(ARTEFACTS, (probs, logits), strict=True))


def _array(text: str, name: str) -> np.ndarray:
    c_type, body = re.search(rf"const (\w+) ASC_{name}\[\d+\] = {{(.*?)}};", text, re.S).groups()
    (dtype,) = (dtype for dtype, known in C_TYPES.items() if known == c_type)
    words = body.replace("f", "").split(",")[:-1]
    if dtype == "float16":
        return np.array(words, np.uint16).view(dtype)
    return np.array(words, dtype)


def _define(text: str, name: str) -> str:
    return re.search(rf"#define ASC_{name} (.*)", text).group(1).strip('f"')


def _layers(text: str) -> list[tuple[int, ...]]:
    """Rows of the table, as `struct asc_layer` has them."""
    row = ", ".join([r"(-?\d+)"] * 9)
    return [tuple(map(int, numbers)) for numbers in re.findall(rf"\{{{row}\}}", text)]


def _network(layers, activation: str, values: Array, log_mel: Array) -> Array:
    outputs = []
    for kind, source, other, c_in, c_out, stride_mel, stride_time, activated, first in layers:
        x = log_mel if source < 0 else outputs[source]
        kind, strides = KINDS[kind], (stride_mel, stride_time)
        if kind in CONVOLUTIONS:
            size = 1 if kind == "pointwise" else 3
            shape = (size, size, 1 if kind == "depthwise" else c_in, c_out)
            n = int(np.prod(shape))
            kernel, bias = jnp.split(values[first : first + n + c_out], [n])
            y = CONVOLUTIONS[kind](x, kernel.reshape(shape), strides=strides)
            y = y + bias[None, None, None]
        elif kind == "avg_pool":
            y = convolution.avg_pool3x3(x, strides=strides)
        elif kind == "add":
            y = x + outputs[other]
        elif kind == "grn":
            gamma, beta = jnp.split(values[first : first + 2], 2)
            y = normalisation.response_norm(x, gamma, beta)
        else:
            y = jnp.mean(x, axis=(1, 2))
        outputs.append(blocks.activate(activation, y) if activated else y)
    return outputs[-1]


def _log_mel(text: str, waveform: np.ndarray) -> np.ndarray:
    """The front end as the header describes it: `[b, 32000]` → `[b, n_mels, n_frames, 1]`."""
    names = ("N_FFT", "WIN_LENGTH", "HOP_LENGTH", "N_MELS", "N_FRAMES")
    n_fft, win_length, hop, n_mels, n_frames = (int(_define(text, name)) for name in names)
    window = np.zeros(n_fft, np.float32)
    left = (n_fft - win_length) // 2
    window[left : left + win_length] = _array(text, "WINDOW")
    half = n_fft // 2
    padded = np.pad(waveform, ((0, 0), (half, n_fft - half)), mode="reflect")
    frames = np.stack([padded[:, t * hop : t * hop + n_fft] for t in range(n_frames)], axis=1)
    power = np.abs(np.fft.rfft(frames * window)) ** 2  # [b, t, bin]
    band = _array(text, "MEL_BAND")
    mel = np.zeros((n_mels + 1, n_frames, len(waveform)), np.float32)
    np.add.at(mel, band + 1, (power * _array(text, "MEL_HERE")).T)
    np.add.at(mel, band, (power * _array(text, "MEL_BELOW")).T)
    log_mel = np.log(mel[1:] + np.float32(_define(text, "LOG_OFFSET")))
    return log_mel.transpose(2, 0, 1)[..., None]
