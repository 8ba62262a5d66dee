"""Inference by other runtimes: our files in ONNX Runtime and LiteRT, PyTorch's own ONNX file."""

import io
import warnings
from collections.abc import Callable, Mapping

import numpy as np

from asc_jax import experiment
from asc_jax.evaluation.evaluate import softmax
from asc_jax.export import litert, onnx
from asc_jax.export.run import deploy
from asc_jax.machine.optional_packages import require
from asc_jax.models.from_config import log_mel_shape
from asc_jax.pytorch.weights import from_torch
from benchmarks import inputs
from benchmarks.inputs import Job

ARTEFACTS = {"waveform": "waveform_to_probs", "log_mel": "log_mel_to_logits"}


def inference(spec: Mapping) -> Job:
    """A batch through a file that has been compared with ours."""
    config = inputs.read_config(spec)
    reference = dict(np.load(spec["reference"]))
    run, expects_probs = _RUNTIMES[spec["runtime"]](spec, config, reference)
    expected = reference["eval_logits"]
    probe = reference[spec["source"]]
    result = run(probe if spec["source"] == "waveform" else probe[..., None])
    inputs.require_equal("results", softmax(expected) if expects_probs else expected, result)
    f = config.features
    if spec["source"] == "waveform":
        given = inputs.waveforms(spec["batch"], f.sample_rate)
    else:
        shape = log_mel_shape(config)[:2]
        given = inputs.log_mels(spec["batch"], *shape)[..., None]
    return Job(lambda: run(given), spec["batch"])


def _deployment(config, reference: Mapping):
    """Our export in float32, with the weights of the reference."""
    weights = {
        name.removeprefix("weight|"): value
        for name, value in reference.items()
        if name.startswith("weight|")
    }
    return deploy(experiment.make(config), from_torch(weights), "float32", {})


def _onnx(spec: Mapping, config, reference: Mapping) -> tuple[Callable, bool]:
    """Our ONNX file."""
    data = onnx.build(_deployment(config, reference))[ARTEFACTS[spec["source"]]]
    return _session(data, spec["threads"]), spec["source"] == "waveform"


def _onnx_of_torch(spec: Mapping, config, reference: Mapping) -> tuple[Callable, bool]:
    """PyTorch's export of the twin, from log-mels; channels first, which is the same memory."""
    torch, net = _torch_parts(spec["threads"])
    twin = net.load_twin(config, reference).cpu().eval()
    shape, file = log_mel_shape(config)[:2], io.BytesIO()
    with warnings.catch_warnings():
        # The exporter that needs no further package is announced to go away.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            twin,
            (torch.zeros(1, 1, *shape),),
            file,
            input_names=["log_mel"],
            dynamic_axes={"log_mel": {0: "b"}},
            dynamo=False,
        )
    run = _session(file.getvalue(), spec["threads"])
    return lambda log_mel: run(log_mel.reshape(-1, 1, *shape)), False


def _torch_then_onnx(spec: Mapping, config, reference: Mapping) -> tuple[Callable, bool]:
    """PyTorch's features, then its file: the usual way to deploy one of its networks."""
    torch, net = _torch_parts(spec["threads"])
    front_end = net.make_front_end(config)
    run, _ = _onnx_of_torch(spec, config, reference)

    @torch.inference_mode()
    def from_waveform(waveform):
        return run(front_end(torch.from_numpy(waveform)).numpy())

    return from_waveform, False


def _litert(spec: Mapping, config, reference: Mapping) -> tuple[Callable, bool]:
    """Our LiteRT file."""
    data = litert.build(_deployment(config, reference))[ARTEFACTS[spec["source"]]]
    interpreter_class = require("ai_edge_litert.interpreter").Interpreter
    interpreter = interpreter_class(model_content=data, num_threads=spec["threads"])
    interpreter.allocate_tensors()
    (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(batch):
        if list(interpreter.get_input_details()[0]["shape"]) != list(batch.shape):
            interpreter.resize_tensor_input(given["index"], batch.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], batch)
        interpreter.invoke()
        return interpreter.get_tensor(result["index"])

    return run, spec["source"] == "waveform"


def _session(data: bytes, threads: int) -> Callable:
    runtime = require("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})[0]


def _torch_parts(threads: int):
    """PyTorch and the twin's module, which only two of the runtimes need."""
    torch = require("torch")
    torch.set_num_threads(threads)
    from benchmarks import peer_network

    return torch, peer_network


_RUNTIMES = {
    "onnx": _onnx,
    "onnx_of_torch": _onnx_of_torch,
    "torch_then_onnx": _torch_then_onnx,
    "litert": _litert,
}
JOBS = {"inference": inference}
