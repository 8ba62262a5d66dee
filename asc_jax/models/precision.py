"""Storage dtypes of pytrees: casting, and the bytes of a tree."""

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from asc_jax.errors import UserError
from asc_jax.types import Params

STORED_DTYPES = ("float32", "bfloat16", "float16")
INT8 = "int8"  # computed in integers, BatchNorm folded: `asc_jax.operations.program`
DEPLOYED_FORMS = (*STORED_DTYPES, INT8)


@dataclasses.dataclass(frozen=True)
class Rounding:
    """The effect of a cast on one leaf.

    leaf: its path. max_relative: largest |rounded − value| / |value|; a value that became zero
    has 1. n_subnormal: values that became subnormal numbers, which have fewer digits. n_zero:
    values that became zero.
    """

    leaf: str
    max_relative: float
    n_subnormal: int
    n_zero: int


def cast(tree: Params, dtype: str) -> Params:
    """A new tree with every floating leaf in `dtype`; the given one is untouched.

    Args:
      tree: pytree of arrays.
      dtype: "float16", "bfloat16" or "float32".

    Returns:
      The same structure; integer leaves as they were.

    Raises:
      UserError: unknown dtype, or a finite value overflows it (the leaf is named).

    `rounding` reports what the cast cost.
    """
    if dtype == INT8:
        raise UserError(
            "int8 is computed in integers, which asc-jax eval and convert --dtype int8 do: here "
            f"parameters are stored as {', '.join(STORED_DTYPES)} (--stored float32)"
        )
    if dtype not in STORED_DTYPES:
        raise UserError(f"unknown dtype {dtype!r}; known: {', '.join(STORED_DTYPES)}")

    def cast_leaf(path, leaf):
        values = np.asarray(leaf)  # numpy: float64 stays float64 until it is checked
        if not jnp.issubdtype(values.dtype, jnp.floating):
            return leaf
        with np.errstate(over="ignore"):
            smaller = values.astype(jnp.dtype(dtype))
        finite = np.isfinite(values)
        if np.any(finite & ~np.isfinite(smaller)):
            largest = float(np.max(np.abs(values[finite])))
            raise UserError(
                f"{_name(path)} holds {largest:g}, more than {dtype} can "
                f"({float(jnp.finfo(dtype).max):g}); store it as bfloat16 or float32"
            )
        return jnp.asarray(smaller)

    return jax.tree_util.tree_map_with_path(cast_leaf, tree)


def deployed(variables: Params, dtype: str) -> Params:
    """Return variables rounded to what `dtype` can store, in the dtypes they are computed with.

    Raises:
      UserError: a value overflows.
    """
    rounded = cast(variables, dtype)
    return jax.tree.map(lambda x, like: x.astype(like.dtype), rounded, variables)


def rounding(tree: Params, rounded: Params) -> list[Rounding]:
    """Compare a tree with what `cast` made of it, leaf by leaf.

    Args:
      tree: pytree of arrays.
      rounded: `cast(tree, dtype)`.

    Returns:
      A `Rounding` for every floating leaf, in the order of the tree.

    Example:
      >>> tree = {"kernel": jnp.array([1.0, 1e-6, 1e-9])}
      >>> [(r.leaf, r.n_subnormal, r.n_zero) for r in rounding(tree, cast(tree, "float16"))]
      [('kernel', 1, 1)]
    """
    rows = []
    for (path, leaf), after in zip(
        jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(rounded), strict=True
    ):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            continue
        before, now = np.asarray(leaf, np.float64), np.asarray(after).astype(np.float64)
        counted = (before != 0) & np.isfinite(before)
        before, now = before[counted], now[counted]
        normal_before, smallest = (float(jnp.finfo(x.dtype).smallest_normal) for x in (leaf, after))
        became = np.abs(before) >= normal_before
        rows.append(
            Rounding(
                _name(path),
                float(np.max(np.abs(now - before) / np.abs(before), initial=0.0)),
                int(np.sum(became & (now != 0) & (np.abs(now) < smallest))),
                int(np.sum(now == 0)),
            )
        )
    return rows


def _name(path) -> str:
    """`params/b1/expand/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


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


def int8_bytes(variables: Params) -> int:
    """Return the bytes of a network in integers of 8 bits, BatchNorm folded.

    A value of a kernel has one byte; a bias, and any other value, is an int32. CPMobile: 58,440
    weights + 4 · 1,354 biases = 63,856 bytes.

    Args:
      variables: `{"params", "batch_stats"}`, arrays or shapes.
    """
    leaves = jax.tree_util.tree_leaves_with_path(variables["params"])
    n_weights = sum(leaf.size for path, leaf in leaves if path[-1].key == "kernel")
    return n_weights + 4 * (n_folded(variables) - n_weights)


def n_folded(variables: Params) -> int:
    """Number of values once every BatchNorm is folded into the convolution before it.

    A kernel absorbs the scale; of a BatchNorm one bias per channel is left. The convolution
    itself has no bias, as everywhere here. CPMobile: 61,148 − 1,354 scales = 59,794.

    Args:
      variables: `{"params", "batch_stats"}`; a module with a running mean is a BatchNorm.
    """
    total = n_params(variables["params"])
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables.get("batch_stats", {})):
        *names, last = (entry.key for entry in path)
        if last != "mean":
            continue
        norm = functools.reduce(lambda tree, name: tree.get(name, {}), names, variables["params"])
        total += leaf.size - n_params(norm)
    return total
