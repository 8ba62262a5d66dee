"""What the network is built of: batch normalisation, convolution blocks, residual blocks."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from asc_jax.models import ops
from asc_jax.types import Array

BATCH_NORM_EPS = 1e-5
BATCH_NORM_MOMENTUM = 0.1  # share of the new statistics, as PyTorch counts it
ACTIVATIONS = {
    "relu": nn.relu,
    "relu6": nn.relu6,
    "hard_swish": nn.hard_swish,
    "silu": nn.silu,
    "gelu": nn.gelu,
}


def make_divisible(n_channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, never below it nor more than a tenth less.

    Source: MobileNetV2's rule for channel counts.

    Example:
      >>> [make_divisible(n) for n in (57.6, 103.68, 67.2, 117.6)]
      [56, 104, 64, 120]
    """
    rounded = max(divisor, int(n_channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * n_channels else rounded


def kaiming_fan_out(key: Array, shape, dtype=jnp.float32) -> Array:
    """Normal with variance 2 / (c_out · kf · kt), groups ignored: PyTorch's fan_out mode."""
    kf, kt, _, c_out = shape
    return jax.random.normal(key, shape, dtype) * (2.0 / (c_out * kf * kt)) ** 0.5


class BatchNorm(nn.Module):
    """Batch normalisation with PyTorch's running statistics, over the global batch.

    In training, mean and variance are those of the valid clips of all replicas; the running
    variance is the unbiased one (Flax keeps the biased). Statistics are at least float32.
    """

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, mask: Array | None = None) -> Array:
        """`x [b, f, t, c]`, `mask [b]` (False: not counted) → same shape and dtype."""
        n_channels = x.shape[-1]
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (n_channels,))
        bias = self.param("bias", nn.initializers.zeros, (n_channels,))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (n_channels,))
        var = self.variable("batch_stats", "var", jnp.ones, (n_channels,))
        if not train:
            factor = scale.astype(dtype) * jax.lax.rsqrt(var.value.astype(dtype) + BATCH_NORM_EPS)
            shift = bias - mean.value * factor
            return x * _channels(factor, x) + _channels(shift, x)
        mask = jnp.ones(x.shape[0], dtype) if mask is None else mask.astype(dtype)
        y, batch_mean, batch_var, count = _batch_norm(
            x, scale, bias, mask, mean.value, self.axis_name
        )
        if not self.is_initializing():
            unbiased = batch_var * count / jnp.maximum(count - 1, 1)
            mean.value += BATCH_NORM_MOMENTUM * (batch_mean - mean.value)
            var.value += BATCH_NORM_MOMENTUM * (unbiased - var.value)
        return y


def _channels(vector: Array, like: Array) -> Array:
    """`[c]` → `[1, 1, 1, c]` in the dtype of `like`."""
    return vector.astype(like.dtype)[None, None, None]


def _psum(value, axis_name):
    return value if axis_name is None else jax.lax.psum(value, axis_name)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _batch_norm(x, scale, bias, mask, shift, axis_name):
    return _batch_norm_forward(x, scale, bias, mask, shift, axis_name)[0]


def _batch_norm_forward(x, scale, bias, mask, shift, axis_name):
    """One pass over `x`: sums of d and d² around `shift`, which may be anything near the mean.

    The running mean serves: it is the same on every replica, and subtracting it first keeps
    the digits that E[x²] − E[x]² would lose.
    """
    weight = mask[:, None, None, None]
    count = _psum(jnp.sum(mask), axis_name) * (x.shape[1] * x.shape[2])
    d = (x.astype(weight.dtype) - _channels(shift, weight)) * weight
    sums = _psum(jnp.stack([jnp.sum(d, (0, 1, 2)), jnp.sum(d * d, (0, 1, 2))]), axis_name)
    offset, square = sums / count
    mean, var = shift + offset, jnp.maximum(square - offset * offset, 0)
    inverse = jax.lax.rsqrt(var + BATCH_NORM_EPS)
    factor = inverse * scale
    y = x * _channels(factor, x) + _channels(bias - mean * factor, x)
    return (y, mean, var, count), (x, scale, mask, mean, inverse, count)


def _batch_norm_backward(axis_name, residuals, cotangents):
    """Gradient of `y` alone: the statistics returned beside it only feed running averages.

    The gradients of scale and bias are this replica's share (the step adds the replicas'
    gradients up); that of x needs the sums over all replicas.
    """
    x, scale, mask, mean, inverse, count = residuals
    dtype = mean.dtype
    dy = jax.lax.optimization_barrier(cotangents[0]).astype(dtype)
    normalised = (x.astype(dtype) - _channels(mean, mean)) * _channels(inverse, inverse)
    local = jnp.stack([jnp.sum(dy, (0, 1, 2)), jnp.sum(dy * normalised, (0, 1, 2))])
    dbias, dscale = _psum(local, axis_name) / count
    weight = mask[:, None, None, None]
    dx = dy - weight * (_channels(dbias, mean) + normalised * _channels(dscale, mean))
    dx = dx * _channels(inverse * scale, mean)
    return (
        dx.astype(x.dtype),
        local[1].astype(scale.dtype),
        local[0].astype(scale.dtype),
        jnp.zeros_like(mask),
        jnp.zeros_like(mean),
    )


_batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


class ConvBn(nn.Module):
    """Convolution without bias, batch normalisation, and an activation unless it is None.

    `kind` is "conv3x3", "pointwise" or "depthwise". `folded`: for evaluation, a bias stands in
    for the normalisation (see `models.folding`).
    """

    kind: str
    n_channels: int
    strides: tuple[int, int] = (1, 1)
    activation: str | None = "relu"
    axis_name: str | None = None
    body: str = "auto"
    folded: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool, mask: Array | None = None) -> Array:
        size = 1 if self.kind == "pointwise" else 3
        c_in = 1 if self.kind == "depthwise" else x.shape[-1]
        kernel = self.param("kernel", kaiming_fan_out, (size, size, c_in, self.n_channels))
        kernel = kernel.astype(x.dtype)
        if self.kind == "pointwise":
            x = ops.pointwise_conv(x, kernel, body=self.body)
        elif self.kind == "depthwise":
            x = ops.depthwise_conv(x, kernel, strides=self.strides, body=self.body)
        elif self.kind == "conv3x3":
            x = ops.conv3x3(x, kernel, strides=self.strides, body=self.body)
        else:
            raise ValueError(f"unknown kind {self.kind!r}; known: conv3x3, pointwise, depthwise")
        if self.folded:
            x = x + _channels(self.param("bias", nn.initializers.zeros, x.shape[-1:]), x)
        else:
            x = BatchNorm(axis_name=self.axis_name, name="norm")(x, train=train, mask=mask)
        return x if self.activation is None else activate(self.activation, x)


def activate(name: str, x: Array) -> Array:
    """Apply the activation called `name`; an unknown name raises ValueError."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name](x)


class GlobalResponseNorm(nn.Module):
    """x + γ · x · n + β, n = each channel's norm over its mean over channels; γ, β scalars.

    Source: CP-Mobile (Schmid et al. 2023), after ConvNeXt V2 (Woo et al. 2023).
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        gamma = self.param("gamma", nn.initializers.zeros, (1,)).astype(x.dtype)[0]
        beta = self.param("beta", nn.initializers.zeros, (1,)).astype(x.dtype)[0]
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))  # float16 ends at 65,504
        square = jnp.sum(wide * wide, axis=(1, 2), keepdims=True)
        # sqrt has no slope at 0, where a channel is silent: its gradient there is set to 0.
        norm = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
        ratio = (norm / (jnp.mean(norm, axis=-1, keepdims=True) + 1e-6)).astype(x.dtype)
        return x + gamma * (x * ratio) + beta


class InvertedResidual(nn.Module):
    """Expand (1×1), filter (depthwise 3×3), project (1×1), add the shortcut, activate.

    The shortcut exists where input and output have as many channels; with a stride it is a
    3×3 average pool.
    """

    n_channels: int
    expansion: float
    strides: tuple[int, int] = (1, 1)
    grn: bool = False
    activation: str = "relu"
    axis_name: str | None = None
    body: str = "auto"
    folded: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool, mask: Array | None = None) -> Array:
        c_in = x.shape[-1]
        n_expanded = make_divisible(c_in * self.expansion)
        conv = functools.partial(
            ConvBn, axis_name=self.axis_name, body=self.body, folded=self.folded
        )
        rest = {"train": train, "mask": mask}
        y = conv("pointwise", n_expanded, activation=self.activation, name="expand")(x, **rest)
        y = conv(
            "depthwise",
            n_expanded,
            strides=self.strides,
            activation=self.activation,
            name="depthwise",
        )(y, **rest)
        y = conv("pointwise", self.n_channels, activation=None, name="project")(y, **rest)
        if c_in == self.n_channels:
            strided = self.strides != (1, 1)
            y = y + (ops.avg_pool3x3(x, strides=self.strides) if strided else x)
        if self.grn:
            y = GlobalResponseNorm(name="grn")(y)
        return activate(self.activation, y)
