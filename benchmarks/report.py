"""Results → a Markdown table for each part, and a picture of the ratios."""

import json
import pathlib
from collections.abc import Iterator, Mapping

from benchmarks.contestants import CONTESTANTS
from benchmarks.parts import PARTS

_UNITS = {"clips": "clips/s", "bytes": "GB/s", "s": "s", "MB": "MB"}
_COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#D55E00", "#E69F00", "#CC79A7", "#6B6B6B", "#222222")


def write(report: Mapping, *, json_path: str, png_path: str, markdown_path: str) -> None:
    """Write what was asked for; "" means not this one."""
    if json_path:
        pathlib.Path(json_path).write_text(json.dumps(report, indent=1) + "\n")
    if markdown_path:
        pathlib.Path(markdown_path).write_text(markdown(report) + "\n")
    if png_path:
        draw(report, png_path)


def markdown(report: Mapping) -> str:
    """Machine, then part by part; quartiles in brackets."""
    lines = [describe(report["machine"])]
    for part, (title, _) in PARTS.items():
        rows = [row for row in report["rows"] if row["part"] == part and row["results"]]
        if rows:
            lines += ["", f"### {part}: {title}", "", "| | | median [quartiles] | × ours |"]
            lines += ["|---|---|---|---|", *(line for row in rows for line in _lines(row))]
    if report["accelerator"]:
        lines += ["", *_accelerator(report["accelerator"])]
    if report["left_out"]:
        lines += ["", *(f"Left out: {name}: {why}" for name, why in report["left_out"].items())]
    return "\n".join(lines)


def describe(machine: Mapping) -> str:
    """The machine in a paragraph."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    loads = [" ".join(f"{x:.2f}" for x in machine[f"load_at_{when}"]) for when in ("start", "end")]
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"{machine['memory_gib']} GiB; JAX on {machine['accelerator']}. "
        f"Load average {loads[0]} before, {loads[1]} after. "
        f"Python {machine['python']}; {versions}. "
        "× ours: how many times as long (or as much memory) as ours, round by round."
    )


def line(row: Mapping) -> str:
    """A row in one line, as it is printed when it is done."""
    parts = []
    for name, result in row["results"].items():
        text = f"{name} {_value(result['median'], row['unit'])}"
        if "ratio" in result:
            text += f" (× {result['ratio'][1]:.2f})"
        parts.append(text)
    return f"{row['part']}  {row['what']}: " + (", ".join(parts) or "nobody took part")


def _lines(row: Mapping) -> Iterator[str]:
    what = row["what"]
    for name, result in row["results"].items():
        # A rate falls where the time rises: its quartiles change places.
        spread = sorted((result["q1"], result["q3"]), reverse=row["unit"] in ("clips", "bytes"))
        spread = [_value(x, row["unit"]).split()[0] for x in spread]
        ratio = result.get("ratio")
        shown = f"{ratio[1]:.2f} [{ratio[0]:.2f}, {ratio[2]:.2f}]" if ratio else ""
        value = _value(result["median"], row["unit"])
        if row["unit"] == "clips" and row["spec"].get("batch") == 1:
            value += f" ({1000 * result['median']:.2f} ms)"
        yield f"| {what} | {name} | {value} [{', '.join(spread)}] | {shown} |"
        what = ""


def _value(value: float, unit: str) -> str:
    """What was measured (seconds per clip, say) as a person wants to read it (clips/s)."""
    shown = {"clips": 1 / value, "bytes": 1e-9 / value, "s": value, "MB": 1e-6 * value}[unit]
    digits = 3 if abs(shown) < 10 else 1 if abs(shown) < 100 else 0
    return f"{shown:,.{digits}f} {_UNITS[unit]}"


def _accelerator(summary: Mapping) -> Iterator[str]:
    yield f"Memory copies {summary['bytes_per_s'] / 1e9:,.1f} GB/s (read and written)."
    for dtype in ("float32", "bfloat16"):
        s = summary[dtype]
        yield (
            f"{dtype}: {s['clips_per_s']:,.0f} clips/s, {s['bytes_per_clip'] / 1e6:.1f} MB a clip, "
            f"{100 * s['share_of_memory_limit']:.0f} % of the memory's limit, a 5 % run in "
            f"{s['run_s']:,.0f} s; {s['best_n_seeds']} seeds at once do best, "
            f"{s['seeds_clips_per_s']:,.0f} clips/s together, their runs in "
            f"{s['runs_of_all_seeds_s']:,.0f} s, Table 1 with five seeds in "
            f"{s['table1_s'] / 3600:,.1f} h."
        )


def draw(report: Mapping, path: str) -> None:
    """Bars of the ratios, a logarithmic axis, quartiles as whiskers; 1 is ours."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from asc_jax.evaluation.report.figures import GREY, INK, STYLE

    rows = [row for row in report["rows"] if any("ratio" in r for r in row["results"].values())]
    names = [n for n in CONTESTANTS if any("ratio" in row["results"].get(n, {}) for row in rows)]
    n_bars = sum("ratio" in r for row in rows for r in row["results"].values())
    with rc_context(STYLE):
        figure = Figure(figsize=(9, 1.6 + 0.2 * n_bars + 0.25 * len(rows)), layout="constrained")
        axes = figure.subplots()
        y, ticks = 0.0, []
        for row in rows:
            bars = [(n, r["ratio"]) for n, r in row["results"].items() if "ratio" in r]
            ticks.append((y + (len(bars) - 1) / 2, f"{row['part']}  {row['what']}"))
            for name, (low, middle, high) in bars:
                colour = _COLOURS[names.index(name) % len(_COLOURS)]
                style = {"hatch": "///", "edgecolor": "white"} if name.endswith("_tuned") else {}
                axes.barh(y, middle - 1, left=1, height=0.8, color=colour, linewidth=0, **style)
                axes.plot([low, high], [y, y], color=INK, linewidth=1)
                axes.text(max(high, 1), y, f" {middle:.2f}  {name}", va="center", size=7)
                y += 1
            y += 1.2
        axes.set_xscale("log")
        axes.axvline(1, color=GREY)
        axes.set_yticks(*zip(*ticks, strict=True) if ticks else ([], []))
        axes.invert_yaxis()
        axes.set_xlabel("time or memory of a contestant over ours; right of the line, ours wins")
        figure.savefig(path)
