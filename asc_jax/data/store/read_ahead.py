"""A `map` over batches of clip numbers that works ahead, by tf.data."""

import atexit
import contextlib
import os
import time
import weakref
from collections.abc import Callable, Iterator

import numpy as np

from asc_jax.errors import UserError
from asc_jax.machine.optional_packages import how_to_install

PREFETCH = 2  # batches read ahead

_streams: "weakref.WeakSet[Iterator]" = weakref.WeakSet()


def import_tensorflow():
    """Import TensorFlow, keep it quiet and off the GPU, whose memory belongs to JAX.

    Raises:
      UserError: it is not installed, or was used with a GPU before.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it announces itself otherwise
    try:
        import tensorflow as tf
    except ImportError as error:
        raise not_installed(error) from error
    try:
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError as error:
        raise UserError(
            "TensorFlow already holds the GPU: open the data before using it otherwise"
        ) from error
    return tf


def not_installed(error: ImportError) -> UserError:
    """What to tell a person who lacks the package."""
    return UserError(
        f"reading a built data set needs {error.name}: {how_to_install(error.name)}. "
        "Arrays in memory do not: asc_jax.data.clips.from_arrays"
    )


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
    tf = import_tensorflow()
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
