"""Log-mel features of a waveform, and the augmentation of both."""

from asc_jax.features.front_end import (
    LOG_OFFSET,
    log_compress,
    log_mel,
    mel_power,
    n_frames,
    normalise,
    resample,
)

__all__ = [
    "LOG_OFFSET",
    "log_compress",
    "log_mel",
    "mel_power",
    "n_frames",
    "normalise",
    "resample",
]
