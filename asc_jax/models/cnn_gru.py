"""Define the CNN-GRU of 2025: separable convolutions, then a recurrent layer over channels."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from asc_jax.errors import expect
from asc_jax.models.kernels.compiler import EXACT, channels
from asc_jax.models.kernels.pool import avg_pool, max_pool
from asc_jax.models.layers import ConvBn, kernel_initialiser, pytorch_default, shuffle, uniform
from asc_jax.types import Array

DIVISOR = 5  # of the channels of the first convolution and of those that the GRU reads
POOL = (2, 2), (2, 2)


class CNNGRU(nn.Module):
    """Log-mel spectrogram → logits.

    Four convolutions, then two branches, one of maxima and one of means, which are mixed again;
    three more convolutions to a few maps, of which each, averaged over the frames, is one step of
    the sequence that a GRU reads; and a dense layer of one value for each map.

    Attributes:
      width: channels of the first branch point, a multiple of 4; all others follow from it.
      hidden: size of the GRU's state.
      dropout: probability that a map is set to 0 in training, before the last convolution.
      step_dropout: probability that a step of the GRU's result is.
      n_classes: number of scenes.
      kernel_init: how kernels start, one of `layers.KERNEL_INITS`.
      dtype: arithmetic of the convolutions; None follows the input.
      axis_name: replica axis over which batch statistics are taken, under pmap.

    Source: the CNN-GRU of team Tan_SNTLNTU, DCASE 2025 Task 1 (joesephgit/DCASE2025), written from
      its description and checked against its arrays.

    Example:
      >>> model = CNNGRU()
      >>> variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 256, 33, 1)))
      >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
      58171
    """

    width: int = 24
    hidden: int = 64
    dropout: float = 0.3
    step_dropout: float = 0.5
    n_classes: int = 10
    kernel_init: str = "pytorch"
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
        expect("hidden", self.hidden, self.hidden >= 1, "at least 1")
        for name in ("dropout", "step_dropout"):
            expect(name, getattr(self, name), 0 <= getattr(self, name) < 1, "in [0, 1)")
        init = kernel_initialiser(self.kernel_init)
        made = functools.partial(ConvBn, axis_name=self.axis_name, kernel_init=init)

        def conv_bn(name, x, *args, **kwargs):
            return made(*args, **kwargs, name=name)(x, train, mask)

        def number(name):
            return self.param(name, nn.initializers.constant(0.5), ()).astype(x.dtype)

        n = self.width
        inside, last = 3 * n // 2, 6 * n
        x = log_mel if self.dtype is None else log_mel.astype(self.dtype)
        x = conv_bn("stem1", x, max(inside // DIVISOR, 1))
        x = shuffle(conv_bn("stem2", x, n // 2, (1, 1)), n // 4)
        x = conv_bn("stem_freq", x, n, (3, 1), groups=n // 2)
        x = nn.silu(conv_bn("stem_time", x, n, (1, 3), groups=n // 2))
        x = SqueezeExcite(init, name="stem_se")(x)
        branch = functools.partial(Branch, inside, made)
        of_max = branch(name="max")(max_pool(x, *POOL), train, mask)
        of_mean = branch(name="mean")(avg_pool(x, *POOL), train, mask)
        means = mix(number("mix_means"), avg_pool(of_mean, *POOL), avg_pool(of_max, *POOL))
        maxima = mix(number("mix_maxima"), max_pool(of_max, *POOL), max_pool(of_mean, *POOL))
        x = mix(number("mix_both"), means, maxima)
        x = shuffle(x + conv_bn("merge", x, x.shape[-1], (1, 1)), inside)
        x = conv_bn("last_freq", x, last, (5, 1), (2, 1), groups=x.shape[-1])
        drop = functools.partial(nn.Dropout, deterministic=not train)
        x = drop(self.dropout, broadcast_dims=(1, 2))(nn.silu(x))  # whole maps
        x = nn.silu(conv_bn("maps", x, max(last // DIVISOR, 1), (5, 1)))

        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        x = jnp.mean(x, axis=2).swapaxes(1, 2)  # [b, map, mel bin]
        states = GRU(self.hidden, name="gru")(x)
        states = drop(self.step_dropout, broadcast_dims=(2,))(states)
        x = mix(number("mix_gru"), jnp.mean(x, axis=-1), jnp.mean(states, axis=-1))
        return dense(self.n_classes, init, x.shape[-1], "head")(nn.silu(x))


def mix(share: Array, x: Array, y: Array) -> Array:
    """Return the share of x, and for the rest y."""
    return share * x + (1 - share) * y


def dense(n_out: int, init: Callable, n_in: int, name: str) -> nn.Dense:
    """Return a dense layer whose bias starts as PyTorch's where the kernels do."""
    bias_init = uniform(n_in) if init is pytorch_default else nn.initializers.zeros
    return nn.Dense(n_out, kernel_init=init, bias_init=bias_init, name=name, precision=EXACT)


class Branch(nn.Module):
    """Widen (1×1), filter over mel bins and, at stride 2, over frames, weight the channels.

    Attributes:
      inside: channels after the first convolution; the result has twice as many.
      conv_bn: what makes the convolutions, `ConvBn` with some of its attributes.
    """

    inside: int
    conv_bn: functools.partial

    @nn.compact
    def __call__(self, x: Array, train: bool, mask: Array | None = None) -> Array:
        n = 2 * self.inside
        x = self.conv_bn(self.inside, (1, 1), name="expand")(x, train, mask)
        x = self.conv_bn(n, (5, 1), groups=self.inside, name="freq")(x, train, mask)
        x = self.conv_bn(n, (1, 5), (2, 2), groups=n, name="time")(x, train, mask)
        return SqueezeExcite(self.conv_bn.keywords["kernel_init"], name="se")(nn.silu(x))


class SqueezeExcite(nn.Module):
    """Weight each channel by a function of the means of all channels of the clip.

    Attributes:
      kernel_init: how the kernels start.
    """

    kernel_init: Callable

    @nn.compact
    def __call__(self, x: Array) -> Array:
        n = x.shape[-1]
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        weight = jnp.mean(wide, axis=(1, 2), keepdims=True)
        weight = nn.relu(dense(n // 2, self.kernel_init, n, "squeeze")(weight))
        weight = nn.sigmoid(dense(n, self.kernel_init, n // 2, "excite")(weight))
        return x * weight.astype(x.dtype)


class GRU(nn.Module):
    """Return the state after each step: `x [b, n_steps, c]` → `[b, n_steps, n_hidden]`.

    As PyTorch defines it: two biases, and the reset gate multiplies the hidden state's product.
    The columns of the kernels are those of the reset gate, the update gate and the new state.

    Attributes:
      n_hidden: size of the state, which is 0 before the first step.
    """

    n_hidden: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        n, init = self.n_hidden, uniform(self.n_hidden)
        shapes = {"in": (x.shape[-1], 3 * n), "hidden": (n, 3 * n)}
        kernels = {name: self.param(f"{name}_kernel", init, s) for name, s in shapes.items()}
        biases = {name: self.param(f"{name}_bias", init, s[1:]) for name, s in shapes.items()}
        kernels, biases = jax.tree.map(lambda leaf: leaf.astype(x.dtype), (kernels, biases))

        def product(name, y):
            z = jnp.dot(y, kernels[name], precision=EXACT)
            return z + channels(biases[name], z)

        def step(state, of_input):
            of_state = product("hidden", state)
            gates = nn.sigmoid(of_input[:, : 2 * n] + of_state[:, : 2 * n])
            reset, update = gates[:, :n], gates[:, n:]
            new = jnp.tanh(of_input[:, 2 * n :] + reset * of_state[:, 2 * n :])
            state = (1 - update) * new + update * state
            return state, state

        start = jnp.zeros((x.shape[0], n), x.dtype)
        return jax.lax.scan(step, start, product("in", x).swapaxes(0, 1))[1].swapaxes(0, 1)
