"""Compare this package with PyTorch, stage by stage.

usage: asc-jax parity [--live PATH [--weights FILE [--part NAME]]] [--json]

Compares with reference arrays that come with the package, which takes minutes. --live compares
with the PyTorch that is installed, on clips of yours: one second, mono, 44.1 kHz; that needs
pip install 'asc_jax[interop]'. It computes the front end by torchaudio where that is installed,
otherwise by this package's own version in plain PyTorch; masks, MixStyle and the 20 steps are not
compared then. --weights computes logits, statistics, gradients and the step of AdamW with the
weights of a PyTorch file, as convert --from_torch reads it. It takes the baseline's network of
width 32 and 10 classes only, the one whose stages are in the table. For other networks, make a run
by convert --from_torch and compare the logits of asc_jax.load_run(RUN).apply with your PyTorch's.
docs/parity.md explains the stages.

examples:
  asc-jax parity
  asc-jax parity --live clip.wav
  asc-jax parity --live clips --weights model.ckpt

exit status: 0 every stage within its tolerance, 1 some not (the last line names them), 2 wrong
input
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence

import jax
import numpy as np
from absl import flags

from asc_jax.cli import align, reject_words, run
from asc_jax.errors import UserError
from asc_jax.pytorch.parity import live
from asc_jax.pytorch.parity import table as parity
from asc_jax.pytorch.parity.checks import Row

GOLDEN = pathlib.Path(parity.__file__).with_name("golden")
MAX_CLIPS = 16  # of a folder
HEADER = ("", "stage", "compared", "values", "absolute", "relative", "tolerance", "its origin")
NUMBERS = {"values", "absolute", "relative", "gap"}  # columns to the right


def define_flags() -> None:
    flags.DEFINE_boolean("json", False, "Print one JSON object instead of the table")
    flags.DEFINE_string("live", None, "Wav file, or folder of them, to compare with PyTorch on")
    flags.DEFINE_string(
        "weights",
        None,
        "PyTorch file of the baseline's network, whose weights --live takes (default: golden ones)",
    )
    flags.DEFINE_string("part", None, "Network to take of several in the file of --weights")


def main(argv: Sequence[str]) -> None:
    """Print the table or the JSON object; end the process with 1 if a stage is out."""
    reject_words(argv[1:])
    options = flags.FLAGS
    if options.weights is not None and options.live is None:
        raise UserError("--weights goes with --live: a wav file of one second, or a folder of them")
    if options.part is not None and options.weights is None:
        raise UserError("--part goes with --weights")
    given = {"weights": options.weights, "part": options.part}
    if not show(live_path=options.live, json_only=options.json, **given):
        sys.exit(1)


def show(*, live_path, json_only: bool, devices=None, weights=None, part=None) -> bool:
    """Run every stage and print; return True if all are within their tolerances.

    live_path: file or folder of clips, or None. weights, part: PyTorch file and the network in it.
    """
    devices = devices or parity.default_devices()
    golden = parity.golden_reference(GOLDEN)
    if live_path is None:
        source, rows = "golden arrays of PyTorch 2.9.1", parity.run(golden, devices=devices)
    else:
        waveform, clips = read_clips(live_path)
        source, state_dict = f"{live.versions()}, {clips}", None
        if weights is not None:
            source, state_dict = f"{source}, weights of {weights}", live.weights_of(weights, part)
        reference = live.live_reference(waveform, golden, state_dict)
        rows = parity.run(reference, live.STAGES, devices)
    kinds = [f"{device.platform} ({device.device_kind})" for device in devices]
    print((as_json if json_only else as_text)(rows, source, kinds))
    return all(row.within for row in rows)


def read_clips(path: str) -> tuple[np.ndarray, str]:
    """Read a wav file, or the first files of a folder.

    Args:
      path: one second, mono, 44.1 kHz, or a folder of such files.

    Returns:
      `[b, 44100]` float32 in [-1, 1), and words for where they come from.

    Raises:
      UserError: nothing there, or a file of another kind.
    """
    from asc_jax.data.tau.wav import read_wav

    found = pathlib.Path(path)
    if not path:
        raise UserError("--live is empty, expected a wav file or a folder of them")
    if not found.exists():
        raise UserError(f"--live {path}: no such file or folder")
    files = [found]
    if found.is_dir():
        wavs = (file for file in found.rglob("*") if file.suffix.lower() == ".wav")
        files = sorted(file for file in wavs if file.is_file())
    if not files:
        raise UserError(f"--live {path}: no .wav file in this folder")
    name = f"{min(len(files), MAX_CLIPS)} of {len(files)} clips in {path}"
    waveform = np.stack([read_wav(file) for file in files[:MAX_CLIPS]])
    return waveform, name if found.is_dir() else path


def as_json(rows: Sequence[Row], source: str, devices: Sequence[str]) -> str:
    """Return one object: `reference`, `devices`, `within`, `failed` and `rows`."""
    result = {
        "reference": source,
        "devices": list(devices),
        "within": all(row.within for row in rows),
        "failed": [row.stage for row in rows if not row.within],
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    return json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)


def as_text(rows: Sequence[Row], source: str, devices: Sequence[str]) -> str:
    """Return the table, what its columns mean, and the verdict as the last line."""
    header = (*HEADER, "gap") if len(devices) > 1 else HEADER
    table = [header, *(_cells(row)[: len(header)] for row in rows)]
    lines = align(table, to_right=[header.index(name) for name in header if name in NUMBERS])
    lines.insert(1, "─" * len(max(lines, key=len)))
    title = f"Reference: {source}. Ours: JAX {jax.__version__} on {devices[0]}."
    return "\n".join([title, "", *lines, "", *_notes(devices), _verdict(rows)])


def _cells(row: Row) -> tuple[str, ...]:
    def number(value):
        return "–" if value is None else f"{value:.1e}" if value else "0"

    return (
        "ok" if row.within else "FAIL",
        row.stage,
        row.compared if row.problem is None else row.problem,
        f"{row.n_values:,}",
        number(row.max_abs),
        number(row.relative),
        row.tolerance,
        row.basis,
        number(row.device_gap),
    )


def _notes(devices: Sequence[str]) -> list[str]:
    notes = [
        "absolute: largest |ours − reference|; relative: ‖ours − reference‖ / ‖reference‖;",
        "r in a tolerance is the reference value, ‖r‖ the norm of all; a … b: by clip or step.",
    ]
    if len(devices) > 1:
        notes.append(f"gap: largest distance between {devices[0]} and {devices[1]}.")
    return notes


def _verdict(rows: Sequence[Row]) -> str:
    failed = [row.stage for row in rows if not row.within]
    if not failed:
        return f"verdict: all {len(rows)} stages within tolerance"
    return f"verdict: {len(failed)} of {len(rows)} stages out of tolerance: {'; '.join(failed)}"


if __name__ == "__main__":
    run(main, define_flags)
