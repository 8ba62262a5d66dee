"""Number formats of pytrees: casting, and what a tree weighs."""

import collections
import functools

import jax
import jax.numpy as jnp

from asc_jax.errors import UserError
from asc_jax.types import Params

STORED_DTYPES = ("float16", "bfloat16", "float32")


def cast(tree: Params, dtype: str) -> Params:
    """A new tree with every floating leaf in `dtype`; the given one is untouched.

    Args:
      tree: pytree of arrays.
      dtype: "float16", "bfloat16" or "float32".

    Returns:
      The same structure; integer leaves as they were.

    Raises:
      UserError: unknown dtype, or a finite value overflows it (the leaf is named).
    """
    if dtype not in STORED_DTYPES:
        raise UserError(f"unknown dtype {dtype!r}; known: {', '.join(STORED_DTYPES)}")

    def cast_leaf(path, leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        smaller = jnp.asarray(leaf).astype(dtype)
        if bool(jnp.any(jnp.isfinite(leaf) & ~jnp.isfinite(smaller))):
            largest = float(jnp.max(jnp.abs(leaf)))
            raise UserError(
                f"{jax.tree_util.keystr(path)} holds {largest:g}, more than {dtype} can "
                f"({float(jnp.finfo(dtype).max):g}); store it as bfloat16 or float32"
            )
        return smaller

    return jax.tree_util.tree_map_with_path(cast_leaf, tree)


def tree_bytes(tree: Params, dtype: str | None = None) -> dict[str, int]:
    """Bytes of a pytree by dtype, from shapes alone.

    Args:
      tree: pytree of arrays or `ShapeDtypeStruct`s.
      dtype: count floating leaves as if stored in this dtype.

    Returns:
      `{dtype name: bytes}`, plus `"total"`.

    Example:
      >>> tree_bytes({"kernel": jnp.zeros((3, 3))}, "float16")
      {'float16': 18, 'total': 18}
    """
    sizes: collections.Counter = collections.Counter()
    for leaf in jax.tree.leaves(tree):
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        stored = jnp.dtype(dtype) if dtype and floating else jnp.dtype(leaf.dtype)
        sizes[stored.name] += leaf.size * stored.itemsize
    return {**dict(sorted(sizes.items())), "total": sum(sizes.values())}


def n_params(tree: Params) -> int:
    """Number of values in a pytree."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def n_folded(variables: Params) -> int:
    """Number of values once every BatchNorm is folded into the convolution before it.

    A kernel absorbs the scale; of a BatchNorm one bias per channel is left. The convolution
    itself has no bias, as everywhere here. CPMobile: 61,148 − 1,354 scales = 59,794.

    Args:
      variables: `{"params", "batch_stats"}`; a module with a running mean is a BatchNorm.
    """
    total = n_params(variables["params"])
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["batch_stats"]):
        *names, last = (entry.key for entry in path)
        if last != "mean":
            continue
        norm = functools.reduce(lambda tree, name: tree.get(name, {}), names, variables["params"])
        total += leaf.size - n_params(norm)
    return total
