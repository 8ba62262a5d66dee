"""Train a network, or continue a training that was interrupted.

usage: asc-jax train --config FILE [--config.SECTION.KEY=VALUE …] [--workdir RUN] [options]

The same command continues where it was interrupted, with the same result. RUN gets config.json,
checkpoints/, metrics.jsonl and tensorboard/; --config.train.n_seeds=N trains N seeds, in
RUN/seed0 and so on, at once on a GPU or TPU. `asc-jax config show splits/5pct.py` lists the values
of a config.

examples:
  asc-jax train --config splits/5pct.py
  asc-jax train --config demo.py --config.train.n_epochs=3 --workdir runs/short
  asc-jax train --config demo.py --config.init.from_run=runs/short --workdir runs/further

exit status: 0 trained, 2 wrong input, 3 another process of the run is lost, 128 + its number
interrupted by a signal with everything saved (130 by Ctrl-C, 143 by SIGTERM; SIGHUP, SIGUSR1,
SIGUSR2 and SIGXCPU alike)
"""

import functools
import logging
import pathlib

from absl import flags

from asc_jax.cli import prepare_jax, reject_words, run
from asc_jax.cli.config_flag import config_name, define_config_flag
from asc_jax.cli.shared_flags import define_process_flags, define_replica_flags, start_replicas
from asc_jax.complexity import limits
from asc_jax.data import held_out
from asc_jax.data.clips import n_batches, open_for
from asc_jax.data.teacher_logits import with_teachers_of
from asc_jax.errors import UserError, printable
from asc_jax.evaluation import initial
from asc_jax.evaluation.evaluate import make_evaluator
from asc_jax.experiment import make as make_experiment
from asc_jax.experiment import with_labels
from asc_jax.machine import hosts, lock
from asc_jax.pytorch.files import read_tensor
from asc_jax.training import config_checks, loop
from asc_jax.training.workdir import run_config

log = logging.getLogger("asc_jax")


def define_flags() -> None:
    define_config_flag()
    flags.DEFINE_string("workdir", None, "Folder of the run (default: runs/<config>)")
    define_replica_flags()
    define_process_flags()


def main(argv) -> None:
    if flags.FLAGS.config is None:
        raise UserError("which config? For example: asc-jax train --config splits/5pct.py")
    reject_words(argv[1:])
    start_replicas()
    config = flags.FLAGS.config.copy_and_resolve_references()
    name = config_name(flags.FLAGS["config"].config_filename)
    workdir = flags.FLAGS.workdir or f"runs/{pathlib.PurePath(name).with_suffix('')}"
    config = with_labels(config)
    experiments = [make_experiment(of_seed) for of_seed in by_seed(config)]
    clips, test_clips = (
        open_for(config, split) for split in (config.data.train_split, config.data.test_split)
    )
    clips = with_teachers_of(config, clips, read_tensor)
    _warn_of_shared_splits(config.data.train_split, config.data.test_split)
    hosts.require_same(config=config.to_json(), clips=clips.identity)
    options = {"make_evaluator": make_evaluator, **config.train}
    if config.init.from_run:
        options["start"] = functools.partial(initial.start, clips=clips)
    with hosts.own_workdir(workdir) as own, lock.held(own):
        folders = [pathlib.Path(own, folder(config, each.config.seed)) for each in experiments]
        fraction = config.data.validation_locations
        # Before anything is written, since a fraction may leave nothing to train on.
        parts = [held_out.split(clips, fraction, each.config.seed) for each in experiments]
        for experiment, path in zip(experiments, folders, strict=True):
            run_config.save(path, name, experiment.config, over_budget=not experiment.within_budget)
        prepare_jax(workdir)
        if fraction:
            for experiment, path, part in zip(experiments, folders, parts, strict=True):
                own_clips, held_clips = part
                announce(name, experiment, own_clips, workdir, held_clips)
                options["validation_clips"] = held_clips
                loop.fit(experiment, own_clips, test_clips, path, **options)
        else:
            announce(name, experiments[0], clips, workdir)
            loop.fit_seeds(experiments, clips, test_clips, folders, **options)
        for experiment in experiments:
            path = pathlib.Path(workdir, folder(config, experiment.config.seed))
            print(f"done; evaluate with: asc-jax eval --workdir {path}")


def by_seed(config) -> list:
    """Return the configs of the runs that a config asks for: one, or `n_seeds` with a seed each."""
    configs = []
    config_checks.check_values(config)
    for seed in range(config.seed, config.seed + config.train.n_seeds):
        of_seed = config.copy_and_resolve_references().unlock()
        of_seed.seed = seed
        if config.train.n_seeds > 1:
            of_seed.train.n_seeds = 1
        configs.append(of_seed.lock())
    return configs


def folder(config, seed: int) -> str:
    """Return the folder, inside the workdir, of the run of a seed."""
    return f"seed{seed}" if config.train.n_seeds > 1 else "."


def _warn_of_shared_splits(train_split: str, test_split: str) -> None:
    """Warn of splits that are both trained and tested on."""
    if both := {*train_split.split("+")} & {*test_split.split("+")}:
        log.warning(
            "%s is in config.data.train_split and in config.data.test_split: the results will be "
            "better than those on other clips would be",
            ", ".join(sorted(both)),
        )


def announce(name: str, experiment, clips, workdir, validation_clips=None) -> None:
    """Print what is going to be trained, on how many clips, at what cost."""
    cost, config = experiment.cost, experiment.config
    print(
        f"{name}: {len(clips):,} clips, {cost['n_params']:,} parameters, {cost['macs']:,} "
        f"MACs, {cost['bytes']:,} bytes in {config.precision.stored} → {printable(str(workdir))}",
        flush=True,
    )
    if validation_clips is not None:
        fraction = config.data.validation_locations
        print(f"held out: {len(validation_clips):,} clips, of {fraction:.0%} of the locations")
    if config.distill.logits:
        print(f"teachers: {printable(config.distill.logits)}")
    n_steps = config.train.n_epochs * n_batches(len(clips), config.data.batch_size)
    if n_steps <= (warmup := config.schedule.get("warmup_steps") or 0):
        print(
            f"note: the run's {n_steps:,} steps end within the warm-up of {warmup:,}, so it learns "
            "little: --config.schedule.warmup_steps=N makes that shorter"
        )
    if not experiment.within_budget:
        print(limits.OVER_BUDGET)
    if experiment.is_teacher:
        print(limits.TEACHER)


if __name__ == "__main__":
    run(main, define_flags)
