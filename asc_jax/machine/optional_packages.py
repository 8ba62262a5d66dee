"""Packages that only exchange with other frameworks needs: imported late, missed by name."""

import importlib
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
    except ImportError as error:
        name = package.split(".")[0]
        raise UserError(
            f"the package {name} cannot be imported ({error}): pip install -r {file}"
        ) from error
