"""Find the range of every result of a network on clips, and the error that integers make.

A narrow range has fine steps and cuts off large values. "minmax" cuts off nothing; "percentile"
cuts off the values beyond a percentile at either end; "mse" takes, of a grid of ranges, that of the
least mean squared error. Everything is computed from the given clips alone, without chance.
"""

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from asc_jax.errors import UserError
from asc_jax.operations import lower, simulate
from asc_jax.operations.graph import INPUT, Operation
from asc_jax.operations.program import HIGHEST, LOWEST, OWN_RANGE, Program, Range, tensor
from asc_jax.types import Array, Params

BATCH_SIZE = 16
N_BINS = 4096  # of a histogram: 16 for a step of the widest range
PERCENTILE = 99.99
FRACTIONS = np.linspace(1, 0.2, 33)  # of either end of the range that "mse" tries


def calibrate(
    operations: Sequence[Operation], params: Params, log_mel: np.ndarray, method: str
) -> dict[str, Range]:
    """Return the ranges that `program.build` takes.

    Args:
      operations: of the network.
      params: float32 arrays by the name of their operation.
      log_mel: `[n, n_mels, n_frames, 1]` float32, of clips that the network was trained on.
      method: a key of `METHODS`.

    Returns:
      (least, largest) by the name of a lowered operation whose range is its own, and of `INPUT`.

    Raises:
      UserError: there is no such method, there are no clips, or a value is not finite.
    """
    if method not in METHODS:
        raise UserError(f"unknown calibration {method!r}; known: {', '.join(METHODS)}")
    if not len(log_mel):
        raise UserError("there is no clip to calibrate on: at least 1 is needed")
    operations = lower.lower(operations)
    names = [INPUT, *(op.name for op in operations if op.kind in OWN_RANGE)]

    @jax.jit
    def compute(params, batch):
        results = lower.results(operations, params, batch)
        return {name: results[name] for name in names}

    @jax.jit
    def compute_extremes(params, batch):
        results = compute(params, batch)
        return {name: (value.min(), value.max()) for name, value in results.items()}

    extremes: dict[str, Range] = {}
    for batch in _batches(log_mel):
        found = jax.device_get(compute_extremes(params, batch))
        for name in names:  # in the order of computation: the first error is the cause
            low, high = found[name]
            if not np.all(np.isfinite([low, high])):
                raise UserError(
                    f"the values of {name} are not finite on the clips for calibration: take "
                    "--checkpoint best, or train again"
                )
            before = extremes.get(name, (low, high))
            extremes[name] = float(min(low, before[0])), float(max(high, before[1]))
    rule = METHODS[method]
    if rule is None:
        return extremes

    @jax.jit
    def compute_bins(params, extremes, batch):
        results = compute(params, batch)
        return {name: _bins(results[name], *extremes[name]) for name in names}

    counts = {name: np.zeros(N_BINS, np.int64) for name in names}
    for batch in _batches(log_mel):
        for name, bins in jax.device_get(compute_bins(params, extremes, batch)).items():
            counts[name] += np.bincount(bins.ravel(), minlength=N_BINS)
    return {name: rule(counts[name], *extremes[name]) for name in names}


def _bins(values: Array, low: Array, high: Array) -> Array:
    """Return the numbers of the bins of one width, from low to high, that values lie in: int32."""
    width = jnp.where(high > low, high - low, 1)
    bins = jnp.floor((values - low) * (N_BINS / width))
    return jnp.clip(bins, 0, N_BINS - 1).astype(jnp.int32)


def percentile_range(counts: np.ndarray, low: float, high: float) -> Range:
    """Return the range between two percentiles, `PERCENTILE` and what that leaves below.

    Args:
      counts: `[n_bins]`, of values in bins of one width.
      low, high: where the first bin begins and the last one ends.

    Example:
      >>> low, high = percentile_range(np.ones(1000), 0.0, 1.0)
      >>> round(low, 4), round(high, 4)
      (0.0001, 0.9999)
    """
    edges = np.linspace(low, high, len(counts) + 1)
    below = np.concatenate([[0], np.cumsum(counts)]) / counts.sum()  # at the edges
    beyond = 1 - PERCENTILE / 100
    # The last edge with no more below it, and the first with no more above.
    first = np.searchsorted(below, beyond, "right") - 1
    last = np.searchsorted(below, 1 - beyond, "left")
    parts = [(beyond, first, first + 1), (1 - beyond, last - 1, last)]
    ends = [np.interp(at, below[[a, b]], edges[[a, b]]) for at, a, b in parts]
    return float(ends[0]), float(ends[1])


def mse_range(counts: np.ndarray, low: float, high: float) -> Range:
    """Return the range whose 256 steps make the least squared error.

    Either end is one of `FRACTIONS` of the given one; see `percentile_range`.
    """
    edges = np.linspace(low, high, len(counts) + 1)
    middles = (edges[:-1] + edges[1:]) / 2
    lows = low * FRACTIONS if low < 0 else [low]
    highs = high * FRACTIONS if high > 0 else [high]
    candidates = [(float(a), float(b)) for a in lows for b in highs]

    def error(bounds: Range) -> float:
        own = tensor("", (), bounds)
        scale = float(own.scale)
        q = np.clip(np.rint(middles / scale) + own.zero_point, LOWEST, HIGHEST)
        return float(counts @ ((q - own.zero_point) * scale - middles) ** 2)

    return min(candidates, key=error)


# Name → the rule that gives a range for a histogram; None: the extremes.
METHODS: dict[str, Callable[[np.ndarray, float, float], Range] | None] = {
    "minmax": None,
    "percentile": percentile_range,
    "mse": mse_range,
}


def signal_to_noise(
    program: Program, operations: Sequence[Operation], params: Params, log_mel: np.ndarray
) -> dict[str, float]:
    """Return the ratio of signal to error of every result, in dB: 20 for an error of a tenth.

    The error of a result holds those of all results before it.

    Args:
      program: of the operations.
      operations: of the network.
      params: float32 arrays by the name of their operation.
      log_mel: `[n, n_mels, n_frames, 1]` float32.

    Returns:
      Ratio by the name of the operation and of `INPUT`, in the order of computation; inf where
      there is no error, -inf where all is error. An operation that became part of another one has
      none.
    """
    own = {op.name for op in operations if op.kind != "constant"}
    operations = lower.lower(operations)
    names = [INPUT, *(op.name for op in operations if op.name in own)]

    @jax.jit
    def compute(params, values, batch):
        exact = lower.results(operations, params, batch)
        x = simulate.quantise(program.input, batch)
        results = simulate.compute(program, values, x)
        tensors = [program.input, *(step.output for step in program.steps)]
        found = {t.name: (t, q) for t, q in zip(tensors, [x, *results], strict=True)}
        sums = {}
        for name in names:
            error = simulate.dequantise(*found[name]) - exact[name]
            sums[name] = (exact[name] ** 2).sum(), (error**2).sum()
        return sums

    values = simulate.arrays(program)
    totals = {name: np.zeros(2) for name in names}
    for batch in _batches(log_mel):
        for name, sums in jax.device_get(compute(params, values, batch)).items():
            totals[name] += sums
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            name: float(10 * np.log10(s / e if e else np.inf)) for name, (s, e) in totals.items()
        }


def _batches(log_mel: np.ndarray) -> Iterator[np.ndarray]:
    return (log_mel[start : start + BATCH_SIZE] for start in range(0, len(log_mel), BATCH_SIZE))
