"""`asc-jax submission` as a person starts it."""

import pathlib
import re

import pytest
from commands import call
from small_submission import LABEL, evaluation_clips, write_runs
from submission_rules import check_made

from asc_jax.challenge.submission.package import open_runs
from asc_jax.cli import submission
from asc_jax.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent


def start(*args, cwd):
    return call("submission", *args, cwd=cwd)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Five runs and the author file that the command prints."""
    home = tmp_path_factory.mktemp("home")
    write_runs(home / "runs")
    done = start("--example_author_file", cwd=home)
    assert (done.returncode, done.stderr) == (0, "")
    (home / "author.yaml").write_text(done.stdout)
    return home


@pytest.fixture(scope="module")
def runs(home):
    return open_runs(sorted((home / "runs").iterdir()))


@pytest.fixture
def opened(monkeypatch):
    """(data dir, split) of the data sets that were opened, in place of which arrays are used."""
    opened = []

    def open_for(config, split, data_dir):
        opened.append((data_dir or config.data.dir, split))
        return evaluation_clips(12)

    monkeypatch.setattr(submission, "open_for", open_for)
    return opened


def make(home, out, **options):
    submission.make(home / "author.yaml", sorted((home / "runs").iterdir()), out, **options)


def test_package_is_made_and_told(tmp_path, capsys, home, opened):
    make(home, tmp_path / "out", practice=True, data_dir="elsewhere")
    check_made(tmp_path / "out", 12)
    assert opened == [("elsewhere", "evaluation")] * 5
    printed, progress = capsys.readouterr()
    assert progress == ""  # no terminal, and not for long
    assert re.search(r"\n  +5 % +\d+\.\d\d +\d+\.\d{3}\n +10 % ", printed)
    assert re.search(r"\nmean, the rank +\d+\.\d\d\n", printed)
    assert f"task1/{LABEL}; no problem found, for practice only\n" in printed
    assert f"{LABEL}.technical_report.pdf" in printed
    assert f"to be submitted: {tmp_path / 'out' / 'task1.zip'}\n" in printed

    submission.check(tmp_path / "out", practice=True)
    assert capsys.readouterr().out.endswith("out: no problem found, for practice only\n")
    done = start("--check=out", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    *others, last = done.stderr.splitlines()
    assert last == "error: out cannot be submitted: 5 problems, see above"
    assert len(others) == 5
    assert all("12 clips, the evaluation split has 135,730 (--practice" in line for line in others)


def test_other_list_than_the_challenges_needs_practice(tmp_path, monkeypatch, home, runs, opened):
    monkeypatch.setattr(submission, "open_runs", lambda *args, **options: runs)
    with pytest.raises(UserError, match=r"12 clips here, the challenge's has 135,730; --practice"):
        make(home, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_evaluation_list_says_how_to_make_it(tmp_path, monkeypatch, home, runs):
    monkeypatch.setattr(submission, "open_runs", lambda *args, **options: runs)
    with pytest.raises(UserError) as caught:
        make(home, tmp_path / "out", data_dir=tmp_path / "data")
    message = str(caught.value)
    assert "no data set in " in message
    assert "unpack TAU-urban-acoustic-scenes-2024-mobile-evaluation beside TAU's folder" in message
    assert "prepare-data with --splits evaluation --data_dir data/evaluation" in message


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "which author file, which runs, and where to? For example: asc-jax submission"),
        (("--check=out", "runs/5pct"), "--check looks at a finished package alone, not at runs/5"),
        (
            ("--author=author.yaml", "--out=out", "runs/5pct", "runs/10pct"),
            "error: no run trained on train_25pct, train_50pct, train_100pct: a submission holds",
        ),
    ],
)
def test_wrong_command_line_ends_with_2_and_one_line(home, args, message):
    done = start(*args, cwd=home)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: [^\n]+\n", done.stderr), done.stderr
    assert message in done.stderr
    assert not (home / "out").exists()
