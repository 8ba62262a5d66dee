"""Place a run's state on its replicas, with the memory that its training program writes over."""

import jax

from asc_jax.machine import replicas
from asc_jax.models import scratch_shapes
from asc_jax.models.from_config import log_mel_shape, model
from asc_jax.training.state import ProgramState, TrainState


def place_state(state: TrainState, config, batch_size: int, n: int | None = None) -> TrainState:
    """Return a copy of a state per replica, `[replica, …]`, for `replicas.pmap_train`.

    On a CPU it is a `ProgramState`, whose memory every step writes over: 14 to 22 % of a step's
    time went to pages that were new and to results that were filled before they were written.

    Args:
      state: of one run.
      config: the run's.
      batch_size: clips of a batch, of all processes together.
      n: over the first n replicas of this process; None: over all.
    """
    placed = replicas.replicate(state, n)
    if config.quantise.aware:  # whose program writes over no such memory
        return placed
    n_clips = -(-batch_size // (n or jax.device_count()))
    log_mel = jax.ShapeDtypeStruct((n_clips, *log_mel_shape(config)), "float32")
    shapes = scratch_shapes(model(config, train=True), state.variables, log_mel)
    return placed if not shapes else ProgramState(**vars(placed), scratch=replicas.zeros(shapes, n))
