"""Packages that are imported late, since not every use needs them; a missing one is named."""

import importlib
import os
import types

from asc_jax.errors import UserError


def require(package: str, file: str = "requirements-interop.txt") -> types.ModuleType:
    """Import an optional package, which `pip install -r` of a file installs.

    Raises:
      UserError: it is not installed.

    Example:
      >>> require("json").loads("[1]")
      [1]
    """
    try:
        return importlib.import_module(package)
    except (ImportError, OSError) as error:  # OSError: a library of it is missing
        name = package.split(".")[0]
        raise UserError(
            f"the package {name} cannot be imported ({error}): pip install -r {file}"
        ) from error


def require_tensorflow() -> types.ModuleType:
    """Import TensorFlow, and keep it quiet and off the GPU, whose memory belongs to JAX.

    Raises:
      UserError: it is not installed, or was used with a GPU before.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it announces itself otherwise
    tensorflow = require("tensorflow", "requirements.txt")
    try:
        tensorflow.config.set_visible_devices([], "GPU")
    except RuntimeError as error:
        raise UserError(
            "TensorFlow already holds the GPU: open the data, or export, before using it otherwise"
        ) from error
    return tensorflow
