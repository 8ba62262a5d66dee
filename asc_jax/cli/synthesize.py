"""Write synthetic scenes in the layout of TAU 2022 Mobile.

usage: asc-jax synthesize --out_dir DIR [options]

The scenes let one try every other command without a download. With the defaults they take 620 MB.
Intervals need two test segments or more. --n_evaluation_segments also writes an evaluation set,
without labels, beside DIR, as asc-jax submission --practice needs it.

examples:
  asc-jax synthesize --out_dir data/demo/scenes
  asc-jax synthesize --out_dir data/tiny/scenes --n_train_segments 1 --n_test_segments 1
  asc-jax synthesize --out_dir data/practice/scenes --n_evaluation_segments 1

exit status: 0 written, 2 wrong input
"""

from collections.abc import Sequence

from absl import flags

from asc_jax.cli import reject_words, run
from asc_jax.errors import UserError
from asc_jax.machine import files


def define_flags() -> None:
    flags.DEFINE_string("out_dir", None, "Folder to write (required)")
    flags.DEFINE_integer("seed", 0, "Seed; equal seeds and sizes give equal bytes")
    flags.DEFINE_integer("n_train_segments", 20, "Training segments of each scene, 10 clips each")
    flags.DEFINE_integer("n_test_segments", 3, "Test segments of each scene, 90 clips each")
    flags.DEFINE_integer(
        "n_evaluation_segments",
        0,
        "Segments of each scene of the evaluation set, 10 clips each; 0: there is none",
    )
    flags.DEFINE_integer("n_workers", None, "Threads (default: as many as cores)")


def main(argv: Sequence[str]) -> None:
    """Write the folder that the flags describe and print where it is."""
    reject_words(argv[1:])
    options = flags.FLAGS
    if options.out_dir is None:
        raise UserError("which folder? For example: asc-jax synthesize --out_dir data/demo/scenes")
    from asc_jax.data.synthetic import scenes  # needs the extra "data"

    try:
        out_dir = scenes.write_dataset(
            options.out_dir,
            seed=options.seed,
            n_train_segments=options.n_train_segments,
            n_test_segments=options.n_test_segments,
            n_evaluation_segments=options.n_evaluation_segments,
            n_workers=options.n_workers,
        )
    except OSError as error:
        raise UserError(
            f"cannot write to {options.out_dir}: {files.reason(error)}; fix that, or choose "
            "another --out_dir"
        ) from error
    print(f"{out_dir}: synthetic scenes, written")
    if options.n_evaluation_segments:
        print(f"{out_dir.absolute().parent / scenes.EVALUATION_FOLDER}: an evaluation set, written")


if __name__ == "__main__":
    run(main, define_flags)
