"""Lists, folders and data sets as spreadsheets, other owners and busy machines leave them."""

import codecs
import contextlib
import errno
import os
import pathlib
import shutil

import numpy as np
import pytest
from commands import call
from tau_folder import clip_name, write_list, write_tau

from asc_jax import features
from asc_jax.cli import prepare_data
from asc_jax.data import held_out
from asc_jax.data.clips import DATASET, clips_in_both, open_split
from asc_jax.data.store import integrity, reader
from asc_jax.data.table import read_table
from asc_jax.data.tau import download, folder, wav
from asc_jax.data.tau.folder import find_lists, fingerprint, notes, read_recordings
from asc_jax.data.tau.taxonomy import SCENES
from asc_jax.errors import UserError

SPLITS = ["train_5pct", "test"]
N_TRAIN, N_TEST = 8, 3


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_tau(tmp_path_factory.mktemp("tau") / "TAU", n_train=N_TRAIN, n_test=N_TEST)


@pytest.fixture
def tau(good, tmp_path):
    return shutil.copytree(good, tmp_path / "TAU")


@pytest.fixture(scope="module")
def dataset():
    return pytest.importorskip("asc_jax.data.store.dataset")


@pytest.fixture(scope="module")
def built(good, dataset, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("data")
    dataset.build(read_recordings(good, [*SPLITS, "train_100pct"]), data_dir)
    return data_dir


@pytest.fixture
def data_dir(built, tmp_path):
    return shutil.copytree(built, tmp_path / "data")


def _change(path, change):
    path.write_text(change(path.read_text()))


def _rows(text):
    return [line.split("\t") for line in text.splitlines()]


def _joined(rows, mark):
    return "".join(mark.join(row) + "\n" for row in rows)


# Tables


def _indexed(text):
    """Return a table as pandas writes it with its index."""
    return _joined([(str(i - 1) if i else "", *row) for i, row in enumerate(_rows(text))], "\t")


SAVED_AS = {
    "byte order mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "CR": lambda text: text.replace("\n", "\r").encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16 of another order": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "commas": lambda text: text.replace("\t", ",").encode(),
    "semicolons": lambda text: text.replace("\t", ";").encode(),
    "quotes": lambda text: _joined([[f'"{c}"' for c in row] for row in _rows(text)], ",").encode(),
    "an index": lambda text: _indexed(text).encode(),
    "no line end": lambda text: text.rstrip("\n").encode(),
    "empty lines": lambda text: ("\n" + text.replace("\n", "\n\n") + "\n\n").encode(),
    "lines of blanks": lambda text: (text + " \n\t\t\t\n").encode(),
    "empty columns": lambda text: text.replace("\n", "\t\t\n").encode(),
    "blanks in cells": lambda text: text.replace("\t", " \t ").encode(),
    "capitals": lambda text: (text.split("\n")[0].upper() + "\n" + text.split("\n", 1)[1]).encode(),
    "another order": lambda text: _joined([row[::-1] for row in _rows(text)], "\t").encode(),
    "more columns": lambda text: _joined([("x", *row, "y") for row in _rows(text)], "\t").encode(),
    "backslashes": lambda text: text.replace("/", "\\").encode(),
    "dots": lambda text: text.replace("audio/", "./audio/").encode(),
}


@pytest.mark.parametrize("form", SAVED_AS)
def test_b09_tables_are_read_as_other_programs_save_them(tau, form):
    expected = read_recordings(tau)
    for path in (tau / "meta.csv", *(tau / "split_setup").iterdir()):
        path.write_bytes(SAVED_AS[form](path.read_text()))
    assert read_recordings(tau) == expected
    (tau / "archives").mkdir()
    assert download._has_clips(tau)


def test_b09_absolute_names_below_the_folder_are_understood(tau):
    expected = read_recordings(tau)
    for path in (tau / "meta.csv", *(tau / "split_setup").iterdir()):
        _change(path, lambda text: text.replace("audio/", f"{tau}/audio/"))
    assert read_recordings(tau) == expected


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "C:\\TAU\\audio\\a.wav", "\\\\server\\a.wav", "audio/../../a.wav"]
)
def test_b09_names_outside_the_folder_are_refused_by_line(tau, name):
    write_list(tau / "split_setup/test.csv", [(clip_name(8), SCENES[8]), (name, "bus")])
    with pytest.raises(UserError, match=r"test.csv, line 3: .* is not in .*: expected a name"):
        read_recordings(tau)


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (lambda text: text.replace("audio/bus", "audio/b\xfcs").encode("latin-1"),
         "cannot read .*meta.csv, line 3: it is not text in UTF-8"),
        (lambda text: text.replace("audio/bus", "audio/b\0s").encode(),
         "cannot read .*meta.csv, line 3: it is not text in UTF-8"),
        (lambda text: text.encode("utf-16-le"), "meta.csv, line 1: it is not text in UTF-8"),
        (lambda text: text.encode("utf-16")[:-1], "meta.csv, line 12: it is not text in UTF-8"),
        (lambda text: b"PK\3\4" + text.encode(), "it is a zip file, as a workbook"),
        (lambda text: text.replace("\tbus", '\t"bus', 1).replace("\t", ",").encode(),
         "cannot read .*meta.csv, line 3: unexpected end of data"),
        (lambda text: text.replace("\tbus", "\tx\tbus", 1).encode(),
         "meta.csv, line 3: 5 cells, and 4 columns have a name"),
        (lambda text: text.replace("\t", " ").encode(),
         "meta.csv has no column 'filename'; expected columns separated by tabs, commas or"),
        (lambda text: text.replace("identifier", "filename").encode(),
         "meta.csv has two columns 'filename'"),
        (lambda text: text.replace("\tbus\t", "\t\t", 1).encode(),
         "meta.csv, line 3: expected filename, scene_label"),
        (lambda text: ("\n\n" + text.replace("\tbus", "\tboat", 1)).encode(),
         "meta.csv, line 5: unknown scene 'boat'"),
        (lambda text: b"", "meta.csv has no column 'filename'.* found none"),
    ],
)  # fmt: skip
def test_b09_tables_that_cannot_be_understood_are_told_by_line(tau, save, message):
    path = tau / "meta.csv"
    path.write_bytes(save(path.read_text()))
    with pytest.raises(UserError, match=message):
        read_recordings(tau)


def test_b09_cells_keep_delimiters_that_are_quoted(tmp_path):
    (tmp_path / "a.csv").write_text('filename,scene_label\n"a,b ""c"".wav",bus\n')
    assert read_table(tmp_path / "a.csv", ("filename",)) == [(2, {"filename": 'a,b "c".wav'})]


# Contradictions


def _meta_line(tau, number):
    return (tau / "meta.csv").read_text().splitlines()[number]


@pytest.mark.parametrize(
    "changed", [("\tbus\t", "\ttram\t"), ("1001\tb", "1001\tc"), ("1001\t", "7\t")]
)
def test_b09_rows_that_contradict_each_other_are_both_named(tau, changed):
    row = _meta_line(tau, 2)
    _change(tau / "meta.csv", lambda text: text + row.replace(*changed) + "\n")
    with pytest.raises(
        UserError, match=r"meta.csv: 1 contradictions: lines 3 \(bus, .*\) and 13 .* for audio/b"
    ):
        read_recordings(tau, SPLITS)


def test_b09_row_that_is_there_twice_alike_does_no_harm(tau, good):
    row = _meta_line(tau, 2)
    _change(tau / "meta.csv", lambda text: text + row + "\n")
    names = [clip.filename for clip in read_recordings(tau, SPLITS)["train_5pct"]]
    assert names == [clip.filename for clip in read_recordings(good, SPLITS)["train_5pct"]]


def test_b09_scene_of_a_list_that_meta_csv_contradicts(tau):
    _change(tau / "split_setup/split5.csv", lambda text: text.replace("\tairport", "\tbus"))
    with pytest.raises(
        UserError, match=r"split5.csv: 1 scenes .*airport-.* \(bus in line 2, airport in line 2 of"
    ):
        read_recordings(tau, SPLITS)


def test_b09_scene_in_a_name_that_meta_csv_contradicts(tau):
    _change(tau / "meta.csv", lambda text: text.replace("\tbus\t", "\ttram\t"))
    with pytest.raises(
        UserError, match=r"1 contradictions: line 3 \(tram\) and its file's name, audio/bus"
    ):
        read_recordings(tau, SPLITS)


def test_b09_many_contradictions_are_counted(tau):
    _change(
        tau / "meta.csv", lambda text: text.replace("\tbus\t", "\ttram\t").replace("-a.", "-b.")
    )
    rows = _rows((tau / "meta.csv").read_text())
    _change(
        tau / "meta.csv",
        lambda text: text + _joined([(r[0], r[1], "x", r[3]) for r in rows[1:]], "\t"),
    )
    with pytest.raises(UserError, match=r"and \d+ more. Correct what is wrong"):
        read_recordings(tau, SPLITS)


def test_b09_place_in_a_name_that_meta_csv_contradicts_is_a_note(tau):
    _change(tau / "meta.csv", lambda text: text.replace("\tbarcelona-1000", "\tbarcelona-7"))
    (note,) = notes(read_recordings(tau, SPLITS))
    assert note.startswith("1 clips have another place in their names")


# Training and test lists


def test_b08_clip_in_training_and_test_list_is_refused_by_name(tau):
    setup = tau / "split_setup"
    shutil.copy(setup / "test.csv", setup / "split5.csv")
    with pytest.raises(
        UserError, match=rf"split5.csv: 3 of its clips are in .*test.csv too.*{clip_name(8)}"
    ):
        read_recordings(tau, SPLITS)
    assert len(read_recordings(tau, ["train_5pct"])["train_5pct"]) == N_TEST


def test_b08_lists_within_each_other_are_as_they_should_be(good):
    assert notes(read_recordings(good)) == []


def _renamed(tau, old, new):
    """Rename a clip in all lists and on the disk."""
    for path in (tau / "meta.csv", *tau.glob("*/*.csv")):
        _change(path, lambda text: text.replace(old, new))
    (tau / old).rename(tau / new)


def test_b08_shared_recordings_are_a_note(tau, capsys, tmp_path, dataset):
    """Another cut of a recording that is trained on, and another recording of its place."""
    for number, segment in ((8, "0"), (9, "77")):
        old, new = clip_name(number), f"audio/airport-barcelona-1000-{segment}-{number}-a.wav"
        _renamed(tau, old, new)
        place = "\t".join(("airport", "barcelona-1000", "a"))
        rows = _rows((tau / "meta.csv").read_text())
        rows = [[new, *place.split("\t")] if row[0] == new else row for row in rows]
        (tau / "meta.csv").write_text(_joined(rows, "\t"))
        _change(
            tau / "split_setup/test.csv",
            lambda text, new=new, number=number: text.replace(
                f"{new}\t{SCENES[number]}", f"{new}\tairport"
            ),
        )
    prepare_data.prepare(tau, tmp_path / "data", splits=["5", "test"])
    assert (
        "note: training and test splits share 1 locations and 1 ten-second recordings, so results "
        "on the test split will be too good: barcelona-1000" in capsys.readouterr().out
    )
    recordings = read_recordings(tau, SPLITS)
    assert notes(recordings, SPLITS) == []  # the challenge's lists are as they are
    assert len(notes(recordings, ["test"])) == 1


def test_b08_clips_shared_by_splits_that_are_built_already(built, data_dir):
    assert clips_in_both(built, "train_5pct", "test") == []
    both = clips_in_both(built, "train_100pct", "train_5pct")
    assert both == [clip_name(number) for number in range(0, N_TRAIN, 4)]


def test_b08_clips_of_one_checksum_by_chance_are_not_taken_for_shared(built, monkeypatch):
    monkeypatch.setattr(integrity, "checksum", lambda record: 7)
    read = integrity.read_checksums
    monkeypatch.setattr(integrity, "read_checksums", lambda *args: np.full_like(read(*args), 7))
    assert clips_in_both(built, "train_5pct", "test") == []
    assert len(clips_in_both(built, "train_5pct", "train_100pct")) == 2


# Clips of one's own


def _own(tau):
    """Another city everywhere, and another device in the first training clip."""
    for path in (tau / "meta.csv", *tau.glob("*/*.csv")):
        _change(
            path,
            lambda text: text.replace("barcelona", "berlin").replace("0-0-a.wav\t", "0-0-d.wav\t"),
        )
    _change(tau / "meta.csv", lambda text: text.replace("berlin-1000\ta", "berlin-1000\td"))
    for path in (tau / "audio").iterdir():
        new = path.name.replace("barcelona", "berlin").replace("0-0-a.wav", "0-0-d.wav")
        path.rename(path.with_name(new))


def test_b35_unknown_city_and_device_are_stored_with_a_note(tau, tmp_path, capsys, dataset):
    _own(tau)
    prepare_data.prepare(tau, tmp_path / "data", splits=["5", "100", "test"])
    said = capsys.readouterr().out
    assert "note: cities that TAU does not have are stored as unknown: berlin" in said
    assert "note: 1 clips are of devices that TAU does not have" in said
    clips = open_split(tmp_path / "data", "train_100pct")
    batch = next(clips.in_order(N_TRAIN))
    assert batch["device_id"].tolist() == [-1, 1, 2, 3, 4, 5, 6, 7]
    assert batch["city_id"].tolist() == [-1, 1, 2, 3, 4, 5, 6, 7]
    assert batch["label"].tolist() == list(range(N_TRAIN))


def test_b35_unknown_device_is_tested_on(tau, tmp_path, capsys, dataset):
    _change(tau / "meta.csv", lambda text: text.replace("1009\ta", "1009\td"))
    prepare_data.prepare(tau, tmp_path / "data", splits=["test"])
    assert "note: 1 clips are of devices that TAU does not have" in capsys.readouterr().out
    batch = next(open_split(tmp_path / "data", "test").in_order(N_TEST))
    assert batch["device_id"].tolist() == [8, -1, 1]


def test_b35_own_city_can_be_held_out(tau, tmp_path, dataset):
    _own(tau)
    for number in range(1, N_TRAIN):  # one scene, so that it has places to spare
        new = clip_name(number).replace(f"audio/{SCENES[number]}-", "audio/airport-")
        _renamed(tau, clip_name(number), new)
        for path in (tau / "meta.csv", *tau.glob("*/*.csv")):
            _change(
                path,
                lambda text, old=f"{new}\t{SCENES[number]}", new=new: text.replace(
                    old, f"{new}\tairport"
                ),
            )
    recordings = read_recordings(tau, ["train_100pct"])
    dataset.build(recordings, tmp_path / "data")
    train, held = held_out.split(open_split(tmp_path / "data", "train_100pct"), 0.5, seed=0)
    assert (len(train), len(held)) == (4, 4)


# Folders


def test_file_where_a_folder_is_expected_is_named(tau):
    shutil.rmtree(tau / "audio")
    (tau / "audio").touch()
    with pytest.raises(UserError, match="audio is not a folder, as it is in TAU 2022's layout"):
        find_lists(tau)


def test_folder_where_a_file_is_expected_is_named(tau):
    (tau / "meta.csv").unlink()
    (tau / "meta.csv").mkdir()
    with pytest.raises(UserError, match="meta.csv is not a file, as it is in TAU 2022's layout"):
        find_lists(tau)


def test_list_that_is_a_folder_is_named(tau):
    (tau / "split_setup/test.csv").unlink()
    (tau / "split_setup/test.csv").mkdir()
    assert "test" not in find_lists(tau)


def _fail(code):
    """A function of a path that fails as the system does."""

    def fail(path, *args, **kwargs):
        raise OSError(code, os.strerror(code), str(path))

    return fail


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE])
def test_b27_folder_of_clips_that_may_not_be_read_is_not_called_empty(tau, monkeypatch, code):
    monkeypatch.setattr(folder.os, "scandir", _fail(code))
    with pytest.raises(UserError, match=rf"cannot read .*audio: {os.strerror(code)}"):
        read_recordings(tau, SPLITS)


def test_folder_that_may_not_be_entered_is_a_user_error(tau, monkeypatch):
    monkeypatch.setattr(pathlib.Path, "is_dir", _fail(errno.EACCES))
    with pytest.raises(UserError, match=r"cannot read .*TAU: Permission denied"):
        find_lists(tau)


def test_name_that_no_folder_can_have_is_a_user_error():
    with pytest.raises(UserError, match="File name too long"):
        find_lists("x" * 5000)


def test_clip_that_may_not_be_read_is_named(tau, monkeypatch):
    clips = read_recordings(tau, SPLITS)["test"]
    monkeypatch.setattr(pathlib.Path, "read_bytes", _fail(errno.EACCES))
    with pytest.raises(UserError, match=r"cannot read .*wav: Permission denied"):
        fingerprint(clips)


@pytest.mark.parametrize("where", ["TAU", "TAU/built", "link", "link/built"])
def test_data_set_can_lie_within_the_folder_of_tau(tau, dataset, where):
    (tau.parent / "link").symlink_to(tau)
    tau_dir, data_dir = tau.parent / where.split("/")[0], tau.parent / where
    for _ in range(2):
        prepare_data.prepare(tau_dir, data_dir, splits=["5", "test"])
    assert len(open_split(data_dir, "test")) == N_TEST


@pytest.mark.parametrize("where", ["file", "file/below"])
def test_scenes_are_not_made_up_where_a_file_is(tmp_path, where):
    pytest.importorskip("scipy")
    (tmp_path / "file").touch()
    done = call("synthesize", "--out_dir", where, "--n_train_segments", 1, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: cannot write to {where}: Not a directory")
    assert done.stderr.endswith("choose another --out_dir\n")


# A system that fails while a data set is read


@pytest.fixture
def failing(monkeypatch):
    """Let array_record fail as it does of a system's error, of any number."""
    from array_record.python import array_record_data_source as source

    def fail(code):
        def _getitems(self, keys):
            raise RuntimeError(f"pread() failed: {os.strerror(code)}; reading a shard")

        monkeypatch.setattr(source.ArrayRecordDataSource, "__getitems__", _getitems)

    return fail


ADVICE = {
    errno.EMFILE: "ulimit -n 4096",
    errno.EACCES: "let their owner",
    errno.EIO: "look at the disk",
    errno.ESTALE: "run the same command again",
    errno.ENOMEM: "free some memory",
}


@pytest.mark.parametrize("code", ADVICE)
def test_b27_what_the_system_says_of_a_shard_is_no_damage(built, failing, code):
    failing(code)
    for read in (
        lambda: next(open_split(built, "test").in_order(2)),
        lambda: prepare_data.check(built),
    ):
        with pytest.raises(UserError) as error:
            read()
        assert f"cannot read the data set in {built}/tau22: " in str(error.value)
        assert os.strerror(code) in str(error.value)
        assert ADVICE[code] in str(error.value)
        assert "--overwrite" not in str(error.value)


def test_b27_real_limit_of_open_files(built):
    resource = pytest.importorskip("resource")
    open_split(built, "test")  # with what is imported then
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    stored = reader.open_reader(built / DATASET, "test")
    taken = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        with pytest.raises(UserError, match="Too many open files.*ulimit -n 4096"):
            stored.read(np.arange(2))
        with pytest.raises(UserError, match="Too many open files.*ulimit -n 4096"):
            open_split(built, "test")
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(next(open_split(built, "test").in_order(2))["label"]) == 2


def test_b27_lack_of_memory_is_no_damage(built, monkeypatch):
    def exhausted(record):
        raise MemoryError

    monkeypatch.setattr(reader, "_parse", exhausted)
    with pytest.raises(UserError, match="Cannot allocate memory; free some memory"):
        next(open_split(built, "test").in_order(2))


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE])
@pytest.mark.parametrize("what", ["scandir", "check", "read_checksums"])
def test_b27_opening_a_data_set_tells_the_system_s_words(built, monkeypatch, code, what):
    owner = reader.os if what == "scandir" else integrity
    monkeypatch.setattr(owner, what, _fail(code))
    with pytest.raises(UserError) as error:
        open_split(built, "test")
    assert f"cannot read the data set in {built}/tau22: {os.strerror(code)}" in str(error.value)


def test_b27_data_set_that_cannot_be_read_is_not_built_again(good, data_dir, dataset, monkeypatch):
    """Nor replaced without a word, which is what happens to a damaged one."""
    with monkeypatch.context() as patched:
        patched.setattr(integrity, "check", _fail(errno.ESTALE))
        with pytest.raises(UserError, match=r"cannot read the data set in .*Stale file handle"):
            prepare_data.prepare(good, data_dir, splits=["5", "test"])
    with monkeypatch.context() as patched:
        patched.setattr(integrity, "check", _fail(errno.EACCES))
        prepare_data.prepare(good, data_dir, splits=["5", "test"], overwrite=True)
    assert len(open_split(data_dir, "test")) == N_TEST


def test_b27_shard_that_cannot_be_copied_from_is_not_called_damaged(
    good, dataset, tmp_path, monkeypatch
):
    def fail(path, options):
        raise RuntimeError(f"open() failed: {os.strerror(errno.EMFILE)}; opening {path}")

    shards = pytest.importorskip("asc_jax.data.store.shards")
    monkeypatch.setattr(shards.array_record_module, "ArrayRecordReader", fail)
    with pytest.raises(UserError, match=r"cannot read .*Too many open files.*ulimit -n") as error:
        dataset.build(read_recordings(good), tmp_path / "data")
    assert "damaged" not in str(error.value)


def test_b27_official_lists_that_cannot_be_read_are_not_called_others(built, monkeypatch):
    monkeypatch.setattr(pathlib.Path, "read_text", _fail(errno.EIO))
    with pytest.raises(UserError, match="Input/output error"):
        reader.official_splits(built / DATASET)


def test_b27_failed_checksum_and_short_file_are_damage(data_dir):
    path = next(data_dir.glob("tau22/*/*-test.array_record*"))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    path.write_bytes(content[:middle])
    with pytest.raises(UserError, match="damaged or incomplete .*; rebuild it"):
        open_split(data_dir, "test")
    content[middle] ^= 255
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged or incomplete .*; rebuild it"):
        prepare_data.check(data_dir)


def test_clips_are_stored_at_the_rate_of_a_small_machine(good, dataset, tmp_path):
    prepare_data.prepare(good, tmp_path, splits=["test"], sample_rate=16_000)
    batch = next(open_split(tmp_path, "test").in_order(N_TEST))
    paths = [each.path for each in read_recordings(good, ["test"])["test"]]
    expected = features.resample(np.stack([wav.read_wav(p) for p in paths]), 44_100, 16_000)
    np.testing.assert_allclose(batch["audio"][batch["mask"]], expected, atol=1e-6)
