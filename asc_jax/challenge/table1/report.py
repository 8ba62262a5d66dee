"""Table 1 for people and for programs: Markdown, LaTeX, CSV, JSON and an HTML page.

All are pure functions of what `collect.collect` returns, so equal runs give equal bytes.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from asc_jax.challenge.table1.figures import drawings
from asc_jax.challenge.table1.tables import HERE, compared, find, method, tables, warnings
from asc_jax.evaluation.report.tables import fill
from asc_jax.machine import files

TITLE = "Acoustic scenes with little training data: Table 1"
CSV_COLUMNS = (
    *("system", "split_percent", "measure", "name", "unit", "mean", "sd", "n_seeds"),
    *("segments_low", "segments_high", "segments_p"),
    *("locations_low", "locations_high", "locations_p", "published"),
)


def write(collected: Mapping[str, Any], out_dir: str | Path) -> list[Path]:
    """Write `table1.json`, `.csv`, `.md`, `.tex` and `.html`, each all or nothing.

    Args:
      collected: see `collect`.
      out_dir: made if it is missing.

    Raises:
      UserError: the folder cannot be written.
    """
    contents = {
        "json": json.dumps(collected, indent=1, ensure_ascii=False) + "\n",
        "csv": as_csv(collected),
        **{suffix: as_words(collected, suffix) + "\n" for suffix in ("md", "tex", "html")},
    }
    paths = [Path(out_dir) / f"table1.{suffix}" for suffix in contents]
    with files.writing_to(out_dir):
        Path(out_dir).mkdir(parents=True, exist_ok=True)
        for path, content in zip(paths, contents.values(), strict=True):
            files.write_atomically(path, content)
    return paths


def as_words(collected: Mapping[str, Any], suffix: str) -> str:
    """Return the tables with the notes that they need to be read.

    Args:
      collected: see `collect`.
      suffix: "md"; "tex", the scenes alone; "html", a page that needs no other file, with
        drawings; "txt", what is printed, without the scenes.
    """
    systems = compared(collected)
    return fill(
        HERE / f"table1.{suffix}",
        title=TITLE,
        collected=collected,
        warnings=warnings(collected),
        method=method(collected),
        tables=tables(collected),
        results=[find(collected, name, split) for split in collected["splits"] for name in systems],
        latex_labels=[{"baseline": "Baseline", "report": "Ours"}[name] for name in systems],
        drawings=drawings,
    )


def as_csv(collected: Mapping[str, Any]) -> str:
    """Return one line per figure; accuracies as fractions, log losses in nats."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for result in collected["results"]:
        writer.writerows(_csv_result(result))
    measures = {"differences": "macro_accuracy_difference", "ablation": "macro_accuracy_gain"}
    for key, measure in measures.items():
        for row in collected[key]:
            line = {"system": f"{row['first']} - {row['second']}", "split_percent": row["percent"]}
            line |= {"measure": measure, "name": row.get("change"), "unit": "fraction"}
            line |= {"mean": row["mean"], "published": row["published"]}
            writer.writerow(line | _bounds(row["tests"]))
    return out.getvalue()


def _csv_result(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    place = {"system": result["system"], "split_percent": result["percent"]}
    place["n_seeds"], known = len(result["seeds"]), result["published"] or {}
    for name in ("macro_accuracy", "accuracy", "log_loss"):
        line = place | {"measure": name, "unit": "nats" if name == "log_loss" else "fraction"}
        line |= {key: result[name][key] for key in ("mean", "sd")} | {"published": known.get(name)}
        yield line | (_bounds(result["interval"]) if name == "macro_accuracy" else {})
    for kind in ("scenes", "devices"):
        line = place | {"measure": f"{kind[:-1]}_accuracy", "unit": "fraction"}
        for name, figure in result[kind].items():
            yield line | figure | {"name": name, "published": known.get(kind, {}).get(name)}


def _bounds(tests: Mapping[str, Mapping | None]) -> dict[str, float]:
    return {
        f"{cluster}_{key}": test[key]
        for cluster, test in tests.items()
        for key in ("low", "high", "p")
        if test and key in test
    }
