"""Before the first array: the replicas of this process, and the processes of this run.

`start` must run before anything asks JAX for its devices.
"""

import functools
import gc
import os
import sys

import jax

from asc_jax.errors import UserError
from asc_jax.machine import compiler_memory, process_exit, rendezvous
from asc_jax.machine.resources import n_cores

MAX_CPU_REPLICAS = 8
MAX_PORT = 65_535
START_TIMEOUT_S = 300  # for all processes to come up
GC_THRESHOLDS = 50_000, 20, 100  # tracing makes a million objects, which Python would search


def start(
    *,
    replicas: int | None = None,
    distributed: str = "off",
    coordinator: str | None = None,
    n_processes: int | None = None,
    process_id: int | None = None,
    host_timeout_s: int = 100,
) -> None:
    """Settle the replicas of this process, and join the other processes of the run.

    A CPU computes fastest with one replica a core; accelerators are always all used. From now on
    Python looks for garbage seldom, and the compiler's goes back to the system.

    Args:
      replicas: how many on a CPU; None: `JAX_NUM_CPU_DEVICES` or `XLA_FLAGS` if they say so,
        otherwise one a core that this process may use, at most 8.
      distributed: "auto": what is left out below is taken from the surroundings (Slurm, Open
        MPI, Kubernetes, TPU pods, `JAX_COORDINATOR_ADDRESS`); "off": one process, unless the
        next three are given.
      coordinator: `host:port` of process 0, to be reached from all.
      n_processes: of the run.
      process_id: of this process, in [0, n_processes).
      host_timeout_s: a process that has been silent for so long is lost, ≥ 1.

    Raises:
      UserError: options that do not fit together, processes that do not find each other or have
        different numbers of replicas, or another number of replicas than asked for.
    """
    if replicas is not None and replicas < 1:
        raise UserError(f"--replicas is {replicas}, expected at least 1")
    if replicas is not None or not _cpu_replicas_are_set():
        jax.config.update("jax_num_cpu_devices", replicas or min(n_cores(), MAX_CPU_REPLICAS))
    compiler_memory.give_back()
    gc.set_threshold(*GC_THRESHOLDS)
    if distributed == "auto" or (coordinator, n_processes, process_id) != (None, None, None):
        _check(distributed, coordinator, n_processes, process_id, host_timeout_s)
        _join(distributed, coordinator, n_processes, process_id, host_timeout_s)
        _require_equal_counts()
    if replicas not in (None, jax.local_device_count()):
        raise UserError(
            f"--replicas is {replicas}, but JAX finds {jax.local_device_count()} "
            f"({jax.default_backend()}): accelerators are all used (CUDA_VISIBLE_DEVICES chooses "
            "GPUs), and XLA_FLAGS may say otherwise on a CPU"
        )


def _check(distributed, coordinator, n_processes, process_id, host_timeout_s) -> None:
    given = {
        "--coordinator": coordinator,
        "--n_processes": n_processes,
        "--process_id": process_id,
    }
    missing = [name for name, value in given.items() if value is None]
    if missing and distributed != "auto":
        raise UserError(
            f"{' and '.join(missing)} missing: give all of {', '.join(given)}, or "
            "--distributed=auto to take what is left out from the surroundings"
        )
    port = (coordinator or "host:1").rpartition(":")[2]
    if not (port.isdecimal() and 1 <= int(port) <= MAX_PORT):
        raise UserError(
            f"--coordinator is {coordinator!r}, expected host:port, a port in 1 … {MAX_PORT}"
        )
    if n_processes is not None and n_processes < 1:
        raise UserError(f"--n_processes is {n_processes}, expected at least 1")
    if process_id is not None and not 0 <= process_id < (n_processes or process_id + 1):
        raise UserError(f"--process_id is {process_id}, expected 0 … {(n_processes or 1) - 1}")
    if host_timeout_s < 1:
        raise UserError(f"--host_timeout_s is {host_timeout_s}, expected at least 1")


def _join(distributed, coordinator, n_processes, process_id, host_timeout_s) -> None:
    """`jax.distributed.initialize`, with an end that a person can read."""
    log = process_exit.divert_native_log()
    _configure()
    host = (coordinator or "").rpartition(":")[0]
    local = host == "localhost" or host.startswith("127.")
    if coordinator and process_id == 0:
        rendezvous.require_free(coordinator, local)
    try:
        rendezvous.wait_for(
            functools.partial(
                jax.distributed.initialize,
                coordinator,
                n_processes,
                process_id,
                cluster_detection_method=None if distributed == "auto" else "deactivate",
                initialization_timeout=START_TIMEOUT_S,
                heartbeat_timeout_seconds=host_timeout_s,
                shutdown_timeout_seconds=host_timeout_s,
                coordinator_bind_address=coordinator if local else None,
            )
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the processes of this run did not find each other: {str(error).splitlines()[0]} "
            "Where the surroundings do not say it, give --coordinator, --n_processes and "
            f"--process_id. More is in {log}"
        ) from error
    process_exit.all_are_found()
    if jax.process_index():
        sys.stdout = open(os.devnull, "w")  # process 0 speaks for all  # noqa: SIM115


def _configure() -> None:
    """What several processes need of JAX."""
    # All stop together because `hosts.any_process` says so, not because JAX's own service does.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # One program at a time on a CPU: those in flight together can wait for each other's threads.
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def _require_equal_counts() -> None:
    counts = [0] * jax.process_count()
    for device in jax.devices():
        counts[device.process_index] += 1
    if len(set(counts)) > 1:
        raise UserError(
            f"the processes of this run have {', '.join(map(str, counts))} replicas, expected "
            "equally many: on a CPU, --replicas sets them"
        )


def _cpu_replicas_are_set() -> bool:
    """Whether the surroundings ask for a number of replicas."""
    flags = os.environ.get("XLA_FLAGS", "")
    return jax.config.jax_num_cpu_devices >= 0 or "host_platform_device_count" in flags
