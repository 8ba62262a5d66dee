"""Train: `python train.py --config splits/5pct.py [--workdir DIR] [--config.section.key=value]`.

Run again with the same workdir it goes on where it stopped.
"""

from asc_jax.huge_pages import start_again  # isort: skip

if __name__ == "__main__":
    start_again()  # before the imports that take seconds

import pathlib

from absl import flags

from asc_jax import checkpoints, complexity, experiment, hosts, lock, loop
from asc_jax.cli import config_name, define_config_flag, keep_compiled, run
from asc_jax.cli.replicas import define_process_flags, define_replica_flags, start_replicas
from asc_jax.data import held_out, pipeline
from asc_jax.errors import UserError

define_config_flag()
define_replica_flags()
define_process_flags()
flags.DEFINE_string("workdir", None, "Where to save; runs/<config> unless given.")


def main(argv) -> None:
    if flags.FLAGS.config is None:
        raise UserError("which config? For example: python train.py --config splits/5pct.py")
    if argv[1:]:
        raise UserError(f"unexpected words on the command line: {' '.join(argv[1:])}")
    start_replicas()
    config = flags.FLAGS.config.copy_and_resolve_references()
    name = config_name(flags.FLAGS["config"].config_filename)
    workdir = flags.FLAGS.workdir or f"runs/{pathlib.PurePath(name).with_suffix('')}"
    parts = experiment.make(config)
    clips = pipeline.open_split(config.data.dir, config.data.train_split)
    test_clips = pipeline.open_split(config.data.dir, config.data.test_split)
    share = config.data.validation_locations
    clips, validation_clips = held_out.split(clips, share, config.seed)
    hosts.require_same(config=config.to_json(), clips=clips.identity)
    with hosts.own_workdir(workdir) as own, lock.held(own):
        checkpoints.save_config(own, name, config, over_budget=not parts.within_budget)
        cost = parts.cost
        print(
            f"{name}: {len(clips):,} clips, {cost['n_params']:,} parameters, {cost['macs']:,} "
            f"MACs, {cost['bytes']:,} bytes in {config.precision.stored} → {workdir}"
        )
        if validation_clips is not None:
            print(f"held out: {len(validation_clips):,} clips, of {share:.0%} of the locations")
        if not parts.within_budget:
            print(complexity.OVER_BUDGET)
        keep_compiled(workdir)
        loop.fit(parts, clips, test_clips, own, validation_clips=validation_clips, **config.train)
        print(f"done; evaluate with: python eval.py --workdir {workdir}")


if __name__ == "__main__":
    run(main)
