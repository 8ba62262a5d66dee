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
MAX_EPOCHS = 10**6
MAX_WARMUP_STEPS = 10**9  # below what the step's integer holds


def warmup_cosine(
    n_steps: int, *, peak_lr: float, warmup_steps: int, n_cycles: float = 0.5
) -> optax.Schedule:
    """Return a schedule: linear from 0 to `peak_lr`, then half a cosine to 0, by optimiser steps.

    Step 0 runs at rate 0: batch statistics and Adam's moments move, parameters do not.

    Args:
      n_steps: length of the whole run, steps.
      peak_lr: rate at the end of the warm-up, > 0.
      warmup_steps: length of the warm-up, steps, ≥ 0; may exceed `n_steps`.
      n_cycles: how much of a cosine's cycle the rate falls over, in (0, 0.5]; less than a half
        ends above 0.

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
    expect("n_cycles", n_cycles, 0 < n_cycles <= 0.5, "above 0 and at most 0.5")

    # optax.warmup_cosine_decay_schedule differs in the last bits (7e-10 at most), and a run that
    # was started with this one must resume to the same bits.
    def schedule(step: Array | int) -> Array:
        step = jnp.asarray(step, float)
        rise = step / max(1, warmup_steps)
        progress = (step - warmup_steps) / max(1, n_steps - warmup_steps)
        fall = 0.5 * (1 + jnp.cos(2 * n_cycles * jnp.pi * jnp.minimum(progress, 1)))
        return peak_lr * jnp.where(step < warmup_steps, rise, fall)

    return schedule


def constant(n_steps: int, *, peak_lr: float) -> optax.Schedule:
    """Return a schedule that is `peak_lr` at every step, > 0."""
    _require_rate(peak_lr)
    return optax.constant_schedule(peak_lr)


def warmup_flat_linear(
    n_steps: int,
    *,
    n_epochs: int,
    peak_lr: float,
    warmup_epochs: float,
    down_from_epoch: float,
    down_epochs: float,
    last: float,
    by_epoch: bool = False,
) -> optax.Schedule:
    """Return a schedule: exponential warm-up, flat, linearly down, flat.

    The rate is `peak_lr` times exp(−5 (1 − e / warmup_epochs)²) after e epochs of the warm-up. For
    the first half epoch it stays what it is after half an epoch (e = 0.5).

    Args:
      n_steps: length of the whole run, steps.
      n_epochs: its length in epochs; the program gives it.
      peak_lr: rate of the flat part, > 0.
      warmup_epochs: length of the warm-up, ≥ 0.
      down_from_epoch: where the rate begins to fall, ≥ 0.
      down_epochs: how long it falls, > 0.
      last: fraction of `peak_lr` that it falls to, in [0, 1].
      by_epoch: keep the rate of an epoch's beginning throughout it, as the source does.

    Raises:
      BadValue: a value is out of its range.

    Source: F. Schmid et al., CP-JKU's submissions to DCASE 2022 and 2023 Task 1: 150 epochs, of
    which 14 warm up, down from 50 over 84 to 0.005. The warm-up is that of S. Laine and T. Aila,
    "Temporal ensembling for semi-supervised learning", ICLR 2017.

    Example:
      >>> schedule = warmup_flat_linear(150, n_epochs=150, peak_lr=1.0, warmup_epochs=14,
      ...     down_from_epoch=50, down_epochs=84, last=0.005)
      >>> [round(float(schedule(epoch)), 4) for epoch in (0, 7, 14, 50, 92, 140)]
      [0.0096, 0.2865, 1.0, 1.0, 0.5025, 0.005]
    """
    _require_rate(peak_lr)
    _require_from_0("warmup_epochs", warmup_epochs)
    _require_from_0("down_from_epoch", down_from_epoch)
    expect("down_epochs", down_epochs, 0 < down_epochs < math.inf, "above 0")
    expect("last", last, 0 <= last <= 1, "in [0, 1]")
    epoch_of = _epoch_of(n_steps, n_epochs, by_epoch)

    def schedule(step: Array | int) -> Array:
        epoch = epoch_of(step)
        rate = 1 - (1 - last) * jnp.clip((epoch - down_from_epoch) / down_epochs, 0, 1)
        if warmup_epochs:
            phase = 1 - jnp.clip(epoch, min(0.5, warmup_epochs), warmup_epochs) / warmup_epochs
            rate = rate * jnp.exp(-5 * phase**2)
        return peak_lr * rate

    return schedule


def cosine_restarts(
    n_steps: int,
    *,
    n_epochs: int,
    peak_lr: float,
    first_epochs: int,
    factor: int = 1,
    min_lr: float = 0.0,
    by_epoch: bool = False,
) -> optax.Schedule:
    """Return a schedule: half a cosine from `peak_lr` to `min_lr`, again and again.

    Args:
      n_steps: length of the whole run, steps.
      n_epochs: its length in epochs; the program gives it.
      peak_lr: rate at the beginning of each, > 0.
      first_epochs: length of the first, ≥ 1.
      factor: by which each is longer than the one before, ≥ 1. A run best ends where one does:
        after 150 epochs, say, with the first of 10 and a factor of 2.
      min_lr: rate at the end of each, in [0, peak_lr].
      by_epoch: keep the rate of an epoch's beginning throughout it.

    Raises:
      BadValue: a value is out of its range.

    Source: I. Loshchilov and F. Hutter, "SGDR: stochastic gradient descent with warm restarts",
    ICLR 2017; `torch.optim.lr_scheduler.CosineAnnealingWarmRestarts`, which Y. Cai's TF-SepNet uses
    with 10 epochs and a factor of 2, by epoch.

    Example:
      >>> schedule = cosine_restarts(30, n_epochs=30, peak_lr=1.0, first_epochs=10, factor=2)
      >>> [round(float(schedule(epoch)), 4) for epoch in (0, 5, 10, 20)]
      [1.0, 0.5, 1.0, 0.5]
    """
    _require_rate(peak_lr)
    for name, value in (("first_epochs", first_epochs), ("factor", factor)):
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        expect(name, value, is_whole and 1 <= value <= MAX_EPOCHS, "a whole number from 1 on")
    expect("min_lr", min_lr, 0 <= min_lr <= peak_lr, "from 0 to peak_lr")
    epoch_of = _epoch_of(n_steps, n_epochs, by_epoch)
    lengths = [first_epochs]
    while factor > 1 and sum(lengths) < n_epochs:
        lengths.append(lengths[-1] * factor)
    starts = [sum(lengths[:k]) for k in range(len(lengths))]

    def schedule(step: Array | int) -> Array:
        epoch = epoch_of(step)
        if factor == 1:
            position = (epoch % first_epochs) / first_epochs
        else:
            k = jnp.sum(epoch >= jnp.array(starts)) - 1
            position = (epoch - jnp.array(starts)[k]) / jnp.array(lengths)[k]
        fall = 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(position, 1)))
        return min_lr + (peak_lr - min_lr) * fall

    return schedule


def adam(learning_rate: Array | float, *, weight_decay: float) -> optax.GradientTransformation:
    """Return Adam, whose weight decay is added to the gradient, BatchNorm's included.

    Args:
      learning_rate: of the step.
      weight_decay: an L2 penalty's, which the moments see, ≥ 0.

    Raises:
      BadValue: the weight decay is negative or not finite.

    Source: `torch.optim.Adam`, betas 0.9 and 0.999, eps 1e-8.
    """
    _require_from_0("weight_decay", weight_decay)
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.adam(learning_rate, b1=0.9, b2=0.999, eps=1e-8),
    )


def adamw(learning_rate: Array | float, *, weight_decay: float) -> optax.GradientTransformation:
    """Return AdamW with weight decay on every parameter, BatchNorm's included.

    Args:
      learning_rate: of the step.
      weight_decay: decoupled, multiplied by the rate, ≥ 0.

    Raises:
      BadValue: the weight decay is negative or not finite.

    Source: the official baseline (torch.optim.AdamW, betas 0.9 and 0.999, eps 1e-8).
    """
    _require_from_0("weight_decay", weight_decay)
    return optax.adamw(learning_rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=weight_decay)


SCHEDULES = {
    "warmup_cosine": warmup_cosine,
    "constant": constant,
    "warmup_flat_linear": warmup_flat_linear,
    "cosine_restarts": cosine_restarts,
}
OPTIMISERS = {"adamw": adamw, "adam": adam}


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
    parameter, weight decay included, and the optimiser sees a gradient of 0 for it: it has no part
    in the norm that `clipped` limits.
    """

    def with_rate(rate: Array) -> optax.GradientTransformation:
        tx = optimiser(rate)

        def init(params):
            factors = jax.tree.map(lambda _: jnp.ones((), jnp.float32), params)
            return FactorsState(factors, tx.init(params))

        def update(updates, state, params=None):
            factors = state.factors
            updates = jax.tree.map(lambda u, f: jnp.where(f > 0, u, 0), updates, factors)
            updates, inner = tx.update(updates, state.inner, params)
            updates = jax.tree.map(lambda u, f: u * f.astype(u.dtype), updates, factors)
            return updates, FactorsState(factors, inner)

        return optax.GradientTransformation(init, update)

    return with_rate


def clipped(
    optimiser: Callable[[Array], optax.GradientTransformation], max_norm: float
) -> Callable[[Array], optax.GradientTransformation]:
    """Return an optimiser that sees gradients whose norm, of all parameters, is at most `max_norm`.

    A longer gradient keeps its direction. The state is the optimiser's own.
    """
    clip = optax.clip_by_global_norm(max_norm)

    def with_rate(rate: Array) -> optax.GradientTransformation:
        tx = optimiser(rate)

        def update(updates, state, params=None):
            updates, _ = clip.update(updates, optax.EmptyState())
            return tx.update(updates, state, params)

        return optax.GradientTransformation(tx.init, update)

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


def _epoch_of(n_steps: int, n_epochs: int, by_epoch: bool) -> Callable[[Array | int], Array]:
    """Return step → epochs done, a fraction where it is not `by_epoch`."""
    steps_per_epoch = max(1, n_steps // n_epochs)
    if by_epoch:
        return lambda step: jnp.asarray(jnp.asarray(step) // steps_per_epoch, float)
    return lambda step: jnp.asarray(step, float) / steps_per_epoch


def _require_from_0(name: str, value: float) -> None:
    expect(name, value, 0 <= value < math.inf, "at least 0")


def _require_rate(peak_lr: float) -> None:
    expect("peak_lr", peak_lr, 0 < peak_lr <= MAX_LR, f"above 0 and at most {MAX_LR:g}")
