"""Define TF-SepNet, a network of separate convolutions over mel bins and over frames."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from asc_jax.errors import expect
from asc_jax.models.kernels.convolution import conv_general_dilated
from asc_jax.models.kernels.pool import max_pool
from asc_jax.models.layers import ConvBn, kernel_initialiser, pytorch_default, shuffle, uniform
from asc_jax.types import Array

NORM, POOL = "norm", "pool"
# The layers between the stem and the head, by depth; a number is a block and its width.
LAYERS = {
    16: (NORM, 1, 1, NORM, POOL, 1.5, 1.5, NORM, POOL, 2, 2, NORM, 2.5, 2.5, 2.5, NORM),
    17: (NORM, 1, 1, NORM, POOL, 1.5, 1.5, NORM, POOL, 2, 2, NORM, POOL, 2.5, 2.5, 2.5, NORM),
}
RESIDUAL_NORMS = ("ada_res_norm", "res_norm")


class TFSepNet(nn.Module):
    """Log-mel spectrogram → logits.

    Two strided convolutions, nine blocks b1 … b9, each of a path over mel bins and one over
    frames, residual normalisations n1 … n5 between them, a 1×1 convolution to one map per class,
    and the mean over each map.

    Attributes:
      width: channels of the first blocks, a multiple of 4; the others have 1.5, 2 and 2.5 times
        as many.
      depth: 16, or 17 for one more max pool before the last three blocks.
      norm: "ada_res_norm", with learned weights per channel, or "res_norm".
      dropout: probability that a value of a path is set to 0 in training.
      n_classes: number of scenes.
      kernel_init: how kernels start, one of `layers.KERNEL_INITS`; the authors' is "pytorch".
      dtype: arithmetic of the convolutions; None follows the input.
      axis_name: replica axis over which batch statistics are taken, under pmap.

    Source: Y. Cai, P. Zhang, S. Li: "TF-SepNet: an efficient 1D kernel design in CNNs for
      low-complexity acoustic scene classification", ICASSP 2024 (arXiv 2309.08200), and the
      authors' code, yqcai888/easy_dcase_task1. The paper's TF-SepNet-40 has depth 16 and
      `ada_res_norm`; TF-SepNet-64 of their DCASE 2024 Task 1 submission has depth 17, `res_norm`
      and 512 mel bins.

    Example:
      >>> import jax
      >>> model = TFSepNet()
      >>> variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 256, 64, 1)))
      >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
      53370
    """

    width: int = 40
    depth: int = 16
    norm: str = "ada_res_norm"
    dropout: float = 0.1
    n_classes: int = 10
    kernel_init: str = "kaiming_fan_out"
    dtype: str | None = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, log_mel: Array, train: bool = False, mask: Array | None = None) -> Array:
        """Run the network.

        Args:
          log_mel: `[b, n_mels, n_frames, 1]` floating, natural logarithm.
          train: normalise with the batch's statistics and update the running ones
            (collection `batch_stats` must then be mutable), and drop values, for which it needs
            a key `dropout`.
          mask: `[b]` bool, False for padding: no part in the statistics. None: all valid.

        Returns:
          `[b, n_classes]` logits, float32 or the input's dtype if that is wider.
        """
        expect("width", self.width, self.width >= 4 and self.width % 4 == 0, "a multiple of 4")
        expect("depth", self.depth, self.depth in LAYERS, "16 or 17")
        expect("norm", self.norm, self.norm in RESIDUAL_NORMS, " or ".join(RESIDUAL_NORMS))
        expect("dropout", self.dropout, 0 <= self.dropout < 1, "at least 0 and below 1")

        x = log_mel if self.dtype is None else log_mel.astype(self.dtype)
        half, init = self.width // 2, kernel_initialiser(self.kernel_init)
        conv_bn = functools.partial(ConvBn, axis_name=self.axis_name, kernel_init=init)
        x = nn.relu(conv_bn(half, (3, 3), (2, 2), name="stem1")(x, train, mask))
        x = nn.relu(conv_bn(4 * half, (3, 3), (2, 2), groups=half, name="stem2")(x, train, mask))
        n_norms = n_blocks = 0
        for layer in LAYERS[self.depth]:
            if layer == POOL:
                x = max_pool(x, (2, 2), (2, 2))
            elif layer == NORM:
                n_norms += 1
                x = ResNorm(self.norm == "ada_res_norm", name=f"n{n_norms}")(x)
            else:
                n_blocks += 1
                n = int(layer * self.width)
                block = TimeFrequencySeparate(n, self.dropout, conv_bn, name=f"b{n_blocks}")
                x = block(x, train, mask)
        head = nn.Conv(
            self.n_classes,
            (1, 1),
            dtype=x.dtype,
            kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
            bias_init=uniform(x.shape[-1]) if init is pytorch_default else nn.initializers.zeros,
            conv_general_dilated=conv_general_dilated,
            name="head",
        )
        x = head(x)
        return jnp.mean(x.astype(jnp.promote_types(x.dtype, jnp.float32)), axis=(1, 2))


class TimeFrequencySeparate(nn.Module):
    """Half the channels are filtered over mel bins, the other half over frames.

    A path is a depthwise convolution along its axis, the mean over that axis, a 1×1 convolution
    and dropout; what it finds is added to every position of its input. Where the width changes, a
    1×1 convolution comes first.

    Attributes:
      n_channels: of the result; even.
      dropout: probability that a value of a path is set to 0 in training.
      conv_bn: what makes the convolutions, `ConvBn` with some of its attributes.
    """

    n_channels: int
    dropout: float
    conv_bn: Callable = ConvBn

    @nn.compact
    def __call__(self, x: Array, train: bool, mask: Array | None = None) -> Array:
        def conv_bn(name, *args, **kwargs):
            conv = self.conv_bn(*args, **kwargs, name=name)
            return lambda x: nn.relu(conv(x, train, mask))

        n = self.n_channels // 2
        if x.shape[-1] != self.n_channels:
            x = conv_bn("expand", self.n_channels, (1, 1))(x)
        paths = jnp.split(shuffle(x), 2, axis=-1)
        drop = nn.Dropout(self.dropout, deterministic=not train)
        for index, (name, size, axis) in enumerate((("freq", (3, 1), 1), ("time", (1, 3), 2))):
            y = conv_bn(f"{name}_depthwise", n, size, groups=n)(paths[index])
            y = conv_bn(f"{name}_pointwise", n, (1, 1))(jnp.mean(y, axis=axis, keepdims=True))
            paths[index] += drop(y)
        return jnp.concatenate(paths, axis=-1)


class ResNorm(nn.Module):
    """Normalise each mel bin of a clip over its frames and channels, and add it to the input.

    That is n + 0.1 · x, where n is x less its mean, over its (unbiased) standard deviation; or, if
    adaptive, γ · (ρ · x + (1 − ρ) · n) + β with ρ, γ and β for each channel.
    """

    adaptive: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        centred = wide - jnp.mean(wide, axis=(2, 3), keepdims=True)
        n_values = x.shape[2] * x.shape[3]
        var = jnp.sum(centred * centred, axis=(2, 3), keepdims=True) / (n_values - 1)
        normal = centred * jax.lax.rsqrt(var + 1e-5)
        if not self.adaptive:
            return (normal + 0.1 * wide).astype(x.dtype)
        start = {"rho": 0.5, "gamma": 1.0, "beta": 0.0}
        rho, gamma, beta = (
            self.param(name, nn.initializers.constant(value), x.shape[-1:])
            for name, value in start.items()
        )
        rho, gamma, beta = (vector[None, None, None] for vector in (rho, gamma, beta))
        return (gamma * (rho * wide + (1 - rho) * normal) + beta).astype(x.dtype)
