"""Run the stages of the parity table against the golden arrays of PyTorch.

A reference is a function from the name of a file of arrays to those arrays: the golden ones
here, computed by PyTorch itself in `live`.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np

from asc_jax.errors import UserError
from asc_jax.pytorch.parity import front_end_stages, training_stages
from asc_jax.pytorch.parity.checks import Reference, Row, judge, largest_gap

STAGES = (*front_end_stages.STAGES, *training_stages.STAGES)


def golden_reference(folder: pathlib.Path) -> Reference:
    """Return a function that reads the golden `.npz` file of a name in a folder.

    It raises a UserError if the file is missing or damaged.
    """

    @functools.cache
    def read(name: str) -> dict[str, np.ndarray]:
        path = folder / f"{name}.npz"
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                return dict(arrays)
        except FileNotFoundError as error:
            raise UserError(
                f"{path} not found: reference arrays come with the repository, check it out again"
            ) from error
        except Exception as error:  # zipfile and numpy raise all sorts for a damaged file
            raise UserError(
                f"{path} is not a file of reference arrays ({error}); check it out again"
            ) from error

    return read


def default_devices() -> list[jax.Device]:
    """Return the device that JAX uses and, if that is not the CPU, the CPU to compare it with."""
    first = jax.devices()[0]
    if first.platform == "cpu":
        return [first]
    try:
        return [first, jax.devices("cpu")[0]]
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        return [first]


def run(
    reference: Reference,
    stages: Sequence[Callable] | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> list[Row]:
    """Run stages and compare their results with the reference.

    Args:
      reference: the arrays to compare with.
      stages: functions of the reference that return checks; None: all of `STAGES`.
      devices: the first one is judged; on a second the stages run as well, and each row gets its
        `device_gap`. None: `default_devices()`.

    Returns:
      One row per check, in order.
    """
    checks_by_device = []
    for device in (devices or default_devices())[:2]:
        with jax.default_device(device):
            checks = [check for stage in stages or STAGES for check in stage(reference)]
        checks_by_device.append(checks)
    rows = [judge(check) for check in checks_by_device[0]]
    if len(checks_by_device) == 1:
        return rows
    pairs = zip(*checks_by_device, strict=True)
    gaps = [largest_gap(check.ours, other.ours) for check, other in pairs]
    return [dataclasses.replace(row, device_gap=g) for row, g in zip(rows, gaps, strict=True)]
