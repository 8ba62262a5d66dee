"""The examples do what their pages say: every command as printed, in the order of the page."""

import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path
from unittest import mock

import pytest
from commands import call

pytest.importorskip("tensorflow_datasets")
EXAMPLES = Path(__file__).parent.parent / "examples"


def commands_of(page):
    """The lines of the page's blocks marked `sh`, section by section."""
    sections = re.split(r"^## ", page.read_text("utf-8"), flags=re.MULTILINE)
    return {
        section.partition("\n")[0]: [
            line
            for block in re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
            for line in block.splitlines()
        ]
        for section in sections
    }


def run(line, folder):
    program, *words = shlex.split(line)
    if program == "python":
        with mock.patch.object(sys, "argv", [words[0], str(folder / words[1])]):
            runpy.run_path(str(folder / words[0]), run_name="__main__")
        return ""
    done = call(*words, cwd=folder)
    assert done.returncode == 0, (line, done.stderr)
    return done.stdout


@pytest.fixture
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples") / "own_sounds"
    return shutil.copytree(EXAMPLES / "own_sounds", folder)


def test_recordings_of_the_walk_through_become_a_data_set_for_its_config(folder):
    """Up to its training; test_own_runs goes on, with a network that compiles sooner."""
    sections = commands_of(folder / "README.md")
    for title in ("2 Record, and sort into folders", "3 Build the data set"):
        said = "".join(run(line, folder) for line in sections[title])
    assert "too quiet" in said
    printed = run("asc-jax complexity --config small.py", folder)
    assert re.search(r"head +\d+×\d+×4 ", printed), printed


@pytest.mark.nightly
def test_walk_through_leads_from_recordings_to_a_model_on_a_device(folder):
    said = {}
    for title, lines in commands_of(folder / "README.md").items():
        if not title.startswith("Is it really better"):
            said[title] = "".join(run(line, folder) for line in lines)
    assert "too quiet" in said["3 Build the data set"]
    assert re.search(r"by class\n +bell", said["5 Evaluate"])
    assert re.search(r"mean of \d+ +bell ", said["6 Listen"])
    header = (folder / "runs/small/export/asc_model.h").read_text("utf-8")
    assert "#define ASC_N_CLASSES 4" in header
    assert "#define ASC_N_SAMPLES 16000" in header


@pytest.mark.nightly
def test_walk_through_cross_validates(folder):
    for lines in commands_of(folder / "README.md").values():
        for line in lines:
            run(line, folder)
    assert (folder / "runs/folds/crossval.html").is_file()
