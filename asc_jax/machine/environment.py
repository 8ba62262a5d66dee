"""The surroundings that a command starts in: environment variables and standard streams.

Variables are often set for a whole machine, a cluster or a notebook, for other programs than this
one. Those that would change results, or stop a package that is not even used, get the value that
every other start has. `docs/robustness.md` lists them.
"""

import os
import pathlib
import sys
import warnings

from asc_jax.errors import UserError

# Pictures are drawn without a display, and TensorFlow's Keras imports what these two name.
_ALWAYS = {"MPLBACKEND": "agg", "KERAS_BACKEND": "tensorflow"}
# Of JAX: these change dtypes or random numbers, and thereby results,
_PINNED = {
    "jax_enable_x64": False,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    # and these reject what is sound in a program that was not written for them.
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_no_tracing": False,
    "jax_transfer_guard": "allow",
    "jax_transfer_guard_host_to_device": "allow",
    "jax_transfer_guard_device_to_host": "allow",
    "jax_transfer_guard_device_to_device": "allow",
}


def settle() -> None:
    """Give the process the surroundings that every command expects; call it before JAX starts.

    Raises:
      UserError: the current folder has been removed.
    """
    _open_closed_streams()
    os.environ.update(_ALWAYS)
    for name, value in _PINNED.items():
        if os.environ.pop(name.upper(), None) is not None and "jax" in sys.modules:
            sys.modules["jax"].config.update(name, value)
    platforms = os.environ.get("JAX_PLATFORMS", "").lower()
    if platforms:
        has_cpu = "cpu" in platforms.split(",")  # where recordings are resampled
        os.environ["JAX_PLATFORMS"] = platforms if has_cpu else f"{platforms},cpu"
    # A run may lie where nothing can be written, and needs no compiled programs kept there.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    try:
        pathlib.Path.cwd()
    except FileNotFoundError as error:
        raise UserError("the current folder has been removed: change to one that exists") from error


def _open_closed_streams() -> None:
    """Connect the standard streams that are closed with nothing, and let none stop at a letter.

    The next file that is opened would otherwise take the place of a closed one, and get what
    native libraries print.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
