"""A recording through the network, window by window, and its lines printed as they are computed."""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from asc_jax.data.recordings import OpenRecording
from asc_jax.data.tau.taxonomy import N_SCENES
from asc_jax.errors import UserError
from asc_jax.prediction.figure import Timeline
from asc_jax.prediction.lines import Lines, make_notes
from asc_jax.prediction.windows import Predictor, batched, windows


def predict(
    predictor: Predictor,
    recording: OpenRecording,
    lines: Lines,
    *,
    hop_s: float,
    show_windows: bool = True,
    timeline: Timeline | None = None,
) -> np.ndarray:
    """Print a recording's lines as its windows are computed.

    Args:
      predictor: of the run.
      recording: as `data.recordings` opens it.
      lines: how to print.
      hop_s: seconds between the starts of windows.
      show_windows: print every window, not only the recording.
      timeline: a picture to add the windows to.

    Returns:
      `[n_scenes]` mean probabilities over the windows.

    Raises:
      UserError: the recording cannot be read to its end, or is so loud that the network's answer
        is not a number.
    """
    name, rate = recording.name, recording.rate
    heard, total, n_windows = _Heard(recording.blocks), np.zeros(N_SCENES), 0
    for starts, waveform in batched(windows(heard, rate, hop_s), predictor.batch_size):
        resampled = predictor.resample(waveform, rate)
        probs = predictor.probs(resampled)[: len(starts)]
        if not np.isfinite(probs).all():
            raise UserError(
                f"{name}: too loud to be told: the loudest sample is {heard.peak:.3g}, expected at "
                "most 1; scale it, or for a stream check --sample_format"
            )
        if n_windows == 0:
            say(lines.head(name))
        total, n_windows = total + probs.sum(0), n_windows + len(starts)
        if timeline is not None:
            timeline.add(starts / rate, predictor.log_mel(resampled)[: len(starts)], probs)
        for start, row in zip(starts.tolist(), probs, strict=True):
            if show_windows:
                end = min(start + rate, heard.n_samples)
                say(lines.window(name, start / rate, end / rate, row))
    notes = make_notes(recording, heard.n_samples, heard.peak, predictor.sample_rate)
    say(lines.whole(name, heard.n_samples / rate, n_windows, total / n_windows, notes))
    return total / n_windows


def say(text: str | None) -> None:
    """Print at once, if there is anything."""
    if text is not None:
        print(text, flush=True)


@dataclasses.dataclass
class _Heard:
    """Blocks of a recording as they pass: how many samples, and the loudest of them."""

    blocks: Iterable[np.ndarray]
    n_samples: int = 0
    peak: float = 0.0

    def __iter__(self) -> Iterator[np.ndarray]:
        for block in self.blocks:
            self.n_samples += len(block)
            self.peak = max(self.peak, float(np.abs(block).max()))
            yield block
