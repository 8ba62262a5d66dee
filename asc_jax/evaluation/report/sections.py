"""The parts of `report.html` about what the network says of the clips; lines of HTML each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from asc_jax.data.tau.taxonomy import DEVICE_GROUPS, SCENES
from asc_jax.evaluation.calibration import N_BINS
from asc_jax.evaluation.report import drawings
from asc_jax.evaluation.report.page import figure, paragraph, table
from asc_jax.evaluation.report.text import decimals, percent, published

_NAMES = [name.replace("_", " ") for name in SCENES]


def accuracy(results: Mapping[str, Any]) -> list[str]:
    """Averages, scenes, devices and groups, beside what was published on the same lists."""
    stored = results["stored_dtype"]
    known = published(results["split"]) if results["official_lists"] else None
    theirs = [known["report"], known["baseline"]] if known else []
    dtypes = list(dict.fromkeys(("float32", stored)))
    header = ["clips", *dtypes, "log loss"]
    header += ["report, published", "baseline, published"][: len(theirs)]
    units = f"accuracy in %, log loss in nats per clip ({stored})"

    def row(name, pick, key="accuracy", loss="log_loss"):
        ours = [pick(results[dtype]) for dtype in dtypes]
        others = [percent(_published(system, pick, key)) for system in theirs]
        figures = [percent(part[key]) for part in ours]
        return [name, f"{ours[-1]['n_clips']:,}", *figures, decimals(ours[-1][loss]), *others]

    rows = [
        row("macro average of scenes", lambda s: s, "macro_accuracy", "macro_log_loss"),
        row("all clips", lambda s: s),
    ]
    lines = table("overall", f"Averages: {units}", ["average", *header], rows)
    for kind, title in (("scenes", "By scene"), ("devices", "By device"), ("groups", "By group")):
        rows = [
            row(_label(kind, name), lambda s, kind=kind, name=name: s[kind][name])
            for name in results[stored][kind]
        ]
        lines += table(f"by-{kind}", f"{title}: {units}", [kind[:-1], *header], rows)
        if kind == "devices":
            words = f"Accuracy by device, parameters stored in {stored}."
            lines += figure(drawings.device_bars(results[stored]), words)
    return [*lines, *_segments(results)]


def _published(system: Mapping[str, Any], pick, key: str) -> float | None:
    """What a system's published figures hold in that place; they have no dicts at the end."""
    try:
        found = pick(system)
    except KeyError:
        return None
    return found.get(key) if isinstance(found, Mapping) else found


def _label(kind: str, name: str) -> str:
    if kind == "groups":
        return f"{name} ({' '.join(DEVICE_GROUPS[name]).upper()})"
    return name.upper() if kind == "devices" else name.replace("_", " ")


def _segments(results: Mapping[str, Any]) -> list[str]:
    segments, summary = results["segments"], results[results["stored_dtype"]]
    lines = ["<h3>Ten-second segments</h3>"]
    if "missing" in segments:
        return [*lines, paragraph(f"There are none: {segments['missing']}.")]
    words = (
        "A recording is cut into ten clips of one second. Here each device's recording counts "
        "once, with the mean of the probabilities of its clips."
    )
    figures = ("macro_accuracy", "accuracy")
    rows = [
        (name, f"{n:,}", *(percent(part[key]) for key in figures), decimals(part["log_loss"]))
        for name, n, part in (
            ("clips", summary["n_clips"], summary),
            ("segments", segments["n_segments"], segments),
        )
    ]
    header = ["of", "number", "macro average, %", "all, %", "log loss"]
    return [*lines, paragraph(words), *table("segments", "Clips and segments", header, rows)]


def confusion(results: Mapping[str, Any]) -> list[str]:
    """The matrix as a table of shaded cells, and its largest entries in words."""
    counts = np.array(results[results["stored_dtype"]]["confusion"], float)
    clips = counts.sum(1, keepdims=True)
    shares = counts / np.maximum(clips, 1)
    cells = [[f"{100 * x:.0f}" if x >= 0.005 else "" for x in row] for row in shares]
    rows = [[name, *row] for name, row in zip(_NAMES, cells, strict=True)]
    styles = [[drawings.heat(x) for x in row] for row in shares]
    caption = "Of each true scene's clips (row), % that were named so (column); blank below 0.5 %"
    header = ["true scene", *_NAMES]
    wrong = counts - np.diag(np.diag(counts))
    worst = [np.unravel_index(i, wrong.shape) for i in np.argsort(-wrong, axis=None)[:5]]
    said = [
        f"<li>{_NAMES[i]} taken for {_NAMES[j]}: {wrong[i, j]:,.0f} of {clips[i, 0]:,.0f}</li>"
        for i, j in worst
        if wrong[i, j]
    ]
    lines = table("matrix", caption, header, rows, look="heat", styles=styles)
    return [*lines, "<h3>Most frequent mistakes</h3>", "<ol>", *said, "</ol>"] if said else lines


def calibration(results: Mapping[str, Any]) -> list[str]:
    """Reliability diagrams, the temperature or why there is none, and the bins."""
    found = results["calibration"]
    temperature, fitted_on = found["temperature"], found["fitted_on"]
    drawn = {"as trained": ("as-trained", found["as_trained"])}
    if temperature is not None:
        scaled = "with-temperature", found["with_temperature"]
        drawn[f"with temperature {temperature:.3f}"] = scaled
    drawn = {label: (name, row) for label, (name, row) in drawn.items() if row is not None}
    words = (
        f"A clip's confidence is the probability of the scene named for it, in {N_BINS} bins of "
        "equal width. The expected calibration error is the mean over clips of the distance "
        "between accuracy and confidence of their bin. Bars show the accuracy; a red line leads "
        "to where it would stand if the network were calibrated, on the dashed line."
    )
    lines = [paragraph(words), '<div class="row">']
    for label, (name, row) in drawn.items():
        title = f"Reliability diagram, {label}"
        drawing = drawings.reliability_diagram(name, title, row)
        lines += figure(drawing, f"{title}: calibration error {percent(row['ece'])} %")
    lines.append("</div>")
    if temperature is None:
        lines.append(paragraph(f"No temperature: {found['why_not']}."))
    else:
        lines.append(
            paragraph(
                f"The temperature divides the logits. It was fitted on {fitted_on['n_clips']:,} "
                "clips of training locations held out, where it changes the log loss from "
                f"{decimals(fitted_on['before'])} to {decimals(fitted_on['after'])}; it changes "
                "no scene that is named, and output.csv holds the probabilities without it."
            )
        )
    header = ["", "calibration error, %", "log loss", "confidence, %", "accuracy, %"]
    header[0] = "probabilities"
    rows = [
        (label, percent(row["ece"]), decimals(row["log_loss"]))
        + (percent(row["confidence"]), percent(row["accuracy"]))
        for label, (_, row) in drawn.items()
    ]
    lines += table("calibrated", "Calibration on the test clips", header, rows)
    for label, (name, row) in drawn.items():
        lines += [f"<details><summary>Bins, {label}</summary>", *_bins(name, label, row)]
        lines.append("</details>")
    return lines


def _bins(name: str, label: str, row: Mapping[str, Any]) -> list[str]:
    rows = [
        (f"{percent(b['low'])} to {percent(b['high'])}", f"{b['n_clips']:,}")
        + (percent(b["confidence"]), percent(b["accuracy"]))
        for b in row["bins"]
    ]
    header = ["confidence above … to …, %", "clips", "mean confidence, %", "accuracy, %"]
    return table(f"bins-{name}", f"Bins, {label}", header, rows)


def clips(
    results: Mapping[str, Any], log_mels: Sequence[np.ndarray], axes: Mapping[str, float]
) -> list[str]:
    """The most confused clips with their spectrograms; `axes` as `spectrogram` wants them."""
    if not results["most_confused"]:
        return [paragraph("Every clip was named rightly.")]
    limits = drawings.spectrogram_limits(log_mels)
    words = (
        "The clips of which the network was surest and wrong, from the surest, one of a recording "
        "at most. Their spectrograms, time to the right, frequency upwards on the mel scale, "
        "share one scale: the brighter, the louder."
    )
    lines = [paragraph(words), '<div class="row">']
    pairs = zip(results["most_confused"], log_mels, strict=True)
    for number, (clip, log_mel) in enumerate(pairs):
        truth, named = (clip[key].replace("_", " ") for key in ("scene", "predicted"))
        name = clip["filename"].removeprefix("audio/")
        title = f"{truth} taken for {named}, device {clip['device'].upper()}"
        drawing = drawings.spectrogram(
            f"clip-{number}", f"{name}: {title}", log_mel, limits, **axes
        )
        words = (
            f"{title}: {percent(clip['probability'])} % for {named}, "
            f"{percent(clip['true_probability'])} % for {truth}. {name}"
        )
        lines += figure(drawing, words)
    return [*lines, "</div>"]
