"""Apply a function to each clip by itself."""

from collections.abc import Callable

import jax


def clip_by_clip(fn: Callable, *arrays: jax.Array) -> jax.Array:
    """Return `fn` of every clip: all together, but on a CPU one after the other.

    On a CPU the intermediate values of `fn` then stay in the cache.

    Args:
      fn: arrays of one clip → an array.
      *arrays: `[b, …]` each, b ≥ 1.

    Returns:
      `[b, …]`.

    Example:
      >>> clips, gains = jax.numpy.ones((2, 3)), jax.numpy.arange(2.0)
      >>> clip_by_clip(lambda clip, gain: gain * clip, clips, gains)
      Array([[0., 0., 0.],
             [1., 1., 1.]], dtype=float32)
    """
    if arrays[0].shape[0] == 1:
        return fn(*(array[0] for array in arrays))[None]
    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda clip: fn(*clip), arrays)
    return jax.vmap(fn)(*arrays)
