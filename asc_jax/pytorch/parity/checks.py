"""Compare two arrays within a tolerance: a row of the parity table."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

# Name of a file of reference arrays (such as "b_frontend") → its arrays by name.
Reference = Callable[[str], Mapping[str, np.ndarray]]


class Tolerance(NamedTuple):
    """|ours − reference| ≤ absolute + relative · |reference|, value by value, and in the norm.

    basis: reason for it. absolute: a number, or an array that broadcasts against the values.
    norm: largest allowed ‖ours − reference‖ / ‖reference‖ besides; None: any.
    """

    basis: str
    absolute: float | np.ndarray = 0.0
    relative: float = 0.0
    norm: float | None = None


class Check(NamedTuple):
    """The result of a stage: its name, words for what is compared, two arrays, the tolerance."""

    stage: str
    compared: str
    ours: np.ndarray
    reference: np.ndarray
    tolerance: Tolerance


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    max_abs: largest |ours − reference|. relative: ‖ours − reference‖ / ‖reference‖. Both are
    None where they are not finite, and `problem` then says why. device_gap: largest distance of
    our own values on two devices; None: run on one.
    """

    stage: str
    compared: str
    n_values: int
    max_abs: float | None
    relative: float | None
    tolerance: str
    basis: str
    within: bool
    problem: str | None = None
    device_gap: float | None = None


def judge(check: Check) -> Row:
    """Compare; different shapes, values that are not finite and empty arrays are failures."""
    ours, reference = (np.asarray(x, np.float64) for x in (check.ours, check.reference))
    problem = _problem(ours, reference)
    max_abs, relative, within = None, None, False
    if problem is None:
        error, tolerance = np.abs(ours - reference), check.tolerance
        error_norm, scale = np.linalg.norm(error), np.linalg.norm(reference)
        max_abs, relative = float(error.max()), float(error_norm / scale) if scale else None
        allowed = tolerance.absolute + tolerance.relative * np.abs(reference)
        in_norm = tolerance.norm is None or error_norm <= tolerance.norm * scale
        within = bool(np.all(error <= allowed) and in_norm)
    return Row(
        stage=check.stage,
        compared=check.compared,
        n_values=ours.size,
        max_abs=max_abs,
        relative=relative,
        tolerance=tolerance_text(check.tolerance),
        basis=check.tolerance.basis,
        within=within,
        problem=problem,
    )


def largest_gap(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return the largest distance of two arrays; None if shapes or values do not allow one."""
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    return None if _problem(a, b) else float(np.abs(a - b).max())


def tolerance_text(tolerance: Tolerance) -> str:
    """Return the tolerance in a few characters, the relative part after a `+` and with `·|r|`.

    Example:
      >>> tolerance_text(Tolerance("rounding", absolute=1e-6, relative=1e-6))
      '1e-06 + 1e-06·|r|'
      >>> tolerance_text(Tolerance("equal bits"))
      '0'
    """
    low, high = np.min(tolerance.absolute), np.max(tolerance.absolute)
    parts = []
    if np.isfinite(high) and (high or not tolerance.relative):
        parts.append(f"{high:.2g}" if low == high else f"{low:.2g} … {high:.2g}")
    if tolerance.relative:
        parts.append(f"{tolerance.relative:.2g}·|r|")
    text = [" + ".join(parts)] if parts else []
    if tolerance.norm is not None:
        text.append(f"{tolerance.norm:.2g}·‖r‖")
    return ", ".join(text)


def flat(tree) -> np.ndarray:
    """Return every value of a pytree in one flat array."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def joined(pairs) -> tuple[np.ndarray, np.ndarray]:
    """Convert `[(ours, reference), …]` to all of ours and all of the reference, flat."""
    return tuple(flat(column) for column in zip(*pairs, strict=True))


def _problem(ours: np.ndarray, reference: np.ndarray) -> str | None:
    """Return why no error can be computed; None: it can."""
    if ours.shape != reference.shape:
        shapes = ("×".join(map(str, x.shape)) for x in (ours, reference))
        return "shape {}, expected {}".format(*shapes)
    if ours.size == 0:
        return "no values to compare"
    if not (np.all(np.isfinite(ours)) and np.all(np.isfinite(reference))):
        return "values that are not finite"
    return None
