"""Convert weights from PyTorch and to it, or export a trained run for another runtime.

usage: asc-jax convert --from_torch FILE --workdir RUN --config FILE [--part NAME]
       asc-jax convert --from_torch FILE --list
       asc-jax convert --to_torch FILE --workdir RUN [--checkpoint C] [--dtype D] [--as_trained]
       asc-jax convert --to KIND --workdir RUN [--checkpoint C] [--dtype D] [--out DIR]
       asc-jax convert --to litert|c|onnx --dtype int8 --workdir RUN [--calibration METHOD]

--from_torch reads a state dict (.pt) or a Lightning checkpoint (.ckpt) of the official baseline's
network or another of this package's, and makes a run that can be evaluated and trained. What the
file does not contain comes from --config and --config.SECTION.KEY=VALUE. A plain state dict does
not contain the hop length, so --config is needed for it. --list shows which networks a file holds,
such as a student and its teacher or one for each device, and --part NAME takes one of several.

--to onnx, litert and stablehlo write two files, waveform to probabilities and log-mel to logits;
--to c writes one header, asc_model.h, which holds data and no functions, and with --dtype float32
also a library in C that computes in float: docs/quantisation.md. PyTorch, ONNX and LiteRT
are needed for their own formats only: pip install 'asc_jax[interop]'; for LiteRT's float files
'asc_jax[data,interop]'. To quantise an ONNX file to
int8 with ONNX Runtime's quantize_dynamic, write it with --dtype float32.

--to litert --dtype int8 writes one file, log-mel to logits, that computes in integers of 8 bits
alone, for microcontrollers: docs/quantisation.md. The ranges of its values are found on
--calibration_clips clips of the split that the run was trained on, in --data_dir. --to c --dtype
int8 writes the same network as a library in C, without heap or floating point, and its front end
from samples to the log-mel, and --to onnx --dtype int8 a file with QuantizeLinear and
DequantizeLinear around every operation.

examples:
  asc-jax convert --from_torch model.ckpt --workdir runs/converted --config base.py
  asc-jax convert --from_torch model.ckpt --list
  asc-jax convert --to_torch model.pt --workdir runs/demo
  asc-jax convert --to onnx --workdir runs/demo --dtype float32
  asc-jax convert --to litert --dtype int8 --workdir runs/demo
  asc-jax convert --to c --dtype int8 --workdir runs/demo
  asc-jax convert --to onnx --dtype int8 --workdir runs/demo

exit status: 0 listed or converted, and an export computes the same as the run; 2 wrong input
"""

from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from asc_jax.cli import reject_words, run
from asc_jax.cli.config_flag import config_name, define_config_flag
from asc_jax.data.clips import open_for
from asc_jax.errors import UserError
from asc_jax.export.run import KINDS, export_run
from asc_jax.operations.calibrate import METHODS
from asc_jax.pytorch import runs as torch_runs
from asc_jax.quantisation.c_float import export_float32
from asc_jax.quantisation.run import DEFAULT_METHOD, N_CALIBRATION_CLIPS, export_int8
from asc_jax.quantisation.run import KINDS as INT8_KINDS
from asc_jax.training.workdir import run_config

# Action → the flags that go with it, besides --workdir.
ACTIONS = {
    "from_torch": ("config", "part", "list"),
    "to_torch": ("checkpoint", "dtype", "as_trained"),
    "to": ("checkpoint", "dtype", "out", "data_dir", "calibration", "calibration_clips"),
}


def define_flags() -> None:
    flags.DEFINE_string("from_torch", None, "PyTorch file to make a run of")
    flags.DEFINE_bool("list", None, "Show what the file of --from_torch holds, and make no run")
    flags.DEFINE_string("part", None, "Network to take of several in the file of --from_torch")
    flags.DEFINE_string("to_torch", None, "PyTorch file to write")
    flags.DEFINE_enum("to", None, list(KINDS), "Kind of export")
    flags.DEFINE_string("workdir", None, "Folder of the run, a new one for --from_torch (required)")
    define_config_flag()
    flags.DEFINE_enum("checkpoint", None, ["last", "best"], "Checkpoint of the run (default: last)")
    flags.DEFINE_enum(
        "dtype",
        None,
        ["float32", "float16", "int8"],
        "Dtype of the written weights (default: float32 for --to_torch, float16 for --to); int8 is "
        "for --to litert, c and onnx",
    )
    flags.DEFINE_bool(
        "as_trained", None, "For --to_torch: keep branches that are fused when they are deployed"
    )
    flags.DEFINE_string("out", None, "Folder to export to (default: export/ in the workdir)")
    flags.DEFINE_string(
        "data_dir",
        None,
        "Built data set whose test clips an export is checked on (default: the run's own, if it is "
        "there), and on whose training clips int8 is calibrated",
    )
    flags.DEFINE_enum(
        "calibration",
        None,
        list(METHODS),
        f"How int8 finds the ranges of values (default: {DEFAULT_METHOD})",
    )
    flags.DEFINE_integer(
        "calibration_clips",
        None,
        f"Training clips that int8 finds the ranges on (default: {N_CALIBRATION_CLIPS})",
    )


def main(argv: Sequence[str]) -> None:
    """Do the one thing that the flags ask for."""
    reject_words(argv[1:])
    values = flags.FLAGS
    action = _action(values)
    options = {name: values[name].value for name in ACTIONS[action]}
    options = {name: value for name, value in options.items() if value is not None}
    if options.pop("list", False):
        lines = torch_runs.list_torch(values.from_torch)
    elif action == "from_torch":
        if values.config is not None:
            options["name"] = config_name(values["config"].config_filename)
            options["overrides"] = config_flags.get_override_values(values["config"])
        lines = torch_runs.run_from_torch(values.from_torch, values.workdir, **options)
        lines.append(f"done; evaluate with: asc-jax eval --workdir {values.workdir}")
    elif action == "to_torch":
        if options.get("dtype") == "int8":
            raise UserError("--dtype int8 goes with --to litert, c and onnx, not with --to_torch")
        lines = torch_runs.run_to_torch(values.workdir, values.to_torch, **options)
    else:
        lines = _export(values.workdir, values.to, **options)
    print("\n".join(lines))


def _export(workdir, kind, *, dtype="float16", out=None, data_dir=None, checkpoint="last", **more):
    """Return the lines of an export, checked on the run's test clips if they are there."""
    if dtype == "int8" and kind not in INT8_KINDS:
        raise UserError(f"--dtype int8 goes with --to litert, c and onnx, not with --to {kind}")
    for name in more if dtype != "int8" else ():
        raise UserError(f"--{name} goes with --dtype int8")
    config = run_config.load(workdir)[1]
    folder = data_dir or config.data.dir
    training_clips = _training_clips(config, folder) if dtype == "int8" else None
    try:
        clips = open_for(config, config.data.test_split, folder)
    except UserError:
        if data_dir is not None:
            raise
        clips = None
    options = {"out_dir": out, "checkpoint": checkpoint, "clips": clips}
    if (kind, dtype) == ("c", "float32"):
        return _export_c(workdir, **options)
    if dtype != "int8":
        return export_run(workdir, kind, weights=dtype, **options)
    names = {"calibration": "method", "calibration_clips": "n_calibration_clips"}
    options |= {names[name]: value for name, value in more.items()}
    return export_int8(workdir, training_clips, kind=kind, **options)


def _export_c(workdir, **options):
    """Return the lines of the library in C, and of the header of data if it has all operations."""
    lines = export_float32(workdir, **options)
    try:
        return [*lines, *export_run(workdir, "c", weights="float32", **options)]
    except UserError as error:
        return [*lines, f"without the header of data: {error}"]


def _training_clips(config, folder):
    """Return the clips that a run was trained on, for the ranges of int8."""
    try:
        return open_for(config, config.data.train_split, folder)
    except UserError as error:
        raise UserError(
            f"int8 needs clips of the split {config.data.train_split} to find the ranges of "
            f"values: --data_dir names the folder of the data set that has them; {error}"
        ) from error


def _action(values) -> str:
    """Return the one action asked for; every other flag must go with it."""
    asked = [name for name in ACTIONS if values[name].value is not None]
    lists = asked == ["from_torch"] and values.list
    if len(asked) != 1 or (values.workdir is None and not lists):
        raise UserError(
            "one of --from_torch FILE, --to_torch FILE and --to KIND, and --workdir, for example: "
            "asc-jax convert --from_torch model.ckpt --workdir runs/x"
        )
    for name in {name for names in ACTIONS.values() for name in names} - {*ACTIONS[asked[0]]}:
        if values[name].value is not None:
            raise UserError(f"--{name} does not go with --{asked[0]}")
    for name in (asked[0], "workdir", *ACTIONS[asked[0]]):
        if values[name].value == "":
            raise UserError(f"--{name} is empty: give it a value, or leave it out")
    return asked[0]


if __name__ == "__main__":
    run(main, define_flags)
