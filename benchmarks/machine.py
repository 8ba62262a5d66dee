"""Where the figures come from."""

import importlib.metadata
import os
import pathlib
import platform
import re

PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "numpy", "tensorflow-cpu", "tensorflow", "soundfile",
    "torch", "torchaudio", "onnx", "onnxruntime", "ai-edge-litert",
)  # fmt: skip


def describe(threads: int) -> dict:
    """CPU, cores, memory, versions, threads, and the load before anything starts."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": _versions(),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "load_at_start": list(os.getloadavg()),
    }


def _cpu() -> str:
    path = pathlib.Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", path.read_text()) if path.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
