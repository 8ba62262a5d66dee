"""Write made-up scenes in the layout of TAU 2022 Mobile.

python -m asc_jax.cli.synthesize --out_dir data/synthetic
"""

from collections.abc import Sequence

from absl import flags

from asc_jax.cli import run
from asc_jax.data.synthetic.scenes import write_dataset


def main(argv: Sequence[str]) -> None:
    """Write the folder that the flags describe and say where it is."""
    del argv
    given = flags.FLAGS
    out_dir = write_dataset(
        given.out_dir,
        seed=given.seed,
        n_train_segments=given.n_train_segments,
        n_test_segments=given.n_test_segments,
        n_workers=given.n_workers,
    )
    print(f"{out_dir}: made-up scenes, written")


if __name__ == "__main__":
    flags.DEFINE_string("out_dir", None, "Folder to write.", required=True)
    flags.DEFINE_integer("seed", 0, "Equal seeds and sizes give equal bytes.")
    flags.DEFINE_integer("n_train_segments", 20, "Per scene, 10 clips each.")
    flags.DEFINE_integer("n_test_segments", 3, "Per scene, 90 clips each.")
    flags.DEFINE_integer("n_workers", None, "Threads; default: one per CPU.")
    run(main)
