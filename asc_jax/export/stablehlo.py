"""Serialise the network as StableHLO by `jax.export`: for CPUs, NVIDIA GPUs and TPUs in one file.

Read back with JAX alone: `jax.export.deserialize(bytearray(data)).call(array)`. The attribute
`fun_name` of what that deserialises says how long JAX promises to read the file.

Source: https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees
"""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from asc_jax import features
from asc_jax.operations.graph import Deployment
from asc_jax.types import Array

PLATFORMS = ("cpu", "cuda", "tpu")
EXTENSION = ".stablehlo"
PROMISE = (
    f"written by JAX {jax.__version__}, read by JAX released at most 6 months after it or 3 weeks "
    "before it"
)


def build(deployment: Deployment) -> dict[str, bytes]:
    """Return two serialised functions by artefact; of metadata the format takes a name only."""
    functions = {"waveform_to_probs": _waveform_to_probs, "log_mel_to_logits": _log_mel_to_logits}
    return {
        artefact: _export(functools.partial(functions[artefact], deployment), artefact, shape)
        for artefact, shape in deployment.input_shapes.items()
    }


def load(files: Mapping[str, bytes]) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return the files of `build` as functions that JAX computes."""
    loaded = {
        name: jax.jit(export.deserialize(bytearray(data)).call) for name, data in files.items()
    }
    return {name: lambda batch, call=call: np.asarray(call(batch)) for name, call in loaded.items()}


def _export(function: Callable, name: str, shape: tuple[int, ...]) -> bytes:
    (b,) = export.symbolic_shape("b")
    function.__name__ = f"{name}, {PROMISE}"
    # float32 means float32, also where products are rounded by default.
    with jax.default_matmul_precision("highest"):
        exported = export.export(jax.jit(function), platforms=PLATFORMS)(
            jax.ShapeDtypeStruct((b, *shape), jnp.float32)
        )
    return bytes(exported.serialize())


def _waveform_to_probs(deployment: Deployment, waveform: Array) -> Array:
    # Clip by clip, because `features` cuts a batch into chunks of a size that it must know; the
    # filterbank in bands, because dense it would be most of the file.
    @jax.vmap
    def log_mel(clip: Array) -> Array:
        return features.log_mel(clip[None], **deployment.features, banded=True)[0]

    return jax.nn.softmax(_log_mel_to_logits(deployment, log_mel(waveform)))


def _log_mel_to_logits(deployment: Deployment, log_mel: Array) -> Array:
    return deployment.apply(deployment.variables, log_mel)
