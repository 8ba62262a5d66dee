"""Cross-validate a config, or compare two: every fold is tested by networks trained on the others.

usage: asc-jax crossval --config FILE [--against FILE] [--out DIR] [options]
                        [--config.SECTION.KEY=VALUE …] [--against.SECTION.KEY=VALUE …]

The data set has splits fold1, fold2 and so on, as `asc-jax prepare-data --folds 5` builds them.
Runs lie in DIR/<system>/<fold>/seed<k>; those that are done are skipped, and one that was
interrupted is continued. Writes crossval.json, .csv, .md and .html into DIR: mean and standard
deviation over folds, figures of all folds together with their intervals, classes and confusion,
and, of two systems, their difference with its interval and a paired test.
--config.… changes a value in every run, --against.… after that in the runs of the second system,
which is the first one with these values if --against names no other file.

examples:
  asc-jax crossval --config demo.py --config.data.dir=data/birds --out runs/birds
  asc-jax crossval --config demo.py --seeds 0,1,2 --against.loss.gamma=2
  asc-jax crossval --config splits/5pct.py --against baseline/5pct.py --collect_only

exit status: 0 done, 1 some runs failed and are missing in the tables, 2 wrong input
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import ml_collections
from absl import flags

from asc_jax.cli import reject_words, run
from asc_jax.cli.campaign_flags import (
    check_overrides,
    define_cluster_flag,
    end_if_failed,
    keep_accelerator_free,
    numbers,
    some_of,
    take_overrides,
)
from asc_jax.cli.config_flag import config_name, config_path, read_config
from asc_jax.crossval import report as crossval_report
from asc_jax.crossval.collect import collect
from asc_jax.crossval.runs import Run, folds_among, others
from asc_jax.data.clips import dataset_folder, open_for
from asc_jax.errors import UserError
from asc_jax.evaluation.campaign import processes
from asc_jax.evaluation.report.tables import shortened
from asc_jax.experiment import make as make_experiment
from asc_jax.experiment import with_labels

SYSTEMS = ("first", "second")
MIN_FOLDS = 2
MAX_CHANGES = 40  # characters of a label that name what was changed
# What the command sets itself: key → what to do instead.
CHOSEN = {
    "seed": "differs from run to run: choose with --seeds",
    "data.train_split": "differs from run to run: choose with --folds",
    "data.test_split": "differs from run to run: choose with --folds",
    "train.n_seeds": "is not for a run: choose with --seeds; --seeds_together trains them at once",
}
HOW_TO_BUILD = (
    "build one with `asc-jax prepare-data --layout folders --input_dir DIR --folds 5` in another "
    "--data_dir, or name splits with --folds"
)
OVERRIDES: list[str] = []  # the words --config.… of the command line
OF_SECOND: list[str] = []  # and the words --against.…


class System(NamedTuple):
    """Hold what is cross-validated."""

    name: str  # of `SYSTEMS`, and of its folder
    config: str  # path of the file
    overrides: tuple[str, ...]

    def read(self, *more: str) -> ml_collections.ConfigDict:
        """Return its config with further overrides."""
        return with_labels(read_config(self.config, (*self.overrides, *more)))


def define_flags() -> None:
    flags.DEFINE_string(
        "config", None, "Config file of all runs, or of the first system (required)"
    )
    flags.DEFINE_string("against", None, "Config file of the second system")
    flags.DEFINE_string("out", "runs/crossval", "Folder for the runs and the tables")
    flags.DEFINE_list("folds", [], "Splits to test on, one by one (default: all named fold<N>)")
    flags.DEFINE_list("seeds", ["0"], "Seeds of each system and fold")
    flags.DEFINE_list("labels", [], "Names of the systems in tables (default: the configs')")
    flags.DEFINE_bool(
        "seeds_together",
        False,
        "Train the seeds of a fold in one process; on a GPU, in one program",
    )
    define_cluster_flag()
    flags.DEFINE_bool("collect_only", False, "Run nothing: write the tables of what is done")
    OVERRIDES.extend(take_overrides())
    OF_SECOND.extend(take_overrides("against"))


def main(
    argv: Sequence[str],
    overrides: Sequence[str] = OVERRIDES,
    of_second: Sequence[str] = OF_SECOND,
) -> None:
    """Run what is missing, then write the tables."""
    values = flags.FLAGS
    reject_words(argv[1:])
    if values.config is None:
        raise UserError("which config? For example: asc-jax crossval --config demo.py")
    seeds = numbers("seeds", values.seeds)
    for words in (overrides, of_second):
        check_overrides(words, CHOSEN)
    keep_accelerator_free()
    systems = make_systems(values.config, values.against, overrides, of_second)
    labels = make_labels(values.labels, systems, of_second)
    n_clips = sizes(systems, values.folds)
    out = pathlib.Path(values.out)
    runs = [
        plan(out, system, fold, seed, n_clips)
        for seed in seeds  # so that all folds, of one seed, are there first
        for fold in n_clips
        for system in systems
    ]
    failed = {}
    if not values.collect_only:
        check_configs(runs)
        failed = processes.carry_out(runs, out / ".jax_cache", together=values.seeds_together)
        if len(failed) == len(runs):
            end_if_failed(failed)
    collected = collect(runs, labels, cluster=values.cluster)
    paths = crossval_report.write(collected, out)
    print(crossval_report.as_words(collected, "txt"))
    print(f"\nwritten to {out}: {' '.join(path.name for path in paths)}")
    end_if_failed(failed)


def make_systems(
    config: str, against: str | None, overrides: Sequence[str], of_second: Sequence[str]
) -> list[System]:
    """Return the one or two systems.

    Raises:
      UserError: a config cannot be read, or both are the same.
    """
    first = System(SYSTEMS[0], config_path(config), tuple(overrides))
    first_config = first.read()
    if against is None and not of_second:
        return [first]
    own = [f"--config.{word.lstrip('-').partition('.')[2]}" for word in of_second]
    path = first.config if against is None else config_path(against)
    second = System(SYSTEMS[1], path, (*overrides, *own))
    try:
        second_config = second.read()
    except UserError as error:
        raise UserError(
            f"the second system, {config_name(path)} with the words --config.… and --against.…: "
            f"{error}"
        ) from error
    if _all_but_splits(first_config) == _all_but_splits(second_config):
        raise UserError(
            "both systems are the same: change a value of the second one, such as "
            "--against.model.width=16, or name another config with --against"
        )
    return [first, second]


def _all_but_splits(config: ml_collections.ConfigDict) -> dict:
    """Return the values of a config that the command does not set itself."""
    content = config.to_dict()
    data = {k: v for k, v in content["data"].items() if k not in ("train_split", "test_split")}
    train = {k: v for k, v in content["train"].items() if k != "n_seeds"}
    return content | {"data": data, "train": train, "seed": 0}


def make_labels(
    given: Sequence[str], systems: Sequence[System], of_second: Sequence[str]
) -> dict[str, str]:
    """Return system → its name in tables, no two the same.

    Raises:
      UserError: as many names as systems were expected, each once.
    """
    if given:
        words = [word.strip() for word in given]
        if len({*words}) != len(systems) or len(words) != len(systems) or not all(words):
            raise UserError(
                f"--labels={','.join(given)}: expected {len(systems)} different "
                f"name{'s' * (len(systems) > 1)}, with a comma between"
            )
    else:
        words = [config_name(system.config).removesuffix(".py") for system in systems]
        if len({*words}) < len(words):
            changes = " ".join(word.lstrip("-").partition(".")[2] for word in of_second)
            words[1] += f" {shortened(changes, MAX_CHANGES)}" if changes else " (second)"
    return {system.name: word for system, word in zip(systems, words, strict=True)}


def sizes(systems: Sequence[System], given: Sequence[str]) -> dict[str, int]:
    """Return fold → number of its clips, in the order of the folds.

    given: the flag --folds; empty: all splits of the data set that are named as folds.

    Raises:
      UserError: there is no data set, it has fewer than two folds or not these, or the systems'
        data sets differ in them.
    """
    from asc_jax.data.store import reader as stored

    dirs = list(dict.fromkeys(system.read().data.dir for system in systems))
    there = [stored.sizes(dataset_folder(data_dir)) for data_dir in dirs]
    folds = list(given) or folds_among(there[0])
    if given:
        some_of("folds", given, sorted(there[0]))
    if len(folds) < MIN_FOLDS:
        splits = ", ".join(sorted(there[0]))
        has = f"--folds={','.join(given)}" if given else f"the data set in {dirs[0]} has {splits}"
        raise UserError(
            f"{has}: expected at least {MIN_FOLDS} folds, such as fold1 and fold2. If the data set "
            f"has none, {HOW_TO_BUILD}"
        )
    found = {fold: there[0][fold] for fold in folds}
    for data_dir, other in zip(dirs[1:], there[1:], strict=True):
        for fold, n in found.items():
            if other.get(fold) != n:
                raise UserError(
                    f"{fold} has {n:,} clips in {dirs[0]} and {other.get(fold, 0):,} in "
                    f"{data_dir}: both systems are to be tested on the same clips"
                )
    return found


def plan(
    out: pathlib.Path, system: System, fold: str, seed: int, n_clips: Mapping[str, int]
) -> Run:
    """Return one run; `n_clips` has the number of clips of every fold."""
    own = (
        f"--config.data.train_split={others(list(n_clips), fold)}",
        f"--config.data.test_split={fold}",
        f"--config.seed={seed}",
    )
    return Run(
        system.name,
        fold,
        seed=seed,
        config_name=system.config,
        overrides=(*system.overrides, *own),
        config=system.read(*own),
        workdir=out / system.name / fold / f"seed{seed}",
        n_clips=sum(n for other, n in n_clips.items() if other != fold),
    )


def check_configs(runs: Sequence[Run]) -> None:
    """Raise a `UserError` for what would stop every run of a system: its config or its clips."""
    for each in {each.system: each for each in runs}.values():
        make_experiment(each.config)
        open_for(each.config, each.fold)


if __name__ == "__main__":
    run(main, define_flags)
