"""Networks by the name that `config.model.name` gives them, and how they are applied.

A network is a `flax.linen.Module` whose `__call__(log_mel, train)` takes
`log_mel [b, n_mels, n_frames, 1]` and returns logits `[b, n_classes]`. It may have a parameter
`mask [b]` (False: padding, no part in batch statistics) and attributes `dtype` and `axis_name`,
which the program then sets: the dtype of its arithmetic, and the axis of the replicas.
"""

import functools
import zlib
from collections.abc import Callable

import jax

from asc_jax.machine.named_parts import takes
from asc_jax.models.cp_mobile import CPMobile
from asc_jax.models.kernels.compiler import on_cpu
from asc_jax.types import Array, Params, Scratch

MODELS = {"cp_mobile": CPMobile}

__all__ = ["MODELS", "CPMobile", "apply_training", "evaluation", "is_built_in", "scratch_shapes_of"]


def is_built_in(network: type) -> bool:
    """Return whether a network is made of this package's layers."""
    return network in MODELS.values()


def evaluation(network) -> Callable:
    """Return `(variables, log_mel) -> logits` by the running statistics."""
    return functools.partial(network.apply, train=False)


def apply_training(
    network,
    params: Params,
    batch_stats: Params,
    log_mel: Array,
    mask: Array | None,
    scratch: Scratch | None = None,
    key: Array | None = None,
    axis_name: str | None = None,
) -> tuple[Array, Params, Scratch | None]:
    """Apply a network by the batch's own statistics.

    Args:
      network: see the module.
      params, batch_stats: its variables; `batch_stats` is empty where it has none.
      log_mel: `[b, n_mels, n_frames, 1]`.
      mask: `[b]` bool, False for padding; None: there is none.
      scratch: see `scratch_shapes_of`; its values change no result.
      key: of the step, for dropout; each replica draws with a key of its own.
      axis_name: the replica axis, under pmap.

    Returns:
      The logits, the running statistics after it, and what may be given to the next application
      in place of `scratch`, or None or {} if that is what was passed.
    """
    rest = {"mask": mask} if takes(type(network).__call__, "mask") else {}
    if key is not None:
        key = jax.random.fold_in(key, zlib.crc32(b"rngs/dropout"))
        if axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        rest["rngs"] = {"dropout": key}
    logits, updated = network.apply(
        {"params": params, "batch_stats": batch_stats, "scratch": scratch or {}},
        log_mel,
        train=True,
        mutable=["batch_stats", "scratch"] if scratch else ["batch_stats"],
        **rest,
    )
    batch_stats = updated.get("batch_stats", batch_stats)
    if axis_name is not None and not hasattr(network, "axis_name"):
        batch_stats = jax.lax.pmean(batch_stats, axis_name)  # or the replicas' would differ
    return logits, batch_stats, updated["scratch"] if scratch else scratch


def scratch_shapes_of(network, log_mel: jax.ShapeDtypeStruct) -> Scratch:
    """Return the shapes of what a network's layers can write over when it is trained.

    Empty but on a CPU, where results are written a few clips at a time, and for networks that
    are not made of this project's layers.
    """
    if not on_cpu() or not is_built_in(type(network)):
        return {}
    variables = functools.partial(network.apply, {}, train=True, mutable=True)
    _, made = jax.eval_shape(
        lambda key, x: variables(x, rngs={"params": key}), jax.random.key(0), log_mel
    )
    return made.get("scratch", {})
