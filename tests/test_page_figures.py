"""Figures of README and the pages: they are what the records in `docs/measured/` render."""

import json
import re

import pytest

from docs import counts, figures, recorded

RECORDS = sorted(figures.MEASURED.glob("*.json"))
TABLE = {"command": "make x", "date": "2026-12-01", "machine": "a machine"}


@pytest.fixture
def records(tmp_path, monkeypatch):
    """Let records lie in a folder of their own, and return a function that writes one."""
    monkeypatch.setattr(figures, "MEASURED", tmp_path)
    return figures.write


def test_pages_show_what_the_records_render():
    assert not figures.stale(), "run: make figures FIGURES_FLAGS=--render"


def test_measured_rates_are_typed_in_no_page():
    for page in figures.pages():
        text = re.sub(r"`[^`]*`", "", figures.MARKED.sub("", page.read_text("utf-8")))
        typed = re.findall(r".*\d (?:clips/s|GMAC/s|[GM]B/s|dB)\b.*", text)
        assert not typed, f"{page}: a record should have these, see CONTRIBUTING.md"


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_record_says_command_date_and_machine_and_is_shown(path):
    record = json.loads(path.read_text("utf-8"))
    assert all(record[key].strip() for key in ("command", "date", "machine"))
    known = {
        "command",
        "date",
        "machine",
        "about",
        "transcribed",
        "columns",
        "rows",
        "text",
        "values",
    }
    assert set(record) <= known
    assert all(len(row) == len(record["columns"]) for row in record.get("rows", ()))
    measured = re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"])
    assert measured or record.get("transcribed"), "only a transcribed date may be unknown"
    pages = figures.pages()
    texts = [page.read_text("utf-8") for page in pages]
    source = rf"<!-- figures: ((\w+ )*{path.stem}( \w+)*|{path.stem}\.(source|machine)) -->"
    assert any(re.search(source, text) for text in texts), "no page says where it comes from"
    if "rows" not in record and "text" not in record:
        unused = [
            key for key in record["values"] if not any(f"{path.stem}.{key} -->" in t for t in texts)
        ]
        assert not unused, "no page shows these values"


def test_table_of_two_records_has_a_caption_for_each(records):
    records("a", TABLE | {"columns": ["x", "y"], "rows": [["one", 1234]]})
    records("b", TABLE | {"columns": ["x", "y"], "rows": [["two", 0.5]], "transcribed": True})
    text = figures.rendered("<!-- figures: a b -->old<!-- end -->", "page")
    assert text.splitlines()[1:5] == ["| x | y |", "|---|---|", "| one | 1,234 |", "| two | 0.50 |"]
    assert text.splitlines()[6].startswith("*Measured: 1 December 2026; a machine;* `make x`")
    assert text.splitlines()[8].startswith("*Transcribed: 1 December 2026; a machine;* `make x`")
    assert figures.rendered(text, "page") == text


def test_value_stands_in_a_line_and_lines_are_code(records):
    records("a", TABLE | {"values": {"n": 61148}, "text": ["b  c"]})
    line = "Of <!-- figures: a.n --><!-- end -->, <!-- figures: a.date -->x<!-- end -->."
    assert re.sub("<!--.*?-->", "", figures.rendered(line, "page")) == "Of 61,148, 1 December 2026."
    assert "\n\n    b  c\n\n" in figures.rendered("<!-- figures: a --><!-- end -->", "page")


def test_value_is_that_of_a_cell_or_a_number_in_it(records):
    values = {"cell": ["b", "x"], "ratio": ["b", "x", 2], "typed": "1 to 2"}
    table = {"columns": ["", "x"], "rows": [["a", 1], ["b", "61,148 (−0.92)"]]}
    records("a", TABLE | table | {"values": values})
    line = "<!-- figures: a.{} --><!-- end -->"
    shown = [figures.rendered("-" + line.format(key), "page") for key in values]
    assert [re.sub("<!--.*?-->", "", text) for text in shown] == [
        "-61,148 (−0.92)",
        "-−0.92",
        "-1 to 2",
    ]


def test_record_that_is_measured_again_keeps_the_names_of_its_cells(records, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "stale", dict)
    values = {"cell": ["macro_accuracy", "x"], "typed": 3}
    records("a", TABLE | {"columns": ["", "x"], "rows": []} | {"values": values})
    (tmp_path / "out.txt").write_text("b", "utf-8")
    figures.main(["record", "a", "--command", "make x", "--text", str(tmp_path / "out.txt")])
    assert figures.read("a")["text"] == ["b"]
    assert figures.read("a")["values"] == {"cell": ["macro_accuracy", "x"]}


def test_record_of_values_is_shown_as_where_they_come_from(records):
    records("a", TABLE | {"values": {"n": 1}})
    source = "*Measured: 1 December 2026; a machine;* `make x`"
    text = figures.rendered("<!-- figures: a --><!-- end -->", "page")
    assert text == f"<!-- figures: a -->\n\n{source}\n\n<!-- end -->"
    assert source in figures.rendered("n: <!-- figures: a.source --><!-- end -->", "page")


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("<!-- figures: c --><!-- end -->", "no record"),
        ("Of <!-- figures: a.n --><!-- end -->", "no value n; known: lost, date, machine"),
        ("Of <!-- figures: a.lost --><!-- end -->", "a: no single row 'r' of .* and column 'x'"),
        ("<!-- figures: a b --><!-- end -->", "b has other columns than a"),
        ("<!-- figures: a -->", "needs an “end”"),
        ("<!-- figures: a.date --><!-- end -->", "begins a line"),
    ],
)
def test_wrong_mark_is_an_error(page, message, records):
    records("a", TABLE | {"columns": ["x"], "rows": [], "values": {"lost": ["r", "x"]}})
    records("b", TABLE | {"columns": ["y"], "rows": []})
    with pytest.raises(SystemExit, match=message):
        figures.rendered(page, "page")


def record_of(tmp_path, option, content, label=""):
    """Return what `python -m docs.figures record` makes of one file."""
    path = tmp_path / "run" / "results.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content), "utf-8")
    value = f"{label}{path if option != '--runs' else path.parent}"
    words = ["record", "x", "--command", "make x", "--date", "2026-12-01", option, value]
    return recorded.make(figures.parse(words))


def test_runs_are_a_row_of_accuracies_by_set(tmp_path):
    sets = {"real": {"macro_accuracy": 0.75}, "unseen": {"macro_accuracy": 0.5}}
    stored = {"macro_accuracy": 0.625, "groups": {"device": {"values": {}, "sets": sets}}}
    results = {"stored_dtype": "float16", "float16": stored}
    record = record_of(tmp_path, "--runs", results, "p=0.4, MixStyle=")
    assert record["columns"][1:] == ["all clips, by seed", "real devices", "unseen devices"]
    assert record["rows"] == [["p=0.4, MixStyle", "62.50", "75.00", "50.00"]]
    assert (record["command"], record["date"]) == ("make x", "2026-12-01")
    assert re.search("cores.*jax", record["machine"])


def test_text_is_what_a_command_printed(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("a  1\n\nb  2\n", "utf-8")
    words = ["record", "x", "--command", "make x", "--text", str(path)]
    assert recorded.make(figures.parse(words))["text"] == ["a  1", "", "b  2"]


def test_comparison_is_a_row_of_differences(tmp_path):
    interval = {"low": -0.01, "high": 0.02}
    unseen = {"difference": 0.03, "interval": None, "p": 0.25}
    gap = {"macro_accuracy": 0.005, "interval": interval, "p": 0.5}
    whole = {
        "systems": {"a": {}, "b": {}},
        "difference": gap | {"sets": {"device": {"unseen": unseen}}},
    }
    record = record_of(tmp_path, "--compare", whole)
    cells = ["a minus b", "+0.50 (−1.00 to +2.00), p = 0.5", "+3.00, p = 0.25"]
    assert record["rows"] == [cells]


def test_benchmark_is_a_row_of_rates_and_ratios_on_its_own_machine(tmp_path):
    peer = {"median": 0.005, "ratio": [1.9, 2.0, 2.1]}
    results = {"ours": {"median": 0.0025}, "torch": peer}
    machine = {"cpu": "A CPU", "cores": 2, "memory_gib": 4, "python": "3.12.1", "threads": 1}
    machine |= {"versions": {"jax": "0.10", "torch": "2.13"}}
    machine |= {"load_at_start": [0.25, 0, 0], "load_at_end": [1.0, 0, 0]}
    rows = [{"what": "step, batch 78", "unit": "clips", "results": results}]
    record = record_of(tmp_path, "--benchmark", {"machine": machine, "rows": rows})
    assert record["columns"] == ["clips/s (× ours)", "ours", "PyTorch as shipped"]
    assert record["rows"] == [["step, batch 78", "400", "200 (2.00)"]]
    assert record["machine"].startswith(
        "A CPU, 2 cores, 4 GiB, Python 3.12.1, jax 0.10, torch 2.13"
    )


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
@pytest.mark.nightly
@pytest.mark.parametrize("name", counts.RECORDS)
def test_counts_are_those_of_the_code(name):
    record, counted = figures.read(name), counts.RECORDS[name]()
    for rows in (record.get("rows", []), counted.get("rows", [])):
        rows[:] = [row for row in rows if "linked for" not in row[0]]  # by what compiles here
    assert {key: record[key] for key in counted} == counted
