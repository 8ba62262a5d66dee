"""Quantise a finished run to 8 bits and write it for LiteRT, only after the file is checked."""

import collections
import os
import pathlib
from collections.abc import Iterator, Mapping

import jax
import numpy as np

from asc_jax import features
from asc_jax.complexity import limits
from asc_jax.errors import UserError, expect
from asc_jax.evaluation.evaluate import open_run, output_folder, require_finite
from asc_jax.experiment import Experiment
from asc_jax.export import check
from asc_jax.export.graph import INPUT, Deployment
from asc_jax.export.run import deploy, write
from asc_jax.quantisation import calibrate, litert, simulate
from asc_jax.quantisation.program import Program, Tensor, build, require_rules
from asc_jax.types import Array, Params

N_CALIBRATION_CLIPS = 512
DEFAULT_METHOD = "mse"
N_REPORT_CLIPS = 64  # of those, whose errors are reported


def export_int8(
    workdir: str | os.PathLike,
    calibration_clips,
    *,
    n_calibration_clips: int = N_CALIBRATION_CLIPS,
    method: str = DEFAULT_METHOD,
    out_dir: str | os.PathLike | None = None,
    checkpoint: str = "last",
    clips=None,
) -> list[str]:
    """Write the trained network of a workdir as a LiteRT file of int8.

    Args:
      workdir: of a run.
      calibration_clips: those that the network was trained on, as `data.clips` opens them.
      n_calibration_clips: at most as many are taken, evenly spread; ≥ 1.
      method: a key of `calibrate.METHODS`.
      out_dir: folder to write to; None: `export` inside the workdir (or its `best_checkpoint`).
      checkpoint: "last" or "best".
      clips: to compare on, as for `export.run.export_run`.

    Returns:
      Lines to print: file, sizes, error by layer, comparison.

    Raises:
      UserError: no such run, method or package; the network has an operation without an integer
        rule; LiteRT's reference kernels compute other logits than the program; or the file cannot
        be written. Nothing is written then.
    """
    expect("calibration_clips", n_calibration_clips, n_calibration_clips >= 1, "at least 1")
    run = open_run(workdir, checkpoint=checkpoint)
    experiment, metadata = run.experiment, {"config": run.name, "step": str(run.step)}
    deployment = deploy(experiment, run.variables, "float32", metadata)
    require_rules(deployment.operations)
    log_mel = compute_log_mel(experiment, calibration_clips, n_calibration_clips)
    program = quantise(deployment, log_mel, method)
    metadata = {
        **{k: v for k, v in deployment.metadata.items() if k not in ("role", "budget")},
        "weights": "int8",
        "calibration": f"{method}, {len(log_mel):,} clips",
        **_stamp(experiment, program),
    }
    data = litert.build(program, metadata)
    batches = check.clip_batches(clips, experiment.n_samples)
    tally = compare(program, data, deployment, batches)
    shown = log_mel[:: -(-len(log_mel) // N_REPORT_CLIPS)]
    ratios = calibrate.signal_to_noise(program, deployment.operations, deployment.variables, shown)
    out = pathlib.Path(out_dir or output_folder(workdir, checkpoint) / "export")
    over = ".teacher" if "role" in metadata else ".over_budget" if "budget" in metadata else ""
    path = out / f"{litert.ARTEFACT}{over}{litert.EXTENSION}"
    write({path: data})
    return [
        f"{path}: {len(data):,} bytes",
        f"network weights: {program.n_bytes:,} bytes, int8 with biases of int32",
        *(metadata[name] for name in ("budget", "role") if name in metadata),
        *error_table(program, ratios, metadata["calibration"], len(shown)),
        *comparison(program, tally),
    ]


def compute_log_mel(experiment: Experiment, clips, n_clips: int) -> np.ndarray:
    """Return the log-mel of at most n clips, evenly spread: `[n, n_mels, n_frames, 1]` float32."""
    n_clips, parts = min(n_clips, len(clips)), []
    compute = jax.jit(lambda audio: features.log_mel(audio, **experiment.config.features))
    spread = np.arange(n_clips) * len(clips) // max(n_clips, 1)
    for batch in clips.batches(spread, min(check.BATCH_SIZE, max(n_clips, 1))):
        parts.append(np.asarray(compute(batch["audio"]))[batch["mask"]])
    if not parts:
        raise UserError("there is no clip to calibrate on: at least 1 is needed")
    return np.concatenate(parts)


def quantise(deployment: Deployment, log_mel: np.ndarray, method: str) -> Program:
    """Return the integer program of a float32 deployment, calibrated on log-mels."""
    operations, params = deployment.operations, deployment.variables
    ranges = calibrate.calibrate(operations, params, log_mel, method)
    return build(operations, deployment.input_shapes["log_mel_to_logits"], ranges)


def compare(program: Program, data: bytes, deployment: Deployment, batches: check.Batches) -> dict:
    """Compute every batch in float32 and in integers, by JAX and by both kernels of LiteRT.

    Args:
      program: that the file holds.
      data: the file.
      deployment: of the same network in float32.
      batches: as `check.clip_batches` gives them.

    Returns:
      `n_clips`, `n_labelled`; of these, `n_same`: clips with the top class of float32, of "int8"
      and of the "fast" kernels; `n_correct`: clips with the correct one, also for "float32";
      `n_other`: clips for which the fast kernels give other logits than the program; `largest`:
      by how many steps at most.

    Raises:
      UserError: the reference kernels give other logits than the program.
    """

    @jax.jit
    def reference(variables: Params, audio: Array):
        log_mel = features.log_mel(audio, **deployment.features)
        return deployment.apply(variables, log_mel), simulate.quantise(program.input, log_mel)

    variables = deployment.variables
    run, exact, fast = (
        simulate.simulator(program),
        litert.load(data),
        litert.load(data, reference=False),
    )
    tally: dict = {"n_same": collections.Counter(), "n_correct": collections.Counter()}
    tally |= dict.fromkeys(("n_clips", "n_labelled", "n_other", "largest"), 0)
    for audio, label, mask in batches:
        logits, x = map(np.asarray, reference(variables, audio))
        require_finite(logits[mask], "the network to quantise")
        ours, theirs, others = (np.asarray(f(x), np.int32) for f in (run, exact, fast))
        if not np.array_equal(ours, theirs):
            raise UserError(
                "LiteRT's reference kernels give logits that differ by "
                f"{np.abs(ours - theirs).max()} steps from those of the integer program: this "
                "version of ai-edge-litert computes otherwise. Nothing was written; install the "
                "version in requirements-interop.txt"
            )
        labelled = mask & (label >= 0)
        tally["n_clips"] += int(mask.sum())
        tally["n_labelled"] += int(labelled.sum())
        gap = np.abs(ours - others)[mask]
        tally["n_other"] += int(np.any(gap, axis=-1).sum())
        tally["largest"] = max(tally["largest"], int(gap.max(initial=0)))
        for name, result in (("float32", logits), ("int8", ours), ("fast", others)):
            top = result.argmax(-1)
            tally["n_same"][name] += int(np.sum(mask & (top == logits.argmax(-1))))
            tally["n_correct"][name] += int(np.sum(labelled & (top == label)))
    return tally


def error_table(
    program: Program, ratios: Mapping[str, float], calibration: str, n_clips: int
) -> list[str]:
    """Return lines that say, for every result, its range and its ratio of signal to error.

    Args:
      program: its tensors give the ranges.
      ratios: what `calibrate.signal_to_noise` returns.
      calibration: how the ranges were found.
      n_clips: that the ratios are of.
    """
    tensors = {tensor.name: tensor for tensor in (program.input, *_results(program))}
    width = max(map(len, ratios))
    lines = [f"calibration: {calibration}; ratio of signal to error on {n_clips:,} of them:"]
    lines.append(f"  {'result':{width}}  {'least':>9}  {'largest':>9}  {'dB':>5}")
    for name, ratio in ratios.items():
        scale, point = float(tensors[name].scale), tensors[name].zero_point
        low, high = scale * (-128 - point), scale * (127 - point)
        name = "log-mel" if name == INPUT else name
        lines.append(f"  {name:{width}}  {low:9.3f}  {high:9.3f}  {ratio:5.1f}")
    return lines


def comparison(program: Program, tally: Mapping) -> list[str]:
    """Return the lines about what `compare` returns."""
    n_clips, n_labelled = tally["n_clips"], tally["n_labelled"]
    n_noise = n_clips - n_labelled

    def agreement(name: str) -> str:
        text = f"top class of float32 on {100 * tally['n_same'][name] / n_clips:.2f} %"
        return f"{text}{accuracy(name)}"

    def accuracy(name: str) -> str:
        return (
            f", accuracy {100 * tally['n_correct'][name] / n_labelled:.2f} %" if n_labelled else ""
        )

    noise = f", {n_noise:,} of them synthetic noise" if n_noise else ""
    fast = "the same logits"
    if tally["n_other"]:
        largest = tally["largest"] * float(program.output.scale)
        fast = (
            f"other logits on {tally['n_other']:,} clips, by at most {tally['largest']} steps of "
            f"{program.output.scale:.3g} ({largest:.2g})"
        )
    return [
        f"compared on {n_clips:,} clips{noise}:",
        *([f"  float32 in JAX{accuracy('float32')}"] if n_labelled else []),
        f"  int8 in JAX and by LiteRT's reference kernels, the same bits: {agreement('int8')}",
        f"  int8 by LiteRT's fast kernels of this machine, {fast}: {agreement('fast')}",
    ]


def _results(program: Program) -> Iterator[Tensor]:
    return (step.output for step in program.steps)


def _stamp(experiment: Experiment, program: Program) -> dict[str, str]:
    """Return the metadata that says that a network cannot be submitted."""
    if experiment.is_teacher:
        return {"role": limits.TEACHER}
    macs, n_bytes = experiment.cost["macs"], program.n_bytes
    if macs <= experiment.cost["max_macs"] and n_bytes <= experiment.cost["max_bytes"]:
        return {}
    return {"budget": f"over budget: {n_bytes:,} bytes, {macs:,} MACs"}
