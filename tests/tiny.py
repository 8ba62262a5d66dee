"""The smallest network, for what depends on no network: it compiles at once."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from by_day import BY_DAY
from ml_collections import ConfigDict
from small import SMALL_FLAGS, small_config

from asc_jax.models import CPMobile


class Tiny(nn.Module):
    """Levels of the bands, less their mean over the valid clips of the batch; a dense layer.

    width: channels of another dense layer before it, for a network that is over the budget.
    """

    width: int | None = None
    dtype: str | None = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, log_mel, train, mask=None):
        x = log_mel[..., 0].mean(axis=-1)  # [b, n_mels]
        running = self.variable("batch_stats", "mean", jnp.zeros, x.shape[1:], x.dtype)
        mean = running.value
        if train:
            weight = jnp.ones(len(x), x.dtype) if mask is None else mask.astype(x.dtype)
            sums = jnp.sum(x * weight[:, None], axis=0), jnp.sum(weight)
            if self.axis_name is not None and not self.is_initializing():
                sums = jax.lax.psum(sums, self.axis_name)
            mean = sums[0] / sums[1]
            running.value = 0.9 * running.value + 0.1 * mean
        x = (x - mean[None]).astype(self.dtype or x.dtype)
        if self.width:
            x = nn.Dense(self.width, dtype=self.dtype)(x)
        return nn.Dense(10, dtype=self.dtype)(x).astype(log_mel.dtype)


class Named(CPMobile):
    """The same network, which takes the keys of CP-Mobile's section and reads none of them.

    So a command line can ask for it by its name alone: `TINY_FLAGS`.
    """

    @nn.compact
    def __call__(self, log_mel, train=False, mask=None):
        return Tiny(None, self.dtype, self.axis_name)(log_mel, train, mask)


NAME = "tiny:Named" if BY_DAY else "cp_mobile"  # `make nightly` takes the package's network
TINY_FLAGS = (*SMALL_FLAGS, f"--config.model.name={NAME}")


def tiny_config(**overrides):
    """`small_config` with this network."""
    config = small_config(**overrides).unlock()
    config.model = ConfigDict({"name": "tiny:Tiny"})
    return config.lock()
