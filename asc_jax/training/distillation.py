"""Distillation: a loss that compares a network with its teachers as well as with the labels."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from asc_jax.errors import UserError, expect
from asc_jax.types import Array, Batch

COLUMN = "teacher_logits"  # of a batch, `[b, n_teachers, n_classes]`
REDUCTIONS = ("mean", "batchmean")
AVERAGES = ("logits", "probs")


def distilled(
    label_loss: Callable, *, temperature: float, weight: float, reduction: str, average: str
) -> Callable:
    """Return λ · label loss + (1 − λ) · T² · KL(teachers ‖ network), of each clip.

    The divergence is between the softmaxes of logits / T. Its mean over the batch, which a
    training step takes, is the mean over the batch and the classes with "mean", as
    `torch.nn.functional.kl_div` takes it unless told otherwise, and the divergence's own mean over
    the batch with "batchmean": a factor of n_classes lies between them, and weight and reduction
    belong together.

    Args:
      label_loss: `(logits, batch) -> [b]`, a loss of `losses.LOSSES`.
      temperature: T, > 0.
      weight: λ of the label loss, in [0, 1].
      reduction: "mean" or "batchmean".
      average: of the teachers' "logits", or of their "probs", each softmax at T.

    Returns:
      `(logits, batch) -> [b]`, for a batch with `teacher_logits [b, n_teachers, n_classes]`.

    Raises:
      BadValue: a value is out of its range.

    Source: G. Hinton et al., "Distilling the knowledge in a neural network", 2015; λ = 0.02, T = 2
    and "mean" are those of F. Schmid et al., CP-JKU's submission to DCASE 2023 Task 1.
    """
    expect("temperature", temperature, 0 < temperature < math.inf, "above 0")
    expect("weight", weight, 0 <= weight <= 1, "in [0, 1]")
    expect("reduction", reduction, reduction in REDUCTIONS, " or ".join(REDUCTIONS))
    expect("average", average, average in AVERAGES, " or ".join(AVERAGES))

    def loss_fn(logits: Array, batch: Batch) -> Array:
        if COLUMN not in batch:
            raise UserError(
                f"the clips have no column {COLUMN}, which config.distill asks for: add it with "
                "asc_jax.data.teacher_logits.with_teacher_logits"
            )
        targets = log_targets(batch[COLUMN], temperature, average)
        differences = targets - jax.nn.log_softmax(logits / temperature, axis=-1)
        divergence = jnp.sum(jnp.exp(targets) * differences, axis=-1)
        if reduction == "mean":
            divergence = divergence / logits.shape[-1]
        of_teachers = (1 - weight) * temperature**2 * divergence
        return weight * label_loss(logits, batch) + of_teachers

    return loss_fn


def log_targets(teacher_logits: Array, temperature: float, average: str) -> Array:
    """Return the logarithms of the teachers' probabilities at a temperature.

    Args:
      teacher_logits: `[b, n_teachers, n_classes]`.
      temperature: > 0.
      average: see `distilled`.

    Returns:
      `[b, n_classes]`.

    Example:
      >>> one = jnp.log(jnp.array([[[0.5, 0.5]]]))
      >>> jnp.exp(log_targets(one, 1.0, "logits")).tolist()
      [[0.5, 0.5]]
    """
    if average == "logits":
        return jax.nn.log_softmax(teacher_logits.mean(axis=1) / temperature, axis=-1)
    log_probs = jax.nn.log_softmax(teacher_logits / temperature, axis=-1)
    n_teachers = teacher_logits.shape[1]
    return jax.nn.logsumexp(log_probs, axis=1) - math.log(n_teachers)
