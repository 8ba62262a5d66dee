"""A `map` over batches of clip numbers that works ahead, by tf.data."""

import atexit
import contextlib
import time
import weakref
from collections.abc import Callable, Iterator

import numpy as np

from asc_jax.machine.optional_packages import require_tensorflow

PREFETCH = 2  # batches read ahead

_streams: "weakref.WeakSet[Iterator]" = weakref.WeakSet()


def map_ahead(load: Callable, rows: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """Do what `map(load, rows)` does, in parallel and PREFETCH batches ahead.

    Args:
      load: row of clip numbers → batch, a dict of arrays; runs in other threads.
      rows: `[n, b]` int64.

    Returns:
      Iterator of what `load` returns; an exception of `load` comes out at its place.
    """
    stream = _stream(load, rows)
    _streams.add(stream)
    return stream


def _stream(load: Callable, rows: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    tf = require_tensorflow()
    loaded: dict[int, dict | Exception] = {}

    def load_row(number):
        # Only its number passes through TensorFlow, so that a batch may have any columns; and
        # TensorFlow would print its own traceback of an exception.
        try:
            loaded[int(number)] = load(rows[number])
        except Exception as error:
            loaded[int(number)] = error
        return number

    dataset = tf.data.Dataset.range(len(rows)).map(
        lambda number: tf.numpy_function(load_row, [number], tf.int64),
        num_parallel_calls=PREFETCH,
        deterministic=True,
    )
    for number in dataset.prefetch(PREFETCH).as_numpy_iterator():
        batch = loaded.pop(int(number))
        if isinstance(batch, Exception):
            raise batch
        yield batch


@atexit.register
def _close_streams() -> None:
    """End what still reads ahead: its threads would wait for a Python that is gone."""
    for stream in list(_streams):
        for _ in range(200):  # another thread may be taking a batch: 2 s to finish it
            with contextlib.suppress(ValueError):
                stream.close()
                break
            time.sleep(0.01)
