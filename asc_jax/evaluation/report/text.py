"""What an evaluation prints: a table of plain text, the published figures beside ours.

A `results` dict holds one evaluated run: `config`, `split`, `test_split` (names),
`official_lists` (whether the clips were TAU's own development lists), `epoch`, `step`,
`seed`, `code_version`, `over_budget`, `complexity` (`macs`, `n_params`, `bytes`,
`bytes_with_statistics`, `max_macs`, `max_bytes`), and what `evaluation.evaluate_precisions`
returns: `stored_dtype` (a dtype's name), a `metrics.summarize` under each dtype's name, and
`formats`, what each costs. `eval.py` adds `checkpoint` ("last" or "best"), `selection` (what
chose that), and `validation`, `segments`, `calibration` and `most_confused`, see `analysis`.
"""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from asc_jax.complexity.limits import OVER_BUDGET
from asc_jax.data.tau.taxonomy import DEVICE_GROUPS
from asc_jax.evaluation.report.published import published

__all__ = ["decimals", "percent", "published", "results_table"]

_NONE = "–"
_WIDTH = 92  # columns


def results_table(results: Mapping[str, Any]) -> str:
    """The whole evaluation as aligned plain text, at most 92 columns wide.

    Published figures stand beside ours when the split's name has some and the clips were TAU's
    own lists. On other clips they cannot be compared: they are left out, and a line says so.

    Args:
        results: see the module's docstring.

    Returns:
        Lines without a newline at the end. Accuracies in percent; log losses, of the stored
        dtype, in nats per clip; "–" for what has no clips or was not published.
    """
    dtypes = list(dict.fromkeys(("float32", results["stored_dtype"])))  # one or two
    ours = [results[dtype] for dtype in dtypes]
    published_here = published(results["split"])
    known = published_here if results["official_lists"] else None
    theirs = [known["report"], known["baseline"]] if known else []
    lines = [*_about(results), ""]
    if published_here and not known:
        lines += ["no published figures: they hold for TAU's official lists, and these are others"]
    title = f"{'accuracy in %':<31}{'this run':^{9 * len(dtypes) + 10}}"
    lines += [
        title + "   published, on TAU 2022 Mobile" if known else title.rstrip(),
        _row("", "clips", dtypes, "log loss", ("report", "baseline")[: len(theirs)]),
        _overall("macro average of scenes", "macro_", ours, theirs),
        _overall("all clips", "", ours, theirs),
    ]
    if known:
        lines[-2] += f" ± {100 * known['baseline']['spread']:.2f}"
    for kind in ("scenes", "devices", "groups"):
        lines += ["", kind, *_section(kind, ours, theirs)]
    if "segments" in results:
        lines += ["", *_segments(results["segments"]), *_calibration(results["calibration"])]
    lines += ["", *_formats(results)]
    if known and known["note"]:
        lines += ["", f"note: {known['note']}"]
    return "\n".join(lines)


def _about(results: Mapping[str, Any]) -> list[str]:
    """Lines that say what was trained, what it was tested on and how large it is."""
    c, stored = results["complexity"], results["stored_dtype"]
    n_clips = results[stored]["n_clips"]
    lines = [
        f"config      {results['config']}",
        f"trained on  {results['split']}: epoch {results['epoch']:,}, step "
        f"{results['step']:,}, seed {results['seed']}",
        f"tested on   {results['test_split']}: {n_clips:,} clips",
        f"code        {results['code_version']}",
        f"parameters  {c['n_params']:,}",
        f"bytes       {_of(c['bytes'], c['max_bytes'])} as {stored}; "
        f"{c['bytes_with_statistics']:,} with running statistics",
        f"MACs        {_of(c['macs'], c['max_macs'])} per clip",
    ]
    if results.get("validation"):
        held_out = results["validation"]
        lines.append(
            f"held out    {len(held_out['locations']):,} training locations, "
            f"{held_out['n_clips']:,} clips: macro average {percent(held_out['macro_accuracy'])}"
        )
    if results.get("checkpoint") == "best":
        lines.append(f"selection   {results['selection']}")
    return lines + [OVER_BUDGET] * bool(results["over_budget"])


def _of(value: int, limit: int) -> str:
    return f"{value:,} of {limit:,} ({100 * value / limit:.1f} %)"


def _overall(label: str, prefix: str, ours: Sequence[Mapping], theirs: Sequence) -> str:
    """The row of an average over everything: `prefix` is "macro_" or empty."""
    accuracies = [percent(summary[f"{prefix}accuracy"]) for summary in ours]
    others = [percent(system.get(f"{prefix}accuracy")) for system in theirs]
    log_loss = decimals(ours[-1][f"{prefix}log_loss"])
    return _row(label, f"{ours[-1]['n_clips']:,}", accuracies, log_loss, others)


def _section(kind: str, ours: Sequence[Mapping], theirs: Sequence[Mapping]) -> list[str]:
    """One row for each scene, device or group, beside what others published."""
    lines = []
    for name, last in ours[-1][kind].items():
        label = name.replace("_", " ") if kind == "scenes" else name
        if kind == "devices":
            label = name.upper()
        elif kind == "groups":
            label += f" ({' '.join(DEVICE_GROUPS[name]).upper()})"
        accuracies = [percent(summary[kind][name]["accuracy"]) for summary in ours]
        others = [percent(system.get(kind, {}).get(name)) for system in theirs]
        log_loss = decimals(last["log_loss"])
        lines.append(_row(f"  {label}", f"{last['n_clips']:,}", accuracies, log_loss, others))
    return lines


def _segments(segments: Mapping[str, Any]) -> list[str]:
    """Accuracy of whole recordings, or why there is none."""
    if "missing" in segments:
        return textwrap.wrap(f"no segments: {segments['missing']}", _WIDTH)
    figures = (f"{segments['n_segments']:>7,}", f"{percent(segments['macro_accuracy']):>9}")
    log_loss = f"log loss {decimals(segments['log_loss'])}"
    return [f"{'segments, macro average':<24}{''.join(figures)}   {log_loss}"]


def _calibration(calibration: Mapping[str, Any]) -> list[str]:
    """Expected calibration error and log loss, as they are and with a temperature."""
    lines = []
    temperature = calibration["temperature"]
    rows = {"as trained": calibration["as_trained"]}
    if temperature is not None:
        rows[f"temperature {temperature:.3f}"] = calibration["with_temperature"]
    for label, row in rows.items():
        if row is not None:
            lines.append(
                f"{label:<24}calibration error {percent(row['ece'])} %, log loss "
                f"{decimals(row['log_loss'])}, sure to {percent(row['confidence'])} %"
            )
    if temperature is None:
        lines += textwrap.wrap(f"no temperature: {calibration['why_not']}", _WIDTH)
    return lines


def _formats(results: Mapping[str, Any]) -> list[str]:
    """What storing parameters and statistics in each number format costs."""
    head = ("stored as", "bytes", "macro", "all clips", "log loss", "changed", "rounding")
    rows = [head]
    notes = [
        "changed: clips that get another scene than in float32; rounding: the largest, relative"
    ]
    for dtype, cost in results["formats"].items():
        if "refused" in cost:
            rows.append((dtype, *[_NONE] * (len(head) - 1)))
            notes.append(f"{dtype}: {cost['refused']}")
            continue
        summary, leaves = results[dtype], cost["rounding"]
        largest = max((leaf["max_relative"] for leaf in leaves), default=0)
        accuracies = (percent(summary[name]) for name in ("macro_accuracy", "accuracy"))
        figures = (*accuracies, decimals(summary["log_loss"]), f"{cost['changed_top_scene']:,}")
        rows.append((dtype, f"{cost['bytes']:,}", *figures, f"{largest:.1e}" if largest else "0"))
        n_subnormal, n_zero = (
            sum(leaf[key] for leaf in leaves) for key in ("n_subnormal", "n_zero")
        )
        if n_subnormal or n_zero:
            notes.append(f"{dtype}: {n_subnormal:,} values became subnormal, {n_zero:,} zero")
    table = ["".join([f"{row[0]:<24}", *(f"{cell:>11}" for cell in row[1:])]) for row in rows]
    return table + [f"  {note}" for note in notes]


def _row(label: str, clips: str, ours: Iterable, log_loss: str, theirs: Sequence) -> str:
    cells = [f"{label:<24}{clips:>7}", *(f"{cell:>9}" for cell in ours), f"{log_loss:>10}"]
    return "".join(cells + ["   "] * bool(theirs) + [f"{cell:>10}" for cell in theirs])


def percent(fraction: float | None) -> str:
    """In percent, two decimals; "–" for None."""
    return _NONE if fraction is None else f"{100 * fraction:.2f}"


def decimals(value: float | None) -> str:
    """With three decimals; "–" for None."""
    return _NONE if value is None else f"{value:.3f}"
