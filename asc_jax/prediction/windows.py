"""A recording of any length and rate → scene probabilities, a second at a time.

Windows are cut at the recording's own rate and then resampled one by one, because that is what
happened to the clips that a network is trained and evaluated on: on clips laid end to end the
probabilities are those of `eval.py`.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from asc_jax import features
from asc_jax.evaluation.evaluate import softmax
from asc_jax.experiment import Experiment, eval_forward
from asc_jax.features import filters
from asc_jax.models import precision
from asc_jax.types import Params

MAX_KERNEL = 2**21  # values: a larger resampling kernel is nearly all zeros, see `sparse_resample`


def windows(
    blocks: Iterable[np.ndarray], rate: int, hop_s: float = 1.0
) -> Iterator[tuple[int, np.ndarray]]:
    """Cut a recording into windows of one second, with no more than two in memory.

    A window starts every `hop_s`. If the last of them leaves an end unheard, where another would
    have started, one more is moved back to end there. A recording of less than a second is one
    window, filled up with zeros.

    Args:
      blocks: `[n]` float32 each, one after the other the recording.
      rate: Hz, and the samples of a window.
      hop_s: from the start of a window to that of the next, seconds, at least one sample.

    Yields:
      The window's first sample, and `[rate]` float32.

    Example:
      >>> [start for start, _ in windows([np.zeros(25, np.float32)], rate=10, hop_s=0.8)]
      [0, 8, 15]
    """
    held, first, number = np.zeros(0, np.float32), 0, 0  # held[0] is sample `first`
    start = last = 0
    for block in blocks:
        held = np.concatenate([held, block])
        end = first + len(held)
        while start + rate <= end:
            yield start, held[start - first : start - first + rate]
            number, last = number + 1, start
            start = round(number * hop_s * rate)
        drop = max(0, min(start, end - rate) - first)  # the last second may be needed again
        held, first = held[drop:], first + drop
    end = first + len(held)
    if number == 0 and end:
        yield 0, np.pad(held, (0, rate - end))
    elif last + rate < end and start < end:
        yield end - rate, held[-rate:]


def batched(
    numbered: Iterable[tuple[int, np.ndarray]], size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`windows` → starts `[b]` int64 and waveforms `[b, rate]`, b at most `size`."""
    numbered = iter(numbered)
    while batch := list(itertools.islice(numbered, size)):
        starts, waveforms = zip(*batch, strict=True)
        yield np.array(starts, np.int64), np.stack(waveforms)


class Predictor:
    """The deployed network of a run, compiled for one batch size.

    Args:
      parts: of the run.
      variables: `{"params", "batch_stats"}` as trained; rounded here to the run's stored dtype.
      batch_size: windows computed together; fewer are filled up.

    Raises:
      UserError: a value overflows the stored dtype.
    """

    def __init__(self, parts: Experiment, variables: Params, batch_size: int):
        self._variables = precision.deployed(variables, parts.config.precision.stored)
        self._forward = jax.jit(functools.partial(eval_forward, config=parts.config))
        self._log_mel = jax.jit(functools.partial(features.log_mel, **parts.config.features))
        self.features, self.batch_size = parts.config.features, batch_size
        self.sample_rate = self.features.sample_rate

    def resample(self, waveform: np.ndarray, rate: int) -> np.ndarray:
        """Windows `[b, rate]`, b at most the batch size → `[batch_size, sample_rate]`."""
        filled = np.pad(waveform, ((0, self.batch_size - len(waveform)), (0, 0)))
        return np.asarray(_resampler(rate, self.sample_rate)(filled))

    def probs(self, waveform: np.ndarray) -> np.ndarray:
        """`[batch_size, sample_rate]` → `[batch_size, n_scenes]` float64, rows sum to 1."""
        return softmax(np.asarray(self._forward(self._variables, waveform)))

    def log_mel(self, waveform: np.ndarray) -> np.ndarray:
        """`[batch_size, sample_rate]` → the network's input, `[batch_size, n_mels, n_frames]`."""
        return np.asarray(self._log_mel(waveform))[..., 0]


@functools.lru_cache(maxsize=8)
def _resampler(rate: int, new_rate: int) -> Callable:
    """`[b, rate]` → `[b, new_rate]`, on the CPU as when a data set is built: the same bits."""
    divisor = math.gcd(rate, new_rate)
    orig, new = rate // divisor, new_rate // divisor
    if new * (orig + new) <= MAX_KERNEL:
        change = functools.partial(features.resample, banded=True)
    else:
        change = sparse_resample
    jitted = jax.jit(lambda waveform: change(waveform, rate, new_rate))
    cpu = jax.devices("cpu")[0]
    return lambda waveform: jitted(jax.device_put(waveform, cpu))


def sparse_resample(waveform: jax.Array, orig_rate: int, new_rate: int) -> jax.Array:
    """What `features.resample` computes, for rates with hardly a common divisor.

    For 44,101 → 32,000 Hz the whole kernel takes 5.6 GB; but only about 17 of the 44,119 taps of a
    phase lie under its window.

    Args, returns: as `features.resample`.
    """
    divisor = math.gcd(orig_rate, new_rate)
    orig, new = orig_rate // divisor, new_rate // divisor
    n_out = -(-waveform.shape[1] * new // orig)
    first, kernel = _sparse_kernel(orig, new)  # [phase], [phase, tap]
    frame, phase = np.divmod(np.arange(n_out), new)
    taps = (frame * orig + first[phase])[:, None] + np.arange(kernel.shape[1])  # [out, tap]
    inside = (taps >= 0) & (taps < waveform.shape[1])
    weights = jnp.asarray(np.where(inside, kernel[phase], 0).astype(waveform.dtype))
    taps = jnp.asarray(np.clip(taps, 0, waveform.shape[1] - 1))
    return jax.lax.map(lambda clip: jnp.sum(clip[taps] * weights, axis=-1), waveform)


def _sparse_kernel(orig: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """The nonzero taps of `filters.resample_kernel`: position of the first, and values."""
    base = min(orig, new) * filters.ROLLOFF
    # Rounded to float32 where the dense kernel is.
    phase = np.arange(0, -new, -1, dtype=np.float32) / np.float32(new)
    phase = phase.astype(np.float64)[:, None]
    reach = filters.LOWPASS_WIDTH * orig / base
    first = np.ceil(-phase * orig - reach).astype(np.int64)  # [phase, 1]
    taps = first + np.arange(math.floor(2 * reach) + 1)
    t = (phase + taps / orig) * base
    t = np.clip(t, -filters.LOWPASS_WIDTH, filters.LOWPASS_WIDTH)
    window = np.cos(t * np.pi / filters.LOWPASS_WIDTH / 2) ** 2
    return first[:, 0], np.sinc(t) * window * (base / orig)


def top_k(probs: np.ndarray, k: int) -> list[tuple[int, float]]:
    """The `k` most probable scenes of `[n_scenes]`, as (id, probability), the best first.

    Example:
      >>> top_k(np.array([0.2, 0.5, 0.3]), 2)
      [(1, 0.5), (2, 0.3)]
    """
    order = np.argsort(-probs, kind="stable")[:k]
    return [(int(i), float(probs[i])) for i in order]
