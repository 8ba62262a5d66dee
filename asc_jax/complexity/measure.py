"""The cost of a config's network, from shapes alone."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from asc_jax.complexity import limits
from asc_jax.complexity.count import count_macs, layer_bytes
from asc_jax.errors import UserError
from asc_jax.machine.named_parts import errors_named
from asc_jax.models import MODELS, evaluation, precision
from asc_jax.models.from_config import deployed, log_mel_shape, model

_TRACED = {}  # by class, attributes, shape of a clip, dtype of Python's floats


def measure(config) -> dict:
    """Return the cost of the network as it is deployed, on one clip: by layer and in total.

    Returns:
      `macs`, `n_classes`, `n_params`, `bytes` (parameters in the stored dtype, the official rule's
      figure; of int8 that is one byte for each), `bytes_with_statistics`, `bytes_int8` (of the
      network in integers, BatchNorm folded: 1 for a weight, 4 for a bias), `max_macs`, `max_bytes`
      (never above the task's), `macs_by_layer`, `bytes_by_layer`.

    Raises:
      UserError: the section `model` describes no network.
    """
    if not isinstance(model(config), nn.Module):
        raise UserError(f"config.model.name is {config.model.name}, expected a flax.linen.Module")
    config, _ = deployed(config)
    network, shape = model(config), log_mel_shape(config)
    logits, variables, macs = _traced(network, shape)
    stored = config.precision.stored
    itemsize = jnp.dtype(stored).itemsize
    return {
        "macs": macs.total,
        "max_macs": min(config.budget.max_macs, limits.MAX_MACS),
        "n_classes": logits.shape[1],
        "n_params": precision.n_params(variables["params"]),
        "bytes": precision.tree_bytes(variables["params"], stored)["total"],
        "bytes_with_statistics": precision.tree_bytes(variables, stored)["total"],
        "bytes_int8": precision.int8_bytes(variables),
        "max_bytes": min(config.budget.max_bytes, limits.MAX_BYTES),
        "macs_by_layer": dict(macs.by_layer),
        "bytes_by_layer": layer_bytes(variables["params"], itemsize),
    }


def _traced(network, shape: tuple[int, ...]) -> tuple:
    """Return the shapes of the logits of one clip and of the variables, and the `MacCount`.

    A network of the package is traced once in a program, which may plan many runs of it; the code
    of another can change while a program runs.
    """
    key = type(network), repr(network), shape, jax.dtypes.canonicalize_dtype(float)
    if key in _TRACED:
        return _TRACED[key]
    clip = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    with errors_named("config.model"):
        logits, variables = jax.eval_shape(
            lambda key, clip: network.init_with_output(key, clip, train=False),
            jax.random.key(0),
            clip,
        )
    _check(logits, variables)
    traced = logits, variables, count_macs(evaluation(network), variables, clip)
    if type(network) in MODELS.values():
        _TRACED[key] = traced
    return traced


def _check(logits, variables) -> None:
    """Raise an error for a network that training and evaluation could not handle."""
    if not hasattr(logits, "shape") or len(logits.shape) != 2 or logits.shape[0] != 1:
        shape = getattr(logits, "shape", type(logits).__name__)
        raise UserError(f"config.model gives {shape} for one clip, expected logits (1, n_classes)")
    if not variables.get("params"):
        raise UserError("config.model has no parameters: there is nothing to train")
    if others := variables.keys() - {"params", "batch_stats"}:
        raise UserError(
            f"config.model has variables {', '.join(sorted(others))}; expected only the "
            "collections params and batch_stats"
        )
