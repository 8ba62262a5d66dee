"""Recordings and classes of one's own become a data set, or errors a person can act on."""

import collections
import csv
import json
import random
import re
import tracemalloc
import zlib

import numpy as np
import pytest
import soundfile
from commands import call

from asc_jax.cli import prepare_data
from asc_jax.data import recordings, table
from asc_jax.data.own import cutting, splitting
from asc_jax.data.own.cutting import Cut, Span, cut_out, probe
from asc_jax.data.resampling import resampler
from asc_jax.errors import UserError

pytest.importorskip("tensorflow_datasets")
reader = pytest.importorskip("asc_jax.data.store.reader")

RATE = 8000
CUT = Cut(1.0, 1.0, -60.0, "reject", RATE)


def write(path, *, seconds=1.0, rate=RATE, channels=1, level=0.5, seed=None, n=None):
    """Write noise; another name gives other noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32("/".join(path.parts[-2:]).encode()) if seed is None else seed
    n = round(seconds * rate) if n is None else n
    waveform = np.random.default_rng(seed).uniform(-level, level, (n, channels))
    soundfile.write(path, waveform.astype(np.float32), rate)
    return path


def write_table(path, rows, delimiter=",", encoding="utf-8"):
    header = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding=encoding) as file:
        out = csv.DictWriter(file, header, restval="", delimiter=delimiter)
        out.writeheader()
        out.writerows(rows)
    return path


def prepare(tmp_path, layout, source, *options):
    flag = {"folders": "--input_dir", "table": "--input_table"}[layout]
    words = ("--layout", layout, flag, source, "--data_dir", tmp_path / "data")
    return call("prepare-data", *words, "--sample_rate", RATE, *options, cwd=tmp_path)


def built(tmp_path):
    """Return split → list of clips, and metadata.json."""
    folder = tmp_path / "data" / "clips"
    facts = json.loads((folder / "1.0.0" / "metadata.json").read_text())
    splits = {}
    for split, n in reader.sizes(folder).items():
        batch = reader.open_reader(folder, split).read(np.arange(n))
        splits[split] = [{name: column[i] for name, column in batch.items()} for i in range(n)]
    return splits, facts


def done(result):
    assert result.returncode == 0, result.stderr
    return result.stdout


def refused(result):
    assert result.returncode == 2, result.stdout
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.fixture
def sounds(tmp_path):
    """Two classes of five recordings with two clips each."""
    for name in ("cat", "dog bark"):
        for number in range(5):
            write(tmp_path / "sounds" / name / f"{number}.wav", seconds=2.5)
    return tmp_path / "sounds"


def test_folders_become_clips_with_the_classes_as_labels(sounds, tmp_path):
    out = done(prepare(tmp_path, "folders", sounds))
    assert re.search(r"train +16 +8 +0\n", out)
    assert re.search(r"dog bark +10 +8 +2 +0\n", out)
    splits, facts = built(tmp_path)
    assert {split: len(clips) for split, clips in splits.items()} == {"train": 16, "test": 4}
    assert facts["labels"] == {"classes": ["cat", "dog bark"], "groups": {}}
    assert facts["clip_s"] == 1.0
    for clip in splits["train"] + splits["test"]:
        name, _, start = str(clip["filename"]).partition("@")
        assert name.split("/")[0] == facts["labels"]["classes"][clip["label"]]
        assert str(clip["recording"]) == name
        first = round(float(start) * RATE)
        waveform, _ = soundfile.read(sounds / name, dtype="float32")
        np.testing.assert_array_equal(clip["audio"], waveform[first : first + RATE])


def test_a_table_gives_stretches_groups_and_splits(tmp_path):
    write(tmp_path / "audio" / "a.wav", seconds=4)
    write(tmp_path / "audio" / "b.wav", seconds=2)
    rows = [
        {"path": "audio/a.wav", "label": "=sum", "start_s": "0,5", "end_s": "2.5", "device": "x",
         "note": "one\ttab", "split": "train", "Room": ""},
        {"path": "audio/a.wav", "label": "Tür/Tor", "start_s": 2.5, "split": "train"},
        {"path": str(tmp_path / "audio/b.wav"), "label": "=sum", "device": "y", "split": "test",
         "Room": "hall"},
    ]  # fmt: skip
    path = write_table(tmp_path / "list.csv", rows, ";", "utf-16")
    out = done(prepare(tmp_path, "table", path, "--group_set", "device:seen=x"))
    assert "note: group columns: device, room; --groups names others\n" in out
    assert "note: columns that are not used: 'note' (value of note 'one\\ttab': tabs" in out
    assert "note: 1 classes have no clip in some split: Tür/Tor (in test)\n" in out
    splits, facts = built(tmp_path)
    assert facts["labels"]["classes"] == ["=sum", "Tür/Tor"]
    groups = facts["labels"]["groups"]
    assert groups["device"] == {"values": ["x", "y"], "sets": {"seen": ["x"]}}
    found = {
        str(clip["filename"]): (clip["label"], clip["device_id"], clip["room_id"])
        for clip in splits["train"] + splits["test"]
    }
    assert found == {
        "audio/a.wav@0.50": (0, 0, -1), "audio/a.wav@1.50": (0, 0, -1),
        "audio/a.wav@2.50": (1, -1, -1),
        "audio/b.wav@0.00": (0, 1, 0), "audio/b.wav@1.00": (0, 1, 0),
    }  # fmt: skip
    # A device of the test split alone keeps its number.
    assert {clip["device_id"].item() for clip in splits["test"]} == {1}


@pytest.mark.parametrize("n_classes", [2, 7, 50])
def test_any_number_of_classes_is_split_evenly_and_by_recording(n_classes):
    rng = random.Random(n_classes)
    clips = {f"r{number}": {f"c{number % n_classes}": rng.randint(1, 9)} for number in range(400)}
    split_of = splitting.assign(clips, {f"fold{k}": 0.2 for k in range(5)}, seed=1)
    n = collections.Counter()
    for name, counts in clips.items():
        for label, count in counts.items():
            n[label, split_of[name]] += count
    for label in {label for label, _ in n}:
        shares = [n[label, f"fold{k}"] for k in range(5)]
        assert max(shares) - min(shares) <= 9, shares  # the clips of a recording
    assert splitting.lacking(clips, split_of) == {}


def test_splits_depend_on_the_seed_and_not_on_any_order():
    clips = {f"r{number}": {f"c{number % 3}": 1 + number % 4} for number in range(60)}
    shares = {"train": 0.8, "test": 0.2}
    shuffled = dict(random.Random(0).sample(sorted(clips.items()), len(clips)))
    assert splitting.assign(clips, shares, 3) == splitting.assign(shuffled, shares, 3)
    assert splitting.assign(clips, shares, 3) != splitting.assign(clips, shares, 4)


def test_every_split_gets_a_recording_of_a_class_with_few_large_ones():
    clips = {"a": {"cat": 50}, "b": {"cat": 50}, "c": {"dog": 1}, "d": {"dog": 90, "cat": 1}}
    split_of = splitting.assign(clips, {"train": 0.8, "test": 0.2}, seed=0)
    assert splitting.lacking(clips, split_of) == {}


def test_recordings_and_folds_are_found_in_names(tmp_path):
    root = tmp_path / "sounds"
    for label in ("cat", "dog"):
        for fold in (1, 2, 3):
            for take in "AB":
                write(root / label / f"{fold}-{fold}0{len(label)}{label[0]}-{take}.wav")
    pattern = ("--recording_pattern", r"\d-(\w+)-", "--split_pattern", r"/(\d)-")
    done(prepare(tmp_path, "folders", root, "--folds", 3, *pattern))
    splits, _ = built(tmp_path)
    assert list(splits) == ["fold1", "fold2", "fold3"]
    assert {str(clip["recording"]) for clip in splits["fold2"]} == {"203c", "203d"}
    assert [len(clips) for clips in splits.values()] == [4, 4, 4]
    message = refused(prepare(tmp_path, "folders", root, "--folds", 2, *pattern, "--overwrite"))
    assert "4 files have names whose --split_pattern gives no split as expected (1 to 2" in message


def test_takes_of_one_recording_share_a_split(tmp_path):
    root = tmp_path / "sounds"
    for label in ("cat", "dog"):
        for number in range(8):
            for take in "abc":
                write(root / label / f"{label}{number}-{take}.wav")
    done(prepare(tmp_path, "folders", root, "--folds", 4, "--recording_pattern", r"\w+\d"))
    splits, _ = built(tmp_path)
    assert [len(clips) for clips in splits.values()] == [12, 12, 12, 12]
    of = collections.defaultdict(set)
    for split, clips in splits.items():
        for clip in clips:
            of[str(clip["recording"])].add(split)
    assert len(of) == 16
    assert {len(found) for found in of.values()} == {1}


@pytest.mark.parametrize("rate", [44_099, 44_101, 16_000, 8000])
def test_windows_are_cut_at_their_own_rate_and_resampled_one_by_one(tmp_path, rate):
    write(tmp_path / "a.wav", seconds=1.3, rate=rate, channels=2)
    cut = Cut(0.5, 0.25, -60, "reject", RATE)
    found = probe(tmp_path / "a.wav", [(0.0, np.inf)], cut)
    length = round(0.5 * rate)
    starts = [0, round(0.25 * rate), round(0.5 * rate), round(0.75 * rate)]
    assert found.spans == [[Span(start, start + length) for start in starts]]
    windows = [cutting.Window(tmp_path / "a.wav", rate, span) for span in found.spans[0]]
    waveform = soundfile.read(tmp_path / "a.wav", dtype="float32")[0].mean(axis=1)
    for clip, (start, stop) in zip(cutting.waveforms(windows, cut), found.spans[0], strict=True):
        assert clip.shape == (RATE // 2,)
        alone = np.asarray(resampler(rate, RATE)(waveform[None, start:stop]))[0]
        np.testing.assert_array_equal(clip[: len(alone)], alone[: len(clip)])


def test_cutting_needs_no_more_than_a_block_and_a_window(tmp_path, monkeypatch):
    """And gives the same windows, however the blocks fall."""
    write(tmp_path / "a.wav", seconds=20.5)
    waveform, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    monkeypatch.setattr(recordings, "BLOCK_VALUES", 3001)
    spans = [Span(k * 4000, k * 4000 + 8000) for k in range(40)]
    with recordings.open_recording(tmp_path / "a.wav") as recording:
        for (start, stop), part in zip(spans, cut_out(recording.blocks, spans), strict=True):
            np.testing.assert_array_equal(part, waveform[start:stop])
            assert (part.base if part.base is not None else part).size <= 8000 + 3001


def test_silent_clips_are_left_out_and_counted(tmp_path):
    for label in ("cat", "dog"):
        for number in range(4):
            path = write(tmp_path / "sounds" / label / f"{number}.wav", seconds=3)
            waveform, _ = soundfile.read(path)
            waveform[RATE : 2 * RATE] *= 0.0019  # peak 0.00095, -60.4 dB
            soundfile.write(path, waveform, RATE, subtype="FLOAT")
    write(tmp_path / "sounds" / "dog" / "nothing.wav", level=0)
    write(tmp_path / "sounds" / "dog" / "nothing again.wav", level=0)
    out = done(prepare(tmp_path, "folders", tmp_path / "sounds", "--test_fraction", 0.5))
    assert re.search(r"train +8 +4 +4\n", out)
    assert re.search(r"dog +8 +4 +4 +6\n", out)
    assert "2 recordings are nowhere louder than -60 dB of full scale and give no clip" in out
    (tmp_path / "sounds" / "dog" / "nothing again.wav").unlink()
    done(prepare(tmp_path, "folders", tmp_path / "sounds", "--min_peak_dbfs=-inf", "--overwrite"))
    assert sum(map(len, built(tmp_path)[0].values())) == 25


def test_short_recordings_are_refused_filled_up_or_left_out(sounds, tmp_path):
    write(sounds / "cat" / "short.wav", seconds=0.2)
    message = refused(prepare(tmp_path, "folders", sounds))
    assert message == (
        "error: 1 recordings are shorter than a clip of 1 s (--short pad fills them up with "
        "silence, --short drop leaves them out): cat/short.wav (0.20 s)\n"
    )
    done(prepare(tmp_path, "folders", sounds, "--short", "drop"))
    assert sum(map(len, built(tmp_path)[0].values())) == 20
    out = done(prepare(tmp_path, "folders", sounds, "--short", "pad", "--overwrite"))
    assert "1 recordings are shorter than a clip of 1 s and are filled up" in out
    clips = [clip for part in built(tmp_path)[0].values() for clip in part]
    (clip,) = [clip for clip in clips if "short" in str(clip["filename"])]
    assert np.abs(clip["audio"][:1600]).max() > 0.1
    assert not clip["audio"][1600:].any()


def test_everything_wrong_with_a_table_is_told_at_once(tmp_path):
    for name in ("a", "b", "c", "d"):
        write(tmp_path / f"{name}.wav", seconds=3)
    (tmp_path / "bad.wav").write_bytes(b"RIFFnothing")
    write(tmp_path / "copy.wav", seconds=3, seed=7)
    write(tmp_path / "again.wav", seconds=3, seed=7)
    rows = [
        {"path": "a.wav", "label": "cat", "end_s": 2},
        {"path": "a.wav", "label": "dog", "start_s": 1},
        {"path": "b.wav", "label": "cat", "start_s": 0, "end_s": 2},
        {"path": "./b.wav", "label": "cat", "start_s": "0.0", "end_s": 2},
        {"path": "c.wav", "label": "dog", "start_s": "two"},
        {"path": "c.wav", "label": "dog", "start_s": 2, "end_s": 1},
        {"path": "d.wav", "label": "dog", "start_s": 2, "end_s": 9},
        {"path": "bad.wav", "label": "dog"},
        {"path": "gone.wav", "label": "cat"},
        {"path": "", "label": "cat"},
        {"path": "d.wav", "label": ""},
        {"path": "copy.wav", "label": "cat"},
        {"path": "again.wav", "label": "dog"},
        {"path": "d.wav", "label": "one", "end_s": 0.5},
        {"path": "d.wav", "label": "tab\there", "start_s": 1, "end_s": 2},
    ]
    path = write_table(tmp_path / "list.csv", rows)
    message = refused(prepare(tmp_path, "table", path, "--group_set", "room:a=b"))
    for expected in (
        "1 stretches of a file have two labels: a.wav (lines 2 and 3)",
        "1 stretches of a file are listed twice: b.wav (lines 4 and 5)",
        "2 rows have an end_s that is not after start_s, or one of them is no number of seconds of "
        "at least 0: c.wav (line 6): 'two' to ''; c.wav (line 7): '2' to '1'",
        "1 stretches begin or end after the end of their file: d.wav (line 8): 2 to 9 s of 3.00 s",
        "1 files cannot be read (--skip_unreadable leaves them out): bad.wav (line 9): not a",
        "1 files are not there (--skip_unreadable leaves them out): gone.wav (line 10): ",
        "1 rows have no path: line 11",
        "1 rows have no label: line 12",
        "1 sounds are there under several classes: again.wav = copy.wav",
        "1 recordings are shorter than a clip of 1 s",
        "2 classes have fewer recordings than there are splits (2): one (1); tab\\there (1)",
        "class 'tab\\there': tabs, line ends and control characters are not read",
        "--group_set room: there is no such group column; there are none",
    ):
        assert expected in message, message
    assert not (tmp_path / "data").exists()


def test_five_of_many_are_named(sounds, tmp_path):
    for number in range(9):
        (sounds / "cat" / f"bad{number}.wav").write_bytes(b"nothing")
    message = refused(prepare(tmp_path, "folders", sounds))
    assert message.count("cat/bad") == 5
    assert message.startswith("error: 9 files cannot be read")
    assert message.endswith(" and 4 more\n")


def test_damaged_files_can_be_left_out(sounds, tmp_path):
    (sounds / "cat" / "bad.wav").write_bytes(b"nothing")
    whole = write(sounds / "dog bark" / "cut.flac", seconds=60)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    message = refused(prepare(tmp_path, "folders", sounds))
    assert "2 files cannot be read" in message
    assert "dog bark/cut.flac: damaged after" in message
    out = done(prepare(tmp_path, "folders", sounds, "--skip_unreadable"))
    assert "note: 2 files cannot be read and are left out: cat/bad.wav: not a recording" in out
    assert sum(map(len, built(tmp_path)[0].values())) == 20


def test_a_class_with_one_recording_is_refused(sounds, tmp_path):
    write(sounds / "cow" / "only.wav", seconds=9)
    message = refused(prepare(tmp_path, "folders", sounds))
    assert message == (
        "error: 1 classes have fewer recordings than there are splits (2): cow (1)\n"
    )


def test_one_sound_under_two_names_is_refused_taken_once_or_kept_in_one_split(sounds, tmp_path):
    for name in ("cat/x.wav", "cat/y.wav", "cat/z.flac"):
        write(sounds / name, seconds=2, seed=3)
    waveform, _ = soundfile.read(sounds / "cat/x.wav", dtype="int16")
    soundfile.write(sounds / "cat/z.flac", waveform, RATE)  # other bytes, the same sound
    message = refused(prepare(tmp_path, "folders", sounds))
    assert "1 sounds are there under several names" in message
    assert "cat/x.wav = cat/y.wav = cat/z.flac" in message
    done(prepare(tmp_path, "folders", sounds, "--duplicates", "first"))
    names = {str(clip["recording"]) for part in built(tmp_path)[0].values() for clip in part}
    assert len(names) == 11
    assert "cat/x.wav" in names
    for seed in (0, 1):
        done(prepare(tmp_path, "folders", sounds, "--duplicates", "keep", "--seed", seed,
                     "--overwrite"))  # fmt: skip
        of = {
            str(clip["recording"]): split
            for split, part in built(tmp_path)[0].items() for clip in part
        }  # fmt: skip
        assert len(of) == 13
        assert of["cat/x.wav"] == of["cat/y.wav"] == of["cat/z.flac"]


@pytest.mark.parametrize("choice", ["first", "keep"])
def test_one_sound_under_two_classes_is_never_taken(sounds, tmp_path, choice):
    for name in ("cat/x.wav", "dog bark/x.wav"):
        write(sounds / name, seconds=2, seed=3)
    message = refused(prepare(tmp_path, "folders", sounds, "--duplicates", choice))
    assert "1 sounds are there under several classes: cat/x.wav = dog bark/x.wav" in message


def test_names_that_lead_nowhere_are_told_without_a_traceback(tmp_path):
    rows = [{"path": "~nosuchuser/x.wav", "label": "a", "split": "all"}]
    message = refused(prepare(tmp_path, "table", write_table(tmp_path / "list.csv", rows)))
    assert "1 rows have no split as expected" in message
    assert "files are not there" in message
    assert "have no clip" not in message


def test_a_recording_in_two_given_splits_is_refused(tmp_path):
    for name in "abcd":
        write(tmp_path / f"{name}.wav", seconds=2)
    rows = [
        {"path": f"{name}.wav", "label": label, "recording": recording, "split": split}
        for name, label, recording, split in [
            ("a", "cat", "r1", "Train"), ("b", "cat", "r1", "test"), ("c", "dog", "", "train"),
            ("d", "dog", "", ""),
        ]
    ]  # fmt: skip
    message = refused(prepare(tmp_path, "table", write_table(tmp_path / "list.csv", rows)))
    assert "1 recordings are in more than one split: r1 (test, train)\n" in message
    assert "1 rows have no split as expected (at most 40 letters a to z" in message
    assert "d.wav (line 5): ''\n" in message


def test_overlapping_stretches_of_two_recordings_are_refused(tmp_path):
    write(tmp_path / "a.wav", seconds=6)
    rows = [
        {"path": "a.wav", "label": "cat", "start_s": start, "end_s": start + 2, "recording": name}
        for start, name in ((0, "one"), (1, "two"), (3.5, "three"))
    ]
    message = refused(prepare(tmp_path, "table", write_table(tmp_path / "list.csv", rows)))
    assert "differ in their recording, split or groups: a.wav (lines 2 and 3)\n" in message


def test_classes_can_be_ordered_and_must_be_complete(sounds, tmp_path):
    message = refused(prepare(tmp_path, "folders", sounds, "--classes", "cow,cat"))
    assert "1 classes are not in --classes: dog bark" in message
    assert "1 classes of --classes have no recording: cow" in message
    done(prepare(tmp_path, "folders", sounds, "--classes", "dog bark,cat"))
    splits, facts = built(tmp_path)
    assert facts["labels"]["classes"] == ["dog bark", "cat"]
    assert {int(c["label"]) for c in splits["test"] if "cat" in str(c["filename"])} == {1}


def test_files_beside_the_classes(sounds, tmp_path):
    (sounds / "README.md").write_text("no sound")
    (sounds / ".DS_Store").touch()
    (sounds / "papers").mkdir()
    write(sounds / ".trash" / "old.wav")
    out = done(prepare(tmp_path, "folders", sounds))
    assert "note: Not looked at: 1 .md\n" in out
    assert "note: 1 recordings in hidden folders are not looked at\n" in out
    assert "note: 1 folders have no recordings and are no classes: papers\n" in out
    write(sounds / "stray.wav")
    message = refused(prepare(tmp_path, "folders", sounds, "--overwrite"))
    assert f"1 recordings lie directly in {sounds}, expected each in the folder of" in message
    message = refused(prepare(tmp_path, "folders", sounds / "cat", "--overwrite"))
    assert "5 recordings lie directly in" in message
    assert message.endswith(f"perhaps {sounds}\n")


def test_second_build_has_nothing_to_do_or_says_what_differs(sounds, tmp_path):
    done(prepare(tmp_path, "folders", sounds))
    before = built(tmp_path)
    assert "already built from" in done(prepare(tmp_path, "folders", sounds))
    message = refused(prepare(tmp_path, "folders", sounds, "--hop_s", 0.5, "--seed", 3))
    assert "made with --hop_s 1.0, not 0.5; --seed 0, not 3: --overwrite" in message
    path = sounds / "cat" / "0.wav"
    path.write_bytes(path.read_bytes()[:-2] + b"zz")
    message = refused(prepare(tmp_path, "folders", sounds))
    assert "made with other recordings, names or labels: --overwrite" in message
    assert str(before) == str(built(tmp_path))
    done(prepare(tmp_path, "folders", sounds, "--hop_s", 0.5, "--overwrite"))
    assert sum(map(len, built(tmp_path)[0].values())) == 40


def test_a_build_gives_the_same_bytes_again(sounds, tmp_path):
    done(prepare(tmp_path, "folders", sounds))
    folder = tmp_path / "data" / "clips" / "1.0.0"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    done(prepare(tmp_path, "folders", sounds, "--overwrite"))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_build_can_be_checked_and_damage_is_found(sounds, tmp_path):
    done(prepare(tmp_path, "folders", sounds))
    check = ("prepare-data", "--check", "--data_dir", tmp_path / "data")
    assert "20 clips, all as they were built" in done(call(*check, cwd=tmp_path))
    path = next((tmp_path / "data").glob("clips/*/*test.array_record*"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "damaged" in refused(call(*check, cwd=tmp_path))


def test_data_dir_of_the_other_kind_is_refused(sounds, tmp_path):
    (tmp_path / "data" / "tau22").mkdir(parents=True)
    message = refused(prepare(tmp_path, "folders", sounds))
    assert "holds a data set of TAU's clips (tau22/)" in message
    assert "choose another --data_dir" in message
    (tmp_path / "other" / "clips").mkdir(parents=True)
    with pytest.raises(UserError, match="holds a data set of recordings of your own .clips/"):
        prepare_data.prepare(tmp_path / "tau", tmp_path / "other")


def test_clips_of_half_a_second_have_half_as_many_samples(sounds, tmp_path):
    done(prepare(tmp_path, "folders", sounds, "--clip_s", 0.5, "--hop_s", 2))
    folder = tmp_path / "data" / "clips"
    assert reader.open_reader(folder, "test").read(np.arange(2))["audio"].shape == (2, 4000)
    content = json.loads((folder / "1.0.0" / "integrity.json").read_text())
    assert content["clips_are"]["sample_rate"] == RATE
    assert content["clips_are"]["n_samples"] == 4000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--clip_s", 0.01), "--clip_s is 0.01, expected 0.1 … 30 seconds"),
        (("--hop_s", "nan"), "--hop_s is nan, expected 0.1 … 3600 seconds"),
        (("--min_peak_dbfs", 3), "--min_peak_dbfs is 3.0, expected at most 0 dB"),
        (("--folds", 1), "--folds is 1, expected 2 … 100"),
        (("--test_fraction", 1), "--test_fraction is 1.0, expected between 0 and 1"),
        (("--test_fraction", 0.2, "--folds", 3), "choose splits in two ways"),
        (("--seed", -1), "--seed is -1, expected at least 0"),
        (("--split_pattern", "("), "--split_pattern '(' is no regular expression"),
        (("--recording_pattern", "zz"), "10 files have names without the --recording_pattern"),
        (("--groups", "a"), "--groups is for --layout table, not for --layout folders"),
        (("--tau_dir", "a"), "--tau_dir is for --layout tau, not for --layout folders"),
    ],
)
def test_wrong_flags_are_named(sounds, tmp_path, options, message):
    assert message in refused(prepare(tmp_path, "folders", sounds, *options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--groups", "room"), "has no group column 'room' (--groups); it has device"),
        (("--group_set", "device"), "--group_set 'device': expected COLUMN:NAME=VALUE,VALUE"),
        (("--group_set", "device:a=z"), "the set a of device is ['z'], expected some of x, y"),
    ],
)
def test_wrong_groups_are_named(tmp_path, options, message):
    rows = []
    for number in range(4):
        write(tmp_path / f"{number}.wav")
        label, device = ("cat", "dog")[number % 2], "xy"[number // 2]
        rows.append({"path": f"{number}.wav", "label": label, "device": device})
    path = write_table(tmp_path / "list.csv", rows, "\t")
    assert message in refused(prepare(tmp_path, "table", path, *options))


def test_missing_inputs_are_named(tmp_path):
    result = call("prepare-data", "--layout", "folders", cwd=tmp_path)
    assert "--layout folders needs --input_dir: a folder with" in refused(result)
    assert "no such file or folder" in refused(prepare(tmp_path, "table", tmp_path / "no.csv"))
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    assert "no recording in this folder" in refused(
        prepare(tmp_path, "folders", tmp_path / "empty")
    )


def test_whole_table_names_columns_that_are_there_twice(tmp_path):
    (tmp_path / "a.csv").write_text("path,label,x,x\na.wav,cat,1,2\n")
    with pytest.raises(UserError, match="a.csv has two columns 'x'"):
        table.read_whole_table(tmp_path / "a.csv", ("path", "label"))


def test_generators_run_ahead_in_order_and_stop_when_nobody_reads():
    started = []

    def count(number):
        started.append(number)
        for value in range(50):
            yield number, value

    values = cutting.in_order((count(number) for number in range(5)), n_threads=3)
    assert list(values) == [(number, value) for number in range(5) for value in range(50)]
    values = cutting.in_order((count(number) for number in range(100)), n_threads=2)
    assert next(values) == (0, 0)
    values.close()  # waits for the threads
    assert len(started) < 5 + 10


def test_an_error_in_a_thread_comes_in_its_turn():
    def fail():
        yield 1
        raise UserError("no")

    values = cutting.in_order([iter([0]), fail()], n_threads=2)
    assert [next(values), next(values)] == [0, 1]
    with pytest.raises(UserError, match="no"):
        next(values)


@pytest.mark.slow
@pytest.mark.nightly
def test_an_hour_is_cut_within_little_memory(tmp_path):
    second = np.random.default_rng(0).uniform(-0.5, 0.5, RATE).astype(np.float32)
    with soundfile.SoundFile(tmp_path / "hour.flac", "w", RATE, 1) as file:
        for minute in range(60):
            file.write(np.concatenate([second * (minute + 1) / 100] * 60))
    resampler(RATE, 16_000)(np.zeros((8, RATE), np.float32))  # compiled before it is measured
    tracemalloc.start()
    cut = Cut(1.0, 1.0, -60.0, "reject", 16_000)
    found = probe(tmp_path / "hour.flac", [(0.0, np.inf)], cut)
    assert len(found.spans[0]) == 3600
    windows = [cutting.Window(tmp_path / "hour.flac", RATE, span) for span in found.spans[0]]
    assert sum(len(clip) == 16_000 for clip in cutting.waveforms(windows, cut)) == 3600
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 * 2**20, f"{peak / 2**20:.0f} MiB"  # of 110, and 220 for all its clips


@pytest.mark.slow
@pytest.mark.nightly
def test_ten_thousand_files(tmp_path):
    for number in range(10_000):
        write(tmp_path / "sounds" / f"class {number % 50}" / f"{number}.wav", seed=number)
    done(prepare(tmp_path, "folders", tmp_path / "sounds", "--folds", 5))
    splits, _ = built(tmp_path)
    assert [len(clips) for clips in splits.values()] == [2000] * 5
