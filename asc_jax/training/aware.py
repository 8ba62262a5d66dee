"""Train a network as its integer program will compute it: quantisation-aware training.

What is trained are the parameters of the network, as in any other training, from those of a
trained run. BatchNorm keeps the statistics of that run from the first step on, and is folded into
the convolutions before they are rounded, as in the program. The ranges of the results begin as
`convert --dtype int8` would find them, follow the batches as a moving average, and stay what they
are from `freeze_epoch` on. They are part of the state, by which the run is deployed.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from asc_jax.errors import UserError
from asc_jax.models import evaluation, from_config
from asc_jax.models.from_config import log_mel_shape, model
from asc_jax.models.kernels.by_chunks import chunk_size
from asc_jax.operations import fake, network, program, reader
from asc_jax.operations.graph import Operation
from asc_jax.training.state import RANGES, init_variables
from asc_jax.types import Array, Params

CPU_CLIPS = 4  # computed at a time


def read(config) -> tuple[list[Operation], Callable[[Params], Params]]:
    """Return the operations of a config's network, and their arrays as a function of its variables.

    Raises:
      UserError: an operation has no rule in integers, or the network is deployed in another form
        than it is trained in.
    """
    if from_config.deployed(config)[0] is not config:
        raise UserError(
            "config.quantise.aware trains the network as it is deployed, and config.model is "
            'deployed in another form: give it that form, as config.model.depthwise="fused"'
        )
    network_, key = model(config), jax.random.key(0)
    shapes = jax.eval_shape(lambda: init_variables(network_, key, log_mel_shape(config)))
    read_ = reader.read_function(evaluation(network_), shapes, log_mel_shape(config))
    program.require_rules(read_[0])
    return read_


def empty_ranges(config) -> dict:
    """Return ranges of the right names, of 0 … 0: see `new_ranges`."""
    operations, _ = read(config)
    return new_ranges(dict.fromkeys(fake.names(operations), (0.0, 0.0)), 0)


def new_ranges(ranges: Mapping[str, tuple[float, float]], n_moving: int) -> dict:
    """Return ranges as a state holds them, `low` and `high` by name; `n_moving`: steps they move.

    All are float32 scalars, `n_moving` int32.
    """
    ends = [{name: np.float32(pair[end]) for name, pair in ranges.items()} for end in (0, 1)]
    return {"low": ends[0], "high": ends[1], "n_moving": np.int32(n_moving)}


def find_ranges(config, variables: Params, clips) -> dict[str, tuple[float, float]]:
    """Return the ranges that a training begins with, of clips that it is trained on."""
    operations = network.read(config, variables, "float32")
    log_mel = network.compute_log_mel(config, clips, network.N_CALIBRATION_CLIPS)
    return network.find_ranges(operations, log_mel, config.quantise.calibration)


def forward(config, axis_name: str | None = None) -> Callable:
    """Return `(variables, batch, key) -> (logits, updates)`, as `steps.train_step` takes it.

    The variables hold `RANGES` too, and so do the updates.
    """
    operations, arrays = read(config)
    momentum, moves = config.quantise.momentum, config.quantise.freeze_epoch > 0

    def of_batch(variables, batch, key):
        ranges = variables[RANGES]
        own = arrays({name: variables[name] for name in ("params", "batch_stats")})

        def of_clips(clips):
            logits, exact = fake.compute(operations, own, ranges, clips["log_mel"])
            return logits, extremes(exact, clips["mask"]) if moves else {}

        clips = {name: batch[name] for name in ("log_mel", "mask")}
        logits, ends = _a_few_at_a_time(of_clips, clips)
        if moves:
            ranges = moved(ranges, ends, momentum, axis_name)
        return logits, {"batch_stats": variables["batch_stats"], RANGES: ranges}

    return of_batch


def _a_few_at_a_time(function: Callable, clips: Mapping[str, Array]):
    """Return what a function of clips, which no clip's neighbours change, gives for a batch.

    The results of `CPU_CLIPS` clips stay in a CPU's cache; they are computed again for the
    gradient: 9.6 ms a clip and not 14.4, for CP-Mobile.

    Args:
      function: `clips -> (logits [b, n], extremes)`.
      clips: arrays `[b, …]`.
    """
    n_clips = len(clips["mask"])
    size = chunk_size(n_clips, CPU_CLIPS) if jax.default_backend() == "cpu" else n_clips
    if size == n_clips:
        return function(clips)
    parts = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), clips)
    logits, ends = jax.lax.map(jax.checkpoint(function), parts)
    ends = {name: (low.min(), high.max()) for name, (low, high) in ends.items()}
    return logits.reshape(n_clips, -1), ends


def extremes(exact: Mapping[str, Array], mask: Array) -> dict[str, tuple[Array, Array]]:
    """Return least and largest value by name, of valid clips and 0.

    Args:
      exact: by name, values `[b, …]`.
      mask: `[b]`, False for padding.
    """
    found = {}
    for name, x in exact.items():
        x = jax.lax.stop_gradient(jnp.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, 0))
        found[name] = x.min(), x.max()
    return found


def moved(ranges: Mapping, ends: Mapping[str, tuple], momentum: float, axis_name: str | None):
    """Return ranges after a step: the moving average of the extremes of its clips.

    Args:
      ranges: as `new_ranges` returns them.
      ends: `extremes` of this replica's clips.
      momentum: of the average, in [0, 1).
      axis_name: of the replicas, under pmap.
    """
    moves = ranges["n_moving"] > 0
    new = {end: dict(ranges[end]) for end in ("low", "high")}
    new["n_moving"] = jnp.maximum(ranges["n_moving"] - 1, 0)
    for name, pair in ends.items():
        for end, extreme, over in zip(
            ("low", "high"), pair, (jax.lax.pmin, jax.lax.pmax), strict=True
        ):
            extreme = extreme if axis_name is None else over(extreme, axis_name)
            before = ranges[end][name]
            now = momentum * before + (1 - momentum) * extreme
            new[end][name] = jnp.where(moves, now, before)
    return new
