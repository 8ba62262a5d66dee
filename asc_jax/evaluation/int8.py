"""Evaluate the integer program of a network: what `convert --dtype int8` writes, in JAX."""

from collections.abc import Callable, Mapping

import jax

from asc_jax import features
from asc_jax.errors import UserError
from asc_jax.experiment import CPU_CHUNK, Experiment
from asc_jax.models.from_config import log_mel_shape
from asc_jax.operations import network, program, simulate
from asc_jax.operations.program import Program, Range
from asc_jax.types import Array, Params


def make_program(
    experiment: Experiment,
    variables: Params,
    ranges: Mapping[str, Range] | None,
    calibration_clips=None,
) -> Program:
    """Return the integer program of a network.

    Args:
      experiment: of the network as it is deployed.
      variables: of it.
      ranges: those of a quantisation-aware training; None: they are found on clips, as
        `convert --dtype int8` finds them by default.
      calibration_clips: training clips; not looked at where there are ranges.

    Raises:
      UserError: an operation has no rule in integers, which is named with its layer, or there are
        neither ranges nor clips.
    """
    config = experiment.config
    operations = network.read(config, variables, "float32")
    program.require_rules(operations)
    if ranges is None:
        if calibration_clips is None:
            raise UserError(
                f"int8 needs clips of the split {config.data.train_split} to find the ranges of "
                "values: --data_dir names the folder of a data set that has them"
            )
        n_clips = network.N_CALIBRATION_CLIPS
        log_mel = network.compute_log_mel(config, calibration_clips, n_clips)
        ranges = network.find_ranges(operations, log_mel)
    return program.build(operations, log_mel_shape(config), ranges)


def make_forward(experiment: Experiment, integers: Program) -> Callable:
    """Return `(arrays, audio [b, n_samples]) -> logits [b, n_classes]` float32, those of integers.

    `arrays` are those of `simulate.arrays`. On a CPU a clip is computed at a time.
    """

    def forward(arrays, audio: Array) -> Array:
        log_mel = features.log_mel(audio, **experiment.config.features)
        q = simulate.compute(integers, arrays, simulate.quantise(integers.input, log_mel))[-1]
        return simulate.dequantise(integers.output, q)

    def by_clip(arrays, audio: Array) -> Array:
        if jax.default_backend() != "cpu" or audio.shape[0] <= CPU_CHUNK:
            return forward(arrays, audio)
        one = lambda clip: forward(arrays, clip[None])[0]  # noqa: E731
        return jax.lax.map(one, audio, batch_size=CPU_CHUNK)

    return by_clip
