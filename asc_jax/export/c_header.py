"""Write the network as a C header for microcontrollers: data, and a comment that explains its use.

Float16 values stand in it as their bit patterns (`uint16_t`), channels last. `load` computes the
network from nothing but the numbers in the text, so that what is checked is what the file says.
"""

import functools
import re
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from asc_jax import features
from asc_jax.errors import UserError
from asc_jax.export.graph import ARTEFACTS, INPUT, N_SAMPLES, Deployment
from asc_jax.features import filters
from asc_jax.models import blocks, normalisation
from asc_jax.models.kernels import convolution
from asc_jax.types import Array

EXTENSION = ".h"
STEM = "asc_model"
PER_LINE = 12  # values
KINDS = ("conv3x3", "pointwise", "depthwise", "avg_pool", "add", "grn", "mean")
C_TYPES = {"float16": "uint16_t", "float32": "float", "int16": "int16_t"}
CONVOLUTIONS = {
    "conv3x3": convolution.conv3x3,
    "pointwise": lambda x, kernel, strides: convolution.pointwise_conv(x, kernel),
    "depthwise": convolution.depthwise_conv,
}
USE = """\
The network is ASC_LAYERS, in order. A layer reads the outputs of layers `input` and `other` (-1:
the log-mel; `other` counts for ASC_ADD only) and writes [mel][time][c_out], channels last. Layers
with values have them in ASC_VALUES: a convolution its kernel [kf][kt][c_in][c_out] (depthwise
[3][3][c_out]) from `values` on, then c_out biases; ASC_GRN gamma and beta. 3x3 windows are padded
by 1 with zeros, which ASC_AVG_POOL counts. `activation` says whether ASC_ACTIVATION follows.

The log-mel [ASC_N_MELS][ASC_N_FRAMES] of ASC_N_SAMPLES samples: reflect ASC_N_FFT / 2 samples,
rounded down, at the start and the rest of ASC_N_FFT at the end; frame t starts at t *
ASC_HOP_LENGTH; times the window of ASC_WIN_LENGTH, which is centred in ASC_N_FFT, at (ASC_N_FFT -
ASC_WIN_LENGTH) / 2; power P of the Fourier transform; bin k adds ASC_MEL_HERE[k] * P[k] to band
ASC_MEL_BAND[k] and ASC_MEL_BELOW[k] * P[k] to the band before it; then ln(mel + ASC_LOG_OFFSET)."""


def build(deployment: Deployment) -> dict[str, bytes]:
    """Return `{"asc_model": …}`, the text of the header."""
    return {STEM: ("\n".join(_lines(deployment)) + "\n").encode()}


def load(files: Mapping[str, bytes]) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return the header of `build` as two functions, computed by JAX from its numbers.

    Raises:
      UserError: the text is not such a header.
    """
    try:
        text = files[STEM].decode()
        layers, values = _read_layers(text), _read_array(text, "VALUES").astype(np.float32)
        activation = _read_define(text, "ACTIVATION")
    except (AttributeError, OverflowError, ValueError) as error:
        raise UserError(f"{STEM} is not a header of ours, or damaged: {error}") from error
    # The values are an argument: XLA's CPU compiler computes some constants wrongly, such as a
    # head of zeros, for which it reads memory that was never written.
    network = jax.jit(functools.partial(_compute_network, layers, activation))

    def logits(log_mel: np.ndarray) -> np.ndarray:
        return np.asarray(network(values, log_mel))

    def probs(waveform: np.ndarray) -> np.ndarray:
        return np.asarray(jax.nn.softmax(logits(_compute_log_mel(text, waveform))))

    return dict(zip(ARTEFACTS, (probs, logits), strict=True))


def _lines(deployment: Deployment) -> Iterator[str]:
    f = deployment.features
    yield f"/* Acoustic scene classification, written by asc_jax.\n\n{USE}\n"
    for name, value in deployment.metadata.items():
        yield f"{name}: {value}".replace("*/", "* /")  # which would end the comment
    yield "*/\n#ifndef ASC_MODEL_H\n#define ASC_MODEL_H\n\n#include <stdint.h>\n"
    yield from (f"#define ASC_{name.upper()} {value!r}" for name, value in f.items())
    yield f"#define ASC_N_SAMPLES {N_SAMPLES}"
    yield f"#define ASC_N_FRAMES {deployment.n_frames}"
    yield f"#define ASC_LOG_OFFSET {features.LOG_OFFSET!r}f"
    yield f'#define ASC_ACTIVATION "{deployment.model["activation"]}"'
    scenes = deployment.metadata["scenes"].split()
    yield f"#define ASC_N_SCENES {len(scenes)}"
    names = ", ".join(f'"{scene}"' for scene in scenes)
    yield f"static const char *const ASC_SCENES[ASC_N_SCENES] = {{{names}}};\n"
    yield from _array("ASC_WINDOW", filters.hann_window(f["win_length"]))
    band, here, below = deployment.mel_bands()
    yield from _array("ASC_MEL_BAND", band.astype(np.int16))
    yield from _array("ASC_MEL_HERE", here)
    yield from _array("ASC_MEL_BELOW", below)
    yield from _network(deployment)
    yield "\n#endif"


def _network(deployment: Deployment) -> Iterator[str]:
    """Yield the table of layers and their values."""
    rows, values, numbers, channels = [], [], {INPUT: -1}, {INPUT: 1}
    n_values = 0
    for op in deployment.operations:
        arrays = [op.arrays[n] for n in ("kernel", "bias", "gamma", "beta") if n in op.arrays]
        c_in = channels[op.inputs[0]]
        channels[op.name] = op.arrays["bias"].size if "bias" in op.arrays else c_in
        numbers[op.name] = len(rows)
        inputs = [numbers[name] for name in op.inputs]
        row = (KINDS.index(op.kind), inputs[0], inputs[-1], c_in, channels[op.name])
        row += (*op.strides, int(op.activation is not None), n_values if arrays else -1)
        rows.append(f"    {{{', '.join(map(str, row))}}}, /* {op.name} */")
        values += [array.ravel() for array in arrays]
        n_values += sum(array.size for array in arrays)
    kinds = ", ".join(f"ASC_{kind.upper()}" for kind in KINDS)
    yield f"enum asc_kind {{{kinds}}};"
    yield "struct asc_layer {"
    yield "    int16_t kind, input, other, c_in, c_out, stride_mel, stride_time, activation;"
    yield "    int32_t values; /* first of them in ASC_VALUES; -1: none */\n};"
    yield f"#define ASC_N_LAYERS {len(rows)}"
    yield "static const struct asc_layer ASC_LAYERS[ASC_N_LAYERS] = {"
    yield from rows
    yield "};\n"
    yield from _array("ASC_VALUES", np.concatenate(values))


def _array(name: str, values: np.ndarray) -> Iterator[str]:
    if values.dtype == np.float32:
        words = [f"{value!s}f" for value in values]  # the shortest text that is exact
    else:
        words = [str(v) for v in values.view(np.uint16 if values.dtype.kind == "f" else "i2")]
    yield f"static const {C_TYPES[values.dtype.name]} {name}[{len(words)}] = {{"
    for start in range(0, len(words), PER_LINE):
        yield f"    {', '.join(words[start : start + PER_LINE])},"
    yield "};\n"


def _read_array(text: str, name: str) -> np.ndarray:
    c_type, body = re.search(rf"const (\w+) ASC_{name}\[\d+\] = {{(.*?)}};", text, re.S).groups()
    (dtype,) = (dtype for dtype, known in C_TYPES.items() if known == c_type)
    words = body.replace("f", "").split(",")[:-1]
    if dtype == "float16":
        return np.array(words, np.uint16).view(dtype)
    return np.array(words, dtype)


def _read_define(text: str, name: str) -> str:
    return re.search(rf"#define ASC_{name} (.*)", text).group(1).strip('f"')


def _read_layers(text: str) -> list[tuple[int, ...]]:
    """Return the rows of the table, with the columns of `struct asc_layer`."""
    row = ", ".join([r"(-?\d+)"] * 9)
    return [tuple(map(int, numbers)) for numbers in re.findall(rf"\{{{row}\}}", text)]


def _compute_network(layers, activation: str, values: Array, log_mel: Array) -> Array:
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


def _compute_log_mel(text: str, waveform: np.ndarray) -> np.ndarray:
    """Compute the front end as `USE` describes it: `[b, 32000]` → `[b, n_mels, n_frames, 1]`."""
    names = ("N_FFT", "WIN_LENGTH", "HOP_LENGTH", "N_MELS", "N_FRAMES")
    n_fft, win_length, hop, n_mels, n_frames = (int(_read_define(text, name)) for name in names)
    left, half = (n_fft - win_length) // 2, n_fft // 2
    window = np.pad(_read_array(text, "WINDOW"), (left, n_fft - win_length - left))
    padded = np.pad(waveform, ((0, 0), (half, n_fft - half)), mode="reflect")
    frames = np.stack([padded[:, t * hop : t * hop + n_fft] for t in range(n_frames)], axis=1)
    power = np.abs(np.fft.rfft(frames * window)) ** 2  # [b, t, bin]
    band = _read_array(text, "MEL_BAND")
    mel = np.zeros((n_mels + 1, n_frames, len(waveform)), np.float32)
    np.add.at(mel, band + 1, (power * _read_array(text, "MEL_HERE")).T)
    np.add.at(mel, band, (power * _read_array(text, "MEL_BELOW")).T)
    log_mel = np.log(mel[1:] + np.float32(_read_define(text, "LOG_OFFSET")))
    return log_mel.transpose(2, 0, 1)[..., None]
