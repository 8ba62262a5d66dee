"""Acoustic scene classification with little data on a small model, in JAX.

`load_run` opens a trained run; `asc-jax --help` lists what the command line does. The folders of
this package are layers: a module imports from its own folder and from lower ones only.
`tests/test_layers.py` has their order.
"""

import importlib

__version__ = "0.2.0"
__all__ = ["Prediction", "Run", "UserError", "__version__", "load_run"]


def __getattr__(name: str):
    """Import a public name when it is first asked for: JAX takes seconds."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("asc_jax.library"), name)
