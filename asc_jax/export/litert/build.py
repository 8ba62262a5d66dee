"""Write the network for LiteRT (TensorFlow Lite) by TensorFlow's converter, and read it back.

Built-in operations only. The converter writes float32; `litert_flatbuffer` narrows the weights.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from asc_jax.errors import UserError
from asc_jax.export.graph import ARTEFACTS, N_SAMPLES, Deployment
from asc_jax.export.litert import network as litert_network
from asc_jax.export.litert.flatbuffer import finish
from asc_jax.machine.optional_packages import require, require_tensorflow

EXTENSION = ".tflite"


def build(deployment: Deployment) -> dict[str, bytes]:
    """`{"waveform_to_probs": …, "log_mel_to_logits": …}`, two flatbuffers.

    The one takes `waveform [b, 32000]` and gives `probs [b, n_classes]`, the other `log_mel
    [b, n_mels, n_frames, 1]` and `logits [b, n_classes]`; all float32, any b. The metadata is
    JSON in the entry "asc_jax".

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
        log_mel = litert_network.log_mel(tf, waveform, **deployment.features)
        return tf.nn.softmax(litert_network.network(tf, deployment, log_mel))

    def log_mel_to_logits(log_mel):
        return litert_network.network(tf, deployment, log_mel)

    functions = (waveform_to_probs, log_mel_to_logits)
    shapes = (N_SAMPLES,), (deployment.features["n_mels"], deployment.n_frames, 1)
    return {
        artefact: finish(_convert(tf, function, shape), deployment)
        for artefact, function, shape in zip(ARTEFACTS, functions, shapes, strict=True)
    }


def load(files: Mapping[str, bytes]) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """What `build` returned, as functions that LiteRT computes.

    Raises:
      UserError: the package ai-edge-litert is not installed.
    """
    interpreter_class = require("ai_edge_litert.interpreter").Interpreter

    def runner(data: bytes):
        with _silent():
            interpreter = interpreter_class(model_content=data)
            interpreter.allocate_tensors()
        (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()

        def run(batch: np.ndarray) -> np.ndarray:
            if list(interpreter.get_input_details()[0]["shape"]) != list(batch.shape):
                interpreter.resize_tensor_input(given["index"], batch.shape)
                interpreter.allocate_tensors()
            interpreter.set_tensor(given["index"], np.asarray(batch))
            interpreter.invoke()
            return interpreter.get_tensor(result["index"])

        return run

    return {artefact: runner(data) for artefact, data in files.items()}


def _convert(tf, function: Callable, shape: tuple[int, ...]) -> bytes:
    module = tf.Module()
    spec = tf.TensorSpec([None, *shape], tf.float32)
    module.function = tf.function(function, input_signature=[spec])
    concrete = module.function.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
    with _silent():
        return converter.convert()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Libraries in C++ say on stderr what interests nobody; what goes wrong is raised anyway."""
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
