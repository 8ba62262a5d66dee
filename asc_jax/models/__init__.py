"""Networks by the name that `config.network` gives them."""

from asc_jax.models.cp_mobile import CPMobile
from asc_jax.types import Array, Params, Scratch

MODELS = {"cp_mobile": CPMobile}

__all__ = ["MODELS", "CPMobile", "apply_training"]


def apply_training(
    net,
    params: Params,
    batch_stats: Params,
    log_mel: Array,
    mask: Array | None,
    scratch: Scratch | None = None,
) -> tuple[Array, Params, Scratch]:
    """A network by the batch's own statistics: its logits, and the running ones after it.

    `log_mel [b, n_mels, n_frames, 1]`, `mask [b]` (False: padding; None: there is none).
    `scratch`: what an earlier application to as many clips has returned, to be written over.
    """
    logits, updated = net.apply(
        {"params": params, "batch_stats": batch_stats, "scratch": scratch or {}},
        log_mel,
        train=True,
        mask=mask,
        mutable=["batch_stats", "scratch"],
    )
    return logits, updated["batch_stats"], updated.get("scratch", {})
