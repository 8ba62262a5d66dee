"""Define CP-ResNet, a residual network of limited receptive field: a teacher of small networks."""

import functools

import flax.linen as nn
import jax.numpy as jnp

from asc_jax.errors import expect
from asc_jax.models.kernels.pool import max_pool
from asc_jax.models.layers import ConvBn, kernel_initialiser
from asc_jax.types import Array

# The blocks: stage, sizes of their two kernels, groups, and the max pool before them.
BLOCKS = (
    (0, (3, 1), 1, (2, 2)),
    (0, (3, 3), 1, (2, 1)),
    (1, (3, 3), 2, (2, 1)),
    (2, (3, 1), 1, None),
)


class CPResNet(nn.Module):
    """Log-mel spectrogram → logits.

    A strided 5×5 convolution, four residual blocks b1 … b4 with max pools between them, a 1×1
    convolution to one map per class, and the mean over each map.

    Attributes:
      widths: channels of the three stages; the first two even.
      n_classes: number of scenes.
      kernel_init: how kernels start, one of `layers.KERNEL_INITS`; those of the head start as 0.
      dtype: arithmetic of the convolutions; None follows the input.
      axis_name: replica axis over which batch statistics are taken, under pmap.

    Source: K. Koutini, H. Eghbal-zadeh, G. Widmer: "Receptive field regularization techniques for
      audio classification and tagging with deep convolutional neural networks", IEEE/ACM TASLP
      2021; this one is the teacher (rho 8, "128 K") that fschmid56/cpjku_dcase23 distils from.

    Example:
      >>> import jax
      >>> model = CPResNet()
      >>> variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 256, 43, 1)))
      >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
      127684
    """

    widths: tuple[int, int, int] = (32, 64, 92)
    n_classes: int = 10
    kernel_init: str = "kaiming_fan_in"
    dtype: str | None = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, log_mel: Array, train: bool = False, mask: Array | None = None) -> Array:
        """Run the network.

        Args:
          log_mel: `[b, n_mels, n_frames, 1]` floating, natural logarithm.
          train: normalise with the batch's statistics and update the running ones
            (collection `batch_stats` must then be mutable).
          mask: `[b]` bool, False for padding: no part in the statistics. None: all valid.

        Returns:
          `[b, n_classes]` logits, float32 or the input's dtype if that is wider.
        """
        fits = isinstance(self.widths, tuple) and len(self.widths) == 3
        fits = fits and all(type(n) is int and n >= 1 for n in self.widths)
        fits = fits and self.widths[0] % 2 == self.widths[1] % 2 == 0
        expect("widths", self.widths, fits, "three numbers of channels, the first two even")
        init, axis = kernel_initialiser(self.kernel_init), self.axis_name
        conv_bn = functools.partial(ConvBn, kernel_init=init, axis_name=axis)

        x = log_mel if self.dtype is None else log_mel.astype(self.dtype)
        stem = conv_bn(self.widths[0], (5, 5), (2, 2), padding=(1, 1), name="stem")
        x = nn.relu(stem(x, train, mask))
        for number, (stage, sizes, groups, pool) in enumerate(BLOCKS, 1):
            x = max_pool(x, pool, pool) if pool else x
            n = self.widths[stage]
            block = Residual(n, sizes, functools.partial(conv_bn, groups=groups), name=f"b{number}")
            x = block(x, train, mask)
        zeros = nn.initializers.zeros
        head = ConvBn(self.n_classes, (1, 1), kernel_init=zeros, axis_name=axis, name="head")
        x = head(x, train, mask)
        return jnp.mean(x.astype(jnp.promote_types(x.dtype, jnp.float32)), axis=(1, 2))


class Residual(nn.Module):
    """Two convolutions, added to the input; where the width changes, to a 1×1 convolution of it.

    Attributes:
      n_channels: of the result.
      sizes: of the two kernels, along both axes.
      conv_bn: what makes the convolutions, `ConvBn` with some of its attributes.
    """

    n_channels: int
    sizes: tuple[int, int]
    conv_bn: functools.partial

    @nn.compact
    def __call__(self, x: Array, train: bool, mask: Array | None = None) -> Array:
        def conv_bn(size: int, name: str):
            return self.conv_bn(self.n_channels, (size, size), name=name)

        y = nn.relu(conv_bn(self.sizes[0], "conv1")(x, train, mask))
        y = conv_bn(self.sizes[1], "conv2")(y, train, mask)
        if x.shape[-1] != self.n_channels:
            x = conv_bn(1, "shortcut")(x, train, mask)
        return nn.relu(x + y)
