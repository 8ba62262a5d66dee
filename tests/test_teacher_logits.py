"""Files of teachers' logits: ours and the published forms, and the clips that get them."""

import json

import numpy as np
import pytest
from small import noise

from asc_jax.data import teacher_logits
from asc_jax.data.clips import from_arrays
from asc_jax.data.tau.taxonomy import SCENES
from asc_jax.data.teacher_logits import (
    TeacherLogits,
    read_teacher_logits,
    with_teacher_logits,
    write_teacher_logits,
)
from asc_jax.errors import UserError

N = 5
NAMES = [f"audio/clip{number}-a.wav" for number in range(N)]
LOGITS = np.random.default_rng(0).standard_normal((2, N, 10)).astype(np.float32)


def write(path, **changes):
    """Our file, with some of its arrays changed or, if None, left out."""
    content = {
        "format": np.array(teacher_logits.FORMAT),
        "filenames": np.array(NAMES),
        "classes": np.array(SCENES),
        "logits": LOGITS,
    } | changes
    np.savez(path, **{name: rows for name, rows in content.items() if rows is not None})
    return path


def write_meta(path, names=NAMES):
    rows = [("filename", "scene_label"), *((name, "bus") for name in names)]
    path.write_text("".join("\t".join(row) + "\n" for row in rows))


def clips_named(names):
    audio, label = noise(len(names))
    return from_arrays(audio[:, :8], label, filenames=names)


def test_file_comes_back_as_it_was_written(tmp_path):
    path, sources = tmp_path / "a.npz", [{"workdir": "runs/ä"}, {"workdir": "runs/b"}]
    write_teacher_logits(path, NAMES, LOGITS, SCENES, sources)
    assert [each.name for each in tmp_path.iterdir()] == ["a.npz"]
    read = read_teacher_logits(path)
    assert (read.filenames, read.classes) == (NAMES, SCENES)
    np.testing.assert_array_equal(read.logits, LOGITS)
    assert json.loads(str(np.load(path)["sources"])) == sources


@pytest.mark.parametrize("index", ["train_5_logits.index.json", "index.json"])
@pytest.mark.parametrize("logits", [LOGITS, LOGITS[0], LOGITS[0].astype(np.float16)])
@pytest.mark.parametrize("table", [None, "meta.csv"])  # of another file of config.distill.logits
def test_array_with_an_index_of_names_is_read(tmp_path, index, logits, table):
    np.save(tmp_path / "train_5_logits.npy", logits)
    (tmp_path / index).write_text(json.dumps({"filenames": NAMES}))
    if table:
        write_meta(tmp_path / table, NAMES[::-1])
    read = read_teacher_logits(tmp_path / "train_5_logits.npy", meta_csv=table and tmp_path / table)
    assert (read.filenames, read.classes) == (NAMES, None)
    np.testing.assert_array_equal(read.logits, logits.reshape(-1, N, 10).astype(np.float32))


@pytest.mark.parametrize("given", [True, False])
def test_rows_of_a_tensor_are_those_of_the_table(tmp_path, given):
    """A published tensor has twice as many rows as the table."""
    torch = pytest.importorskip("torch")
    from asc_jax.pytorch.files import read_tensor

    torch.save(torch.tensor(np.concatenate([LOGITS[0], LOGITS[1]])), tmp_path / "ensemble.pt")
    table = tmp_path / ("elsewhere.csv" if given else "meta.csv")
    write_meta(table)
    read = read_teacher_logits(
        tmp_path / "ensemble.pt", meta_csv=table if given else None, read_tensor=read_tensor
    )
    assert (read.filenames, read.classes) == (NAMES, None)
    np.testing.assert_array_equal(read.logits, LOGITS[:1])
    torch.save({"a": torch.zeros(2), "b": torch.zeros(2)}, tmp_path / "two.pt")
    with pytest.raises(UserError, match="holds 2 tensors, expected one"):
        read_teacher_logits(tmp_path / "two.pt", meta_csv=table, read_tensor=read_tensor)


def test_rows_of_an_array_are_those_of_a_table_that_is_given(tmp_path):
    np.save(tmp_path / "a.npy", LOGITS)
    write_meta(tmp_path / "meta.csv")
    read = read_teacher_logits(tmp_path / "a.npy", meta_csv=tmp_path / "meta.csv")
    assert read.filenames == NAMES
    np.testing.assert_array_equal(read.logits, LOGITS)
    np.save(tmp_path / "a.npy", LOGITS[:, :4])
    with pytest.raises(UserError, match=r"a.npy has 4 rows, and .*meta.csv 5: expected as many"):
        read_teacher_logits(tmp_path / "a.npy", meta_csv=tmp_path / "meta.csv")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"format": np.array("other")}, "its format is 'other'"),
        ({"format": None}, "cannot be read as teachers' logits: .*format"),
        ({"filenames": np.arange(N)}, "no lists of text"),
        ({"filenames": np.array(NAMES[:3])}, r"an array \(2, 5, 10\) for 3 file names"),
        ({"filenames": np.array(NAMES[:4] + ["clip0-a.wav"])}, "1 file names twice: clip0-a.wav"),
        ({"classes": np.array(SCENES[:9])}, "for 5 file names and 9 classes"),
        ({"logits": LOGITS.astype(int)}, "holds int64, expected floating logits"),
        ({"logits": np.where(np.arange(10) == 3, np.nan, LOGITS)}, "NaN or inf in 10 of 10 rows"),
        ({"logits": np.full((1, N, 10), 0.1)}, "holds probabilities, .*maximum.*1e-30"),
        ({"logits": np.array([{}], object)}, "cannot be read as teachers' logits: Object arrays"),
    ],
)
def test_wrong_content_of_our_file_is_told(tmp_path, changes, expected):
    with pytest.raises(UserError, match=expected) as caught:
        read_teacher_logits(write(tmp_path / "a.npz", **changes))
    assert "a.npz" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.npz", None, "there is no file .*a.npz of .*: asc-jax logits makes"),
        ("a.npz", b"PK\3\4 and no more", "a.npz cannot be read as teachers' logits: .*copy it"),
        ("a.npz", b"version https://git-lfs.github.com/spec/v1\n", "run git lfs pull"),
        ("a.npy", b"version https://git-lfs.github.com/spec/v1\n", "run git lfs pull"),
        ("a.npy", b"\x93NUMPY\1\0\x10\0{'descr': ", "a.npy cannot be read"),
        ("a.csv", b"", "a.csv is no file of teachers' logits"),
        ("a.pt", b"", "a file of PyTorch's, and no reader of such files is given"),
    ],
)
def test_file_that_is_missing_damaged_or_of_another_kind_is_told(tmp_path, name, content, expected):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=expected):
        read_teacher_logits(tmp_path / name)


def test_array_or_tensor_without_names_is_told(tmp_path):
    np.save(tmp_path / "a.npy", LOGITS)
    with pytest.raises(UserError, match="no index beside it: expected a.index.json or index.json"):
        read_teacher_logits(tmp_path / "a.npy")
    (tmp_path / "a.index.json").write_text('{"filenames": 3}')
    with pytest.raises(UserError, match="a.index.json cannot be read .*no list of names"):
        read_teacher_logits(tmp_path / "a.npy")
    with pytest.raises(UserError, match="there is no .*meta.csv: name the table with --config"):
        read_teacher_logits(tmp_path / "a.pt", read_tensor=np.load)


def test_clips_get_the_logits_of_their_names_from_every_teacher():
    """In another order, with and without the folder, classes in another order, more clips."""
    names = ["clip3-a.wav", "audio/clip1-a.wav", "clip1-a.wav"]
    order = np.random.default_rng(1).permutation(10)
    other = TeacherLogits("b", NAMES[::-1], LOGITS[:1, ::-1, order], tuple(np.array(SCENES)[order]))
    nameless = TeacherLogits("c", [name[6:] for name in NAMES], LOGITS[1:], None)
    clips = with_teacher_logits(clips_named(names), [other, nameless], SCENES)
    column = next(clips.in_order(3))["teacher_logits"]
    assert column.shape == (3, 2, 10)
    assert column.dtype == np.float32
    np.testing.assert_array_equal(column, LOGITS[:, [3, 1, 1]].swapaxes(0, 1))


def test_clip_without_logits_is_counted_and_named():
    names = [*NAMES, "audio/new1.wav", "audio/new2.wav", "audio/new3.wav", "audio/new4.wav"]
    teacher = TeacherLogits("t.npz", NAMES, LOGITS, SCENES)
    expected = "t.npz has no logits for 4 of the 9 training clips: new1.wav, new2.wav, new3.wav, …"
    with pytest.raises(UserError, match=expected):
        with_teacher_logits(clips_named(names), [teacher], SCENES)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (("moon", *SCENES[1:]), r"t.npz differs in the classes \['airport', 'moon'\]: it has"),
        (SCENES[:9], "t.npz differs in the classes"),
        (None, "t.npz has logits for 9 classes, expected 10"),
    ],
)
def test_other_classes_are_told(classes, expected):
    logits = LOGITS[..., : 9 if classes is None else len(classes)]
    teacher = TeacherLogits("t.npz", NAMES, logits, classes)
    with pytest.raises(UserError, match=expected):
        with_teacher_logits(clips_named(NAMES), [teacher], SCENES)


def test_identity_of_clips_covers_the_logits_and_not_their_file(tmp_path):
    clips = clips_named(NAMES)
    clips.identity = "of the waveforms"
    shuffled = TeacherLogits("b", NAMES[::-1], LOGITS[:, ::-1], None)
    others = TeacherLogits("c", NAMES, LOGITS + np.float32(1e-6), SCENES)
    teachers = TeacherLogits("a", NAMES, LOGITS, SCENES), shuffled, others
    one, same, other = (with_teacher_logits(clips, [t], SCENES).identity for t in teachers)
    assert one == same != other
    assert one != clips.identity
