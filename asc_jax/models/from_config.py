"""The network that a config describes, and the shape of its input."""

from asc_jax import features
from asc_jax.errors import UserError, short
from asc_jax.models import MODELS


def model(config, *, train: bool = False, axis_name: str | None = None, body: str = "auto"):
    """The config's network. Evaluation computes in float32, whatever training used."""
    if config.network not in MODELS:
        raise UserError(f"unknown network {short(config.network)}; known: {', '.join(MODELS)}")
    compute = config.precision.compute
    dtype = compute if train and compute != "float32" else None
    cls = MODELS[config.network]
    return cls(**config.model, dtype=dtype, axis_name=axis_name, body=body)


def log_mel_shape(config) -> tuple[int, int, int]:
    """`(n_mels, n_frames, 1)` of a one-second clip."""
    f = config.features
    return f.n_mels, features.n_frames(f.sample_rate, f.hop_length), 1
