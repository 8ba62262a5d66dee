"""Aliases for the values that travel through the package."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

Array = jax.Array
Params = Mapping[str, Any]  # nested dict of arrays
Batch = Mapping[str, np.ndarray | jax.Array]
# audio [b, n_samples] float32 in [-1, 1) · label [b] int32 · device_id [b] int32 · mask [b] bool,
# False for the rows that only fill the batch up
Metrics = Mapping[str, Array]  # sums, never means, so that they can be added
