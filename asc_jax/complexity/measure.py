"""What a config's network costs, from shapes alone."""

import jax
import jax.numpy as jnp

from asc_jax.complexity import limits
from asc_jax.complexity.count import count_macs, layer_bytes
from asc_jax.errors import UserError
from asc_jax.models import precision
from asc_jax.models.from_config import log_mel_shape, model


def measure(config) -> dict:
    """Cost of the network on one clip, from shapes alone: counts, by layer and in total.

    Returns:
      `macs`, `n_params`, `bytes` (parameters in the stored dtype, the official rule's
      figure), `bytes_with_statistics`, `max_macs`, `max_bytes` (never above the task's),
      `macs_by_layer`, `bytes_by_layer`.
    """
    net = model(config, body="lax")
    clip = jax.ShapeDtypeStruct((1, *log_mel_shape(config)), jnp.float32)
    try:
        variables = jax.eval_shape(net.init, jax.random.key(0), clip)
    except (OverflowError, TypeError, ValueError) as error:
        raise UserError(f"config.model does not describe a network: {error}") from error
    macs = count_macs(net.apply, variables, clip)
    stored = config.precision.stored
    itemsize = jnp.dtype(stored).itemsize
    return {
        "macs": macs.total,
        "max_macs": min(config.budget.max_macs, limits.MAX_MACS),
        "n_params": precision.n_params(variables["params"]),
        "bytes": precision.tree_bytes(variables["params"], stored)["total"],
        "bytes_with_statistics": precision.tree_bytes(variables, stored)["total"],
        "max_bytes": min(config.budget.max_bytes, limits.MAX_BYTES),
        "macs_by_layer": dict(macs.by_layer),
        "bytes_by_layer": layer_bytes(variables["params"], itemsize),
    }
