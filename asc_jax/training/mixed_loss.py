"""The loss of clips that were mixed two by two, from any loss of clips."""

from collections.abc import Callable

from asc_jax.features.augmentation import MIXED
from asc_jax.types import Array, Batch


def of_mixed(loss_fn: Callable) -> Callable:
    """Return a loss that is weighted by `mix_weight` where a batch has it.

    Such a batch holds the targets of each clip's partner too, as `mixed_<name>`: see
    `augmentation.mixup`. The loss is then weight · L(own targets) + (1 − weight) · L(partner's).

    Args:
      loss_fn: `(logits, batch) -> [b]`.
    """

    def loss_of(logits: Array, batch: Batch) -> Array:
        own = loss_fn(logits, batch)
        if "mix_weight" not in batch:
            return own
        partners = {
            name.removeprefix(MIXED): rows for name, rows in batch.items() if name.startswith(MIXED)
        }
        weight = batch["mix_weight"].astype(own.dtype)
        return weight * own + (1 - weight) * loss_fn(logits, {**batch, **partners})

    return loss_of
