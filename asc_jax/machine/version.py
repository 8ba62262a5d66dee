"""The version of this code."""

import functools
import pathlib
import subprocess

import asc_jax


@functools.cache
def code_version() -> str:
    """Return the package version, with the commit when the code lies in a git checkout."""
    root = pathlib.Path(asc_jax.__file__).parent.parent
    if not (root / ".git").exists():  # installed, perhaps below somebody else's checkout
        return asc_jax.__version__
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return asc_jax.__version__
    commit = described.stdout.strip()
    return f"{asc_jax.__version__}+{commit}" if commit else asc_jax.__version__
