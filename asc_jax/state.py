"""All that a training step changes, and its first value. Data only: no functions inside."""

import flax.struct
import jax
import jax.numpy as jnp
import optax

from asc_jax.types import Array, Params


@flax.struct.dataclass
class TrainState:
    """step: optimiser steps done, int32 scalar; the rest are pytrees of arrays."""

    step: Array
    params: Params
    batch_stats: Params
    opt_state: optax.OptState


def create(variables: Params, tx: optax.GradientTransformation) -> TrainState:
    """State before the first step, from `{"params", "batch_stats"}`."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=tx.init(variables["params"]),
    )


def init_variables(model, key: Array, log_mel_shape: tuple[int, ...]) -> Params:
    """Fresh `{"params", "batch_stats"}` of a network for inputs of `[n_mels, n_frames, 1]`."""
    init = jax.jit(lambda key: model.init(key, jnp.zeros((1, *log_mel_shape))))
    return init(key)
