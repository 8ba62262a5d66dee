"""The state that a training step changes, and its first value. Data only: no functions inside."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.dynamic_scale import DynamicScale

from asc_jax.training.optim import ScheduledState
from asc_jax.types import Array, Params

EMA = "ema"  # in `further`: the exponential moving average of the variables
RANGES = "ranges"  # in `further`: of the results of the network's operations, `training.aware`
FIRST_LOSS_SCALE = 2.0**16


@flax.struct.dataclass
class TrainState:
    """step: training steps done, int32 scalar; the rest are pytrees of arrays.

    loss_scale: what the loss is multiplied by before its gradient is taken; None: nothing.
    further: a pytree for whatever else a run keeps from step to step, such as an average of the
    parameters; it is saved, restored and copied to the replicas like the rest. None: nothing.
    """

    step: Array
    params: Params
    batch_stats: Params
    opt_state: optax.OptState
    loss_scale: DynamicScale | None = None
    further: Any = None

    @property
    def ranges(self) -> dict[str, tuple[float, float]] | None:
        """Return least and largest value by operation, of a training aware of quantisation."""
        if not self._ranges:
            return None
        low, high = (self._ranges[RANGES][end] for end in ("low", "high"))
        return {name: (float(low[name]), float(high[name])) for name in low}

    @property
    def variables(self) -> Params:
        """Return `{"params", "batch_stats"}` to evaluate: their average, if the state keeps one."""
        if isinstance(self.further, dict) and EMA in self.further:
            return self.further[EMA]
        return {"params": self.params, "batch_stats": self.batch_stats}

    def averaged(self, decay: float) -> "TrainState":
        """Return the state after a step with the step's variables added to their average.

        It is the mean over the steps so far, in which each weighs `decay` of the one after it.
        Values that are no floating numbers are the last ones.
        """
        rate = (1 - decay) / -jnp.expm1(self.step * math.log(decay))  # of Σ decayⁱ, i < step

        def add(mean, new):
            if not jnp.issubdtype(new.dtype, jnp.floating):
                return new
            return mean + rate.astype(new.dtype) * (new - mean)

        now = {"params": self.params, "batch_stats": self.batch_stats}
        mean = jax.tree.map(add, self.further[EMA], now)
        return self.replace(further={**self.further, EMA: mean})

    @property
    def model_state(self) -> dict:
        """Return the collections that a network updates in training."""
        return {"batch_stats": self.batch_stats, **self._ranges}

    @property
    def _ranges(self) -> dict:
        has_ranges = isinstance(self.further, dict) and RANGES in self.further
        return {RANGES: self.further[RANGES]} if has_ranges else {}

    def saved(self) -> "TrainState":
        """Return what a checkpoint holds of it."""
        return self

    def with_model_state(self, updates: dict) -> "TrainState":
        """Return the state with the collections that a network has updated."""
        if RANGES in updates:
            updates = dict(updates)
            updates["further"] = {**self.further, RANGES: updates.pop(RANGES)}
        return self.replace(**updates)


@flax.struct.dataclass
class ProgramState(TrainState):
    """The state inside the training program, which also holds memory that every step writes over.

    scratch: see `models.kernels.by_chunks`; its values mean nothing, and it is never saved.
    """

    scratch: Any = ()

    @property
    def model_state(self) -> dict:
        """Return the collections that a network updates in training, and the memory."""
        return {"batch_stats": self.batch_stats, "scratch": self.scratch, **self._ranges}

    def saved(self) -> TrainState:
        """Return what a checkpoint holds of it: all but the memory."""
        return TrainState(**{f.name: getattr(self, f.name) for f in dataclasses.fields(TrainState)})


def create(
    variables: Params,
    tx: optax.GradientTransformation,
    *,
    scale_loss: bool = False,
    ema: bool = False,
    ranges: Params | None = None,
) -> TrainState:
    """Return the state before the first step, from `{"params", "batch_stats"}`.

    scale_loss: for float16, whose smallest number is 6e-8: start at 2¹⁶, halve after every
    gradient that overflowed, double after 2,000 in a row that did not. ema: keep an average of the
    variables, which `TrainState.averaged` moves on. ranges: of the results, see `training.aware`.
    """
    further = {EMA: dict(variables)} if ema else {}
    further |= {} if ranges is None else {RANGES: ranges}
    loss_scale = DynamicScale(
        fin_steps=jnp.zeros((), jnp.int32), scale=jnp.full((), FIRST_LOSS_SCALE, jnp.float32)
    )
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=tx.init(variables["params"]),
        loss_scale=loss_scale if scale_loss else None,
        further=further or None,
    )


@flax.struct.dataclass
class FirstState:
    """The state as version 0.1.0 saved it: AdamW's state held the schedule's count last."""

    step: Array
    params: Params
    batch_stats: Params
    opt_state: optax.OptState
    loss_scale: DynamicScale | None


def first_layout(like: TrainState) -> tuple[FirstState, Callable[[FirstState], TrainState]]:
    """Return a state as version 0.1.0 saved it, and the function that converts one.

    Args:
      like: a state of today's layout, with AdamW as its optimiser.
    """
    adam, decay, rest = like.opt_state.inner
    count = optax.ScaleByScheduleState(like.opt_state.count)

    def convert(saved: FirstState) -> TrainState:
        adam, decay, schedule = saved.opt_state
        rate = np.zeros((), like.opt_state.rate.dtype)
        opt_state = ScheduledState(schedule.count, rate, (adam, decay, rest))
        return TrainState(**{**vars(saved), "opt_state": opt_state})

    first = {**vars(like), "opt_state": (adam, decay, count)}
    del first["further"]
    return FirstState(**first), convert


def init_variables(network, key: Array, log_mel_shape: tuple[int, ...]) -> Params:
    """Return fresh `{"params", "batch_stats"}` of a network for `[n_mels, n_frames, 1]`."""
    log_mel = jnp.zeros((1, *log_mel_shape))
    variables = jax.jit(lambda key: network.init(key, log_mel, train=False))(key)
    return {"batch_stats": {}, **variables}
