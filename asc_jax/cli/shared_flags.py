"""Flags that several verbs have: which run, how many replicas, which other processes."""

from absl import flags

from asc_jax.evaluation.evaluate import CHECKPOINTS
from asc_jax.machine import compiler_memory, distributed
from asc_jax.models.precision import DEPLOYED_FORMS

PROCESS_FLAGS = ("distributed", "coordinator", "n_processes", "process_id", "host_timeout_s")


def define_run_flags() -> None:
    """Define what `evaluate.open_run` takes."""
    flags.DEFINE_string("workdir", None, "Folder of the run (required)")
    flags.DEFINE_enum(
        "checkpoint",
        "last",
        list(CHECKPOINTS),
        "Checkpoint; the best one was selected on the locations held out or, without any, on the "
        "test split",
    )
    flags.DEFINE_enum("stored", None, DEPLOYED_FORMS, "Storage dtype (default: as in training)")


def define_replica_flags() -> None:
    """Define what `start_replicas` reads."""
    flags.DEFINE_integer(
        "replicas", None, "Replicas of this process on a CPU (default: as many as cores, at most 8)"
    )


def define_process_flags() -> None:
    """Define what `start_replicas` reads too, in a command that several processes can share."""
    flags.DEFINE_enum(
        "distributed",
        "off",
        ["off", "auto"],
        "auto: one of several processes, as Slurm, Open MPI, Kubernetes or a TPU pod say",
    )
    flags.DEFINE_string(
        "coordinator", None, "host:port of process 0, unless the scheduler gives it"
    )
    flags.DEFINE_integer("n_processes", None, "Number of processes, unless the scheduler gives it")
    flags.DEFINE_integer("process_id", None, "Number of this process, from 0")
    flags.DEFINE_integer("host_timeout_s", 100, "A process silent for so many seconds is lost")


def start_replicas() -> None:
    """Call `distributed.start` as the flags say, before anything asks JAX for its devices."""
    values = flags.FLAGS.flag_values_dict()
    names = [name for name in ("replicas", *PROCESS_FLAGS) if name in values]
    distributed.start(**{name: values[name] for name in names})
    compiler_memory.trim_after_compiling()
