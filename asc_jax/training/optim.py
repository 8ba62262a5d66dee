"""The learning-rate schedule and the optimiser."""

import math

import jax.numpy as jnp
import optax

from asc_jax.errors import UserError
from asc_jax.types import Array


def warmup_cosine(n_steps: int, *, peak_lr: float, warmup_steps: int) -> optax.Schedule:
    """Linear from 0 to `peak_lr`, then half a cosine to 0, counted in optimiser steps.

    Step 0 runs at rate 0: batch statistics and Adam's moments move, parameters do not.

    Args:
      n_steps: length of the whole run, steps.
      peak_lr: rate at the end of the warm-up.
      warmup_steps: length of the warm-up, steps; may exceed `n_steps`.

    Returns:
      Function of the step, int → rate.

    Source: `get_cosine_schedule_with_warmup` of the transformers library, as the baseline
    uses it.

    Example:
      >>> schedule = warmup_cosine(13_500, peak_lr=0.005, warmup_steps=2000)
      >>> [round(float(schedule(step)), 6) for step in (0, 1000, 2000, 13_500)]
      [0.0, 0.0025, 0.005, 0.0]
    """

    def schedule(step: Array | int) -> Array:
        step = jnp.asarray(step, float)
        rise = step / max(1, warmup_steps)
        progress = (step - warmup_steps) / max(1, n_steps - warmup_steps)
        fall = 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(progress, 1)))
        return peak_lr * jnp.where(step < warmup_steps, rise, fall)

    return schedule


def make_tx(
    n_steps: int, *, peak_lr: float, warmup_steps: int, weight_decay: float
) -> optax.GradientTransformation:
    """AdamW over `n_steps` steps, weight decay on every parameter, BatchNorm's included.

    Args:
      n_steps: length of the whole run, steps.
      peak_lr: rate at the end of the warm-up, > 0.
      warmup_steps: length of the warm-up, steps, ≥ 0.
      weight_decay: decoupled, multiplied by the rate, ≥ 0.

    Returns:
      An optax transformation.

    Raises:
      UserError: a value is out of its range.

    Source: the official baseline (torch.optim.AdamW, betas 0.9 and 0.999, eps 1e-8).
    """
    if not 0 < peak_lr < math.inf:  # NaN, too
        raise UserError(f"config.optim.peak_lr must be above 0, got {peak_lr}")
    if warmup_steps < 0 or not 0 <= weight_decay < math.inf:
        raise UserError(
            "config.optim.warmup_steps and weight_decay must be at least 0, got "
            f"{warmup_steps} and {weight_decay}"
        )
    schedule = warmup_cosine(n_steps, peak_lr=peak_lr, warmup_steps=warmup_steps)
    return optax.adamw(schedule, b1=0.9, b2=0.999, eps=1e-8, weight_decay=weight_decay)


def skip_step(opt_state: optax.OptState) -> optax.OptState:
    """The optimiser as it was, but for its schedule, which goes by the steps of the run."""

    def of_schedule(path, _):
        return getattr(path[-1], "tuple_name", "") == "ScaleByScheduleState"

    count = optax.tree_utils.tree_get(opt_state, "count", filtering=of_schedule)
    return optax.tree_utils.tree_set(opt_state, of_schedule, count=count + 1)
