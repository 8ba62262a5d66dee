"""Which splits lie on the accelerators, and what is read from them there."""

import jax
import numpy as np
import pytest
from small import small_clips

from asc_jax.errors import UserError
from asc_jax.machine import replicas
from asc_jax.training import resident

N_CLIPS = 10


@pytest.fixture
def clips():
    return small_clips(N_CLIPS)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of the machine's memory")
@pytest.mark.parametrize(("share", "held"), [(1.01, True), (0.99, False), (0, False)])
def test_a_cpu_holds_a_split_that_fills_a_quarter_of_the_free_memory(
    clips, monkeypatch, share, held
):
    n_bytes = N_CLIPS * next(clips.in_order(1))["audio"].nbytes
    monkeypatch.setattr(resident, "free_memory", lambda: share * 4 * n_bytes)
    source, arrays = resident.place_clips(clips, "auto")
    assert (arrays is not None) == held
    batch = next(source.batches(np.arange(N_CLIPS), 4))
    assert ("row" in batch) == held
    assert ("audio" in batch) != held


def test_resident_clips_are_the_streamed_ones(clips):
    source, held = resident.place_clips(clips, "float32")
    order = np.array([7, 2, 9])
    streamed, batch = next(clips.batches(order, 4)), next(source.batches(order, 4))
    np.testing.assert_array_equal(batch["row"], [8, 3, 10, 0])  # 0 fills up
    np.testing.assert_array_equal(batch["filename"], streamed["filename"])
    for replica in range(replicas.n_replicas()):
        for name in ("audio", "label"):
            taken = np.asarray(held[name][replica])[order]
            np.testing.assert_array_equal(taken, streamed[name][:3])
    assert source.identity == clips.identity


@pytest.mark.parametrize(
    ("where", "error"),
    [("aligned_zeros", MemoryError), ("share", MemoryError), ("share", RuntimeError)],
)
def test_clips_that_do_not_fit_are_told_with_what_to_do(clips, monkeypatch, where, error):
    def no_room(*_):
        raise error("RESOURCE_EXHAUSTED")

    monkeypatch.setattr(resident if where == "aligned_zeros" else replicas, where, no_room)
    for choice in ("float32", "int16"):
        with pytest.raises(UserError, match=r"10 clips do not fit .*resident=off streams them"):
            resident.place_clips(clips, choice)
    monkeypatch.setattr(resident, "_fits", lambda clips: True)
    assert resident.place_clips(clips, "auto") == (clips, None)


def test_calls_on_resident_clips_are_longer_but_not_than_an_epoch(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert resident.resident_steps(8, 100) == 16
    assert resident.resident_steps(8, 12) == 12
    assert resident.resident_steps(20, 12) == 20
    assert resident.resident_steps(1, 100) == 2  # who asked for few, to stop soon, gets few
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert resident.resident_steps(8, 1000) == 128
