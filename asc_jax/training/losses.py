"""Training objectives: functions `(logits, batch, **keywords) -> [b]`, one value per clip."""

import math

import jax
import jax.numpy as jnp

from asc_jax.errors import expect
from asc_jax.types import Array, Batch


def focal_loss(logits: Array, labels: Array, *, gamma: float = 2.0) -> Array:
    """Softmax focal loss, (1 − p_t)^γ · (−log p_t), without class weights.

    Confident examples weigh less; γ = 0 is cross-entropy. 1 − p_t is computed as
    −expm1(log p_t), which keeps its digits, and its gradient finite, when p_t rounds to 1.

    Args:
      logits: `[b, n_classes]` floating.
      labels: `[b]` integer in [0, n_classes).
      gamma: focusing exponent, ≥ 0.

    Returns:
      `[b]` ≥ 0, dtype of `logits`.

    Raises:
      BadValue: gamma is negative or not finite.

    Source: T.-Y. Lin et al., "Focal loss for dense object detection", ICCV 2017; multi-class form.

    Example:
      >>> loss = focal_loss(jnp.zeros((1, 10)), jnp.array([3]), gamma=0.0)
      >>> round(float(loss[0]), 4)  # ln 10
      2.3026
    """
    expect("gamma", gamma, 0 <= gamma < math.inf, "at least 0")
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    log_p = jnp.take_along_axis(log_probs, labels[:, None], axis=-1)[:, 0]
    if gamma == 0:
        return -log_p
    miss = -jnp.expm1(log_p)  # 1 − p_t
    # A power below 1 has an infinite slope at 0: keep the base away from it.
    miss = jnp.maximum(miss, jnp.finfo(miss.dtype).tiny) if gamma < 1 else miss
    return miss**gamma * -log_p


def focal(logits: Array, batch: Batch, *, gamma: float) -> Array:
    """Return the `focal_loss [b]` of `batch["label"]`."""
    return focal_loss(logits, batch["label"], gamma=gamma)


LOSSES = {"focal": focal}
