"""All that a training step changes, and its first value. Data only: no functions inside."""

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.training.dynamic_scale import DynamicScale

from asc_jax.types import Array, Params

FIRST_LOSS_SCALE = 2.0**16


@flax.struct.dataclass
class TrainState:
    """step: training steps done, int32 scalar; the rest are pytrees of arrays.

    loss_scale: what the loss is multiplied by before its gradient is taken; None: nothing.
    """

    step: Array
    params: Params
    batch_stats: Params
    opt_state: optax.OptState
    loss_scale: DynamicScale | None = None

    @property
    def variables(self) -> Params:
        """Return `{"params", "batch_stats"}`, as a network's `apply` takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create(
    variables: Params, tx: optax.GradientTransformation, *, scale_loss: bool = False
) -> TrainState:
    """State before the first step, from `{"params", "batch_stats"}`.

    scale_loss: for float16, whose smallest number is 6e-8: start at 2¹⁶, halve after every
    gradient that overflowed, double after 2,000 in a row that did not.
    """
    loss_scale = DynamicScale(
        fin_steps=jnp.zeros((), jnp.int32), scale=jnp.full((), FIRST_LOSS_SCALE, jnp.float32)
    )
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=tx.init(variables["params"]),
        loss_scale=loss_scale if scale_loss else None,
    )


def init_variables(model, key: Array, log_mel_shape: tuple[int, ...]) -> Params:
    """Fresh `{"params", "batch_stats"}` of a network for inputs of `[n_mels, n_frames, 1]`."""
    init = jax.jit(lambda key: model.init(key, jnp.zeros((1, *log_mel_shape))))
    return init(key)
