"""Write the measured figures of README and the pages from records, files in `docs/measured/`.

    python -m docs.figures                count anew what is cheap to count, then render the pages
    python -m docs.figures --render       only render the pages
    python -m docs.figures record NAME …  write a record from files that runs or benchmarks wrote

A record is JSON: `command`, `date` and `machine` of the measurement, and what was measured: a table
(`columns`, `rows`), lines of `text`, or `values` by name. `transcribed` says that a person copied
it from an older page. A cell is text, an int or a float, which has two decimals. A value is like a
cell, or names one by its row and column, `["network, batch 78", "ours"]`: the figure of a sentence
is then that of the table. A third entry n takes the n-th number of that cell only, from 1 on.

A page shows a record between comments, as HTML has them: `figures: NAME` before and `end` after it.
Several names make one table of all their rows, which then must have the same columns. A record of
values alone is shown as the line that says where they come from. `NAME.value` makes one value in
the middle of a line, also within a cell of a table; `NAME.date`, `NAME.machine` and `NAME.source`,
which is that line, are there for every record. An unknown name ends the program with an error.
"""

import argparse
import datetime
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
MEASURED = ROOT / "docs/measured"
MARKED = re.compile(r"(<!-- figures: ([\w. ]+?) -->)(.*?)(<!-- end -->)", re.DOTALL)
NUMBER = re.compile(r"[+−]?\d[\d,]*(?:\.\d+)?")


def main(words: Sequence[str] | None = None) -> None:
    """Write records and pages as the words ask for."""
    options = parse(words)
    if options.verb:
        from docs import recorded

        record = recorded.make(options)
        values = picked(options.name) | record.get("values", {})
        write(options.name, record | ({"values": values} if values else {}))
    elif not options.render:
        from docs import counts

        for name, make in counts.RECORDS.items():
            print(f"counting: {name}", flush=True)
            about = {"command": "make figures", "date": f"{datetime.date.today()}"}
            write(name, about | {"machine": this_machine()} | make())
    for page, text in stale().items():
        page.write_text(text, "utf-8")
        print(f"written: {page.relative_to(ROOT)}")


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Return the words of the command line by name."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("docs.figures", description=__doc__, formatter_class=raw)
    parser.add_argument("--render", action="store_true", help="Render records as they are.")
    record = parser.add_subparsers(dest="verb").add_parser("record", help="Write one record.")
    record.add_argument("name", help="Name of the record, the one of its file.")
    record.add_argument("--command", required=True, help="The command that measured it.")
    source = record.add_mutually_exclusive_group(required=True)
    source.add_argument("--runs", action="append", help="A row: LABEL=RUN,RUN of evaluated runs.")
    source.add_argument("--compare", action="append", help="A row: compare.json of two systems.")
    source.add_argument("--benchmark", help="What python -m benchmarks --json wrote.")
    source.add_argument("--int8", help="The folder --out of python -m benchmarks.int8_accuracy.")
    source.add_argument("--text", help="What a command printed, shown line by line.")
    record.add_argument("--date", help="Day of the measurement; default: of the files.")
    record.add_argument("--machine", help="Default: the benchmark's, otherwise this one.")
    return parser.parse_args(words)


def this_machine() -> str:
    """Return processor, cores, memory and versions of this machine, in words."""
    from benchmarks import machine

    return in_words(machine.describe(threads=1))


def in_words(facts: Mapping, *packages: str) -> str:
    """Return a machine of `benchmarks.machine.describe` in words, with the versions of packages."""
    versions = [f"{name} {facts['versions'][name]}" for name in ("jax", *packages)]
    about = f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB"
    return ", ".join([about, f"Python {facts['python']}", *versions])


def write(name: str, record: Mapping) -> None:
    """Write a record so that a row of its table is a line."""
    text = json.dumps(record, indent=1, ensure_ascii=False)
    text = re.sub(r"\[\n[^\[\]{}]*\]", lambda row: re.sub(r"\n *", " ", row[0]), text)
    MEASURED.mkdir(exist_ok=True)
    (MEASURED / f"{name}.json").write_text(text + "\n", "utf-8")


def picked(name: str) -> dict[str, list]:
    """Return the values of a record that name cells, which a new record has as well."""
    if not (MEASURED / f"{name}.json").is_file():
        return {}
    values = read(name).get("values", {})
    return {key: found for key, found in values.items() if isinstance(found, list)}


def read(name: str) -> Mapping:
    """Return a record; end the program with an error if there is none."""
    path = MEASURED / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(path.stem for path in MEASURED.glob("*.json")))
        sys.exit(f"error: no record {path}; known: {known}")
    return json.loads(path.read_text("utf-8"))


def pages() -> list[Path]:
    """Return README, the pages and those of the examples."""
    return sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/README.md")])


def stale() -> dict[Path, str]:
    """Return the pages that differ from what the records render, with the text they should have."""
    texts = {page: page.read_text("utf-8") for page in pages()}
    return {page: new for page, text in texts.items() if (new := rendered(text, page)) != text}


def rendered(text: str, page: Path) -> str:
    """Return a page's text with every marked part as its records render."""
    marked = MARKED.findall(text)
    if not len(marked) == text.count("<!-- figures:") == text.count("<!-- end -->"):
        sys.exit(f"error: {page}: every “figures: NAME” in a comment needs an “end” and a name")
    if first := re.search(r"^<!-- figures: \w+\.\w+ -->", text, re.MULTILINE):
        sys.exit(f"error: {page}: {first[0]} begins a line, which is then shown as it is")
    return MARKED.sub(lambda found: f"{found[1]}{shown(found[2].split())}{found[4]}", text)


def shown(names: Sequence[str]) -> str:
    """Return one value, or a table or lines with their captions."""
    name, _, key = names[0].partition(".")
    if key:
        return value(name, key)
    records = [read(name) for name in names]
    if "text" in records[0]:
        lines = "".join(f"    {text}".rstrip() + "\n" for text in records[0]["text"])
        return f"\n\n{lines}\n"
    captions = "".join(f"\n{caption(record)}\n" for record in records)
    if not any("columns" in record for record in records):
        return f"\n{captions}\n"
    columns = records[0]["columns"]
    if odd := [name for name, r in zip(names, records, strict=True) if r["columns"] != columns]:
        sys.exit(f"error: the record {odd[0]} has other columns than {names[0]}: {columns}")
    rows = "".join(line(row) for record in records for row in record["rows"])
    return f"\n{line(columns)}|{'---|' * len(columns)}\n{rows}{captions}\n"


def value(name: str, key: str) -> str:
    """Return a value of a record by its name."""
    record = read(name)
    values = record.get("values", {})
    if key in values:
        found = values[key]
        return cell(pick(name, record, *found) if isinstance(found, list) else found)
    about = {"date": day(record["date"]), "machine": record["machine"], "source": caption(record)}
    if key not in about:
        known = ", ".join([*values, *about])
        sys.exit(f"error: the record {name} has no value {key}; known: {known}")
    return about[key]


def pick(name: str, record: Mapping, row: str, column: str, number: int = 0) -> str | int | float:
    """Return the cell of a table, or one of the numbers in it, counted from 1."""
    columns = record["columns"]
    rows = [cells for cells in record["rows"] if cells[0] == row]
    if len(rows) != 1 or columns.count(column) != 1:
        known = [cells[0] for cells in record["rows"]]
        sys.exit(
            f"error: {name}: no single row {row!r} of {known} and column {column!r} of {columns}"
        )
    found = rows[0][columns.index(column)]
    return NUMBER.findall(found)[number - 1] if number else found


def caption(record: Mapping) -> str:
    """Return where a record comes from, in a line."""
    rows = f"{record['about']}. " if "about" in record else ""
    how = "Transcribed" if record.get("transcribed") else "Measured"
    command = record["command"]
    if command.startswith("make "):
        command = f"`{command}`"
    elif not command.startswith("no command"):
        command = f"`{command}` <!-- not run: it takes long; the record has what it gave -->"
    return f"*{rows}{how}: {day(record['date'])}; {record['machine']};* {command}"


def day(date: str) -> str:
    """Return 2026-12-01 as 1 December 2026; any other text as it is."""
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
        return date
    when = datetime.date.fromisoformat(date)
    return f"{when.day} {when:%B %Y}"


def line(cells: Sequence[str | int | float]) -> str:
    """Return a row of a table in Markdown."""
    return "|" + "".join(f" {cell(value)} |".replace("  |", " |") for value in cells) + "\n"


def cell(value: str | int | float) -> str:
    """Return a value as a page shows it."""
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"


if __name__ == "__main__":
    main()
