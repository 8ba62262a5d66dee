"""Damaged input of every kind gives a value or a UserError: a short form, and what once did not.

The long form is `make fuzz`.
"""

import json
import os
import subprocess
import sys
import warnings
import zipfile

import pytest
from by_day import examples
from fuzz import mutate
from fuzz.judge import Reader, judge, limits, make_input
from fuzz.readers import READERS, open_reader
from fuzz.readers_runs import made_up_results
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asc_jax.data.tau import fetch
from asc_jax.errors import UserError, printable

NEEDS = {"torch_file": "torch", "wav": "soundfile", "recording": "soundfile"}
SLOW_START = ("data_set", "checkpoint", "meta")  # TensorFlow; Orbax; YAML of 400 lines
# What once ended in a traceback, hung or forged a line; inputs as `tests.fuzz` makes them.
BOMB = b"a: &a [x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n" % (n, n, *[n - 1] * 8) for n in range(98, 108)
)
SHORT = json.dumps(made_up_results()[0]).encode()
ONCE = [
    ("options", b"--" + b"[" * 3000),  # absl recursed
    ("table", b""),  # no header at all
    ("tau_folder", b"\1filename\tscene_label\n" + b"[" * 3000 + b"\tbus\n"),  # no such file name
    ("tau_folder", b"\1filename\tscene_label\naudio/a\x1b[31m.wav\tbus\n"),  # coloured a terminal
    ("config", b'{"name": "x", "config": {"data": {}, "optim": {}}}'),
    ("config", b'{"name": "x", "config": {"data": {}, "seed": "0"}}'),
    ("config", b"[" * 3000),
    ("metrics", b"3\n"),
    ("metrics", b'{"kind": "train", "epoch": [1], "step": "4"}\n\xff\n'),
    ("metrics", b'{"kind": "train", "epoch": 1e999, "step": 4}\n'),
    ("results", b'{"stored_dtype": "a", "a": {"macro_accuracy": "x"}}'),
    ("results", b'{"stored_dtype": "a", "a": {"macro_accuracy": 1.0}, "seed": 0}'),
    ("results", SHORT.replace(b'"accuracy": 1.0', b'"accuracy": ' + b"9" * 400)),
    ("torch_names", bytes([0, 1, 3])),  # a tensor named "\n\0"
    # A zip archive on several disks, which `zipfile.is_zipfile` does not survive.
    ("torch_file", b"PK\6\7" + bytes(12) + b"\2\0\0\0" + b"PK\5\6" + bytes(18)),
    ("c_header", b"#define ASC_N_MELS four\n"),
    ("c_header", b"\xff"),
    ("arrays", b"PK\3\4"),
    ("author", b"submission: " + b"[" * 3000),
    ("author", b"submission: {label: !!int '', name: !!bool x}"),
    ("author", b"submission: !!timestamp x"),
    ("author", b'"\\n": 1'),
    ("author", BOMB + b"submission: {label: *k, name: *k, abbreviation: *k, authors: *k}\n"),
    ("author", b"submission: 0x" + b"f" * 5000),
]


def test_mutations_are_those_of_the_seed_and_the_number():
    reader = Reader(len, mutate.of_bytes, (b"seed",))
    made = [make_input("x", reader, 0, number) for number in range(50)]
    assert made == [make_input("x", reader, 0, number) for number in range(50)]
    assert len(set(made)) > 30
    assert made != [make_input("x", reader, 1, number) for number in range(50)]


@pytest.mark.parametrize(
    ("read", "what"),
    [
        (lambda data: data[9], "IndexError"),
        (lambda data: sys.exit(1), "SystemExit"),
        (lambda data: bytearray(2**33), "MemoryError"),
        (lambda data: _raise(UserError("")), "0 characters"),
        (lambda data: _raise(UserError("a", "b")), "2 lines"),
    ],
)
def test_judge_finds(read, what):
    with limits():
        assert what in judge(Reader(read, None, ()), b"x")[1]


def test_judge_takes_values_and_one_line():
    assert judge(Reader(len, None, ()), b"x") == (False, None)
    assert judge(Reader(lambda _: _raise(UserError("a\x1b\nb")), None, ()), b"x") == (True, None)


def _raise(error):
    raise error


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    """`readers(name)` → the reader, made once."""
    made, folder = {}, tmp_path_factory.mktemp("fuzz")

    def get(name):
        if name in NEEDS:
            pytest.importorskip(NEEDS[name])
        if name not in made:
            made[name] = open_reader(name, folder)
        return made[name]

    return get


@pytest.mark.parametrize("name", [name for name in READERS if name not in SLOW_START])
def test_spoilt_inputs_give_a_value_or_one_line(readers, name, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    reader = readers(name)
    found = []
    with limits(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the load_module", DeprecationWarning)
        n_inputs = 100 if name in ("author", "options", "torch_names") else 300
        for number in range(examples(n_inputs)):
            data = make_input(name, reader, 1, number)
            problem = judge(reader, data)[1]
            found += [(problem, data)] if problem else []
    assert not found


@pytest.mark.parametrize(("name", "data"), ONCE)
def test_what_once_broke_a_reader_does_not(readers, name, data):
    with limits():
        assert judge(readers(name), data)[1] is None


def test_pickles_are_refused_and_never_run(readers, tmp_path):
    pytest.importorskip("torch")
    from fuzz import readers_interop

    reader = readers("torch_file")
    hostile = readers_interop.hostile_files()
    with limits():
        assert [judge(reader, data) for data in hostile] == [(True, None)] * len(hostile)


@given(text=st.text())
@settings(max_examples=examples(200), deadline=None)
def test_a_message_is_one_line_that_can_be_printed(text):
    line = printable(text)
    assert line.isprintable()
    assert printable(line) == line
    assert str(UserError(text, text)).split("\n") == [line, line]


NAMES = st.text("ab./\\:\0\n", min_size=1, max_size=8)


@given(names=st.lists(NAMES, min_size=1, max_size=3), link=st.booleans())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_nothing_is_unpacked_outside_of_the_folder(tmp_path, names, link, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    home = tmp_path / str(len(os.listdir(tmp_path)))
    (home / "in").mkdir(parents=True)
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(home / "a.zip", "w") as out:
        for name in names:
            entry = zipfile.ZipInfo("x")
            entry.filename = name
            entry.external_attr = 0o120777 << 16 if link else 0
            out.writestr(entry, b"/etc")
    try:
        fetch.extract(home / "a.zip", home / "in")
    except UserError:
        pass
    else:
        assert not link
    assert {path.name for path in home.iterdir()} == {"in", "a.zip"}
    assert not any(path.is_symlink() for path in (home / "in").rglob("*"))


def test_what_unpacks_to_far_more_than_it_takes_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("zeros", bytes(120 * 2**20))
    with pytest.raises(UserError, match=r"125,829,120 bytes, more than 100 times"):
        fetch.extract(tmp_path / "a.zip", tmp_path / "in")
    assert not (tmp_path / "in").exists()


def test_an_archive_that_could_fill_the_memory_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as out:
        out.writestr("a", b"x")
    with pytest.raises(UserError, match="'a' is neither stored nor deflated"):
        fetch.extract(tmp_path / "a.zip", tmp_path / "in")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("name", ["config", "results", "author"])
@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[*HealthCheck])
def test_any_value_in_place_of_another_gives_a_value_or_one_line(readers, name, data):
    import yaml

    tree = yaml.load(readers(name).seeds[0], yaml.CSafeLoader)
    parent = tree
    while True:
        key = data.draw(st.sampled_from(sorted(parent)))
        if not isinstance(parent[key], dict) or not parent[key] or data.draw(st.booleans()):
            break
        parent = parent[key]
    parent[key] = data.draw(VALUES)
    text = json.dumps(tree).encode()
    with limits():
        assert judge(readers(name), text)[1] is None


@pytest.mark.nightly
@pytest.mark.slow
def test_fuzzing_goes_on_where_it_stopped(tmp_path):
    command = [sys.executable, "-m", "tests.fuzz", "--only", "stream,c_header"]
    command += ["--state", str(tmp_path / "state")]
    for n in (1000, 3000):
        done = subprocess.run([*command, "--n", str(n)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    counts = [json.loads(path.read_text()) for path in (tmp_path / "state").glob("*.json")]
    assert sum(count["number"] for count in counts) in (3000, 3001)
