"""Predict the class of a recording of any length and rate, one window at a time.

Windows are as long as the clips of the run. They are cut at the recording's own rate and then
resampled one by one, because that is what happened to the clips that a network is trained and
evaluated on: on clips laid end to end the probabilities are those of `eval.py`.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Iterator

import jax
import numpy as np

from asc_jax import features
from asc_jax.data.recordings import OpenRecording
from asc_jax.data.resampling import resampler as _resampler
from asc_jax.errors import UserError
from asc_jax.evaluation.evaluate import softmax
from asc_jax.experiment import Experiment, eval_forward
from asc_jax.models import precision
from asc_jax.prediction.figure import Timeline
from asc_jax.prediction.lines import Lines, make_notes
from asc_jax.types import Params

MIN_END = 0.1  # of a window: a shorter end is not heard again with the window before it
QUIET = 1e-3  # of full scale, -60 dBFS: data sets leave such clips out unless asked otherwise


class Predictor:
    """The deployed network of a run, compiled for one batch size.

    Args:
      experiment: of the run.
      variables: `{"params", "batch_stats"}` as trained; rounded here to the run's stored dtype.
      batch_size: windows computed together; fewer are filled up.

    Raises:
      UserError: a value overflows the stored dtype.
    """

    def __init__(self, experiment: Experiment, variables: Params, batch_size: int):
        config = experiment.config
        self._variables = precision.deployed(variables, config.precision.stored)
        self._forward = jax.jit(functools.partial(eval_forward, config=config))
        self._log_mel = jax.jit(functools.partial(features.log_mel, **config.features))
        self.features, self.batch_size = config.features, batch_size
        self.sample_rate, self.n_samples = self.features.sample_rate, experiment.n_samples
        self.classes, self.clip_s = experiment.labels.classes, config.data.clip_s

    def resample(self, waveform: np.ndarray, rate: int) -> np.ndarray:
        """Resample `windows`, `[b, n]`, b ≤ `batch_size`, to `[batch_size, n_samples]`."""
        filled = np.pad(waveform, ((0, self.batch_size - len(waveform)), (0, 0)))
        resampled = np.asarray(_resampler(rate, self.sample_rate)(filled))
        missing = max(0, self.n_samples - resampled.shape[1])  # or one too many, by rounding
        return np.pad(resampled, ((0, 0), (0, missing)))[:, : self.n_samples]

    def probs(self, waveform: np.ndarray) -> np.ndarray:
        """Return `[batch_size, n_classes]` float64, whose rows sum to 1, of resampled windows."""
        return softmax(np.asarray(self._forward(self._variables, waveform)))

    def log_mel(self, waveform: np.ndarray) -> np.ndarray:
        """Return the network's input, `[batch_size, n_mels, n_frames]`, of resampled windows."""
        return np.asarray(self._log_mel(waveform))[..., 0]


def predict(
    predictor: Predictor,
    recording: OpenRecording,
    lines: Lines,
    *,
    hop_s: float | None = None,
    min_peak_dbfs: float = -math.inf,
    show_windows: bool = True,
    timeline: Timeline | None = None,
) -> np.ndarray:
    """Print a recording's lines as its windows are computed.

    Args:
      predictor: of the run.
      recording: as `data.recordings` opens it.
      lines: format of what is printed.
      hop_s: seconds between the starts of windows; None: the length of a window.
      min_peak_dbfs: windows whose highest sample lies below are left out, dB of full scale.
      show_windows: print every window, not only the recording.
      timeline: a picture to add the windows to.

    Returns:
      `[n_classes]` mean probabilities over the windows.

    Raises:
      UserError: the recording cannot be read to its end, is so loud that the network's output is
        not finite, or has no window that is loud enough.
    """
    name, rate, clip_s = recording.name, recording.rate, predictor.clip_s
    hop_s = clip_s if hop_s is None else hop_s
    blocks, total, n_windows = _Measured(recording.blocks), np.zeros(len(predictor.classes)), 0
    n_quiet, begun = 0, False
    cut = windows(blocks, rate, hop_s, clip_s)
    for starts, waveform in batched(cut, predictor.batch_size):
        resampled = predictor.resample(waveform, rate)
        probs = predictor.probs(resampled)[: len(starts)]
        if not np.isfinite(probs).all():
            raise UserError(
                f"{name}: too loud to be predicted: the loudest sample is {blocks.peak:.3g}, "
                "expected at most 1; scale it, or for a stream check --sample_format"
            )
        if not begun:
            say(lines.head(name))
        begun = True
        peak = np.abs(waveform).max(axis=1)
        n_quiet += int(np.sum(peak < QUIET))
        loud = np.flatnonzero(peak >= 10 ** (min_peak_dbfs / 20))
        starts, probs = starts[loud], probs[loud]
        total, n_windows = total + probs.sum(0), n_windows + len(starts)
        if timeline is not None:
            timeline.add(starts / rate, predictor.log_mel(resampled)[loud], probs)
        for start, row in zip(starts.tolist(), probs, strict=True):
            if show_windows:
                end = min(start + waveform.shape[1], blocks.n_samples)
                say(lines.window(name, start / rate, end / rate, row))
    if n_windows == 0:
        raise UserError(
            f"{name}: no window has a sample above {min_peak_dbfs:g} dBFS: give a lower "
            "--min_peak_dbfs"
        )
    notes = make_notes(recording, blocks.n_samples, blocks.peak, predictor.sample_rate, clip_s)
    if n_quiet and blocks.peak:
        have, them = ("window has", "it") if n_quiet == 1 else ("windows have", "them")
        notes.append(
            f"{n_quiet:,} {have} no sample above -60 dBFS"
            + (f": --min_peak_dbfs=-60 leaves {them} out" if min_peak_dbfs < -60 else "")
        )
    say(lines.whole(name, blocks.n_samples / rate, n_windows, total / n_windows, notes))
    return total / n_windows


def say(text: str | None) -> None:
    """Print a text without delay; nothing if there is none."""
    if text is not None:
        print(text, flush=True)


def windows(
    blocks: Iterable[np.ndarray], rate: int, hop_s: float = 1.0, clip_s: float = 1.0
) -> Iterator[tuple[int, np.ndarray]]:
    """Cut a recording into windows of `clip_s`, with no more than two in memory.

    A window starts every `hop_s`. If the last of them leaves an end unheard, where another would
    have started, one more is moved back to end there, unless the end is shorter than a tenth of a
    window. A shorter recording than a window is
    one, filled up with zeros.

    Args:
      blocks: `[n]` float32 each, one after the other the recording.
      rate: Hz.
      hop_s: from the start of a window to that of the next, seconds, at least one sample.
      clip_s: length of a window, seconds.

    Yields:
      The window's first sample, and `[round(rate · clip_s)]` float32.

    Example:
      >>> [start for start, _ in windows([np.zeros(25, np.float32)], rate=10, hop_s=0.8)]
      [0, 8, 15]
    """
    buffer, first, number = np.zeros(0, np.float32), 0, 0  # buffer[0] is sample `first`
    start = last = 0
    length = round(rate * clip_s)
    for block in blocks:
        buffer = np.concatenate([buffer, block])
        end = first + len(buffer)
        while start + length <= end:
            yield start, buffer[start - first : start - first + length]
            number, last = number + 1, start
            start = round(number * hop_s * rate)
        drop = max(0, min(start, end - length) - first)  # the last window may be needed again
        buffer, first = buffer[drop:], first + drop
    end = first + len(buffer)
    if number == 0 and end:
        yield 0, np.pad(buffer, (0, length - end))
    elif end - (last + length) >= MIN_END * length and start < end:
        yield end - length, buffer[-length:]


def batched(
    numbered: Iterable[tuple[int, np.ndarray]], size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Group `windows` into starts `[b]` int64 and waveforms `[b, n]`, b at most `size`."""
    numbered = iter(numbered)
    while batch := list(itertools.islice(numbered, size)):
        starts, waveforms = zip(*batch, strict=True)
        yield np.array(starts, np.int64), np.stack(waveforms)


@dataclasses.dataclass
class _Measured:
    """The blocks of a recording; those taken so far are counted, and their peak is measured."""

    blocks: Iterable[np.ndarray]
    n_samples: int = 0
    peak: float = 0.0

    def __iter__(self) -> Iterator[np.ndarray]:
        for block in self.blocks:
            self.n_samples += len(block)
            self.peak = max(self.peak, float(np.abs(block).max()))
            yield block
