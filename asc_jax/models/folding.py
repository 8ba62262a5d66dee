"""BatchNorm folded into the convolution before it: what a deployed network stores."""

from collections.abc import Mapping

import numpy as np

from asc_jax.models.normalisation import BATCH_NORM_EPS
from asc_jax.types import Params


def fold_batch_norm(variables: Params) -> dict:
    """Parameters of the same network without its normalisations, for `CPMobile(folded=True)`.

    In evaluation a BatchNorm is a factor and a shift per channel; a kernel takes the factor in,
    and the shift is left as the convolution's bias. Computed in float64 and rounded once.

    Args:
      variables: `{"params", "batch_stats"}`, arrays of any floating dtype.

    Returns:
      `{"params": …}` of numpy arrays in the dtypes of the kernels; a module that held `kernel`
      and `norm` holds `kernel` and `bias [c_out]`. Everything else is as it was.

    Example:
      >>> norm = {"scale": np.array([2.0]), "bias": np.array([1.0])}
      >>> params = {"head": {"kernel": np.ones((1, 1, 3, 1)), "norm": norm}}
      >>> stats = {"head": {"norm": {"mean": np.array([0.5]), "var": np.array([1 - 1e-5])}}}
      >>> folded = fold_batch_norm({"params": params, "batch_stats": stats})["params"]["head"]
      >>> folded["kernel"].ravel().tolist(), folded["bias"].tolist()
      ([2.0, 2.0, 2.0], [0.0])
    """
    return {"params": _fold(variables["params"], variables["batch_stats"])}


def _fold(params: Params, statistics: Params) -> dict:
    if "norm" not in params:
        return {
            name: _fold(value, statistics.get(name, {})) if isinstance(value, Mapping) else value
            for name, value in params.items()
        }
    kernel, norm = np.asarray(params["kernel"]), params["norm"]
    scale, bias, mean, var = (
        np.asarray(value, np.float64)
        for value in (norm["scale"], norm["bias"], *map(statistics["norm"].get, ("mean", "var")))
    )
    factor = scale / np.sqrt(var + BATCH_NORM_EPS)
    return {
        "kernel": (kernel * factor).astype(kernel.dtype),
        "bias": (bias - mean * factor).astype(kernel.dtype),
    }
