"""Compare two runs, or several seeds of two systems; or list the runs of a folder on a page.

usage: asc-jax compare RUN RUN [RUN …] [--out DIR] [options]
       asc-jax compare --index DIR

RUN is the folder of an evaluated run, or one that holds runs in folders seed<k>. Two of them are
two systems; of more, the runs with one config but for the seed are one system. All were tested on
the same clips. Prints the figures of both and their differences, of all clips, by class and by
group, with intervals and paired tests, and writes compare.json, .txt and .html into DIR.
--index writes DIR/index.html, with the figures of every run below DIR and links to their pages.

examples:
  asc-jax compare runs/mine runs/baseline
  asc-jax compare runs/a/seed0 runs/a/seed1 runs/b/seed0 runs/b/seed1 --labels new,old --out runs/ab
  asc-jax compare --index runs

exit status: 0 done, 2 wrong input
"""

from collections.abc import Sequence

from absl import flags

from asc_jax.cli import reject_words, run
from asc_jax.cli.campaign_flags import define_cluster_flag, keep_accelerator_free
from asc_jax.errors import UserError
from asc_jax.evaluation.comparison import index, report
from asc_jax.evaluation.comparison.collect import collect
from asc_jax.evaluation.comparison.systems import read_systems
from asc_jax.evaluation.evaluate import CHECKPOINTS


def define_flags() -> None:
    flags.DEFINE_string("out", "runs/compare", "Folder for the comparison")
    flags.DEFINE_string("index", None, "List the runs below this folder in its index.html")
    flags.DEFINE_list("labels", [], "Names of the two systems in tables (default: their folders)")
    flags.DEFINE_enum(
        "checkpoint", "last", list(CHECKPOINTS), "Checkpoint whose evaluation is compared"
    )
    define_cluster_flag()


def main(argv: Sequence[str]) -> None:
    """Write the comparison, or the index."""
    values = flags.FLAGS
    words = argv[1:]
    keep_accelerator_free()
    if values.index is not None:
        reject_words(words)
        path, found = index.write(values.index)
        n = sum(len(test["runs"]) for test in found["tests"])
        more = f", {len(found['unfinished'])} without figures" if found["unfinished"] else ""
        print(f"{n} runs{more}: {path}")
        return
    if len(words) < 2:
        raise UserError("which runs? For example: asc-jax compare runs/mine runs/baseline")
    systems = read_systems(words, values.checkpoint, values.cluster, values.labels)
    collected = collect(systems)
    paths = report.write(collected, values.out)
    print(report.as_words(collected, "txt"))
    print(f"\nwritten to {values.out}: {' '.join(path.name for path in paths)}")


if __name__ == "__main__":
    run(main, define_flags)
