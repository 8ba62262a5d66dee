"""Packages that are imported late, since not every use needs them; a missing one is named."""

import importlib
import os
import types

from asc_jax.errors import UserError

# Extra of this package → what it installs, by the names that they are imported by.
EXTRAS = {
    "data": (
        *("tensorflow", "tensorflow_datasets", "array_record", "scipy", "soundfile", "requests"),
        *("yaml", "matplotlib", "jinja2", "flatbuffers"),
    ),
    "interop": ("torch", "onnx", "onnxruntime", "ai_edge_litert"),
}


def require(package: str) -> types.ModuleType:
    """Import an optional package.

    Raises:
      UserError: it is not installed; the message says how to install it.

    Example:
      >>> require("json").loads("[1]")
      [1]
    """
    try:
        return importlib.import_module(package)
    except (ImportError, OSError) as error:  # OSError: a library of it is missing
        name = package.split(".")[0]
        raise UserError(
            f"the package {name} cannot be imported ({error}): {how_to_install(name)}"
        ) from error


def extra_of(module: str | None) -> str | None:
    """Return the extra that a module comes with; None if it comes with none."""
    name = (module or "").split(".")[0]
    return next((extra for extra, names in EXTRAS.items() if name in names), None)


def how_to_install(package: str) -> str:
    """Return the command that installs what an optional package comes with."""
    extra = extra_of(package) or "data"
    return f"pip install 'asc_jax[{extra}]' (in a clone: pip install -r requirements-{extra}.txt)"


def missing(module: str, user: str) -> UserError:
    """Return the error of a command, `user`, that needs a module which is not installed."""
    name = module.split(".")[0]
    return UserError(f"{user} needs {name}: {how_to_install(name)}")


def require_tensorflow() -> types.ModuleType:
    """Import TensorFlow, and keep it quiet and off the GPU, whose memory belongs to JAX.

    Raises:
      UserError: it is not installed, or was used with a GPU before.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it announces itself otherwise
    tensorflow = require("tensorflow")
    try:
        tensorflow.config.set_visible_devices([], "GPU")
    except RuntimeError as error:
        raise UserError(
            "TensorFlow already holds the GPU: open the data, or export, before using it otherwise"
        ) from error
    return tensorflow
