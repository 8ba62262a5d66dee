"""`asc-jax prepare-data` as a person uses it."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest
from commands import HANGS_S, started
from tau_folder import write_tau

from asc_jax.cli import prepare_data
from asc_jax.data.clips import open_split
from asc_jax.data.tau.folder import read_recordings
from asc_jax.errors import UserError

pytest.importorskip("tensorflow_datasets")
ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="session")
def tau(tmp_path_factory):
    return write_tau(tmp_path_factory.mktemp("tau") / "dev")


def _command(*args):
    return [sys.executable, "-m", "asc_jax.cli.prepare_data", *map(str, args)]


def test_command_builds_and_then_has_nothing_to_do(tau, tmp_path):
    args = ("--tau_dir", tau, "--data_dir", tmp_path / "data", "--splits", "5,test")
    first = subprocess.run(_command(*args), cwd=ROOT, text=True, capture_output=True)
    assert first.returncode == 0, first.stderr
    assert "note: split5.csv, test.csv" in first.stdout
    assert "train_5pct" in first.stdout
    assert "12 clips" in first.stdout
    assert first.stderr == ""  # no warnings of libraries, and no bar where nobody sees it
    assert len(open_split(tmp_path / "data", "test")) == 7


def test_command_shows_errors_without_traceback(tmp_path):
    done = subprocess.run(
        _command("--tau_dir", tmp_path / "no"), cwd=ROOT, text=True, capture_output=True
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {tmp_path}/no is not a folder; expected one in the layout of TAU 2022\n"
    )


# `asc-jax prepare-data`, which stands still after the first clip until it is interrupted.
STANDS_STILL = r"""
import os
import sys
from asc_jax import cli
from asc_jax.data.store import dataset

def build(recordings, data_dir, on_clips, *rest, whole=dataset.build):
    def stand_still(n_clips):
        os.write(1, b"a clip is written\n")  # sys.stdout is caught while tfds works
        sys.stdin.read()

    return whole(recordings, data_dir, stand_still, *rest)

dataset.build = build
cli.main("prepare-data")
"""


def test_interrupted_command_can_be_run_again(tau, tmp_path):
    data = tmp_path / "data"
    command = [sys.executable, "-c", STANDS_STILL, "--tau_dir", tau, "--data_dir", data]
    with started(command, cwd=ROOT) as process:
        assert "a clip is written\n" in iter(process.stdout.readline, ""), process.stderr.read()
        assert list(data.glob(".building/*/*/*"))
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=HANGS_S)[1]
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert list(data.iterdir()) == []
    prepare_data.prepare(tau, data, splits=["test"])
    assert len(open_split(data, "test")) == 7


@pytest.fixture
def data_dir(tau, tmp_path):
    prepare_data.prepare(tau, tmp_path / "data", splits=["5", "test"])
    return tmp_path / "data"


def _built_at(data_dir):
    return (data_dir / "tau22").stat().st_ctime_ns


def test_same_inputs_are_not_built_again(tau, data_dir, capsys):
    before = _built_at(data_dir)
    prepare_data.prepare(tau, data_dir, splits=["test"])
    assert "already built" in capsys.readouterr().out
    assert _built_at(data_dir) == before


def test_changed_clips_of_the_same_size_are_noticed(tau, data_dir, tmp_path):
    changed = shutil.copytree(tau, tmp_path / "changed")
    for path in (changed / "audio").iterdir():
        content = path.read_bytes()
        path.write_bytes(content[:-3] + bytes(b ^ 1 for b in content[-3:]))
    with pytest.raises(UserError, match=r"other inputs .*test.*--overwrite"):
        prepare_data.prepare(changed, data_dir, splits=["5", "test"])


def test_other_splits_are_refused_unless_overwrite(tau, data_dir):
    before = _built_at(data_dir)
    with pytest.raises(UserError, match=r"lacks train_100pct.*--splits 5,100,test --overwrite"):
        prepare_data.prepare(tau, data_dir, splits=["100", "test"])
    assert _built_at(data_dir) == before
    prepare_data.prepare(tau, data_dir, splits=["100", "test"], overwrite=True)
    assert len(open_split(data_dir, "train_100pct")) == 20
    with pytest.raises(UserError, match="no split 'train_5pct'"):
        open_split(data_dir, "train_5pct")


def test_a_damaged_data_set_is_built_again(tau, data_dir):
    next(data_dir.glob("tau22/*/*test.array_record*")).unlink()
    prepare_data.prepare(tau, data_dir, splits=["5", "test"])
    assert len(open_split(data_dir, "test")) == 7


def test_official_lists_get_no_note(tau, tmp_path, capsys, monkeypatch):
    lists = {path.name: path for path in (tau / "split_setup").iterdir()}
    sums = {name: prepare_data._sha256(path) for name, path in lists.items()}
    monkeypatch.setattr(prepare_data, "LISTS_SHA256", sums)
    prepare_data.prepare(tau, tmp_path / "data")
    assert "note:" not in capsys.readouterr().out


def test_unknown_split_lists_the_known(tau, tmp_path):
    with pytest.raises(UserError, match="'7' in --splits; known are 5, 10, 25, 50, 100, test"):
        prepare_data.prepare(tau, tmp_path, splits=["7"])


def test_unwritable_data_dir_is_a_user_error(tau, tmp_path):
    (tmp_path / "file").touch()
    for data_dir in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="cannot write to .*file"):
            prepare_data.prepare(tau, data_dir)


def test_check_reads_every_clip(data_dir, capsys):
    prepare_data.check(data_dir)
    assert "12 clips, all as they were built" in capsys.readouterr().out
    path = next(data_dir.glob("tau22/*/*test.array_record*"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        prepare_data.check(data_dir)


def test_wav_replaced_while_it_is_read_is_refused(tau, tmp_path, monkeypatch):
    """Before or after its turn: what was built is of neither folder."""
    changing = shutil.copytree(tau, tmp_path / "dev")
    from asc_jax.data.store import dataset

    def replace(n_clips):
        for path in sorted((changing / "audio").iterdir())[:1]:
            shutil.copy(path, tmp_path / "new.wav")
            os.replace(tmp_path / "new.wav", path)

    recordings = read_recordings(changing, ["train_100pct", "test"])
    with pytest.raises(UserError, match="1 of the files were replaced .* first .*wav: run"):
        dataset.build(recordings, tmp_path / "data", replace)
    assert list((tmp_path / "data").iterdir()) == []
