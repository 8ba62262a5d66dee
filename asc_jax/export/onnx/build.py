"""Write the network as an ONNX graph, operation by operation; ONNX Runtime reads it back.

Channels first, as ONNX convolutions are. Float16 weights are cast to float32 in the graph, which
ONNX Runtime does once, when it loads the file; the dense mel filterbank is made of its bands
then, too.
"""

from collections.abc import Callable, Mapping

import numpy as np

from asc_jax.export.graph import ARTEFACTS, INPUT, N_SAMPLES, Deployment
from asc_jax.export.onnx import network as onnx_network
from asc_jax.export.onnx.writer import Writer
from asc_jax.machine.optional_packages import require

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


def _model(deployment: Deployment, artefact: str) -> bytes:
    w = Writer()
    n_classes = deployment.params["head"]["bias"].size
    n_mels, n_frames = deployment.features["n_mels"], deployment.n_frames
    if artefact == "waveform_to_probs":
        given, result = w.tensor("waveform", "b", N_SAMPLES), w.tensor("probs", "b", n_classes)
        image = onnx_network.log_mel(w, "waveform", **deployment.features)
        onnx_network.network(w, deployment, image)
        w.node("Softmax", "logits", out="probs", axis=1)
    else:
        given = w.tensor(INPUT, "b", n_mels, n_frames, 1)
        result = w.tensor("logits", "b", n_classes)
        shape = w.constant(np.array([-1, 1, n_mels, n_frames]))
        onnx_network.network(w, deployment, w.node("Reshape", INPUT, shape))
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
