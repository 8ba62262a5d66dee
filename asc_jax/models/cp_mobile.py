"""Define CP-Mobile: without its normalisation extras the baseline's network, 61,148 parameters."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from asc_jax.errors import expect
from asc_jax.models.layers import (
    ConvBn,
    InvertedResidual,
    activation,
    fuse_branches,
    make_divisible,
)
from asc_jax.types import Array, Params

STAGES = (0, 0, 0, 1, 1, 2)  # of the blocks
# Strides of the blocks, over mel bins and frames: the baseline's.
STRIDES = ((1, 1), (1, 1), (1, 2), (2, 1), (1, 1), (1, 1))


class CPMobile(nn.Module):
    """Log-mel spectrogram → logits.

    Two strided convolutions, six inverted residual blocks b1 … b6, a 1×1 convolution to one
    map per class, and the mean over each map.

    Attributes:
      width: channels of the first stage (rounded to a multiple of 8).
      width_multiplier: growth of the channels per stage.
      expansion: width of a block's inside over its input.
      n_classes: number of scenes.
      grn: add CP-Mobile's global response normalisation to every block (+ 12 parameters).
      strides: of the blocks, over mel bins and frames: six pairs.
      activation: "relu", "relu6", "hard_swish", "silu" or "gelu".
      depthwise: the blocks' filters, see `InvertedResidual`: "batch_norm"; "branches", of several
        shapes in training, which is deployed as "fused"; or "fused".
      dtype: arithmetic of the convolutions; None follows the input.
      axis_name: replica axis over which batch statistics are taken, under pmap.

    Source: CP-Mobile (F. Schmid, T. Morocutti, S. Masoudian, K. Koutini, G. Widmer: "Distilling the
      knowledge of transformers and CNNs with CP-Mobile", DCASE 2023 Workshop) as simplified by the
      official baseline. That the report's system is this network is an assumption: it publishes
      no architecture, but 29.43 million MACs, which this network has at 68 frames.

    Example:
      >>> import jax
      >>> model = CPMobile()
      >>> variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 256, 68, 1)))
      >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
      61148
    """

    width: int = 32
    width_multiplier: float = 1.8
    expansion: float = 2.1
    n_classes: int = 10
    grn: bool = False
    strides: tuple[tuple[int, int], ...] = STRIDES
    activation: str = "relu"
    depthwise: str = "batch_norm"
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
        expect("width", self.width, self.width >= 1, "at least 1")
        for name in ("width_multiplier", "expansion"):
            value = getattr(self, name)
            expect(name, value, 0 < value <= 64, "above 0 and at most 64")
        expect("strides", self.strides, _are_strides(self.strides), "six pairs of whole numbers")
        act, axis = activation(self.activation), self.axis_name
        width = make_divisible(self.width)

        x = log_mel if self.dtype is None else log_mel.astype(self.dtype)
        for name, n in (("stem1", width // 4), ("stem2", width)):
            x = act(ConvBn(n, (3, 3), (2, 2), axis_name=axis, name=name)(x, train, mask))
        for number, (stage, strides) in enumerate(zip(STAGES, self.strides, strict=True), 1):
            n = make_divisible(width * self.width_multiplier**stage)
            block = InvertedResidual(
                *(n, self.expansion, tuple(strides), act, self.grn, axis, self.depthwise),
                name=f"b{number}",
            )
            x = block(x, train, mask)
        x = ConvBn(self.n_classes, (1, 1), axis_name=axis, name="head")(x, train, mask)
        return jnp.mean(x.astype(jnp.promote_types(x.dtype, jnp.float32)), axis=(1, 2))

    def deployed(self) -> tuple[dict, Callable[[Params], Params]]:
        """Return the attributes to change, and how to make the variables, for deployment.

        See `from_config.deployed`.
        """
        return ({"depthwise": "fused"}, _fused) if self.depthwise == "branches" else ({}, dict)


def _fused(variables: Params) -> Params:
    """Return the variables of the network with fused filters, of those with branches."""
    params, batch_stats = ({**variables[name]} for name in ("params", "batch_stats"))
    for block in (f"b{number}" for number in range(1, len(STAGES) + 1)):
        layers, statistics = {**params[block]}, {**batch_stats[block]}
        layers["depthwise"] = fuse_branches(layers["depthwise"], statistics.pop("depthwise"))
        params[block], batch_stats[block] = layers, statistics
    return {**variables, "params": params, "batch_stats": batch_stats}


def _are_strides(strides) -> bool:
    """Return whether they are a pair of small whole numbers for each block."""
    pairs = isinstance(strides, tuple) and all(isinstance(pair, tuple) for pair in strides)
    return (
        pairs
        and [len(pair) for pair in strides] == [2] * len(STAGES)
        and all(type(n) is int and 1 <= n <= 8 for pair in strides for n in pair)
    )
