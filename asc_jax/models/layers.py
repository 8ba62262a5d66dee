"""The layers of the networks: convolutions, normalisations, activations, residual blocks.

A layer takes `x [b, f, t, c]`, mel bins before frames, and returns an array of that layout. Those
that behave differently in training take `train`, and `mask [b]`: False for padding, which has no
part in batch statistics; None: every clip counts.
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from asc_jax.errors import expect
from asc_jax.models.kernels.convolution import conv
from asc_jax.models.kernels.normalise import affine, batch_moments
from asc_jax.models.kernels.pool import avg_pool
from asc_jax.types import Array, Params

ACTIVATIONS = {
    "relu": nn.relu,
    "relu6": nn.relu6,
    "hard_swish": nn.hard_swish,
    "silu": nn.silu,
    "gelu": nn.gelu,
}


def activation(name: str) -> Callable:
    """Return the activation of that name; an unknown one raises ValueError."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def make_divisible(n_channels: float, divisor: int = 8) -> int:
    """Return the nearest multiple of `divisor`, never below it nor more than a tenth less.

    Source: MobileNetV2's rule for channel counts.

    Example:
      >>> [make_divisible(n) for n in (57.6, 103.68, 67.2, 117.6)]
      [56, 104, 64, 120]
    """
    rounded = max(divisor, int(n_channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * n_channels else rounded


def kaiming_fan_out(key: Array, shape, dtype=jnp.float32) -> Array:
    """Draw from a normal distribution of variance 2 / (c_out · kf · kt): PyTorch's fan_out mode.

    Groups are ignored, as PyTorch does.
    """
    *size, _, c_out = shape
    return jax.random.normal(key, shape, dtype) * (2.0 / (c_out * math.prod(size))) ** 0.5


def kaiming_fan_in(key: Array, shape, dtype=jnp.float32) -> Array:
    """Draw from a normal distribution of variance 2 / (c_in of a group · kf · kt)."""
    return jax.random.normal(key, shape, dtype) * (2.0 / math.prod(shape[:-1])) ** 0.5


def uniform(n: int) -> Callable:
    """Return an initialiser that draws between ±1 / √n."""

    def draw(key: Array, shape, dtype=jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -1, 1) * n**-0.5

    return draw


def pytorch_default(key: Array, shape, dtype=jnp.float32) -> Array:
    """Draw a kernel as PyTorch's layers do if nothing is said: between ±1 / √fan_in."""
    return uniform(math.prod(shape[:-1]))(key, shape, dtype)


KERNEL_INITS = {
    "kaiming_fan_out": kaiming_fan_out,
    "kaiming_fan_in": kaiming_fan_in,
    "pytorch": pytorch_default,
}


def kernel_initialiser(name: str) -> Callable:
    """Return the initialiser of that name; an unknown one raises ValueError."""
    if name not in KERNEL_INITS:
        raise ValueError(f"unknown kernel_init {name!r}; known: {', '.join(KERNEL_INITS)}")
    return KERNEL_INITS[name]


def shuffle(x: Array, groups: int = 2) -> Array:
    """Return the channels of equal groups in turn.

    Example:
      >>> shuffle(jnp.arange(6))
      Array([0, 3, 1, 4, 2, 5], dtype=int32)
    """
    return x.reshape(*x.shape[:-1], groups, -1).swapaxes(-1, -2).reshape(x.shape)


class Conv(nn.Module):
    """Convolution without bias.

    Attributes:
      n_channels: of the result.
      size: of the kernel, mel bins and frames.
      strides: likewise.
      groups: as many equal parts of the channels are convolved each by itself.
      padding: zeros before and after mel bins and frames; None: half the kernel.
      kernel_init: how the kernel starts.
    """

    n_channels: int
    size: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    groups: int = 1
    padding: tuple[int, int] | None = None
    kernel_init: Callable = kaiming_fan_out

    @nn.nowrap  # no scope of its own: a layer has one name in the counter and the exporters
    def convolve(self, x: Array) -> Array:
        """Return the convolution of x by the parameter `kernel`."""
        shape = (*self.size, x.shape[-1] // self.groups, self.n_channels)
        kernel = self.param("kernel", self.kernel_init, shape)
        padding = self.padding and [(n, n) for n in self.padding]
        return conv(x, kernel.astype(x.dtype), self.strides, self.groups, padding)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return self.convolve(x)


class BatchNorm(nn.Module):
    """Batch normalisation with PyTorch's running statistics, over the global batch.

    In training, mean and variance are those of the valid clips of all replicas; the running
    variance is the unbiased one (Flax keeps the biased). Statistics are at least float32.

    Attributes:
      axis_name: the replica axis that statistics are taken over, under pmap.
      momentum: weight of the new statistics, as PyTorch counts it.
      epsilon: added to the variance.
    """

    axis_name: str | None = None
    momentum: float = 0.1
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array, train: bool, mask: Array | None = None) -> Array:
        c = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, c)
        bias = self.param("bias", nn.initializers.zeros, c)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, c)
        running_var = self.variable("batch_stats", "var", jnp.ones, c)
        scale, bias, mean, var = (
            v.astype(jnp.promote_types(v.dtype, jnp.float32))
            for v in (scale, bias, running_mean.value, running_var.value)
        )
        if train:
            weight = jnp.ones(x.shape[0], mean.dtype) if mask is None else mask.astype(mean.dtype)
            mean, var, n_values = batch_moments(x, weight, mean, self.axis_name)
            if not self.is_initializing():
                unbiased = unbiased_variance(var, n_values)
                running_mean.value += self.momentum * (mean - running_mean.value)
                running_var.value += self.momentum * (unbiased - running_var.value)
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        if not train:  # one operation less for each value
            mean, bias = jnp.zeros_like(mean), bias - mean * factor
        return affine(x, mean, factor, bias)


def unbiased_variance(var: Array, n_values: Array) -> Array:
    """Return the unbiased variance, from the biased one of `n` values."""
    return var * n_values / jnp.maximum(n_values - 1, 1)


class ConvBn(Conv):
    """Convolution without bias, then batch normalisation; axis_name: as for `BatchNorm`."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool, mask: Array | None = None) -> Array:
        return BatchNorm(self.axis_name, name="norm")(self.convolve(x), train, mask)


class BiasedConv(Conv):
    """Convolution, then a bias for each channel."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = self.convolve(x)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return x + bias.astype(x.dtype)[None, None, None]


class BranchedDepthwise(nn.Module):
    """Add up depthwise filters of several shapes, each with its normalisation, by learned weights.

    The weights are softplus(alpha), one for each of `BRANCHES`. In evaluation the sum is one 3×3
    filter with a bias, which `fuse_branches` makes of it.

    Attributes:
      strides: of all filters.
      axis_name: as for `BatchNorm`.

    Source: X. Ding et al.: "RepVGG: making VGG-style ConvNets great again", CVPR 2021; these
      branches and weights are those of team Chang_HYU, DCASE 2025 Task 1.
    """

    strides: tuple[int, int] = (1, 1)
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool, mask: Array | None = None) -> Array:
        n = x.shape[-1]
        weights = nn.softplus(self.param("alpha", nn.initializers.ones, (len(BRANCHES),)))
        total = 0
        for weight, (name, size) in zip(weights.astype(x.dtype), BRANCHES.items(), strict=True):
            filtered = ConvBn(n, size, self.strides, n, axis_name=self.axis_name, name=name)
            total += weight * filtered(x, train, mask)
        return total


BRANCHES = {"3x3": (3, 3), "1x1": (1, 1), "1x3": (1, 3), "3x1": (3, 1)}  # mel bins × frames


def fuse_branches(params: Params, batch_stats: Params) -> Params:
    """Return the parameters of the `BiasedConv` that computes what a `BranchedDepthwise` does.

    Args:
      params, batch_stats: of a `BranchedDepthwise`, in evaluation.

    Returns:
      `kernel [3, 3, 1, c]` and `bias [c]`, computed in float64, of the dtype of `params`.
    """
    kernel, bias = 0.0, 0.0
    wide, stats = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, batch_stats))
    for alpha, (name, size) in zip(wide["alpha"], BRANCHES.items(), strict=True):
        norm, running = wide[name]["norm"], stats[name]["norm"]
        factor = norm["scale"] / np.sqrt(running["var"] + BatchNorm.epsilon)
        weight = np.logaddexp(0, alpha)  # softplus
        around = [((3 - n) // 2,) * 2 for n in size]
        kernel += weight * factor * np.pad(wide[name]["kernel"], [*around, (0, 0), (0, 0)])
        bias += weight * (norm["bias"] - running["mean"] * factor)
    dtype = params["alpha"].dtype
    return {"kernel": jnp.asarray(kernel, dtype), "bias": jnp.asarray(bias, dtype)}


DEPTHWISE = ("batch_norm", "branches", "fused")


class InvertedResidual(nn.Module):
    """Expand (1×1), filter (depthwise 3×3), project (1×1), add the shortcut, activate.

    The shortcut exists where input and output have as many channels; with a stride it is a
    3×3 average pool.

    Attributes:
      n_channels: of the result.
      expansion: channels inside over those of the input.
      strides: of the depthwise filter.
      act: the activation.
      grn: whether global response normalisation comes before the last activation.
      axis_name: as for `BatchNorm`.
      depthwise: what the filter is: "batch_norm", a convolution with batch normalisation;
        "branches", a `BranchedDepthwise`; "fused", the convolution with a bias that it becomes.
    """

    n_channels: int
    expansion: float
    strides: tuple[int, int] = (1, 1)
    act: Callable = nn.relu
    grn: bool = False
    axis_name: str | None = None
    depthwise: str = "batch_norm"

    @nn.compact
    def __call__(self, x: Array, train: bool, mask: Array | None = None) -> Array:
        expect("depthwise", self.depthwise, self.depthwise in DEPTHWISE, " or ".join(DEPTHWISE))
        n = make_divisible(x.shape[-1] * self.expansion)

        def conv_bn(name, *args, **kwargs):
            return ConvBn(*args, **kwargs, axis_name=self.axis_name, name=name)

        y = self.act(conv_bn("expand", n, (1, 1))(x, train, mask))
        if self.depthwise == "branches":
            y = BranchedDepthwise(self.strides, self.axis_name, name="depthwise")(y, train, mask)
        elif self.depthwise == "fused":
            y = BiasedConv(n, (3, 3), self.strides, n, name="depthwise")(y)
        else:
            y = conv_bn("depthwise", n, (3, 3), self.strides, groups=n)(y, train, mask)
        y = self.act(y)
        y = conv_bn("project", self.n_channels, (1, 1))(y, train, mask)
        if x.shape[-1] == self.n_channels:
            strided = self.strides != (1, 1)
            y = y + (avg_pool(x, (3, 3), self.strides, ((1, 1), (1, 1))) if strided else x)
        if self.grn:
            y = GlobalResponseNorm(name="grn")(y)
        return self.act(y)


class GlobalResponseNorm(nn.Module):
    """x + γ · x · n + β, n = each channel's norm over its mean over channels; γ, β are scalars.

    At first both are 0, and it is the identity.

    Source: CP-Mobile (Schmid et al. 2023, see `cp_mobile`), after ConvNeXt V2 (Woo et al. 2023).
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        gamma, beta = (
            self.param(name, nn.initializers.zeros, (1,)).astype(x.dtype)[0]
            for name in ("gamma", "beta")
        )
        return response_norm(x, gamma, beta)


@jax.jit
def response_norm(x: Array, gamma: Array, beta: Array) -> Array:
    """Return what `GlobalResponseNorm` computes; exporters know it by its name in the program."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))  # float16 ends at 65,504
    square = jnp.sum(wide * wide, axis=(1, 2), keepdims=True)
    # sqrt has no slope at 0, where a channel is silent: its gradient there is set to 0.
    norm = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    ratio = (norm / (jnp.mean(norm, axis=-1, keepdims=True) + 1e-6)).astype(x.dtype)
    return x + gamma * (x * ratio) + beta
