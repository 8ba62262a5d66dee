"""The building blocks of the network: convolution blocks and residual blocks."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from asc_jax.models.kernels import chunks, compiler, convolution
from asc_jax.models.normalisation import (
    Affine,
    BatchNorm,
    GlobalResponseNorm,
    response_norm,
    scale_shift,
)
from asc_jax.types import Array

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


class Pending(NamedTuple):
    """An activation not computed yet: the layer that takes it computes it as it goes along.

    `activation(affine(x) + pool(shortcut))`, response normalisation before the activation.
    Reading and writing it once less is what makes the network fast where memory is slow, and a
    compiler for accelerators fuses it in any case.
    """

    x: Array
    affine: Affine | None = None
    shortcut: Array | None = None
    strides: tuple[int, int] = (1, 1)  # of the shortcut's pool
    response: tuple[Array, Array] | None = None
    activation: str | None = None

    def compute(self) -> Array:
        """The activation, `[b, f, t, c]`, in the dtype of `x`."""
        y = self.x if self.affine is None else scale_shift(self.x, self.affine)
        if self.shortcut is not None:
            strided = self.strides != (1, 1)
            pooled = convolution.avg_pool3x3(self.shortcut, strides=self.strides)
            y = y + (pooled if strided else self.shortcut)
        if self.response is not None:
            y = response_norm(y, *self.response)
        return y if self.activation is None else activate(self.activation, y)


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
    def __call__(
        self, inputs: Pending, *, train: bool, mask: Array, keep: bool = False
    ) -> tuple[Pending, Array | None]:
        """`inputs` of `[b, f, t, c_in]`, `mask [b]` (False: not counted).

        Returns:
          The result, its normalisation and activation pending; and `inputs`, computed, if they
          are to be kept.
        """
        if self.kind not in CONVOLUTIONS:
            raise ValueError(f"unknown kind {self.kind!r}; known: {', '.join(CONVOLUTIONS)}")
        size = 1 if self.kind == "pointwise" else 3
        c_in = 1 if self.kind == "depthwise" else inputs.x.shape[-1]
        kernel = self.param("kernel", kaiming_fan_out, (size, size, c_in, self.n_channels))
        options = {} if self.kind == "pointwise" else {"strides": self.strides}
        conv = functools.partial(CONVOLUTIONS[self.kind], body=self.body, **options)
        static = inputs._replace(x=None, affine=None, shortcut=None, response=None)
        fn = functools.partial(_convolve, conv, static, keep)
        clips = inputs.x, inputs.shortcut
        shared = inputs.affine, inputs.response, kernel
        if not train:
            y, computed = fn(clips, shared)
            return Pending(y, self._running(y), activation=self.activation), computed
        norm = BatchNorm(self.n_channels, name="norm")
        shift = jax.lax.stop_gradient(norm.shift())
        weight = mask.astype(shift.dtype)
        max_clips = chunks.CPU_CLIPS if compiler.on_cpu() and self.body != "lax" else None
        scratch = self.get_variable("scratch", "results", ())
        results, *moments = chunks.layer(
            fn, max_clips, self.axis_name, clips, shared, weight, shift, scratch
        )
        self._keep_scratch(results)
        y, computed = results
        return Pending(y, norm(*moments), activation=self.activation), computed

    def _keep_scratch(self, results) -> None:
        """Keep the results of a layer of several chunks for the next step to write over."""
        # `init` asks for all collections, but nobody wants this one in the parameters' company.
        asked = self.is_mutable_collection("scratch") and not self.is_initializing()
        leaves = jax.tree.leaves(jax.lax.stop_gradient(results))
        if asked and compiler.on_cpu() and chunks.are_several(len(leaves[0]), chunks.CPU_CLIPS):
            self.put_variable("scratch", "results", tuple(leaves))

    def _running(self, y: Array) -> Affine:
        if self.folded:
            return Affine(None, None, self.param("bias", nn.initializers.zeros, y.shape[-1:]))
        return BatchNorm(self.n_channels, name="norm").running()


CONVOLUTIONS = {
    "conv3x3": convolution.conv3x3,
    "pointwise": convolution.pointwise_conv,
    "depthwise": convolution.depthwise_conv,
}


def _convolve(conv, static: Pending, keep: bool, clips, shared) -> tuple[Array, Array | None]:
    """A convolution of an activation pending, and that activation if it is to be kept."""
    (x, shortcut), (affine, response, kernel) = clips, shared
    inputs = static._replace(x=x, affine=affine, shortcut=shortcut, response=response)
    computed = compiler.barrier(inputs.compute())
    # Cast here, so that the chunks' gradients are added up in the dtype of the parameters.
    return conv(computed, kernel.astype(x.dtype)), computed if keep else None


def activate(name: str, x: Array) -> Array:
    """Apply the activation called `name`; an unknown name raises ValueError."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name](x)


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
    def __call__(self, inputs: Pending, *, train: bool, mask: Array) -> Pending:
        c_in = inputs.x.shape[-1]
        n_expanded = make_divisible(c_in * self.expansion)
        conv = functools.partial(
            ConvBn, axis_name=self.axis_name, body=self.body, folded=self.folded
        )
        rest = {"train": train, "mask": mask}
        expand = conv("pointwise", n_expanded, activation=self.activation, name="expand")
        depthwise = conv(
            "depthwise",
            n_expanded,
            strides=self.strides,
            activation=self.activation,
            name="depthwise",
        )
        y, shortcut = expand(inputs, keep=c_in == self.n_channels, **rest)
        y, _ = depthwise(y, **rest)
        y, _ = conv("pointwise", self.n_channels, name="project")(y, **rest)
        return y._replace(
            shortcut=shortcut,
            strides=self.strides,
            response=GlobalResponseNorm(name="grn")() if self.grn else None,
            activation=self.activation,
        )
