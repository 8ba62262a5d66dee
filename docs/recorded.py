"""Turn files that runs and benchmarks wrote into records of `docs/measured/`."""

import datetime
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from docs import figures

CONTESTANTS = {
    "torch": "PyTorch as shipped",
    "torch_tuned": "PyTorch, tuned",
    "torch_channels_last": "PyTorch, channels-last",
    "torch_channels_last_tuned": "PyTorch, channels-last, tuned",
    "torch_compile": "PyTorch, compiled",
    "torch_compile_tuned": "PyTorch, compiled, tuned",
}


def make(options) -> dict:
    """Return the record that the words of `python -m docs.figures record` ask for."""
    if options.benchmark:
        found, paths, machine = benchmark(Path(options.benchmark))
    else:
        name = next(name for name in ("runs", "compare", "int8", "text") if getattr(options, name))
        found, paths = globals()[name](getattr(options, name))
        machine = None
    newest = max(path.stat().st_mtime for path in paths)
    return {
        "command": options.command,
        "date": options.date or f"{datetime.date.fromtimestamp(newest)}",
        "machine": options.machine or machine or figures.this_machine(),
        **found,
    }


def _read(path: Path) -> Mapping:
    return json.loads(_text(path))


def _text(path: Path) -> str:
    if not path.is_file():
        sys.exit(f"error: there is no {path}")
    return path.read_text("utf-8")


def benchmark(path: Path) -> tuple[dict, list[Path], str]:
    """Return clips/s (or seconds, or MB) of each contestant, and the median ratio to ours."""
    whole = _read(path)
    names = list(dict.fromkeys(name for row in whole["rows"] for name in row["results"]))
    rows = []
    for row in whole["rows"]:
        cells = [row["what"] + ("" if row["unit"] == "clips" else f", {row['unit']}")]
        for name in names:
            result = row["results"].get(name)
            cells.append(_rate(result, row["unit"]) if result else "")
        rows.append(cells)
    columns = ["clips/s (× ours)", *(CONTESTANTS.get(name, name) for name in names)]
    facts = whole["machine"]
    torch = ["torch"] if any("torch" in name for name in names) else []
    about = f"{figures.in_words(facts, *torch)}, {facts['threads']} threads, load average "
    about += f"{facts['load_at_start'][0]:.1f} before and {facts['load_at_end'][0]:.1f} after"
    return {"columns": columns, "rows": rows}, [path], about


def _rate(result: Mapping, unit: str) -> str:
    median = result["median"]
    value = {"clips": 1 / median, "bytes": 1e-9 / median, "MB": 1e-6 * median}.get(unit, median)
    text = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return text + (f" ({result['ratio'][1]:.2f})" if "ratio" in result else "")


def _merged(columns: Iterable[Mapping]) -> dict:
    """Return the sets of all group columns by name."""
    return {name: found for column in columns for name, found in column.items()}


def runs(words: Sequence[str]) -> tuple[dict, list[Path]]:
    """Return accuracies by seed, of all test clips and of each set of group values, in %."""
    rows, paths, sets = [], [], None
    for word in words:
        label, _, folders = word.rpartition("=")
        own = [Path(folder) / "results.json" for folder in folders.split(",")]
        results = [_read(path) for path in own]
        stored = [result[result["stored_dtype"]] for result in results]
        found = [_merged(column["sets"] for column in s["groups"].values()) for s in stored]
        sets = sets or list(found[0])
        every = [stored, *([run[name] for run in found] for name in sets)]
        means = (", ".join(f"{100 * one['macro_accuracy']:.2f}" for one in each) for each in every)
        rows.append([label, *means])
        paths += own
    columns = ["macro average accuracy, %", "all clips, by seed"]
    columns += [f"{name} devices" for name in sets]
    return {"columns": columns, "rows": rows, "values": {"all": [rows[0][0], columns[1]]}}, paths


def compare(words: Sequence[str]) -> tuple[dict, list[Path]]:
    """Return differences of two systems in points, with 95 % intervals and p."""
    rows, sets = [], None
    for word in words:
        whole = _read(Path(word))
        first, second = whole["systems"]
        gap = whole["difference"]
        found = _merged(gap["sets"].values())
        sets = sets or list(found)
        cells = [_gap(gap, gap["macro_accuracy"])]
        cells += [_gap(found[name], found[name]["difference"]) for name in sets]
        rows.append([f"{first} minus {second}", *cells])
    columns = ["macro average accuracy, points", "all clips"]
    columns += [f"{name} devices" for name in sets]
    return {"columns": columns, "rows": rows}, [Path(word) for word in words]


def _gap(of: Mapping, difference: float) -> str:
    text = f"{100 * difference:+.2f}"
    if interval := of.get("interval"):
        text += f" ({100 * interval['low']:+.2f} to {100 * interval['high']:+.2f})"
    return (text + f", p = {of['p']:.2g}").replace("-", "−")


def text(name: str) -> tuple[dict, list[Path]]:
    """Return the lines that a command printed."""
    path = Path(name)
    return {"text": _text(path).splitlines()}, [path]


def int8(folder: str) -> tuple[dict, list[Path]]:
    """Return accuracies in float32 and int8 over seeds, and the clips that get another class."""
    from benchmarks import int8_accuracy

    paths = sorted(Path(folder).glob("*/results.json"))
    seeds = sorted(path.parent.name.removeprefix("trained") for path in paths)
    seeds = [seed for seed in seeds if seed.isdecimal()]
    cells = int8_accuracy.cells(Path(folder), seeds)
    rows = [[text.replace("-", "−") for text in row] for row in cells]
    columns = ["stored as", "accuracy, %", "minus float32, points", "changed clips"]
    return {"columns": columns, "rows": rows}, paths
