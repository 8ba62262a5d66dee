"""Batches: the same from memory and from disk, in an order that depends on nothing else."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from commands import HANGS_S
from tau_folder import write_tau

from asc_jax.data.clips import Clips, epoch_order, from_arrays, n_batches, open_split
from asc_jax.errors import UserError


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    dataset = pytest.importorskip("asc_jax.data.store.dataset")
    from asc_jax.data.tau.folder import read_recordings

    tau = write_tau(tmp_path_factory.mktemp("tau"))
    data_dir = tmp_path_factory.mktemp("data")
    dataset.build(read_recordings(tau), data_dir)
    return data_dir


def _clips(n=10, n_samples=4):
    audio = np.arange(1, n * n_samples + 1, dtype=np.float32).reshape(n, n_samples)
    return from_arrays(audio, np.arange(n) + 1, np.arange(n) + 2)


def _same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])
        assert left[name].dtype == right[name].dtype


def test_epoch_order_is_a_permutation_of_its_arguments_alone():
    order = epoch_order(100, seed=3, epoch=5)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(100))
    np.random.seed(1)  # noqa: NPY002  global state must not matter
    np.testing.assert_array_equal(order, epoch_order(100, seed=3, epoch=5))


@pytest.mark.parametrize("other", [(100, 3, 6), (100, 4, 5), (100, 2**32 + 3, 5)])
def test_epoch_order_differs_between_seeds_and_epochs(other):
    assert (epoch_order(*other) != epoch_order(100, 3, 5)).any()


def test_epoch_order_stays_what_it_was():
    # Pinned so that a run can be repeated under later versions of numpy.
    assert epoch_order(6, seed=0, epoch=1).tolist() == [2, 3, 1, 0, 4, 5]
    assert epoch_order(8, seed=42, epoch=149).tolist() == [1, 5, 4, 2, 3, 6, 7, 0]


def test_epoch_order_of_no_clips_is_empty():
    assert epoch_order(0, seed=0, epoch=0).shape == (0,)


@pytest.mark.parametrize(
    ("n_clips", "batch_size", "expected"),
    [(6980, 78, 90), (156, 78, 2), (157, 78, 3), (0, 5, 0)],
)
def test_n_batches_rounds_up(n_clips, batch_size, expected):
    assert n_batches(n_clips, batch_size) == expected


def test_last_batch_is_filled_up_and_masked():
    *full, last = _clips().in_order(4)
    assert all(batch["mask"].all() for batch in full)
    assert last["mask"].tolist() == [True, True, False, False]
    assert last["audio"].shape == (4, 4)
    assert not last["audio"][2:].any()
    assert last["label"].tolist() == [9, 10, 0, 0]
    assert last["device_id"].tolist() == [10, 11, 0, 0]
    assert last["filename"].tolist() == ["8", "9", "", ""]


def test_batches_follow_the_order():
    order = epoch_order(10, 0, 0)
    batches = list(_clips().batches(order, 5))
    assert np.concatenate([batch["label"] for batch in batches]).tolist() == (order + 1).tolist()


def test_first_resumes_without_reading_the_skipped():
    asked = []
    clips = _clips()
    read = clips._read
    spied = Clips(10, lambda indices: asked.extend(indices) or read(indices))
    order = epoch_order(10, 0, 0)
    resumed = list(spied.batches(order, 3, first=2))
    assert sorted(asked) == sorted(order[6:])
    for left, right in zip(resumed, list(clips.batches(order, 3))[2:], strict=True):
        _same(left, right)
    assert list(clips.batches(order, 3, first=4)) == []


@pytest.mark.parametrize(
    ("order", "batch_size", "first", "message"),
    [
        ([0, 10], 2, 0, "outside 0 … 9"),
        ([-1], 2, 0, "outside 0 … 9"),
        ([[1, 2]], 2, 0, "list of integers"),
        ([0.5], 2, 0, "list of integers"),
        ([1], 0, 0, "batch_size must be at least 1"),
        ([1], 1, 2, r"first must be in 0 … 1"),
    ],
)
def test_wrong_arguments_are_refused_at_once(order, batch_size, first, message):
    with pytest.raises(ValueError, match=message):
        _clips().batches(order, batch_size, first=first)


@pytest.mark.parametrize("wrong", ["audio", "label", "filenames"])
def test_arrays_must_fit_together(wrong):
    arrays = {"audio": np.zeros((3, 4)), "label": [0] * 3, "device_id": [0] * 3,
              "filenames": ["a", "b", "c"]}  # fmt: skip
    arrays[wrong] = arrays[wrong][0] if wrong == "audio" else arrays[wrong][:2]
    with pytest.raises(ValueError, match="has shape"):
        from_arrays(**arrays)


def test_disk_and_memory_give_identical_batches(data_dir):
    stored = open_split(data_dir, "train_100pct")
    assert len(stored) == 20
    everything = next(stored.in_order(20))
    names = "audio", "label", "device_id", "filename"
    memory = from_arrays(*(everything[name] for name in names), city_id=everything["city_id"])
    order = epoch_order(20, 7, 3)
    for first in (0, 2):
        left = list(stored.batches(order, 6, first=first))
        right = list(memory.batches(order, 6, first=first))
        assert len(left) == len(right) == 4 - first
        for pair in zip(left, right, strict=True):
            _same(*pair)


def test_disk_gives_the_documented_shapes(data_dir):
    batch = next(open_split(data_dir, "test").in_order(4))
    assert batch["audio"].shape == (4, 32_000)
    assert [batch[k].dtype for k in ("audio", "label", "device_id", "mask")] == [
        np.float32, np.int32, np.int32, bool
    ]  # fmt: skip
    assert batch["filename"][0] == "audio/airport-barcelona-1020-20-0-c.wav"


def test_iterators_can_be_dropped_half_way(data_dir):
    clips = open_split(data_dir, "train_100pct")
    for _ in range(5):
        batches = clips.in_order(2)
        next(batches)
        del batches
    assert sum(batch["mask"].sum() for batch in clips.in_order(3)) == 20


@pytest.mark.nightly
def test_program_ends_although_an_iterator_is_alive(data_dir):
    code = (
        "import sys; from asc_jax.data import clips as data\n"
        f"batches = data.open_split({str(data_dir)!r}, 'train_100pct').in_order(1)\n"
        "next(batches); sys.exit(3)"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=HANGS_S, capture_output=True)
    assert (done.returncode, done.stderr) == (3, b"")


def test_missing_data_set_says_how_to_get_one(tmp_path):
    with pytest.raises(UserError, match=r"prepare-data --tau_dir DIR .*--download.*make demo"):
        open_split(tmp_path / "nothing", "test")


def test_unknown_split_names_the_known(data_dir):
    with pytest.raises(UserError, match="'train_10pct'; it has test, train_100pct, train_5pct"):
        open_split(data_dir, "train_10pct")


@pytest.fixture
def copy(data_dir, tmp_path):
    return shutil.copytree(data_dir, tmp_path / "copy")


def _shard(data_dir, split):
    return next(data_dir.glob(f"tau22/*/*-{split}.array_record*"))


def test_missing_shard_is_a_user_error(copy):
    _shard(copy, "test").unlink()
    with pytest.raises(UserError, match="damaged or incomplete .* is missing.*--overwrite"):
        open_split(copy, "test")


def test_damaged_description_is_a_user_error(copy):
    next(copy.glob("tau22/*/features.json")).write_text("{")
    with pytest.raises(UserError, match="damaged or incomplete"):
        open_split(copy, "test")


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_damaged_record_is_a_user_error_without_traceback(copy, damage, capfd):
    path = _shard(copy, "test")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 8] = bytes(byte ^ 255 for byte in data[middle : middle + 8])
    path.write_bytes(data if damage == "flip" else data[:middle])
    with pytest.raises(UserError, match=f"in {copy}/tau22 is damaged .*--overwrite"):
        list(open_split(copy, "test").in_order(2))
    assert "Traceback" not in capfd.readouterr().err


def test_arrays_need_no_tensorflow():
    code = (
        "import sys; sys.modules.update(tensorflow=None, tensorflow_datasets=None)\n"
        "import numpy as np; from asc_jax.data import clips as data\n"
        "clips = data.from_arrays(np.zeros((3, 4)), [0] * 3, [0] * 3)\n"
        "assert len(list(clips.in_order(2))) == 2"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=HANGS_S)


def test_missing_tensorflow_is_a_user_error(data_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UserError, match=r"tensorflow cannot be imported .*: pip install"):
        open_split(data_dir, "test")


def _spoiled(path, spoil):
    content = bytearray(path.read_bytes())
    if spoil == "delete":
        path.unlink()
        return
    if spoil == "cut":
        del content[-1]
    else:
        content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _read_all(data_dir):
    for split in ("test", "train_5pct", "train_100pct"):
        list(open_split(data_dir, split).in_order(8))


@pytest.mark.parametrize("spoil", ["delete", "cut", "flip"])
def test_no_file_of_a_data_set_can_be_spoiled_unnoticed(copy, spoil):
    """Not even one that training never reads."""
    (folder,) = copy.glob("tau22/*")
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        _spoiled(path, spoil)
        with pytest.raises(UserError, match="damaged|no data set"):
            _read_all(copy)
        path.write_bytes(content)
    assert len(list(open_split(copy, "test").in_order(8))) == 1


def test_flipped_bits_of_a_shard_give_the_same_clips_or_an_error(copy):
    """Some bytes of a shard mean nothing; no other clip comes of any."""
    expected = next(open_split(copy, "train_5pct").in_order(5))
    path = _shard(copy, "train_5pct")
    content, rng, n_refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(20):
        flipped = bytearray(content)
        flipped[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            _same(next(open_split(copy, "train_5pct").in_order(5)), expected)
        except UserError:
            n_refused += 1
    assert n_refused > 10


def test_shard_of_another_data_set_is_refused(copy, tmp_path):
    """Of the same size, and in itself intact."""
    from asc_jax.data.store import dataset
    from asc_jax.data.tau.folder import read_recordings

    tau = write_tau(tmp_path / "tau")
    for path in (tau / "audio").iterdir():
        content = path.read_bytes()
        path.write_bytes(content[:-3] + bytes(byte ^ 1 for byte in content[-3:]))
    dataset.build(read_recordings(tau, ["test"]), tmp_path / "other")
    assert open_split(tmp_path / "other", "test").identity not in (
        None, open_split(copy, "test").identity
    )  # fmt: skip
    shutil.copy(_shard(tmp_path / "other", "test"), _shard(copy, "test"))
    with pytest.raises(UserError, match="clip 0 is not the one that was stored"):
        list(open_split(copy, "test").in_order(8))


def test_data_set_of_another_version_of_the_code_says_so(copy, monkeypatch):
    from asc_jax.data.store import integrity

    monkeypatch.setitem(integrity.CLIPS_ARE, "resampler", 2)
    with pytest.raises(UserError, match="resampler is 1, this version has 2.*--overwrite"):
        open_split(copy, "test")


def test_subset_has_an_identity_of_its_own(data_dir):
    clips = open_split(data_dir, "train_100pct")
    some = {clips.subset(np.array(numbers)).identity for numbers in ([0, 1], [1, 0], [0])}
    assert len({None, clips.identity, *some}) == 5
    assert open_split(data_dir, "train_100pct").identity == clips.identity
