"""Store the logits of trained networks, to distil another one from.

usage: asc-jax logits --workdir RUN [--workdir RUN …] --split SPLIT --out FILE [options]

FILE gets the logits of every network for every clip of the split, without augmentation, under the
clips' file names; one that is there already is replaced at the end. `asc-jax train
--config.distill.logits=FILE` trains a network to follow them: docs/distillation.md.

examples:
  asc-jax logits --workdir runs/a --workdir runs/b --split train_25pct --out teachers.npz
  asc-jax train --config splits/25pct.py --config.distill.logits=teachers.npz --workdir runs/student

exit status: 0 stored, 2 wrong input
"""

import pathlib

from absl import flags

from asc_jax.cli import prepare_jax, reject_words, run
from asc_jax.cli.shared_flags import define_replica_flags, start_replicas
from asc_jax.errors import UserError, printable
from asc_jax.evaluation import teachers
from asc_jax.evaluation.evaluate import CHECKPOINTS
from asc_jax.machine import files


def define_flags() -> None:
    flags.DEFINE_multi_string(
        "workdir", [], "Folder of a trained run, once for each teacher (required)"
    )
    flags.DEFINE_string("split", None, "Split, such as train_25pct, or several with + (required)")
    flags.DEFINE_string("out", None, "File to write, ending in .npz (required)")
    flags.DEFINE_enum("checkpoint", "last", list(CHECKPOINTS), "Checkpoint of every run")
    flags.DEFINE_string("data_dir", None, "Built data set (default: that of each run)")
    define_replica_flags()


def main(argv) -> None:
    values = flags.FLAGS
    if not (values.workdir and values.split and values.out):
        raise UserError(
            "which runs, which split, and where to? For example: asc-jax logits --workdir runs/a "
            "--split train_25pct --out teachers.npz"
        )
    reject_words(argv[1:])
    out = pathlib.Path(values.out)
    if out.suffix != ".npz":
        raise UserError(f"--out {out} does not end in .npz")
    if out.is_dir():
        raise UserError(f"--out {out} is a folder")
    start_replicas()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        files.require_place(out)  # before the teachers are asked, which may take long
        if out.exists():
            print(
                f"{printable(str(out))} is there already and will be replaced: a student that was "
                "trained with it can only be resumed with the same logits",
                flush=True,
            )
        prepare_jax(values.workdir[0])
        n_teachers, n_clips = teachers.store(
            values.workdir,
            values.split,
            out,
            checkpoint=values.checkpoint,
            data_dir=values.data_dir,
            say=lambda line: print(printable(line), flush=True),
        )
    except OSError as error:
        raise UserError(
            f"cannot write {out}: {files.reason(error)}; {files.what_to_do(error)}choose another "
            "--out"
        ) from error
    print(
        f"{n_teachers} teacher{'s' * (n_teachers > 1)}, {n_clips:,} clips → "
        f"{printable(str(out))}; train with "
        f"--config.distill.logits={printable(str(out))}"
    )


if __name__ == "__main__":
    run(main, define_flags)
