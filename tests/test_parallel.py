"""A call's batches on their way to the replicas."""

import jax
import numpy as np
import pytest

from asc_jax.machine import replicas
from asc_jax.machine.memory import aligned_zeros

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
