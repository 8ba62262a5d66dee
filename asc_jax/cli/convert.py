"""Weights from PyTorch to JAX and back, and a trained run for other runtimes.

python -m asc_jax.cli.convert --from_torch model.ckpt --workdir runs/x [--config splits/5pct.py]
python -m asc_jax.cli.convert --to_torch model.pt --workdir runs/x [--dtype float16]
python -m asc_jax.cli.convert --to onnx --workdir runs/x [--out DIR] [--data_dir data/tau22]

--from_torch reads a state dict of the official baseline's network (.pt) or a Lightning
checkpoint (.ckpt) and makes a run for eval.py and train.py. What the file does not tell comes
from --config and --config.section.key=value. A plain state dict does not tell the hop length, so
--config is needed for it.

--to onnx, litert and stablehlo write two files, waveform to probabilities and log-mel to logits;
--to c writes one header, asc_model.h, which holds data and no functions.
"""

from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from asc_jax.cli import run
from asc_jax.cli.config_flag import config_name, define_config_flag
from asc_jax.data.clips import open_split
from asc_jax.errors import UserError
from asc_jax.export import run as exporting
from asc_jax.pytorch import runs as torch_runs
from asc_jax.training.workdir import run_config

# Action → the flags that go with it, besides --workdir.
ACTIONS = {
    "from_torch": ("config",),
    "to_torch": ("checkpoint", "dtype"),
    "to": ("checkpoint", "dtype", "out", "data_dir"),
}


def main(argv: Sequence[str]) -> None:
    """Do the one thing that the flags ask for."""
    given = flags.FLAGS
    action = _action(given, argv[1:])
    options = {name: given[name].value for name in ACTIONS[action]}
    options = {name: value for name, value in options.items() if value is not None}
    if action == "from_torch":
        if given.config is not None:
            options["name"] = config_name(given["config"].config_filename)
            options["overrides"] = config_flags.get_override_values(given["config"])
        lines = torch_runs.run_from_torch(given.from_torch, given.workdir, **options)
        lines.append(f"done; evaluate with: python eval.py --workdir {given.workdir}")
    elif action == "to_torch":
        lines = torch_runs.run_to_torch(given.workdir, given.to_torch, **options)
    else:
        lines = _export(given.workdir, given.to, **options)
    print("\n".join(lines))


def _export(workdir, kind, *, dtype="float16", out=None, data_dir=None, checkpoint="last"):
    """The lines of `exporting.export_run`, on the run's own test clips if they are here."""
    config = run_config.load(workdir)[1]
    try:
        clips = open_split(data_dir or config.data.dir, config.data.test_split)
    except UserError:
        if data_dir is not None:
            raise
        clips = None
    return exporting.export_run(
        workdir, kind, out_dir=out, checkpoint=checkpoint, weights=dtype, clips=clips
    )


def _action(given, words: Sequence[str]) -> str:
    """The one action asked for; anything else on the command line must go with it."""
    if words:
        raise UserError(f"unexpected words on the command line: {' '.join(words)}")
    asked = [name for name in ACTIONS if given[name].value is not None]
    if len(asked) != 1 or given.workdir is None:
        raise UserError(
            "one of --from_torch FILE, --to_torch FILE and --to KIND, and --workdir, for example: "
            "python -m asc_jax.cli.convert --from_torch model.ckpt --workdir runs/x"
        )
    for name in {name for names in ACTIONS.values() for name in names} - {*ACTIONS[asked[0]]}:
        if given[name].value is not None:
            raise UserError(f"--{name} does not go with --{asked[0]}")
    for name in (asked[0], "workdir", *ACTIONS[asked[0]]):
        if given[name].value == "":
            raise UserError(f"--{name} is empty: give it a value, or leave it out")
    return asked[0]


if __name__ == "__main__":
    define_config_flag()
    flags.DEFINE_string("from_torch", None, "PyTorch file to make a run of.")
    flags.DEFINE_string("to_torch", None, "PyTorch file to write.")
    flags.DEFINE_enum("to", None, list(exporting.KINDS), "What to export the run to.")
    flags.DEFINE_string("workdir", None, "The run, new for --from_torch.")
    flags.DEFINE_enum("checkpoint", None, ["last", "best"], "Which one of the run; last.")
    flags.DEFINE_enum(
        "dtype",
        None,
        ["float32", "float16"],
        "Of the written weights; float32 for --to_torch, float16 for --to.",
    )
    flags.DEFINE_string("out", None, "Folder to export to; export/ in the workdir.")
    flags.DEFINE_string(
        "data_dir",
        None,
        "Data set whose test clips an export is checked on; the run's own, if that is there.",
    )
    run(main)
