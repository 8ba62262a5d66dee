"""Tab-separated files with a header, as TAU and the task publish them."""

import csv
from collections.abc import Sequence
from pathlib import Path

from asc_jax.errors import UserError


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a tab-separated file that must have `columns`, or raise a UserError."""
    try:
        with path.open(encoding="utf-8-sig", newline=None) as file:
            reader = csv.DictReader(file, delimiter="\t")
            found = reader.fieldnames or []
            rows = [{k: v for k, v in row.items() if k in columns} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    for column in columns:
        if column not in found:
            raise UserError(
                f"{path} has no column {column!r}; expected columns separated by tabs, "
                f"found {', '.join(map(repr, found)) or 'none'}"
            )
    for number, row in enumerate(rows, start=2):
        if not all(row[column] for column in columns):
            raise UserError(f"{path}, row {number}: expected {', '.join(columns)}, got {row}")
    return rows
