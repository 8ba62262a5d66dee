"""Serialise the network as StableHLO by `jax.export`: for CPUs, NVIDIA GPUs and TPUs in one file.

Read back with JAX alone: `jax.export.deserialize(bytearray(data)).call(array)`.
"""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from asc_jax import features
from asc_jax.export.graph import Deployment
from asc_jax.types import Array

PLATFORMS = ("cpu", "cuda", "tpu")
EXTENSION = ".stablehlo"


def build(deployment: Deployment) -> dict[str, bytes]:
    """Return two serialised functions by artefact; the format has no place for metadata."""
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
    function.__name__ = name
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
    """Compute the network; the body of its convolutions is chosen where the file runs."""
    if deployment.network is not None:
        return deployment.apply(deployment.variables, log_mel)
    bodies = {body: functools.partial(deployment.apply, body=body) for body in ("shifts", "lax")}
    return jax.lax.platform_dependent(
        deployment.variables, log_mel, cpu=bodies["shifts"], default=bodies["lax"]
    )
