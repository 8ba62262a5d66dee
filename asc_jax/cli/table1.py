"""Train and evaluate the report's whole Table 1: every split, both systems, several seeds.

usage: asc-jax table1 [--out DIR] [options] [--config.SECTION.KEY=VALUE …]

Runs lie in DIR/<system>/<split>/seed<k>; those that are done are skipped, and one that was
interrupted is continued. Writes table1.json, .csv, .md, .tex and .html into DIR, with the
intervals and tests of the differences. --config.… changes a value in every run. --ablation adds
the systems between the baseline and the report's: its loss, its hop length, its batch and rate,
its warm-up, one after the other.

examples:
  asc-jax table1 --splits 5,10 --seeds 0,1 --config.train.n_epochs=50
  asc-jax table1 --collect_only

exit status: 0 done, 1 some runs failed and are missing in the table, 2 wrong input
"""

import functools
import pathlib
from collections.abc import Sequence

from absl import flags

from asc_jax.challenge.table1 import report as table1_report
from asc_jax.challenge.table1.collect import collect
from asc_jax.challenge.table1.runs import Run
from asc_jax.cli import reject_words, run
from asc_jax.cli.campaign_flags import (
    check_overrides,
    end_if_failed,
    keep_accelerator_free,
    numbers,
    some_of,
    take_overrides,
)
from asc_jax.cli.config_flag import read_config
from asc_jax.data.clips import n_batches, open_split
from asc_jax.data.tau.taxonomy import TRAIN_PERCENTS
from asc_jax.errors import UserError
from asc_jax.evaluation.campaign import processes

CONFIGS = {"report": "splits/{}pct.py", "baseline": "baseline/{}pct.py"}
# From the baseline to the report's system: name → what it changes beside those before it.
STEPS = {
    "ablation_loss": "loss",
    "ablation_hop": "hop length",
    "ablation_batch": "batch and rate",
    "report": "warm-up fraction",
}
LABELS = {
    "report": "Gao & Lee",
    "baseline": "official baseline",
    "ablation_loss": "baseline + loss",
    "ablation_hop": "baseline + loss, hop length",
    "ablation_batch": "baseline + loss, hop length, batch and rate",
}
# What the command sets itself: key → what to do instead.
CHOSEN = {
    "seed": "differs from run to run: choose with --seeds",
    "data.train_split": "differs from run to run: choose with --splits",
    "budget.role": "is not for a run of this table: its systems are submissions",
    "train.n_seeds": "is not for a run: choose with --seeds; --seeds_together trains them at once",
}
OVERRIDES: list[str] = []  # the words --config.… of the command line


def define_flags() -> None:
    flags.DEFINE_string("out", "runs/table1", "Folder for the runs and the table")
    flags.DEFINE_list("splits", [str(p) for p in TRAIN_PERCENTS], "Training splits, in percent")
    flags.DEFINE_list("systems", list(CONFIGS), "Systems, some of report,baseline")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of each system and split")
    flags.DEFINE_bool(
        "seeds_together",
        False,
        "Train the seeds of a split in one process; on a GPU, in one program",
    )
    flags.DEFINE_bool("ablation", False, "Also run the systems between baseline and report")
    flags.DEFINE_bool("collect_only", False, "Run nothing: write the table of what is done")
    OVERRIDES.extend(take_overrides())


def main(argv: Sequence[str], overrides: Sequence[str] = OVERRIDES) -> None:
    """Run what is missing, then write the table."""
    values = flags.FLAGS
    reject_words(argv[1:])
    percents = numbers("splits", values.splits, TRAIN_PERCENTS)
    seeds = numbers("seeds", values.seeds)
    systems = some_of("systems", values.systems, CONFIGS)
    if values.ablation:
        if values["systems"].present:
            raise UserError("--ablation has systems of its own: leave --systems out")
        systems = ["baseline", *STEPS]
    check_overrides(overrides, CHOSEN)
    keep_accelerator_free()
    out = pathlib.Path(values.out)
    runs = [
        plan(out, system, percent, seed, overrides, counted=not values.collect_only)
        for seed in seeds  # so that a whole table, of one seed, is there first
        for percent in percents
        for system in systems
    ]
    failed = (
        {}
        if values.collect_only
        else processes.carry_out(runs, out / ".jax_cache", together=values.seeds_together)
    )
    comparisons = [("report", "baseline")] if {"report", "baseline"} <= {*systems} else []
    steps = list(zip(STEPS.values(), STEPS, ["baseline", *STEPS][:-1], strict=True))
    table = collect(runs, LABELS, comparisons, steps if values.ablation else ())
    paths = table1_report.write(table, out)
    print(table1_report.as_words(table, "txt"))
    print(f"\nwritten to {out}: {' '.join(path.name for path in paths)}")
    end_if_failed(failed)


def plan(
    out: pathlib.Path,
    system: str,
    percent: int,
    seed: int,
    overrides: Sequence[str],
    *,
    counted: bool = True,
) -> Run:
    """Return one run of the table; `counted` says whether its training clips are to be counted."""
    n_clips = 0
    if counted or system not in CONFIGS:
        data = read_config(CONFIGS["baseline"].format(percent), overrides).data
        n_clips = _n_clips(data.dir, data.train_split)
    name = CONFIGS.get(system, CONFIGS["baseline"]).format(percent)
    changes = [] if system in CONFIGS else _changes(system, percent, overrides, n_clips)
    words = (*overrides, *changes, f"--config.seed={seed}")
    workdir = out / system / f"{percent}pct" / f"seed{seed}"
    return Run(
        system,
        percent,
        seed=seed,
        config_name=name,
        overrides=words,
        config=read_config(name, words),
        workdir=workdir,
        n_clips=n_clips,
    )


@functools.cache
def _n_clips(data_dir: str, split: str) -> int:
    return len(open_split(data_dir, split))


def _changes(system: str, percent: int, overrides: Sequence[str], n_clips: int) -> list[str]:
    """Return what makes the baseline the given system of the ablation.

    A smaller batch means more steps, of which as many warm-up steps are a smaller share: with
    batch and rate the baseline's fraction is kept, so that both can be told apart.
    """
    base, ours = (
        read_config(CONFIGS[name].format(percent), overrides) for name in ("baseline", "report")
    )
    changed = list(STEPS)[: list(STEPS).index(system) + 1]
    out = [f"--config.loss.gamma={ours.loss.gamma}"]
    if "ablation_hop" in changed:
        out += [f"--config.features.hop_length={ours.features.hop_length}"]
    if "ablation_batch" in changed:
        steps = [n_batches(n_clips, c.data.batch_size) for c in (base, ours)]
        warmup_steps = round(base.schedule.warmup_steps * steps[1] / steps[0])
        out += [
            f"--config.data.batch_size={ours.data.batch_size}",
            f"--config.schedule.peak_lr={ours.schedule.peak_lr}",
            f"--config.schedule.warmup_steps={warmup_steps}",
        ]
    return out


if __name__ == "__main__":
    run(main, define_flags)
