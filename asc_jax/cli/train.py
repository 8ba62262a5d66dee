"""Train a network, or continue a training that was interrupted.

usage: asc-jax train --config FILE [--config.SECTION.KEY=VALUE …] [--workdir RUN] [options]

The same command continues where it was interrupted, with the same result. RUN gets config.json,
checkpoints/, metrics.jsonl and tensorboard/; --config.train.n_seeds=N trains N seeds at once, in
RUN/seed0 and so on. `asc-jax config show splits/5pct.py` lists the values of a config.

examples:
  asc-jax train --config splits/5pct.py
  asc-jax train --config demo.py --config.train.n_epochs=3 --workdir runs/short

exit status: 0 trained, 2 wrong input, 3 another process of the run is lost, 130 or 143 interrupted
by Ctrl-C or SIGTERM with everything saved
"""

import pathlib

from absl import flags

from asc_jax import experiment
from asc_jax.cli import keep_compiled, reject_words, run
from asc_jax.cli.config_flag import config_name, define_config_flag
from asc_jax.cli.shared_flags import define_process_flags, define_replica_flags, start_replicas
from asc_jax.complexity import limits
from asc_jax.data import held_out
from asc_jax.data.clips import open_split
from asc_jax.errors import UserError, printable
from asc_jax.evaluation.evaluate import make_evaluator
from asc_jax.machine import hosts, lock
from asc_jax.training import config_checks, loop
from asc_jax.training.workdir import run_config


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
    parts = [experiment.make(one) for one in by_seed(config)]
    clips = open_split(config.data.dir, config.data.train_split)
    test_clips = open_split(config.data.dir, config.data.test_split)
    hosts.require_same(config=config.to_json(), clips=clips.identity)
    with hosts.own_workdir(workdir) as own, lock.held(own):
        folders = [pathlib.Path(own, folder(config, one.config.seed)) for one in parts]
        for one, path in zip(parts, folders, strict=True):
            run_config.save(path, name, one.config, over_budget=not one.within_budget)
        keep_compiled(workdir)
        if config.data.validation_locations:
            for one, path in zip(parts, folders, strict=True):
                own_clips, held = held_out.split(
                    clips, config.data.validation_locations, one.config.seed
                )
                announce(name, one, own_clips, workdir, held)
                loop.fit(
                    one,
                    own_clips,
                    test_clips,
                    path,
                    make_evaluator=make_evaluator,
                    validation_clips=held,
                    **config.train,
                )
        else:
            announce(name, parts[0], clips, workdir)
            loop.fit_seeds(
                parts, clips, test_clips, folders, make_evaluator=make_evaluator, **config.train
            )
        for one in parts:
            path = pathlib.Path(workdir, folder(config, one.config.seed))
            print(f"done; evaluate with: asc-jax eval --workdir {path}")


def by_seed(config) -> list:
    """The configs of the runs that a config asks for: one, or `n_seeds` with a seed each."""
    configs = []
    config_checks.check_values(config)
    for seed in range(config.seed, config.seed + config.train.n_seeds):
        one = config.copy_and_resolve_references().unlock()
        one.seed = seed
        if config.train.n_seeds > 1:
            one.train.n_seeds = 1
        configs.append(one.lock())
    return configs


def folder(config, seed: int) -> str:
    """Where in the workdir the run of a seed lies."""
    return f"seed{seed}" if config.train.n_seeds > 1 else "."


def announce(name: str, parts, clips, workdir, held=None) -> None:
    """What is going to be trained, on how much, at what cost."""
    cost, config = parts.cost, parts.config
    print(
        f"{name}: {len(clips):,} clips, {cost['n_params']:,} parameters, {cost['macs']:,} "
        f"MACs, {cost['bytes']:,} bytes in {config.precision.stored} → {printable(str(workdir))}",
        flush=True,
    )
    if held is not None:
        share = config.data.validation_locations
        print(f"held out: {len(held):,} clips, of {share:.0%} of the locations")
    if not parts.within_budget:
        print(limits.OVER_BUDGET)


if __name__ == "__main__":
    run(main, define_flags)
