"""Read the network of a config as operations, and make the integer program of it.

What an export writes and what an evaluation computes come from here, so that both are the same.
"""

import jax
import numpy as np

from asc_jax import features
from asc_jax.errors import UserError
from asc_jax.models import evaluation, precision
from asc_jax.models.from_config import log_mel_shape, model
from asc_jax.operations import calibrate, program, reader
from asc_jax.operations.graph import Operation
from asc_jax.types import Params

N_CALIBRATION_CLIPS = 512
DEFAULT_METHOD = "mse"
BATCH_SIZE = 32


def read(config, variables: Params, dtype: str) -> list[Operation]:
    """Return the operations of a config's network, rounded to what `dtype` can store.

    Args:
      config: of the network as it is deployed.
      variables: of it.
      dtype: of the arrays, one of `precision.STORED_DTYPES`.

    Raises:
      UserError: a value overflows the dtype or is not finite.
      UnknownPrimitive: a primitive has no rule in `reader`.
    """
    operations = reader.read(evaluation(model(config)), variables, log_mel_shape(config))
    # Single numbers of the program, such as what is added to a variance, are not rounded.
    numbers = {op.name: op.arrays for op in operations if _is_number(op)}
    params = {op.owner: op.arrays for op in operations if op.name not in numbers}
    params = rounded(params, dtype) | jax.tree.map(np.float32, numbers)
    for op in operations:
        op.arrays = params[op.owner]
    return operations


def rounded(params: Params, dtype: str) -> Params:
    """Return arrays in a dtype, NumPy's.

    Raises:
      UserError: a value is not finite, or overflows the dtype.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not np.all(np.isfinite(leaf)):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise UserError(
                f"{name}, its BatchNorm folded in, holds NaN or inf: the run's training diverged "
                "or its weights are corrupted. Take --checkpoint best, if there is one, or train "
                "again"
            )
    return jax.tree.map(np.asarray, precision.cast(params, dtype))


def compute_log_mel(config, clips, n_clips: int) -> np.ndarray:
    """Return the log-mel of at most n clips, evenly spread: `[n, n_mels, n_frames, 1]` float32.

    Args:
      config: of the run.
      clips: as `data.clips` opens them.
      n_clips: ≥ 1.

    Raises:
      UserError: there are no clips.
    """
    n_clips, parts = min(n_clips, len(clips)), []
    compute = jax.jit(lambda audio: features.log_mel(audio, **config.features))
    spread = np.arange(n_clips) * len(clips) // max(n_clips, 1)
    for batch in clips.batches(spread, min(BATCH_SIZE, max(n_clips, 1))):
        parts.append(np.asarray(compute(batch["audio"]))[batch["mask"]])
    if not parts:
        raise UserError("there is no clip to calibrate on: at least 1 is needed")
    return np.concatenate(parts)


def params_of(operations: list[Operation]) -> Params:
    """Return the float32 arrays of operations by the name of their owner, as `graph` takes them."""
    arrays = {op.owner: op.arrays for op in operations}
    return jax.tree.map(lambda x: np.asarray(x, np.float32), arrays)


def find_ranges(
    operations: list[Operation], log_mel: np.ndarray, method: str = DEFAULT_METHOD
) -> dict[str, program.Range]:
    """Return the ranges of the results of float32 operations on log-mels: see `calibrate`."""
    program.require_rules(operations)
    return calibrate.calibrate(operations, params_of(operations), log_mel, method)


def _is_number(op: Operation) -> bool:
    return op.kind == "constant" and op.arrays["value"].size == 1
