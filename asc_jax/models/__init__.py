"""Networks by the name that `config.network` gives them."""

import functools

import jax

from asc_jax.models.cp_mobile import CPMobile
from asc_jax.models.kernels.compiler import on_cpu
from asc_jax.types import Array, Params, Scratch

MODELS = {"cp_mobile": CPMobile}

__all__ = ["MODELS", "CPMobile", "apply_training", "scratch_shapes_of"]


def apply_training(
    net,
    params: Params,
    batch_stats: Params,
    log_mel: Array,
    mask: Array | None,
    scratch: Scratch | None = None,
) -> tuple[Array, Params, Scratch | None]:
    """A network by the batch's own statistics: its logits, and the running ones after it.

    `log_mel [b, n_mels, n_frames, 1]`, `mask [b]` (False: padding; None: there is none).
    `scratch`: see `scratch_shapes_of`; its values change no result. Third comes what may be given
    to the next application in its place, or None or {} if that is what was given.
    """
    logits, updated = net.apply(
        {"params": params, "batch_stats": batch_stats, "scratch": scratch or {}},
        log_mel,
        train=True,
        mask=mask,
        mutable=["batch_stats", "scratch"] if scratch else ["batch_stats"],
    )
    return logits, updated["batch_stats"], updated["scratch"] if scratch else scratch


def scratch_shapes_of(net, log_mel: jax.ShapeDtypeStruct) -> Scratch:
    """Shapes of what a network's layers can write over when it is trained on such log-mels.

    Empty but on a CPU, where results are written a few clips at a time.
    """
    if not on_cpu():
        return {}
    variables = functools.partial(net.apply, {}, train=True, mutable=True)
    _, made = jax.eval_shape(
        lambda key, x: variables(x, rngs={"params": key}), jax.random.key(0), log_mel
    )
    return made.get("scratch", {})
