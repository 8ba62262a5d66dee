"""Tables of text, in the forms that editors and spreadsheets give them."""

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from asc_jax.errors import UserError, short
from asc_jax.machine import files

DELIMITERS = ("\t", ";", ",")  # in the order they are tried


def read_table(
    path: Path, columns: Sequence[str], others: Sequence[str] = ()
) -> list[tuple[int, dict[str, str]]]:
    """Read a table whose first line names the columns.

    Args:
      path: text in UTF-8 or UTF-16; columns separated by tabs, semicolons or commas, in any
        order, perhaps quoted, their names in upper or lower case.
      columns: names of those to read; every row has a value for each.
      others: names of those to read if they are there.

    Returns:
      The line and the cells by column, of every row that is not empty.

    Raises:
      UserError: the file cannot be read as such a table; says in which line.
    """
    rows = _rows(path, columns)
    _, header = next(rows)
    at = {name: header.index(name) for name in (*columns, *others) if name in header}
    table = []
    for line, cells in rows:
        row = {name: cells[number] for name, number in at.items()}
        if not all(row[column] for column in columns):
            raise UserError(f"{path}, line {line}: expected {', '.join(columns)}, got {row}")
        table.append((line, row))
    return table


def read_whole_table(
    path: Path, columns: Sequence[str]
) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Read all columns of a table, as `read_table` reads some; a cell may be empty.

    Args:
      path: see `read_table`.
      columns: names of those that must be there.

    Returns:
      The names of all columns, in lower case, and the line and the cells by column of every row
      that is not empty.

    Raises:
      UserError: as `read_table`, or two columns have one name.
    """
    rows = _rows(path, columns)
    _, header = next(rows)
    names = [name for name in header if name]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path} has two columns {name!r}: rename one or leave it out")
    table = [
        (line, {name: cell for name, cell in zip(header, cells, strict=True) if name})
        for line, cells in rows
    ]
    return names, table


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield line and cells of every row that is not empty; first the names of the columns."""
    text = _read_text(path)
    try:
        header, delimiter = _header(text, columns)
        for column in columns:
            if header.count(column) != 1:
                found = ", ".join(map(short, header[:20])) or "none"
                raise UserError(
                    f"{path} has {'two columns' if column in header else 'no column'} {column!r}; "
                    f"expected columns separated by tabs, commas or semicolons, found {found}"
                )
        reader = csv.reader(io.StringIO(text, newline=None), delimiter=delimiter, strict=True)
        line, is_header = 0, True
        for cells in reader:
            line, first = reader.line_num, line + 1
            cells = [cell.strip() for cell in cells]
            if any(cells[len(header) :]):
                raise UserError(
                    f"{path}, line {line}: {len(cells)} cells, and {len(header)} columns have a "
                    "name: name each column in the first line, or leave that column out"
                )
            if any(cells):
                missing = [""] * (len(header) - len(cells))
                yield first, header if is_header else (cells + missing)[: len(header)]
                is_header = False
    except csv.Error as error:
        raise UserError(f"cannot read {path}, line {line + 1}: {error}") from error


def _read_text(path: Path) -> str:
    try:
        files.require_ordinary(path)
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {files.reason(error)}") from error
    if data.startswith(b"PK\3\4"):
        raise UserError(
            f"cannot read {path}: it is a zip file, as a workbook of a spreadsheet is; save it as "
            "text separated by tabs or commas"
        )
    utf_16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if utf_16 else "utf-8-sig"
    try:
        text = data.decode(encoding)
        end = text.find("\0")
    except UnicodeDecodeError as error:
        text, end = data[: error.start].decode(encoding, "replace"), error.start
    if end >= 0:
        line = 1 + io.StringIO(text[:end], newline=None).read().count("\n")
        raise UserError(
            f"cannot read {path}, line {line}: it is not text in UTF-8; save it as that, separated "
            "by tabs or commas"
        )
    return text


def _header(text: str, columns: Sequence[str]) -> tuple[list[str], str]:
    """Return the names in the first line that is not empty, and what separates them."""
    lines = (line for line in io.StringIO(text, newline=None) if line.strip())
    first = next(lines, "")
    found = []
    for delimiter in DELIMITERS:
        cells = next(csv.reader([first], delimiter=delimiter), [])
        found.append(([cell.strip().lower() for cell in cells], delimiter))
        if set(columns) <= {*found[-1][0]}:
            return found[-1]
    return max(found, key=lambda names: len(names[0]))
