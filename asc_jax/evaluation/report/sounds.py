"""Clips to listen to: small WAV files that stand inside a page."""

import base64
import io
import wave
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MAX_BYTES = 2 * 2**20  # of all sounds of a page, before base64 makes them a third longer


class Sound(NamedTuple):
    """A sound for a page.

    url: a `data:` URL of a WAV file. duration_s: what is heard, seconds. whole: whether that is
    the whole clip.
    """

    url: str
    duration_s: float
    whole: bool


def embedded(
    waveforms: Sequence[np.ndarray], sample_rate: int, max_bytes: int = MAX_BYTES
) -> list[Sound]:
    """Return clips as sounds of 16 bits that together have at most `max_bytes` bytes.

    Twelve clips of one second at 32 kHz have 0.8 MB. Of longer clips each sound is the beginning,
    as long as its part of the limit allows.

    Args:
      waveforms: `[n]` of `[n_samples]` float in [-1, 1]; louder samples are limited to that.
      sample_rate: Hz.
      max_bytes: of all sounds together.
    """
    n_samples = max_bytes // (2 * max(len(waveforms), 1))
    return [
        Sound(
            _url(waveform[:n_samples], sample_rate),
            min(len(waveform), n_samples) / sample_rate,
            len(waveform) <= n_samples,
        )
        for waveform in map(np.asarray, waveforms)
    ]


def _url(waveform: np.ndarray, sample_rate: int) -> str:
    samples = np.round(32_767 * np.clip(waveform, -1, 1)).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(sample_rate)
        out.writeframes(samples.tobytes())
    return f"data:audio/wav;base64,{base64.b64encode(file.getvalue()).decode()}"
