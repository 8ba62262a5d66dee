"""CP-Mobile with two blocks instead of six, for what depends on no network but on its layers.

Compiling is most of what a test that trains takes, and this takes a third of it. `make nightly`
takes all six blocks.
"""

import flax.linen as nn
import jax.numpy as jnp
from by_day import BY_DAY
from small import SMALL_FLAGS, small_config

from asc_jax.models import CPMobile
from asc_jax.models.layers import ConvBn, InvertedResidual

NAME = "short:Short" if BY_DAY else "cp_mobile"
SHORT_FLAGS = (*SMALL_FLAGS, f"--config.model.name={NAME}")  # the same for `train.py`


class Short(CPMobile):
    """The stem, a block with a shortcut, one with strides and more channels, and the head."""

    @nn.compact
    def __call__(self, log_mel, train=False, mask=None):
        width, x = self.width, log_mel if self.dtype is None else log_mel.astype(self.dtype)
        for name, n in (("stem1", width // 4), ("stem2", width)):
            x = nn.relu(
                ConvBn(n, (3, 3), (2, 2), axis_name=self.axis_name, name=name)(x, train, mask)
            )
        for name, n, strides in (("b1", width, (1, 1)), ("b2", 2 * width, (2, 2))):
            options = (self.expansion, strides, nn.relu, False, self.axis_name, self.depthwise)
            x = InvertedResidual(n, *options, name=name)(x, train, mask)
        x = ConvBn(self.n_classes, (1, 1), axis_name=self.axis_name, name="head")(x, train, mask)
        return jnp.mean(x.astype(jnp.promote_types(x.dtype, jnp.float32)), axis=(1, 2))


def short_config(**overrides):
    """`small_config` with this network, by day."""
    return small_config(model__name=NAME, **overrides)
