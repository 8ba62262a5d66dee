"""Stage by stage, how far we are from PyTorch: what `asc_jax.cli.parity` prints.

The reference is a function from the name of a file of arrays to those arrays: the golden ones
here, PyTorch itself in `interop.live`.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np

from asc_jax.errors import UserError
from asc_jax.pytorch.parity import front_end as parity_front_end
from asc_jax.pytorch.parity import network as parity_network
from asc_jax.pytorch.parity import optim as parity_optim
from asc_jax.pytorch.parity import trajectory as parity_trajectory
from asc_jax.pytorch.parity.checks import Check, Reference, Row, judge, largest_gap

STAGES = (
    *parity_front_end.FRONT_END,
    parity_network.evaluation,
    parity_network.training,
    *parity_optim.OPTIMISATION,
    parity_trajectory.trajectory_float64,
    parity_trajectory.trajectory_float32,
)


def golden_reference(folder: pathlib.Path) -> Reference:
    """Reference arrays from `.npz` files.

    Args:
      folder: of the golden arrays.

    Returns:
      A function from a file's stem to its arrays; it raises UserError where there is no such
      file, or not a whole one.
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
    """What JAX computes on and, if that is not the CPU, the CPU to compare it with."""
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
    """Run stages and judge them.

    Args:
      reference: the arrays to compare with.
      stages: functions of the reference that return checks; None: all of `STAGES`.
      devices: the first one is judged; a second is run as well and gives each row its
        `device_gap`. None: `default_devices()`.

    Returns:
      One row per check, in order.
    """
    one, *rest = [_checks(reference, stages or STAGES, d) for d in devices or default_devices()]
    rows = [judge(check) for check in one]
    for other in rest[:1]:
        gaps = [largest_gap(a.ours, b.ours) for a, b in zip(one, other, strict=True)]
        rows = [
            dataclasses.replace(row, device_gap=gap) for row, gap in zip(rows, gaps, strict=True)
        ]
    return rows


def _checks(reference: Reference, stages: Sequence[Callable], device: jax.Device) -> list[Check]:
    """Every stage's checks on one device."""
    with jax.default_device(device):
        return [check for stage in stages for check in stage(reference)]
