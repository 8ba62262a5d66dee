"""Every numeric column of the data reaches the training step, on every path."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loop_runs import fit
from small import small_clips
from tiny import tiny_config

from asc_jax import experiment
from asc_jax.data.clips import open_split
from asc_jax.machine import replicas
from asc_jax.training import resident, steps

N = 7
COLUMNS = {
    "weight": np.linspace(0, 1, N, dtype=np.float32),
    "teacher_logits": np.arange(10 * N, dtype=np.float32).reshape(N, 10),
    "city": np.arange(N, dtype=np.int32)[::-1],
    "is_real": np.arange(N) % 2 == 0,
}


@pytest.fixture
def clips():
    return small_clips(N).with_columns(**COLUMNS)


def test_columns_are_read_in_any_order_and_padded(clips):
    batch = next(clips.batches([4, 2, 0], 4))
    for name, column in COLUMNS.items():
        np.testing.assert_array_equal(batch[name][:3], column[[4, 2, 0]])
        assert not batch[name][3:].any()
        assert batch[name].dtype == column.dtype
    held_out = clips.subset(np.array([5, 1]))
    np.testing.assert_array_equal(next(held_out.in_order(2))["city"], COLUMNS["city"][[5, 1]])


def test_columns_are_part_of_the_identity_of_clips():
    known = small_clips(N)
    known.identity = "of the waveforms"
    one, other = (known.with_columns(weight=np.full(N, value)) for value in (1.0, 2.0))
    assert len({known.identity, one.identity, other.identity}) == 3
    assert one.identity == known.with_columns(weight=np.full(N, 1.0)).identity


@pytest.mark.parametrize("name", ["audio", "mask", "short"])
def test_column_with_a_name_that_is_taken_or_of_another_length_is_rejected(name):
    with pytest.raises(ValueError, match=f"column '{name}' has"):
        small_clips(N).with_columns(**{name: np.zeros(N - (name == "short"))})


def test_columns_are_streamed_ahead():
    read_ahead = pytest.importorskip("asc_jax.data.store.read_ahead")

    def load(row):
        return {name: column[row] for name, column in COLUMNS.items()} | {"text": row.astype(str)}

    rows = np.array([[0, 3], [6, 1], [2, 2]])
    for row, batch in zip(rows, read_ahead.map_ahead(load, rows), strict=True):
        for name, column in COLUMNS.items():
            np.testing.assert_array_equal(batch[name], column[row])
            assert batch[name].dtype == column.dtype
        assert batch["text"].tolist() == [str(number) for number in row]


@pytest.mark.slow
def test_every_numeric_column_that_is_stored_comes_back(tmp_path):
    """A TAU folder also gives each clip's city; what is text stays with the host."""
    dataset = pytest.importorskip("asc_jax.data.store.dataset")
    from tau_folder import write_tau

    from asc_jax.data.tau.folder import read_recordings

    dataset.build(read_recordings(write_tau(tmp_path / "tau")), tmp_path)
    batch = next(open_split(tmp_path, "train_100pct").in_order(4))
    assert batch["city_id"].dtype == np.int32
    assert {"audio", "label", "device_id", "filename", "mask"} < batch.keys()


def test_columns_are_sharded_and_padded(clips):
    sharded = replicas.shard(next(clips.in_order(N)), 2)
    assert "filename" not in sharded
    for name, column in COLUMNS.items():
        rows = np.concatenate(sharded[name])
        np.testing.assert_array_equal(rows[:N], column)
        assert not rows[N:].any()


@pytest.mark.parametrize("choice", ["float32", "int16"])
def test_resident_columns_are_gathered_inside_the_step(clips, choice):
    source, held = resident.place_clips(clips, choice)
    batch = next(source.batches([4, 2, 0], 4))
    gathered = steps.gather(jax.tree.map(lambda x: x[0], held), jnp.asarray(batch["row"]))
    streamed = next(clips.batches([4, 2, 0], 4))
    numeric = {name for name, rows in streamed.items() if rows.dtype.kind in "biuf"}
    assert gathered.keys() == numeric
    for name in numeric - {"audio"}:
        np.testing.assert_array_equal(gathered[name], streamed[name])
        assert gathered[name].dtype == streamed[name].dtype
    tolerance = 0 if choice == "float32" else 2.0**-15
    np.testing.assert_allclose(gathered["audio"], streamed["audio"], rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def of_column():
    """An experiment whose loss is the column `value` of every clip."""
    whole = experiment.make(tiny_config(data__batch_size=4))
    return dataclasses.replace(
        whole, loss_fn=lambda logits, batch: batch["value"] + 0 * logits.sum(-1)
    )


@pytest.mark.parametrize("choice", ["off", "float32", "int16"])
def test_loss_reads_a_column_however_the_clips_reach_the_step(
    of_column, choice, tmp_path, compiled_fast
):
    value = np.array([1, 2, 4, 8, 16, 32], np.float32)
    clips = small_clips(6).with_columns(value=value)
    fit(of_column, tmp_path, clips, n_epochs=1, resident=choice)
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["loss"] == pytest.approx(value.mean(), rel=1e-6)
