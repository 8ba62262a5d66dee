"""Quantise a finished run to 8 bits and write it for LiteRT, ONNX or in C, after it is checked."""

import collections
import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np

from asc_jax import features
from asc_jax.complexity import limits
from asc_jax.errors import UserError, expect
from asc_jax.evaluation.evaluate import open_run, require_finite
from asc_jax.experiment import Experiment
from asc_jax.export import check
from asc_jax.export.run import deploy, require_out, write
from asc_jax.operations import calibrate, network, simulate
from asc_jax.operations.graph import INPUT, Deployment
from asc_jax.operations.network import DEFAULT_METHOD, N_CALIBRATION_CLIPS
from asc_jax.operations.program import Program, Tensor, build, require_rules
from asc_jax.quantisation import c_features, c_library, litert, onnx
from asc_jax.types import Array, Params

N_REPORT_CLIPS = 64  # of those, whose errors are reported
N_TEST_CLIPS = 3  # of those, in the test vector of the C library
KINDS = ("litert", "c", "onnx")
NO_COMPILER = (
    f"the C library was not run: no compiler here ({', '.join(c_library.COMPILERS)}); make test in "
    "its folder does it where there is one"
)


@dataclasses.dataclass(frozen=True)
class Kernels:
    """Hold what computes the integer program as it is written.

    exact: function of int8 log-mels whose logits must be those of the program; None where it
    cannot be run. name: of it, in the plural. otherwise: what it means, and what to do, if they
    are not. fast: a function that may round otherwise, or None; fast_name: of it. n_steps: by
    which the logits of `exact` may differ; agreement: fraction of clips on which its top class must
    be the program's.
    """

    exact: Callable | None
    name: str
    otherwise: str
    fast: Callable | None = None
    fast_name: str = "LiteRT's fast kernels of this machine"
    n_steps: int = 0
    agreement: float = 1.0


def export_int8(
    workdir: str | os.PathLike,
    calibration_clips,
    *,
    kind: str = "litert",
    n_calibration_clips: int = N_CALIBRATION_CLIPS,
    method: str | None = None,
    out_dir: str | os.PathLike | None = None,
    checkpoint: str = "last",
    clips=None,
) -> list[str]:
    """Write the trained network of a workdir in integers of 8 bits.

    Args:
      workdir: of a run.
      calibration_clips: those that the network was trained on, as `data.clips` opens them.
      kind: "litert", "onnx": one file; "c": a folder, the library in C.
      n_calibration_clips: at most as many are taken, evenly spread; ≥ 1.
      method: a key of `calibrate.METHODS`; None: the ranges are those of the training where that
        was aware of the quantisation, and of `DEFAULT_METHOD` where it was not.
      out_dir: folder to write to; None: `export` inside the workdir (or its `best_checkpoint`).
      checkpoint: "last" or "best".
      clips: to compare on, as for `export.run.export_run`.

    Returns:
      Lines to print: files, sizes, error by layer, comparison.

    Raises:
      UserError: no such kind, run, method or package; the network has an operation without an
        integer rule; LiteRT's reference kernels, or the C library, compute other logits than the
        program, or ONNX Runtime logits that are too far from them; or the files cannot be written.
        Nothing is written then.
    """
    expect("kind", kind, kind in KINDS, f"one of {', '.join(KINDS)}")
    expect("calibration_clips", n_calibration_clips, n_calibration_clips >= 1, "at least 1")
    out = require_out(workdir, checkpoint, out_dir)
    run = open_run(workdir, checkpoint=checkpoint)
    experiment, metadata = run.experiment, {"config": run.name, "step": str(run.step)}
    deployment = deploy(experiment, run.variables, "float32", metadata)
    require_rules(deployment.operations)
    log_mel = network.compute_log_mel(experiment.config, calibration_clips, n_calibration_clips)
    program, calibration = _program(deployment, log_mel, method, run.ranges)
    metadata = {
        **{k: v for k, v in deployment.metadata.items() if k not in ("role", "budget")},
        "weights": "int8",
        "calibration": calibration,
        **_stamp(experiment, program),
    }
    batches = check.clip_batches(clips, experiment.n_samples)
    over = ".teacher" if "role" in metadata else ".over_budget" if "budget" in metadata else ""
    if kind in FILES:
        files = _one_file(kind, program, metadata, out, over)
    else:
        library = c_library.build(program, deployment.classes, metadata)
        front_end, lines = c_features.checked(
            experiment.config.features, library, program.input, calibration_clips
        )
        library |= front_end | _test_vector(program, log_mel)
        files = _folder(out / f"{c_library.FOLDER}{over}", library)
        files.more.extend([*c_library.memory_lines(program), *lines])
    with files.running as kernels:
        tally = compare(program, kernels, deployment, batches)
    shown = log_mel[:: -(-len(log_mel) // N_REPORT_CLIPS)]
    ratios = calibrate.signal_to_noise(program, deployment.operations, deployment.variables, shown)
    write(files.contents)
    return [
        *files.written,
        f"network weights: {program.n_bytes:,} bytes, int8 with biases of int32",
        *files.more,
        *(metadata[name] for name in ("budget", "role") if name in metadata),
        *error_table(program, ratios, metadata["calibration"], len(shown)),
        *comparison(program, kernels, tally),
    ]


def _program(
    deployment: Deployment, log_mel: np.ndarray, method: str | None, ranges
) -> tuple[Program, str]:
    """Return the integer program, and in words where its ranges come from.

    method, ranges: see `export_int8`; ranges: those of the training, or None.
    """
    if method is None and ranges is not None:
        shape = deployment.input_shapes["log_mel_to_logits"]
        program = build(deployment.operations, shape, ranges)
        return program, f"of the training; {len(log_mel):,} clips to report on"
    method = method or DEFAULT_METHOD
    return quantise(deployment, log_mel, method), f"{method}, {len(log_mel):,} clips"


class _Files(NamedTuple):
    """Hold the files of an export before they are written.

    contents: by path. running: a context manager that gives the `Kernels` which run them. written,
    more: lines to print about the files, and about what they need.
    """

    contents: dict[pathlib.Path, bytes]
    running: contextlib.AbstractContextManager[Kernels]
    written: list[str]
    more: list[str]


def _one_file(kind: str, program: Program, metadata: dict, out: pathlib.Path, over: str) -> _Files:
    """Return the file of a kind of `FILES`; over: what its name says beside the kind."""
    writer, load_kernels = FILES[kind]
    data = writer.build(program, metadata)
    path = out / f"{writer.ARTEFACT}{over}{writer.EXTENSION}"
    running = contextlib.nullcontext(load_kernels(data, program))
    return _Files({path: data}, running, [f"{path}: {len(data):,} bytes"], [])


def _folder(folder: pathlib.Path, library: Mapping[str, bytes]) -> _Files:
    """Return the files of the library in C."""
    contents = {folder / name: data for name, data in library.items()}
    return _Files(contents, _c_kernels(library), [f"{folder}: {', '.join(sorted(library))}"], [])


def _litert_kernels(data: bytes, program: Program) -> Kernels:
    return Kernels(
        litert.load(data),
        "LiteRT's reference kernels",
        "this version of ai-edge-litert computes otherwise. Nothing was written; install the "
        "version in requirements-interop.txt",
        litert.load(data, reference=False),
    )


def _onnx_kernels(data: bytes, program: Program) -> Kernels:
    return Kernels(
        onnx.load(data, program),
        "ONNX Runtime's kernels in float32",
        "Nothing was written; try --calibration minmax, or --to litert",
        onnx.load(data, program, optimised=True),
        "ONNX Runtime's integer kernels on this machine",
        onnx.MAX_STEPS,
        onnx.MIN_AGREEMENT,
    )


# Kinds that are one file → the module that writes it, and what gives the kernels that run it.
FILES = {"litert": (litert, _litert_kernels), "onnx": (onnx, _onnx_kernels)}


@contextlib.contextmanager
def _c_kernels(library: Mapping[str, bytes]) -> Iterator[Kernels]:
    """Compile the C library, if there is a compiler."""
    path, name = c_library.compiler(), "the functions in C"
    if path is None:
        yield Kernels(None, name, "")
        return
    otherwise = f"{path} compiles it otherwise. Nothing was written; try another compiler"
    with c_library.compiled(library, path) as exact:
        yield Kernels(exact, f"{name} (compiled by {path})", otherwise)


def _test_vector(program: Program, log_mel: np.ndarray) -> dict[str, bytes]:
    """Return the file of a few clips of the calibration, evenly spread."""
    n_clips = min(N_TEST_CLIPS, len(log_mel))
    x = np.asarray(simulate.quantise(program.input, log_mel[:: len(log_mel) // n_clips][:n_clips]))
    return c_library.test_vector(x, np.asarray(simulate.simulator(program)(x)))


def quantise(deployment: Deployment, log_mel: np.ndarray, method: str) -> Program:
    """Return the integer program of a float32 deployment, calibrated on log-mels."""
    operations, params = deployment.operations, deployment.variables
    ranges = calibrate.calibrate(operations, params, log_mel, method)
    return build(operations, deployment.input_shapes["log_mel_to_logits"], ranges)


def compare(
    program: Program, kernels: Kernels, deployment: Deployment, batches: check.Batches
) -> dict:
    """Compute every batch in float32 and in integers, by JAX and by the kernels.

    Args:
      program: that was written.
      kernels: that run what was written.
      deployment: of the same network in float32.
      batches: as `check.clip_batches` gives them.

    Returns:
      `n_clips`, `n_labelled`; of these, `n_same`: clips with the top class of float32, of "int8"
      and of the "fast" kernels; `n_correct`: clips with the correct one, also for "float32";
      `n_other`: clips for which the fast kernels give other logits than the program; `largest`:
      by how many steps at most. `n_off`, `steps_off`, `n_agreed`: the same of the exact kernels,
      which may differ by `kernels.n_steps`, and the clips on which they have its top class.

    Raises:
      UserError: the exact kernels give other logits than the program.
    """

    @jax.jit
    def reference(variables: Params, audio: Array):
        log_mel = features.log_mel(audio, **deployment.features)
        return deployment.apply(variables, log_mel), simulate.quantise(program.input, log_mel)

    variables, run = deployment.variables, simulate.simulator(program)
    tally: dict = {"n_same": collections.Counter(), "n_correct": collections.Counter()}
    tally |= dict.fromkeys(("n_clips", "n_labelled", "n_other", "largest"), 0)
    tally |= dict.fromkeys(("n_off", "steps_off", "n_agreed"), 0)
    for audio, label, mask in batches:
        logits, x = map(np.asarray, reference(variables, audio))
        require_finite(logits[mask], "the network to quantise")
        ours = np.asarray(run(x), np.int32)
        if kernels.exact:
            theirs = np.asarray(kernels.exact(x), np.int32)
            steps = np.abs(ours - theirs).max(axis=-1)  # [b]
            if steps.max() > kernels.n_steps:
                most = f" (at most {kernels.n_steps} allowed)" if kernels.n_steps else ""
                raise UserError(
                    f"{kernels.name} give logits that differ by {steps.max()} steps{most} from "
                    f"those of the integer program: {kernels.otherwise}"
                )
            tally["n_off"] += int(np.sum(mask & (steps > 0)))
            tally["steps_off"] = max(tally["steps_off"], int(steps[mask].max(initial=0)))
            tally["n_agreed"] += int(np.sum(mask & (ours.argmax(-1) == theirs.argmax(-1))))
        results = {"float32": logits, "int8": ours}
        if kernels.fast:
            results["fast"] = np.asarray(kernels.fast(x), np.int32)
            gap = np.abs(ours - results["fast"])[mask]
            tally["n_other"] += int(np.any(gap, axis=-1).sum())
            tally["largest"] = max(tally["largest"], int(gap.max(initial=0)))
        labelled = mask & (label >= 0)
        tally["n_clips"] += int(mask.sum())
        tally["n_labelled"] += int(labelled.sum())
        for name, result in results.items():
            top = result.argmax(-1)
            tally["n_same"][name] += int(np.sum(mask & (top == logits.argmax(-1))))
            tally["n_correct"][name] += int(np.sum(labelled & (top == label)))
    if kernels.exact and tally["n_agreed"] < kernels.agreement * tally["n_clips"]:
        raise UserError(
            f"{kernels.name} have the top class of the integer program on "
            f"{100 * tally['n_agreed'] / tally['n_clips']:.2f} % of {tally['n_clips']:,} clips (at "
            f"least {100 * kernels.agreement:g} % needed): {kernels.otherwise}"
        )
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


def comparison(program: Program, kernels: Kernels, tally: Mapping) -> list[str]:
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
    same_bits = kernels.exact and not kernels.n_steps
    exact = f" and by {kernels.name}, the same bits" if same_bits else ""
    lines = [
        f"compared on {n_clips:,} clips{noise}:",
        *([f"  float32 in JAX{accuracy('float32')}"] if n_labelled else []),
        f"  int8 in JAX{exact}: {agreement('int8')}",
    ]
    if kernels.n_steps:
        lines.append(
            f"  by {kernels.name}: other logits on {tally['n_off']:,} clips, by at most "
            f"{tally['steps_off']} steps of {program.output.scale:.3g} ({kernels.n_steps} "
            f"allowed); top class of int8 in JAX on {100 * tally['n_agreed'] / n_clips:.2f} %"
        )
    if kernels.fast:
        lines.append(f"  int8 by {kernels.fast_name}, {fast}: {agreement('fast')}")
    return lines if kernels.exact else [*lines, NO_COMPILER]


def _results(program: Program) -> Iterator[Tensor]:
    return (step.output for step in program.steps)


def _stamp(experiment: Experiment, program: Program) -> dict[str, str]:
    """Return the metadata that says that a network cannot be submitted."""
    if experiment.is_teacher:
        return {"role": limits.TEACHER}
    # The challenge's rule counts a byte for each parameter as it is trained.
    macs, n_bytes = experiment.cost["macs"], experiment.cost["n_params"]
    if macs <= experiment.cost["max_macs"] and n_bytes <= experiment.cost["max_bytes"]:
        return {}
    return {"budget": f"over budget: {n_bytes:,} bytes, {macs:,} MACs"}
