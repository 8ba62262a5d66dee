"""The smallest network, for what depends on no network: it compiles at once."""

import flax.linen as nn
from ml_collections import ConfigDict
from small import small_config


class Tiny(nn.Module):
    """Levels of the bands over the clip, normalised, and a dense layer."""

    dtype: str | None = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, log_mel, train):
        x = log_mel[..., 0].mean(axis=-1).astype(self.dtype or log_mel.dtype)
        x = nn.BatchNorm(not train, momentum=0.9, axis_name=self.axis_name)(x)
        return nn.Dense(10, dtype=self.dtype)(x).astype("float32")


def tiny_config(**overrides):
    """`small_config` with this network."""
    config = small_config(**overrides).unlock()
    config.model = ConfigDict({"name": "tiny:Tiny"})
    return config.lock()
