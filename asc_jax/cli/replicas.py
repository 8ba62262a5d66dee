"""Flags that say how many replicas a process has, and with which others it works."""

from absl import flags

from asc_jax.machine import compiler_memory, distributed

flags.disclaim_key_flags()  # they are those of the command
PROCESS_FLAGS = ("distributed", "coordinator", "n_processes", "process_id", "host_timeout_s")


def define_replica_flags() -> None:
    """What `start_replicas` reads."""
    flags.DEFINE_integer(
        "replicas", None, "Replicas of this process on a CPU; one a core, at most 8, unless given."
    )


def define_process_flags() -> None:
    """What `start_replicas` reads besides, in a command that several processes can share."""
    flags.DEFINE_enum(
        "distributed",
        "off",
        ["off", "auto"],
        "auto: one of several processes, as Slurm, Open MPI, Kubernetes or a TPU pod say.",
    )
    flags.DEFINE_string("coordinator", None, "host:port of process 0, where nothing says it.")
    flags.DEFINE_integer("n_processes", None, "How many processes, where nothing says it.")
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
    flags.DEFINE_integer("host_timeout_s", 100, "A process silent for so long is lost.")


def start_replicas() -> None:
    """`distributed.start` as the flags say; before anything asks JAX for its devices."""
    given = flags.FLAGS.flag_values_dict()
    names = [name for name in ("replicas", *PROCESS_FLAGS) if name in given]
    distributed.start(**{name: given[name] for name in names})
    compiler_memory.trim_after_compiling()
