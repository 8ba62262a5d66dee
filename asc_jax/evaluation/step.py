"""One evaluation step: the sums over a batch that every figure is made of."""

from collections.abc import Callable

import jax

from asc_jax.evaluation import metrics
from asc_jax.types import Array, Batch, Metrics, Params


def eval_step(
    variables: Params, batch: Batch, *, forward: Callable, axis_name: str | None = None
) -> tuple[Metrics, Array]:
    """Sums over the global batch, and this replica's logits.

    Args:
      variables: `{"params", "batch_stats"}`.
      batch: `audio`, `label`, `device_id`, `mask`; this replica's share.
      forward: `(variables, audio) -> logits [b, n]`.
      axis_name: replica axis, under pmap.

    Returns:
      `metrics.counts` of the global batch (sums, never means), `logits [b, n]`.
    """
    logits = forward(variables, batch["audio"])
    sums = metrics.counts(logits, batch["label"], batch["device_id"], batch["mask"])
    if axis_name is not None:
        sums = jax.lax.psum(sums, axis_name)
    return sums, logits
