"""Write the network as a C header for microcontrollers: data only, and how to use it.

Float16 values stand in it as their bit patterns (`uint16_t`), channels last. `c_reader` reads it
back.
"""

from collections.abc import Iterator

import numpy as np

from asc_jax import features
from asc_jax.export.graph import INPUT, N_SAMPLES, Deployment, mel_bands, operations
from asc_jax.features import filters

EXTENSION = ".h"
STEM = "asc_model"
PER_LINE = 12  # values
KINDS = ("conv3x3", "pointwise", "depthwise", "avg_pool", "add", "grn", "mean")
C_TYPES = {"float16": "uint16_t", "float32": "float", "int16": "int16_t"}
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
    """`{"asc_model": …}`, the text of the header."""
    return {STEM: ("\n".join(_lines(deployment)) + "\n").encode()}


def _lines(deployment: Deployment) -> Iterator[str]:
    f = deployment.features
    yield f"/* Acoustic scene classification, written by asc_jax.\n\n{USE}\n"
    yield from (_comment(f"{name}: {value}") for name, value in deployment.metadata.items())
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
    bank = {name: f[name] for name in ("n_fft", "n_mels", "sample_rate", "f_min", "f_max")}
    band, here, below = mel_bands(**bank)
    yield from _array("ASC_MEL_BAND", band.astype(np.int16))
    yield from _array("ASC_MEL_HERE", here)
    yield from _array("ASC_MEL_BELOW", below)
    yield from _network(deployment)
    yield "\n#endif"


def _comment(text: str) -> str:
    return text.replace("*/", "* /")


def _network(deployment: Deployment) -> Iterator[str]:
    """The table of layers and their values."""
    rows, values, numbers, channels = [], [], {INPUT: -1}, {INPUT: 1}
    n_values = 0
    for op in operations(deployment.params, deployment.model["activation"]):
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
