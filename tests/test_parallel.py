"""A call's batches on their way to the replicas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asc_jax.machine import replicas
from asc_jax.machine.memory import ScratchMemory, aligned_zeros

N_SAMPLES = 64


def _batch(n_clips, value):
    audio = np.full((n_clips, N_SAMPLES), value, np.float32)
    label = np.arange(n_clips, dtype=np.int32)
    return {"audio": audio, "label": label, "mask": np.ones(n_clips, bool), "filename": ["x"]}


@pytest.mark.parametrize("n_replicas", [1, 2, 3])
def test_a_batch_is_cut_in_order_and_filled_up(n_replicas):
    stacked = replicas.stack_and_shard([_batch(5, 1), _batch(5, 2)], 3, n_replicas)
    assert set(stacked) == {"audio", "label", "mask"}
    share = -(-5 // n_replicas)
    assert stacked["audio"].shape == (n_replicas, 3, share, N_SAMPLES)
    for slot in range(2):
        mask = stacked["mask"][:, slot].ravel()
        np.testing.assert_array_equal(mask, np.arange(n_replicas * share) < 5)
        np.testing.assert_array_equal(stacked["label"][:, slot].ravel()[:5], np.arange(5))
        audio = stacked["audio"][:, slot].reshape(-1, N_SAMPLES)
        np.testing.assert_array_equal(audio, np.repeat(mask[:, None], N_SAMPLES, 1) * (slot + 1))
    assert not stacked["mask"][:, 2].any()


def test_shard_is_one_batch_without_slots():
    shard = replicas.shard(_batch(5, 1), 2)
    stacked = replicas.stack_and_shard([_batch(5, 1)], 1, 2)
    for name, rows in shard.items():
        np.testing.assert_array_equal(rows, stacked[name][:, 0])


def test_batches_that_do_not_fit_each_other_are_refused():
    other = {**_batch(8, 1), "audio": np.zeros((8, N_SAMPLES), np.float16)}
    fewer = {name: rows for name, rows in _batch(8, 1).items() if name != "label"}
    for batch in (_batch(3, 1), other, fewer):
        with pytest.raises(ValueError, match="those before"):
            replicas.stack_and_shard([_batch(8, 1), batch], 2, 2)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="an accelerator has its own memory")
def test_a_cpu_reads_the_batches_where_they_lie():
    audio = replicas.stack_and_shard([_batch(4, 1)], 2, 1)["audio"]
    on_device = jax.device_put(audio, jax.local_devices()[0], may_alias=True)
    assert on_device.unsafe_buffer_pointer() == audio.ctypes.data


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="an accelerator has its own memory")
def test_the_replicas_of_a_cpu_share_what_a_run_reads():
    """A split takes its own memory once, not once a replica."""
    audio = aligned_zeros((5, N_SAMPLES), np.dtype(np.float32))
    audio[:] = np.arange(5)[:, None]
    shared = replicas.share({"audio": audio})["audio"]
    assert shared.shape == (replicas.n_replicas(), *audio.shape)
    where = {shard.data.unsafe_buffer_pointer() for shard in shared.addressable_shards}
    assert where == {audio.ctypes.data}
    like_a_result = replicas.replicate(audio)
    assert shared.sharding == like_a_result.sharding
    np.testing.assert_array_equal(shared, like_a_result)


def _adding_up(state, batches, n_steps, key, clips, arrays, scratch):
    """Training steps that count their calls in their scratch memory."""
    del n_steps, key, clips
    count = scratch["count"] + 1
    metrics = {"count": count.astype(jnp.int32)}  # which cannot lie where the scratch memory does
    return state + jnp.sum(batches["audio"]), metrics, {"count": count}


def _counting(state, batches, n_steps, key, clips, arrays, scratch):
    """The same on batches that hold rows."""
    return _adding_up(state, {"audio": batches["mask"]}, n_steps, key, clips, arrays, scratch)


def _count(audio):
    return {"count": jax.ShapeDtypeStruct(audio.shape, audio.dtype)}


def _call(train, n_rows, state=None):
    batches = replicas.stack_and_shard([_batch(2 * n_rows, 1)], 1, 2)
    state = replicas.replicate(np.float32(0), 2) if state is None else state
    return train(state, batches, 1, jax.random.key(0))[1]["count"]


def test_scratch_memory_goes_from_call_to_call_and_fits_the_batch():
    train = replicas.pmap_train(_adding_up, 2, scratch_shapes=_count)
    for n_rows, count in ((4, 1), (4, 2), (6, 1), (6, 2), (4, 1)):
        counted = _call(train, n_rows)
        assert counted.shape == (2, n_rows, N_SAMPLES)
        np.testing.assert_array_equal(counted, count)


def test_a_call_that_fails_leaves_no_scratch_memory_behind():
    train = replicas.pmap_train(_adding_up, 2, scratch_shapes=_count)
    _call(train, 2)
    with pytest.raises(ValueError, match="size"):
        _call(train, 2, np.zeros(3, np.float32))
    np.testing.assert_array_equal(_call(train, 2), 1)


def test_calls_after_one_that_has_failed_late_do_not_fail():
    """It is computed while the host goes on, and so leaves its scratch memory before it fails."""
    fail = [False]

    def read(x):
        if fail[0]:
            raise RuntimeError("cannot be computed")
        return x

    def train_steps(state, batches, n_steps, key, clips, arrays, scratch):
        out = _adding_up(state, batches, n_steps, key, clips, arrays, scratch)
        return jax.tree.map(lambda x: jax.pure_callback(read, x, x), out)

    train = replicas.pmap_train(train_steps, 2, scratch_shapes=_count)
    np.testing.assert_array_equal(_call(train, 2), 1)
    fail[0] = True
    with pytest.raises(jax.errors.JaxRuntimeError, match="cannot be computed"):
        jax.block_until_ready(_call(train, 2))
    fail[0] = False
    for count in (1, 2):
        np.testing.assert_array_equal(_call(train, 2), count)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="an accelerator has its own memory")
def test_scratch_memory_is_written_where_it_lies(monkeypatch):
    where = []

    class Watched(ScratchMemory):
        def leave(self, arrays):
            shards = arrays["count"].addressable_shards
            where.append([shard.data.unsafe_buffer_pointer() for shard in shards])
            super().leave(arrays)

    monkeypatch.setattr(replicas, "ScratchMemory", Watched)
    train = replicas.pmap_train(_adding_up, 2, scratch_shapes=_count)
    counted = [_call(train, 4) for _ in range(4)]
    np.testing.assert_array_equal(counted[-1], 4)
    assert len(set(where[0])) == 2
    assert where[1:] == where[:-1]


def test_scratch_memory_is_for_what_a_step_computes_with():
    asked = []

    def shapes(audio):
        asked.append((audio.shape, audio.dtype.name))
        return _count(audio)

    def call(batches, clips=None):
        train = replicas.pmap_train(_counting, 2, scratch_shapes=shapes)
        train(replicas.replicate(np.float32(0), 2), batches, 1, jax.random.key(0), clips)

    shared = replicas.stack_and_shard([_batch(6, 1)], 1, 2)
    call(shared)
    call(shared | {"audio": shared["audio"][..., :5]})
    rows = {"row": shared["label"], "mask": shared["mask"]}
    int16 = {"audio": np.zeros((2, 9, 7), np.int16), "audio_scale": np.ones((2, 9), np.float32)}
    call(rows, int16)
    assert asked == [((3, N_SAMPLES), "float32"), ((3, 5), "float32"), ((3, 7), "float32")]
