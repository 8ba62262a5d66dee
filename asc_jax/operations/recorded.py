"""Arrays in NumPy that remember how they were computed, so that JAX can compute them again.

`reader` folds BatchNorm into kernels in float64, by NumPy. A training needs the same function of
the parameters with its gradient: a `Recorded` array is computed with as any other, and notes what
was done.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from asc_jax.types import Array

FUNCTIONS = {np.reshape: jnp.reshape, np.broadcast_to: jnp.broadcast_to}


class Recorded(np.ndarray):
    """An array with its `source`: the number of a leaf, or a JAX function and its arguments.

    What is computed of it has a source too: by ufuncs, `FUNCTIONS` and the methods below. The
    result of anything else has none, and cannot be computed again.
    """

    source: int | tuple[Callable, Sequence] | None

    def __array_finalize__(self, obj):
        """Forget the source: NumPy calls this for every view and copy."""
        self.source = None

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        """Compute a ufunc, and note it where it is a plain call."""
        result = getattr(ufunc, method)(*map(_plain, inputs), **options)
        if method != "__call__" or options:
            return result
        function = getattr(jnp, ufunc.__name__)
        return record(result, lambda *x: function(*_of_one_rank(x)), inputs)

    def __array_function__(self, func, types, args, kwargs):
        """Compute a function of NumPy, and note it if it is one of `FUNCTIONS`."""
        result = func(*map(_plain, args), **{name: _plain(x) for name, x in kwargs.items()})
        if func not in FUNCTIONS or kwargs:
            return result
        first, *rest = args
        return record(result, lambda x: FUNCTIONS[func](x, *rest), [first])

    def reshape(self, *shape):
        """Return the values in another shape."""
        result = _plain(self).reshape(*shape)
        return record(result, lambda x: x.reshape(result.shape), [self])

    def take(self, indices, axis=None):
        """Return some of the values along an axis."""
        return record(
            _plain(self).take(indices, axis), lambda x: x.take(jnp.array(indices), axis), [self]
        )

    @property
    def T(self):  # noqa: N802 (NumPy's name)
        """The array with its axes in reverse order."""
        return record(_plain(self).T, jnp.transpose, [self])


def leaf(value: np.ndarray, number: int) -> Recorded:
    """Return an array, float64, as a leaf of what is going to be computed."""
    view = np.array(value, np.float64).view(Recorded)
    view.source = number
    return view


def record(value: np.ndarray, function: Callable, arguments: Sequence) -> Recorded:
    """Return a value as what a JAX function gives for some arguments, `Recorded` or other."""
    view = np.asarray(value).view(Recorded)
    view.source = function, tuple(arguments)
    return view


def compute(value: np.ndarray, leaves: Sequence[Array], known: dict[int, Array]) -> Array:
    """Return an array computed again by JAX, of other leaves.

    Args:
      value: recorded, or a constant.
      leaves: by their numbers.
      known: what has been computed before, by the id of its array.

    Raises:
      ValueError: the array is of what is not noted.
    """
    if not isinstance(value, Recorded):
        return jnp.asarray(value) if isinstance(value, np.ndarray) else value
    if id(value) not in known:
        if value.source is None:
            raise ValueError("it is not known how an array was computed")
        if isinstance(value.source, int):
            known[id(value)] = leaves[value.source]
        else:
            function, arguments = value.source
            known[id(value)] = function(*(compute(x, leaves, known) for x in arguments))
    return known[id(value)]


def _of_one_rank(values: Sequence) -> list[Array]:
    """Return arrays with as many axes as the largest, as NumPy broadcasts them."""
    values = [jnp.asarray(x) for x in values]
    n_axes = max(x.ndim for x in values)
    return [x.reshape((1,) * (n_axes - x.ndim) + x.shape) for x in values]


def _plain(x):
    return x.view(np.ndarray) if isinstance(x, Recorded) else x
