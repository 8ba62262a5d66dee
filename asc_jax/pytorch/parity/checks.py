"""One line of the parity table: two arrays, a tolerance and a verdict."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

# Name of a file of reference arrays, "b_frontend" say → its arrays by name.
Reference = Callable[[str], Mapping[str, np.ndarray]]


class Tolerance(NamedTuple):
    """|ours − reference| ≤ absolute + relative · |reference|, value by value, and in the norm.

    basis: where it comes from. absolute: a number, or an array that broadcasts against the
    values. norm: largest ‖ours − reference‖ / ‖reference‖ besides; None: anything.
    """

    basis: str
    absolute: float | np.ndarray = 0.0
    relative: float = 0.0
    norm: float | None = None


class Check(NamedTuple):
    """What a stage hands over: its name, what was compared, the two arrays, the tolerance."""

    stage: str
    compared: str
    ours: np.ndarray
    reference: np.ndarray
    tolerance: Tolerance


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    max_abs: largest |ours − reference|. relative: ‖ours − reference‖ / ‖reference‖. Both are
    None where they are no finite number, and `problem` then says why. device_gap: largest
    distance of our own values on two devices; None: run on one.
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
    """Compare. Shapes that differ, values that are not finite and nothing at all are failures."""
    ours, reference = (np.asarray(x, np.float64) for x in (check.ours, check.reference))
    problem = _problem(ours, reference)
    max_abs = relative = None
    within = False
    if problem is None:
        error = np.abs(ours - reference)
        scale = np.linalg.norm(reference)
        max_abs = float(error.max())
        relative = float(np.linalg.norm(error) / scale) if scale else None
        within = _within(error, reference, check.tolerance)
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


def largest_gap(one: np.ndarray, other: np.ndarray) -> float | None:
    """Largest distance of two arrays; None where shapes differ or a value is not finite."""
    one, other = (np.asarray(x, np.float64) for x in (one, other))
    return None if _problem(one, other) else float(np.abs(one - other).max())


def tolerance_text(tolerance: Tolerance) -> str:
    """The tolerance in a few characters, the relative part after a `+` and with `·|r|`.

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
    """Every value of a pytree, one after the other."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def joined(pairs) -> tuple[np.ndarray, np.ndarray]:
    """`[(ours, reference), …]` → all of ours and all of the reference, flat."""
    return tuple(flat(column) for column in zip(*pairs, strict=True))


def _within(error: np.ndarray, reference: np.ndarray, tolerance: Tolerance) -> bool:
    allowed = tolerance.absolute + tolerance.relative * np.abs(reference)
    in_norm = tolerance.norm is None or (
        np.linalg.norm(error) <= tolerance.norm * np.linalg.norm(reference)
    )
    return bool(np.all(error <= allowed) and in_norm)


def _problem(ours: np.ndarray, reference: np.ndarray) -> str | None:
    """Why no error can be stated; None: it can."""
    if ours.shape != reference.shape:
        return f"shape {_shape(ours)}, expected {_shape(reference)}"
    if ours.size == 0:
        return "no values to compare"
    if not (np.all(np.isfinite(ours)) and np.all(np.isfinite(reference))):
        return "values that are not finite"
    return None


def _shape(x: np.ndarray) -> str:
    return "×".join(map(str, x.shape))
