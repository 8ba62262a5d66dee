"""Schedules `(n_steps, **keywords) -> (step -> rate)`, optimisers `(rate, **keywords) -> optax`."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from asc_jax.errors import expect
from asc_jax.types import Array, Params

MAX_LR = 1e6
MAX_WARMUP_STEPS = 10**9  # below what the step's integer holds


def warmup_cosine(n_steps: int, *, peak_lr: float, warmup_steps: int) -> optax.Schedule:
    """Return a schedule: linear from 0 to `peak_lr`, then half a cosine to 0, by optimiser steps.

    Step 0 runs at rate 0: batch statistics and Adam's moments move, parameters do not.

    Args:
      n_steps: length of the whole run, steps.
      peak_lr: rate at the end of the warm-up, > 0.
      warmup_steps: length of the warm-up, steps, ≥ 0; may exceed `n_steps`.

    Raises:
      BadValue: a value is out of its range.

    Source: `get_cosine_schedule_with_warmup` of the transformers library, as the baseline
    uses it.

    Example:
      >>> schedule = warmup_cosine(13_500, peak_lr=0.005, warmup_steps=2000)
      >>> [round(float(schedule(step)), 6) for step in (0, 1000, 2000, 13_500)]
      [0.0, 0.0025, 0.005, 0.0]
    """

    _require_rate(peak_lr)
    fits = 0 <= warmup_steps <= MAX_WARMUP_STEPS
    expect("warmup_steps", warmup_steps, fits, f"in 0 … {MAX_WARMUP_STEPS:,}")

    # optax.warmup_cosine_decay_schedule differs in the last bits (7e-10 at most), and a run that
    # was started with this one must resume to the same bits.
    def schedule(step: Array | int) -> Array:
        step = jnp.asarray(step, float)
        rise = step / max(1, warmup_steps)
        progress = (step - warmup_steps) / max(1, n_steps - warmup_steps)
        fall = 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(progress, 1)))
        return peak_lr * jnp.where(step < warmup_steps, rise, fall)

    return schedule


def constant(n_steps: int, *, peak_lr: float) -> optax.Schedule:
    """Return a schedule that is `peak_lr` at every step, > 0."""
    _require_rate(peak_lr)
    return optax.constant_schedule(peak_lr)


def adamw(learning_rate: Array | float, *, weight_decay: float) -> optax.GradientTransformation:
    """Return AdamW with weight decay on every parameter, BatchNorm's included.

    Args:
      learning_rate: of the step.
      weight_decay: decoupled, multiplied by the rate, ≥ 0.

    Raises:
      BadValue: the weight decay is negative or not finite.

    Source: the official baseline (torch.optim.AdamW, betas 0.9 and 0.999, eps 1e-8).
    """
    expect("weight_decay", weight_decay, 0 <= weight_decay < math.inf, "at least 0")
    return optax.adamw(learning_rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=weight_decay)


SCHEDULES = {"warmup_cosine": warmup_cosine, "constant": constant}
OPTIMISERS = {"adamw": adamw}


class ScheduledState(NamedTuple):
    """count: steps of the run so far, skipped ones included, int32. rate: of the last step,
    floating. inner: the optimiser's own state.
    """

    count: Array
    rate: Array
    inner: optax.OptState


def scheduled(
    schedule: optax.Schedule, optimiser: Callable[[Array], optax.GradientTransformation]
) -> optax.GradientTransformation:
    """Return an optimiser whose learning rate follows a schedule; its state holds the rate.

    Args:
      schedule: step, int → rate.
      optimiser: learning rate → optax transformation, such as `adamw` with its keywords bound.
        Its state must not depend on the rate.
    """

    optimiser(0.0)  # rejects a bad keyword now rather than in the first step

    def init(params):
        count = jnp.zeros((), jnp.int32)
        rate = jnp.asarray(schedule(count), float)
        return ScheduledState(count, rate, optimiser(rate).init(params))

    def update(updates, state, params=None):
        rate = jnp.asarray(schedule(state.count), float)
        updates, inner = optimiser(rate).update(updates, state.inner, params)
        return updates, ScheduledState(state.count + 1, rate, inner)

    return optax.GradientTransformation(init, update)


class FactorsState(NamedTuple):
    """factors: of each parameter's updates, a pytree like the parameters. inner: the state of the
    optimiser whose updates they are.
    """

    factors: Params
    inner: optax.OptState


def with_factors(
    optimiser: Callable[[Array], optax.GradientTransformation],
) -> Callable[[Array], optax.GradientTransformation]:
    """Return an optimiser whose updates are multiplied by a factor for each parameter.

    The factors are part of its state, 1 at first, so that a checkpoint holds them; 0 freezes a
    parameter, weight decay included.
    """

    def with_rate(rate: Array) -> optax.GradientTransformation:
        tx = optimiser(rate)

        def init(params):
            factors = jax.tree.map(lambda _: jnp.ones((), jnp.float32), params)
            return FactorsState(factors, tx.init(params))

        def update(updates, state, params=None):
            updates, inner = tx.update(updates, state.inner, params)
            updates = jax.tree.map(lambda u, f: u * f.astype(u.dtype), updates, state.factors)
            return updates, FactorsState(state.factors, inner)

        return optax.GradientTransformation(init, update)

    return with_rate


def make_tx(
    n_steps: int, *, peak_lr: float, warmup_steps: int, weight_decay: float
) -> optax.GradientTransformation:
    """Return the baseline's optimiser: `adamw` by `warmup_cosine` over `n_steps` steps."""
    schedule = warmup_cosine(n_steps, peak_lr=peak_lr, warmup_steps=warmup_steps)
    return scheduled(schedule, functools.partial(adamw, weight_decay=weight_decay))


def skip_step(opt_state: ScheduledState) -> ScheduledState:
    """Return the state after a step that is left out: only the schedule moves on."""
    return opt_state._replace(count=opt_state.count + 1)


def _require_rate(peak_lr: float) -> None:
    expect("peak_lr", peak_lr, 0 < peak_lr <= MAX_LR, f"above 0 and at most {MAX_LR:g}")
