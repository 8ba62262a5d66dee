"""Write the network as a C header for microcontrollers: data, and a comment that explains its use.

Float16 values stand in it as their bit patterns (`uint16_t`), channels last. `load` computes the
network from nothing but the numbers in the text, so that what is checked is what the file says.
"""

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np

from asc_jax import features
from asc_jax.errors import UserError
from asc_jax.features import filters
from asc_jax.features.augmentation import JITTER
from asc_jax.operations.graph import (
    ACTIVATIONS,
    ARTEFACTS,
    INPUT,
    Deployment,
    Operation,
    compute,
)

EXTENSION = ".h"
STEM = "asc_model"
PER_LINE = 12  # values
KINDS = ("conv", "avg_pool", "max_pool", "add", "mul", "grn", "activation")
ACTIVATION_NAMES = (None, *ACTIVATIONS)
AXES = ("mel", "time")
COLUMNS = (
    *("kind", "input", "other", "mel", "time", "c", "size_mel", "size_time", "stride_mel"),
    *("stride_time", "pad_mel", "pad_time", "groups", "activation"),
)
C_TYPES = {"float16": "uint16_t", "float32": "float", "int16": "int16_t"}
USE = """\
The network is ASC_LAYERS, in order. A layer reads the result of the layer `input` (-1: the
log-mel) and writes its own, [mel][time][c], channels last; ASC_ADD and ASC_MUL read that of
`other`, too, which is as large, and combine them value by value. The last one holds the logits.

Value [i][j] of a convolution or pool is that of the window of size_mel by size_time whose first
value is [i * stride_mel - pad_mel][j * stride_time - pad_time] of its input. What lies outside the
input is 0, which ASC_AVG_POOL, a mean, counts and ASC_MAX_POOL ignores. A convolution is one of
`groups` equal parts of the channels, each by itself: with n = (channels of the input) / groups,
channel k of the result reads channels n * (k / (c / groups)) and up, n of them. From `values` on,
ASC_VALUES holds its kernel [size_mel][size_time][n][c], then c biases.

Values of the type uint16_t are IEEE 754 half-precision numbers, bit by bit.

ASC_GRN, with ASC_VALUES gamma and beta, is x + gamma * x * r + beta: r is a channel's norm, the
root of its sum of squares, over (mean of all channels' norms + 1e-6). ASC_ACTIVATION copies. In the
end every layer applies its `activation`: relu6 = min(max(x, 0), 6), silu = x * sigmoid(x),
hard_swish = x * relu6(x + 3) / 6, gelu = x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))).

The log-mel [ASC_N_MELS][ASC_N_FRAMES] of ASC_N_SAMPLES samples x: if ASC_PRE_EMPHASIS is not 0,
take x[n + 1] - ASC_PRE_EMPHASIS * x[n], one sample fewer; reflect ASC_N_FFT / 2 samples,
rounded down, at the start and the rest of ASC_N_FFT at the end; frame t starts at t *
ASC_HOP_LENGTH; times the window of ASC_WIN_LENGTH, which is centred in ASC_N_FFT, at (ASC_N_FFT -
ASC_WIN_LENGTH) / 2; power P of the Fourier transform; bin k adds ASC_MEL_HERE[k] * P[k] to band
ASC_MEL_BAND[k] and ASC_MEL_BELOW[k] * P[k] to the band before it; then ln(mel + ASC_LOG_OFFSET);
the network takes (that - ASC_NORM_MEAN) / ASC_NORM_STD."""


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
        operations = _read_operations(text, _read_array(text, "VALUES").astype(np.float32))
    except (ArithmeticError, AttributeError, LookupError, ValueError) as error:
        raise UserError(f"{STEM} is not a header of ours, or damaged: {error}") from error
    # The values are an argument: XLA's CPU compiler computes some constants wrongly, such as a
    # head of zeros, for which it reads memory that was never written.
    network = jax.jit(functools.partial(compute, operations))
    arrays = {op.name: op.arrays for op in operations}

    def logits(log_mel: np.ndarray) -> np.ndarray:
        return np.asarray(network(arrays, log_mel)).reshape(len(log_mel), -1)

    def probs(waveform: np.ndarray) -> np.ndarray:
        return np.asarray(jax.nn.softmax(logits(_compute_log_mel(text, waveform))))

    return dict(zip(ARTEFACTS, (probs, logits), strict=True))


def _lines(deployment: Deployment) -> Iterator[str]:
    f = deployment.features
    yield f"/* Acoustic classification, written by asc_jax.\n\n{USE}\n"
    for name, value in deployment.metadata.items():
        yield comment(f"{name}: {value}")
    yield "*/\n#ifndef ASC_MODEL_H\n#define ASC_MODEL_H\n\n#include <stdint.h>\n"
    for name, value in f.items():
        if not isinstance(value, str) and name not in JITTER:  # training alone uses these
            yield f"#define ASC_{name.upper()} {value!r}"
    yield f"#define ASC_N_SAMPLES {deployment.n_samples}"
    yield f"#define ASC_N_FRAMES {deployment.n_frames}"
    yield f"#define ASC_LOG_OFFSET {features.LOG_OFFSET!r}f"
    yield f"#define ASC_N_CLASSES {len(deployment.classes)}"
    yield "static const char *const ASC_CLASSES[ASC_N_CLASSES] = { /* in UTF-8 */"
    yield from (f"    {string(name)}," for name in deployment.classes)
    yield "};\n"
    yield from _array("ASC_WINDOW", filters.window(f["window"], f["win_length"]))
    band, here, below = deployment.mel_bands()
    yield from _array("ASC_MEL_BAND", band.astype(np.int16))
    yield from _array("ASC_MEL_HERE", here)
    yield from _array("ASC_MEL_BELOW", below)
    yield from _network(deployment)
    yield "\n#endif"


def _network(deployment: Deployment) -> Iterator[str]:
    """Yield the table of layers and their values."""
    rows, values, n_values = [], [np.zeros(0, deployment.metadata["weights"])], 0
    # The number of a result, its image as the header describes it, and its shape in the network.
    log_mel = deployment.input_shapes["log_mel_to_logits"]
    results = {INPUT: (-1, log_mel, log_mel)}
    for op in deployment.operations:
        inputs = [results.get(name) for name in op.inputs]
        row = _row(op, *inputs) if inputs and all(inputs) else None
        if row is None:
            raise UserError(
                f"the C header has no kind of layer for the {op.kind} {op.name}: --to onnx, litert "
                "and stablehlo write this network"
            )
        number, image, _ = inputs[0]
        if row:
            names = [name for name in ("kernel", "bias", "gamma", "beta") if name in op.arrays]
            number, image = len(rows), tuple(row[name] for name in ("mel", "time", "c"))
            row |= {"input": inputs[0][0], "other": inputs[-1][0], "kind": KINDS.index(row["kind"])}
            row["activation"] = ACTIVATION_NAMES.index(op.activation)
            words = *(row[name] for name in COLUMNS), n_values if names else -1
            rows.append(f"    {{{', '.join(map(str, words))}}}, /* {comment(op.name)} */")
            values += [op.arrays[name].ravel() for name in names]
            n_values += sum(op.arrays[name].size for name in names)
        results[op.name] = number, image, op.shape
    for enum, names in (("kind", KINDS), ("activation", ("none", *ACTIVATIONS))):
        yield f"enum asc_{enum} {{{', '.join(f'ASC_{name.upper()}' for name in names)}}};"
    yield f"struct asc_layer {{\n    int16_t {', '.join(COLUMNS)};"
    yield "    int32_t values; /* first of them in ASC_VALUES; -1: none */\n};"
    yield f"#define ASC_N_LAYERS {len(rows)}"
    yield "static const struct asc_layer ASC_LAYERS[ASC_N_LAYERS] = {"
    yield from rows
    yield "};\n"
    yield from _array("ASC_VALUES", np.concatenate(values))


def _row(op: Operation, first, second=None) -> dict | None:
    """Return columns of an operation: none if it moves no value, None if no layer can do it."""
    _, image, shape = first
    if op.kind == "reshape" and op.activation is None:
        return {}
    size, strides, padding, groups, kind = (1, 1), (1, 1), ((0, 0), (0, 0)), 1, op.kind
    if kind == "dense" and (len(shape) == 1 or shape[-1] == image[-1]):
        kind, size = "conv", image[:2] if len(shape) == 1 else (1, 1)
        image = (*((1, 1) if len(shape) == 1 else image[:2]), op.shape[-1])
    elif kind == "activation" or (kind in ("add", "mul") and shape == second[2] == op.shape):
        pass
    elif shape != image:  # the image is not what the header says
        return None
    elif kind in ("conv", "avg_pool", "max_pool"):
        size = op.options.get("size") or op.arrays["kernel"].shape[:2]
        strides, padding, image = op.options["strides"], op.options["padding"], op.shape
        groups = op.options.get("groups", 1)
    elif kind == "reduce_mean" and 3 not in op.options["axis"]:  # of c
        kind, axes = "avg_pool", op.options["axis"]
        size = tuple(n if axis in axes else 1 for axis, n in enumerate(image[:2], 1))
        image = tuple(1 if axis in axes else n for axis, n in enumerate(image, 1))
    elif kind != "grn":
        return None
    pairs = {"size": size, "stride": strides, "pad": [before for before, _ in padding]}
    row = {f"{n}_{axis}": pair[i] for n, pair in pairs.items() for i, axis in enumerate(AXES)}
    return row | dict(zip((*AXES, "c"), image, strict=True)) | {"groups": groups, "kind": kind}


def comment(text: str) -> str:
    """Return a text that neither ends a comment nor begins another."""
    return text.replace("*/", "* /").replace("/*", "/ *")


def string(text: str) -> str:
    r"""Return a C string literal of the bytes of a text in UTF-8.

    Example:
      >>> print(string('5" ä??='))
      "5\" \303\244\?\?="
    """
    special = b'"\\?'  # a question mark may begin a trigraph
    signs = (
        f"\\{chr(byte)}" if byte in special else chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}"
        for byte in text.encode()
    )
    return f'"{"".join(signs)}"'


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
    c_type, body = re.search(
        rf"^static const (\w+) ASC_{name}\[\d+\] = {{(.*?)}};", text, re.S | re.M
    ).groups()
    (dtype,) = (dtype for dtype, known in C_TYPES.items() if known == c_type)
    words = body.replace("f", "").split(",")[:-1]
    if dtype == "float16":
        return np.array(words, np.uint16).view(dtype)
    return np.array(words, dtype)


def _read_define(text: str, name: str) -> str:
    return re.search(rf"^#define ASC_{name} (.*)", text, re.M).group(1).strip('f"')


def _read_operations(text: str, values: np.ndarray) -> list[Operation]:
    """Return the layers of the table; the log-mel is that of a clip."""
    number = ", ".join([r"(-?\d+)"] * (len(COLUMNS) + 1))
    rows = [tuple(map(int, numbers)) for numbers in re.findall(rf"^    \{{{number}\}}", text, re.M)]
    shapes = {INPUT: (int(_read_define(text, "N_MELS")), int(_read_define(text, "N_FRAMES")), 1)}
    operations = []
    for *columns, first in rows:
        row = dict(zip(COLUMNS, columns, strict=True))
        inputs = [INPUT if row[n] < 0 else f"{row[n]}" for n in ("input", "other")]
        kind, name, x = KINDS[row["kind"]], f"{len(operations)}", shapes[inputs[0]]
        shape, options, arrays = tuple(row[n] for n in (*AXES, "c")), {}, {}
        if kind in ("conv", "avg_pool", "max_pool"):
            size, strides, pad = (
                tuple(row[f"{n}_{axis}"] for axis in AXES) for n in ("size", "stride", "pad")
            )
            after = [
                max((n - 1) * strides[i] + size[i] - pad[i] - x[i], 0)
                for i, n in enumerate(shape[:2])
            ]
            options = {"strides": strides, "padding": tuple(zip(pad, after, strict=True))}
            options |= {"groups": row["groups"]} if kind == "conv" else {"size": size}
        if kind == "conv":
            kernel = (*size, x[2] // row["groups"], shape[2])
            end = first + math.prod(kernel)
            arrays = {"kernel": values[first:end].reshape(kernel)}
            arrays["bias"] = values[end : end + shape[2]].reshape(shape[2])
        elif kind == "grn":
            arrays = {"gamma": values[first : first + 1], "beta": values[first + 1 : first + 2]}
        inputs = inputs if kind in ("add", "mul") else inputs[:1]
        activation = ACTIVATION_NAMES[row["activation"]]
        operations.append(Operation(kind, name, inputs, shape, options, arrays, activation))
        shapes[name] = shape
    return operations


def _compute_log_mel(text: str, waveform: np.ndarray) -> np.ndarray:
    """Compute the front end as `USE` describes it, `[b, n]` → `[b, n_mels, n_frames, 1]`."""
    names = ("N_FFT", "WIN_LENGTH", "HOP_LENGTH", "N_MELS", "N_FRAMES")
    n_fft, win_length, hop, n_mels, n_frames = (int(_read_define(text, name)) for name in names)
    left, half = (n_fft - win_length) // 2, n_fft // 2
    window = np.pad(_read_array(text, "WINDOW"), (left, n_fft - win_length - left))
    names = ("PRE_EMPHASIS", "NORM_MEAN", "NORM_STD")
    emphasis, mean, std = (np.float32(_read_define(text, name)) for name in names)
    if emphasis:
        waveform = waveform[:, 1:] - emphasis * waveform[:, :-1]
    padded = np.pad(waveform, ((0, 0), (half, n_fft - half)), mode="reflect")
    frames = np.stack([padded[:, t * hop : t * hop + n_fft] for t in range(n_frames)], axis=1)
    power = np.abs(np.fft.rfft(frames * window)) ** 2  # [b, t, bin]
    band = _read_array(text, "MEL_BAND")
    mel = np.zeros((n_mels + 1, n_frames, len(waveform)), np.float32)
    np.add.at(mel, band + 1, (power * _read_array(text, "MEL_HERE")).T)
    np.add.at(mel, band, (power * _read_array(text, "MEL_BELOW")).T)
    log_mel = np.log(mel[1:] + np.float32(_read_define(text, "LOG_OFFSET")))
    return ((log_mel - mean) / std).transpose(2, 0, 1)[..., None]
