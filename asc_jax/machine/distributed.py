"""Before the first array: the replicas of this process, and the processes of this run.

`start` must run before anything asks JAX for its devices.
"""

import functools
import os
import socket
import sys
import threading
import time
from collections.abc import Callable

import jax

from asc_jax.errors import UserError
from asc_jax.machine import process_exit
from asc_jax.machine.resources import n_cores

MAX_CPU_REPLICAS = 8
MAX_PORT = 65_535
START_TIMEOUT_S = 300  # for all processes to come up
SAY_AFTER_S = 10  # that the others are waited for


def start(
    *,
    replicas: int | None = None,
    distributed: str = "off",
    coordinator: str | None = None,
    n_processes: int | None = None,
    process_id: int | None = None,
    host_timeout_s: int = 100,
) -> None:
    """Set the number of replicas of this process, and join the other processes of the run.

    A CPU computes fastest with one replica a core; accelerators are always all used.

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
    options = {
        "--coordinator": coordinator,
        "--n_processes": n_processes,
        "--process_id": process_id,
    }
    missing = [name for name, value in options.items() if value is None]
    if missing and distributed != "auto":
        raise UserError(
            f"{' and '.join(missing)} missing: give all of {', '.join(options)}, or "
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
    """Call `jax.distributed.initialize`; its errors become ones that a person can read."""
    # All stop together because `hosts.any_process` says so, not because JAX's own service does.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # One program at a time on a CPU: those in flight together can wait for each other's threads.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    host = (coordinator or "").rpartition(":")[0]
    local = host == "localhost" or host.startswith("127.")
    if coordinator and process_id == 0:
        _require_free(coordinator, local)
    process_exit.expect_others(found=False)
    try:
        _call_interruptibly(
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
            "--process_id"
        ) from error
    process_exit.expect_others(found=True)
    if jax.process_index():
        sys.stdout = open(os.devnull, "w")  # process 0 speaks for all  # noqa: SIM115


def _require_free(coordinator: str, local: bool) -> None:
    """Raise a UserError if process 0 cannot have the port at which it serves the others.

    JAX's own service would end the process without a word.

    Args:
      coordinator: `host:port`.
      local: whether only this machine can reach it.
    """
    host, _, port = coordinator.rpartition(":")
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((host if local else "", int(port)))
        except OSError as error:
            raise UserError(
                f"port {port} of --coordinator cannot be had on this machine: {error.strerror}. "
                "Choose another, or wait for the run that holds it"
            ) from error


def _call_interruptibly(join: Callable[[], None]) -> None:
    """Call `join` in a thread, so that Ctrl-C stops this one meanwhile; raise what it raises."""
    errors = []

    def work():
        try:
            join()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    say_at = time.monotonic() + SAY_AFTER_S
    while thread.is_alive():
        thread.join(0.1)
        if time.monotonic() > say_at:
            say_at = float("inf")
            print("waiting for the other processes of this run …", file=sys.stderr)
    if errors:
        raise errors[0]


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
    """Return whether the surroundings ask for a number of replicas."""
    flags = os.environ.get("XLA_FLAGS", "")
    return jax.config.jax_num_cpu_devices >= 0 or "host_platform_device_count" in flags
