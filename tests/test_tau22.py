"""A folder in TAU's layout becomes a data set, or an error a person can act on."""

import collections
import shutil
import socket
import struct
import sys

import numpy as np
import pytest
import soundfile
from tau_folder import clip_name, write_evaluation, write_list, write_tau, write_wav

from asc_jax import features
from asc_jax.data.tau import wav
from asc_jax.data.tau.folder import Recording, find_lists, read_recordings
from asc_jax.data.tau.taxonomy import CITIES, DEVICES, SCENES
from asc_jax.data.tau.wav import read_resampled, read_wav
from asc_jax.errors import UserError
from asc_jax.machine.staging import check_room, replacing

tau22 = pytest.importorskip("asc_jax.data.store.dataset")


@pytest.fixture(scope="session")
def tau(tmp_path_factory):
    """A good folder; tests that spoil something copy it."""
    parent = tmp_path_factory.mktemp("tau")
    write_evaluation(parent)
    return write_tau(parent / "dev", percents=(5, 10, 25, 50, 100))


@pytest.fixture
def spoiled(tau, tmp_path):
    return shutil.copytree(tau, tmp_path / "dev")


@pytest.fixture(scope="session")
def built(tau, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("data")
    tau22.build(read_recordings(tau), data_dir)
    return data_dir


def _examples(data_dir, split):
    return list(tau22.Tau22(data_dir=data_dir).as_data_source(split))


def test_build_keeps_order_names_and_ids(built):
    examples = _examples(built, "train_100pct")
    assert [example["filename"].decode() for example in examples] == [
        clip_name(number) for number in range(20)
    ]
    eleventh = examples[11]
    assert eleventh["label"] == SCENES.index("bus")
    assert eleventh["device_id"] == DEVICES.index("c")
    assert eleventh["city_id"] == CITIES.index("helsinki")
    assert eleventh["location"] == b"helsinki-1011"
    assert eleventh["segment"] == b"11"


def test_build_resamples_each_clip_once_in_float32(built, tau):
    for example in _examples(built, "train_5pct"):
        waveform, _ = soundfile.read(tau / example["filename"].decode(), dtype="float32")
        expected = features.resample(waveform[None], 44_100, 32_000)[0]
        assert example["audio"].dtype == np.float32
        np.testing.assert_allclose(example["audio"], expected, atol=1e-6)


def test_stored_clip_is_what_tfds_would_store(built):
    """Its own serialiser leaves the order of the fields to chance; the content must be equal."""
    from tensorflow_datasets.core import example_serializer
    from tensorflow_datasets.proto import tf_example_pb2

    clip = Recording("a.wav", "audio/a.wav", 3, 1, 2, "lisbon-1", "40", 7)
    waveform = np.linspace(-1, 1, 32_000, dtype=np.float32)
    features = tau22.Tau22(data_dir=built).info.features
    fields = {"audio": waveform, **clip._asdict()}
    del fields["path"], fields["n_bytes"]
    serialiser = example_serializer.ExampleSerializer(features.get_serialized_info())
    theirs = serialiser.serialize_example(features.encode_example(fields))
    parse = tf_example_pb2.Example.FromString
    assert parse(tau22.serialise(clip, waveform)) == parse(theirs)


def test_build_reads_each_clip_once(tau, tmp_path, monkeypatch):
    """Though the splits lie one within the other; what is copied is what was stored."""
    n_read = collections.Counter()

    def count(path, out=None):
        n_read[path.name] += 1
        return read_wav(path, out)

    monkeypatch.setattr(wav, "read_wav", count)
    recordings = read_recordings(tau)
    tau22.build(recordings, tmp_path)
    assert len(n_read) == len({clip.path for clips in recordings.values() for clip in clips})
    assert set(n_read.values()) == {1}
    whole = {e["filename"]: e["audio"] for e in _examples(tmp_path, "train_100pct")}
    for example in _examples(tmp_path, "train_50pct"):
        np.testing.assert_array_equal(example["audio"], whole[example["filename"]])


def test_shard_that_goes_bad_while_building_is_named(tau, tmp_path, monkeypatch):
    """Here the 10 % split, from which the smaller one is copied."""
    write = tau22.Tau22._write

    def write_and_spoil(self, split):
        info = write(self, split)
        if split == "train_10pct":
            (shard,) = tmp_path.glob(".building/**/*train_10pct.array_record*")
            shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
        return info

    monkeypatch.setattr(tau22.Tau22, "_write", write_and_spoil)
    with pytest.raises(UserError, match="written just now, is damaged: is the disk sound?"):
        tau22.build(read_recordings(tau, ["train_5pct", "train_10pct"]), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_split_of_many_shards_is_the_split_of_one(tau, built, tmp_path, monkeypatch):
    monkeypatch.setattr(tau22, "SHARD_CLIPS", 4)
    tau22.build(read_recordings(tau), tmp_path)
    assert len(list(tmp_path.glob("tau22/*/*train_100pct.array_record*"))) == 5
    for ours, theirs in zip(
        _examples(tmp_path, "train_100pct"), _examples(built, "train_100pct"), strict=True
    ):
        assert ours["filename"] == theirs["filename"]
        np.testing.assert_array_equal(ours["audio"], theirs["audio"])


def test_build_has_all_splits_in_order(built):
    sizes = {k: v.num_examples for k, v in tau22.Tau22(data_dir=built).info.splits.items()}
    assert sizes == {
        "train_5pct": 5, "train_10pct": 10, "train_25pct": 8, "train_50pct": 10,
        "train_100pct": 20, "test": 7, "evaluation": 3,
    }  # fmt: skip


def test_evaluation_clips_have_no_labels(built):
    example = _examples(built, "evaluation")[2]
    assert (example["label"], example["device_id"], example["city_id"]) == (-1, -1, -1)
    assert example["filename"] == b"audio/2.wav"


def test_build_needs_no_network_and_prints_nothing(tau, tmp_path, monkeypatch, capsys):
    def refuse(*args):
        raise AssertionError("network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    tau22.build(read_recordings(tau, ["test"]), tmp_path)
    assert len(_examples(tmp_path, "test")) == 7
    assert capsys.readouterr() == ("", "")


def test_builder_works_as_tfds_builders_do(tau, tmp_path):
    builder = tau22.Tau22(data_dir=tmp_path, tau_dir=tau)
    builder.download_and_prepare()
    assert builder.info.splits["test"].num_examples == 7


def test_builder_without_folder_says_what_is_needed(tmp_path):
    with pytest.raises(UserError, match="tau_dir"):
        tau22.Tau22(data_dir=tmp_path).download_and_prepare()


def test_failed_build_leaves_the_old_one(spoiled, tmp_path):
    data_dir = tmp_path / "data"
    recordings = read_recordings(spoiled)
    tau22.build(recordings, data_dir)
    before = tau22.built_inputs(data_dir)
    write_wav(spoiled / clip_name(25), channels=2)
    with pytest.raises(UserError, match="channels 2, expected 1"):
        tau22.build(recordings, data_dir)
    assert tau22.built_inputs(data_dir) == before
    assert len(_examples(data_dir, "test")) == 7
    assert [path.name for path in data_dir.iterdir()] == ["tau22"]


def test_interrupted_build_leaves_nothing_that_opens(tau, tmp_path):
    def interrupt(n_clips):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tau22.build(read_recordings(tau), tmp_path, interrupt)
    assert list(tmp_path.iterdir()) == []
    assert tau22.built_inputs(tmp_path) is None


def test_incomplete_files_are_not_taken_for_a_data_set(built, tmp_path):
    copy = shutil.copytree(built, tmp_path / "copy")
    assert tau22.built_inputs(copy) == tau22.built_inputs(built)
    next(copy.glob("tau22/*/*test.array_record*")).unlink()
    assert tau22.built_inputs(copy) is None


def test_replacing_undoes_a_swap_cut_short(tmp_path):
    (tmp_path / ".replaced").mkdir()
    (tmp_path / ".replaced" / "good").touch()
    (tmp_path / ".building").mkdir()
    with pytest.raises(RuntimeError), replacing(tmp_path, "set", 0):
        raise RuntimeError
    assert [path.name for path in tmp_path.rglob("*")] == ["set", "good"]


def test_replacing_refuses_a_second_process(tmp_path):
    with replacing(tmp_path, "set", 0) as folder:
        (folder / "set").mkdir()
        with (
            pytest.raises(UserError, match=r"in use by process \d+ on .*, since 2"),
            replacing(tmp_path, "set", 0),
        ):
            pass
        assert folder.exists()


def test_too_little_room_names_both_sizes(tmp_path):
    with pytest.raises(UserError, match=r"1048576\.00 GiB needed, .* GiB free"):
        check_room(tmp_path, 2**50)


def test_absent_lists_are_left_out_and_100_falls_back(spoiled):
    for name in ("split5.csv", "split100.csv"):
        (spoiled / "split_setup" / name).unlink()
    assert list(find_lists(spoiled)) == [
        "train_10pct", "train_25pct", "train_50pct", "train_100pct", "test"
    ]  # fmt: skip
    assert len(read_recordings(spoiled)["train_100pct"]) == 20


def test_crlf_and_byte_order_mark_do_no_harm(spoiled, tau):
    path = spoiled / "split_setup" / "test.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    names = [clip.filename for clip in read_recordings(spoiled, ["test"])["test"]]
    assert names == [clip.filename for clip in read_recordings(tau, ["test"])["test"]]


def _replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: shutil.rmtree(d), "is not a folder"),
        (lambda d: (d / "meta.csv").unlink(), "meta.csv not found.*layout"),
        (lambda d: shutil.rmtree(d / "audio"), "audio not found.*layout"),
        (lambda d: shutil.rmtree(d / "split_setup"), "no split lists.*--download"),
        (
            lambda d: _replace(d / "meta.csv", "source_label", "device"),
            "meta.csv has no column 'source_label'.*'identifier', 'device'",
        ),
        (
            lambda d: _replace(d / "split_setup/test.csv", "filename", "file"),
            "test.csv has no column 'filename'.*'file', 'scene_label'",
        ),
        (
            lambda d: _replace(d / "meta.csv", "\tbus\t", "\tboat\t"),
            "meta.csv, line 3: unknown scene 'boat'; known are airport, bus",
        ),
        (
            lambda d: write_list(d / "split_setup/split5.csv", [(clip_name(1), "bus")] * 2),
            f"split5.csv: 1 of the listed files are listed more than once: {clip_name(1)}",
        ),
        (
            lambda d: _replace(d / "meta.csv", clip_name(21), "audio/other.wav"),
            f"test.csv: 1 of the listed files are not in meta.csv: {clip_name(21)}",
        ),
        (
            lambda d: [(d / clip_name(number)).unlink() for number in range(20)],
            "split100.csv: 20 of the listed files are not in .* and 15 more",
        ),
        (
            lambda d: (d / clip_name(22)).write_bytes(b""),
            "test.csv: 1 of the listed files are empty",
        ),
        (lambda d: write_list(d / "split_setup/test.csv", []), "test.csv lists no clips"),
        (
            lambda d: (d / "meta.csv").write_text("filename\tscene_label\tidentifier\t"
                                                  "source_label\naudio/x.wav\tbus\n"),
            "meta.csv, line 2: expected",
        ),
        (lambda d: (d / "meta.csv").write_bytes(b"\xff\xfe\xff"), "cannot read .*meta.csv"),
    ],
)  # fmt: skip
def test_wrong_folder_is_refused_before_any_work(spoiled, spoil, message):
    spoil(spoiled)
    with pytest.raises(UserError, match=message):
        read_recordings(spoiled)


def test_all_wrong_lists_are_reported_at_once(spoiled):
    (spoiled / clip_name(4)).unlink()
    (spoiled / clip_name(22)).unlink()
    with pytest.raises(UserError) as error:
        read_recordings(spoiled)
    lists = [line.split(": ")[0].split("/")[-1] for line in str(error.value).split("\n")]
    assert lists == [f"split{n}.csv" for n in (5, 10, 25, 50, 100)] + ["test.csv"]


def test_parent_of_the_folder_is_pointed_out(spoiled):
    with pytest.raises(UserError, match="did you mean .*dev"):
        read_recordings(spoiled.parent)


def test_unknown_split_lists_the_known(tau):
    with pytest.raises(UserError, match="'train_7pct'; it has train_5pct, .*evaluation"):
        read_recordings(tau, ["train_7pct"])


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32"])
def test_read_wav_takes_any_pcm(tmp_path, subtype):
    waveform = write_wav(tmp_path / "a.wav", subtype=subtype)
    read = read_wav(tmp_path / "a.wav")
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, waveform, atol=2**-15)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
@pytest.mark.parametrize("kind", ["WAV", "WAVEX"])
def test_wav_is_read_as_libsndfile_reads_it(tmp_path, monkeypatch, kind, subtype):
    values = np.random.default_rng(0).integers(-(2**31), 2**31, 44_100).astype(np.int32)
    values[:2] = -(2**31), 2**31 - 1
    soundfile.write(tmp_path / "a.wav", values, 44_100, format=kind, subtype=subtype)
    expected, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    if kind == "WAV":
        monkeypatch.setitem(sys.modules, "soundfile", None)  # not needed for it
    np.testing.assert_array_equal(read_wav(tmp_path / "a.wav"), expected)


def _odd_wavs():
    """Name → bytes of a good file → those with one byte of the header, or one chunk, changed."""
    for at, value in ((4, 0), (22, 2), (24, 0), (28, 1), (32, 4), (34, 16), (40, 0)):
        yield f"byte {at}", lambda data, at=at, value=value: _spliced(data, at, bytes([value]), 1)
    for kind in (b"fmt ", b"data", b"LIST", b"\0\0\0\0"):
        chunk = kind + struct.pack("<I", 16) + bytes(range(16))
        yield f"{kind} before", lambda data, chunk=chunk: _spliced(data, 36, chunk)
        yield f"{kind} after", lambda data, chunk=chunk: _spliced(data, len(data), chunk)


def _spliced(data, at, new, n_replaced=0):
    data = data[:at] + new + data[at + n_replaced :]
    return data if n_replaced else data[:4] + struct.pack("<I", len(data) - 8) + data[8:]


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
@pytest.mark.parametrize(("name", "spoil"), [*_odd_wavs()])
def test_odd_header_gives_the_samples_written_or_libsndfiles_error(tmp_path, subtype, name, spoil):
    path = tmp_path / "a.wav"
    write_wav(path, subtype=subtype)
    written, _ = soundfile.read(path, dtype="float32")
    path.write_bytes(spoil(path.read_bytes()))
    found = _samples_or_error(read_wav, path)
    if isinstance(found, str):
        assert found == _samples_or_error(wav._read_any, path)
    else:
        np.testing.assert_array_equal(found, written)


def _samples_or_error(read, path):
    try:
        return read(path)
    except UserError as error:
        return str(error)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"channels": 2}, "a.wav: channels 2, expected 1"),
        ({"rate": 48_000, "n": 48_000}, "a.wav: sample rate 48000, expected 44100"),
        ({"n": 0}, "a.wav: samples 0, expected 44100"),
        ({"n": 44_099}, "a.wav: samples 44099, expected 44100"),
        ({"n": 441_000}, "a.wav: samples 441000, expected 44100"),
        ({"subtype": "FLOAT"}, "a.wav: format FLOAT, expected PCM"),
    ],
)
def test_read_wav_refuses_other_kinds(tmp_path, given, message):
    write_wav(tmp_path / "a.wav", **given)
    with pytest.raises(UserError, match=message):
        read_wav(tmp_path / "a.wav")


@pytest.mark.parametrize("n_bytes", [0, 20, 50_000])
def test_read_wav_refuses_truncated_files(tmp_path, n_bytes):
    write_wav(tmp_path / "a.wav")
    data = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(data[:n_bytes])
    with pytest.raises(UserError, match="a.wav: (not a readable wav|samples .* expected)"):
        read_wav(tmp_path / "a.wav")


def test_read_resampled_keeps_order_over_batches(tau):
    paths = [tau / clip_name(number % 27) for number in range(70)]
    clips = list(read_resampled(paths, n_threads=3))
    assert len(clips) == 70
    np.testing.assert_array_equal(clips[69], clips[69 - 27])
    assert not np.array_equal(clips[0], clips[1])
