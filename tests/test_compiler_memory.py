"""What a compiler leaves behind is given back, and what jax calls its end is still so called."""

import ctypes
import pathlib
import resource
import sys

import jax
import jax.numpy as jnp
import pytest

from asc_jax.machine import compiler_memory

N_BLOCKS, BLOCK = 4000, 50_000  # bytes
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc only"
)


def _held() -> int:
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_memory_freed_below_something_kept_is_given_back():
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    libc.malloc_trim(0)  # the blocks would fill what other tests have left
    before = _held()
    blocks = [libc.malloc(BLOCK) for _ in range(N_BLOCKS)]
    for block in blocks:
        ctypes.memset(block, 1, BLOCK)
    *freed, kept = blocks
    for block in freed:
        libc.free(block)
    assert _held() - before > 0.8 * N_BLOCKS * BLOCK
    compiler_memory.trim_after_compiling()
    jax.monitoring.record_event_duration_secs(compiler_memory.COMPILED, 1.0)
    assert _held() - before < 0.2 * N_BLOCKS * BLOCK
    libc.free(kept)


def test_jax_says_when_it_has_compiled():
    events = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: events.append(event)
    )
    jax.jit(lambda x: jnp.tan(x) * 1.2345678)(jnp.ones(3)).block_until_ready()
    assert compiler_memory.COMPILED in events
