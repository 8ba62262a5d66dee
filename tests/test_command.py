"""`asc-jax`: its verbs, its help, its configs from any folder, and what its package holds."""

import os
import pathlib
import subprocess
import sys
import tomllib
import zipfile

import pytest
from commands import call

from asc_jax import cli
from asc_jax.cli import config, config_flag
from asc_jax.errors import UserError
from asc_jax.machine import optional_packages

ROOT = pathlib.Path(__file__).parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def start(*args, cwd=ROOT, **options):
    """The finished process; whatever happened, no traceback."""
    command = [sys.executable, "-m", "asc_jax", *map(str, args)]
    done = subprocess.run(
        command, cwd=cwd, env=ENVIRONMENT, text=True, capture_output=True, **options
    )
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize("args", [(), ("-h",), ("--help",)])
def test_overview_lists_every_verb_with_a_sentence(args):
    done = call(*args, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    for verb in cli.VERBS:
        (line,) = (line for line in lines if line.startswith(f"  {verb} "))
        assert line.endswith(".")


def test_version_is_the_packages():
    assert start("--version").stdout == "asc-jax 0.2.0\n"


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_of_a_verb_has_its_parts_in_order(verb, tmp_path):
    done = call(verb, "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    parts = ["usage: asc-jax " + verb, "options:"[: 8 * (verb != "config")], "examples:\n  asc-jax"]
    places = [done.stdout.index(part) for part in [*parts, "exit status: 0 "]]
    assert places[0] == 0
    assert places == sorted(places)
    assert str(ROOT) not in done.stdout
    assert "helpfull" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.nightly  # other tests call most verbs in their own process
@pytest.mark.slow
@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_starts_as_a_process(verb, tmp_path):
    done = start(verb, "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == call(verb, "--help", cwd=tmp_path).stdout


def test_help_says_values_and_defaults():
    text = call("predict", "-h", cwd=ROOT).stdout
    assert "  --format table|csv|json\n" in text
    assert "(default: table)" in text
    assert "  --workdir           Folder of the run (required)\n" in text
    assert "(default: on)" in text.split("--[no]windows")[1].splitlines()[0]


def test_unknown_verb_gets_the_nearest():
    done = call("evla", cwd=ROOT)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: unknown verb 'evla': did you mean eval? Known: train, ")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("synthesize", "--out_dir=x", "stray"), "unexpected words on the command line: stray"),
        (("prepare-data", "--tau-dir=x", "--overwrite", "False"), "line: False (a flag is"),
        (("prepare-data", "--splits=5", "test"), "unexpected words on the command line: test"),
        (("synthesize",), "which folder? For example: asc-jax synthesize --out_dir"),
        (("config", "list"), "which config? For example: asc-jax config show splits/5pct.py"),
    ],
)
def test_wrong_words_are_named_and_nothing_is_written(tmp_path, args, expected):
    done = call(*args, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert expected in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_reader_that_has_enough_ends_it_in_silence():
    ours, theirs = os.pipe()
    os.close(ours)
    command = [sys.executable, "-m", "asc_jax", "config", "show", "base.py"]
    done = subprocess.run(command, cwd=ROOT, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (141, b"")


def test_missing_package_is_named_with_its_extra(tmp_path):
    """A file in its place that cannot be imported, as if it were not installed."""
    (tmp_path / "matplotlib.py").write_text(
        "raise ModuleNotFoundError('gone', name='matplotlib.figure')"
    )
    done = start("complexity", "--config", "splits/5pct.py", "--png", "a.png", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "error: asc-jax complexity needs matplotlib: pip install 'asc_jax[data]' "
        "(in a clone: pip install -r requirements-data.txt)\n"
    )


def test_every_optional_package_has_an_extra_and_a_file():
    assert optional_packages.extra_of("torch.nn") == "interop"
    assert optional_packages.extra_of("json") is None
    assert optional_packages.extra_of(None) is None
    dynamic = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["dynamic"]
    for extra in optional_packages.EXTRAS:
        assert dynamic["optional-dependencies"][extra]["file"] == [f"requirements-{extra}.txt"]
        assert (ROOT / f"requirements-{extra}.txt").is_file()


MINE = """
import my_values
from configs import base
from configs import own


def get_config():
    config = base.get_config()
    config.loss.gamma = my_values.GAMMA + own.MORE
    return config
"""


def test_config_of_ones_own_finds_base_and_modules_of_its_folder(tmp_path):
    """From a folder that is not the repository, beside a folder configs/ and a module."""
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "my_values.py").write_text("GAMMA = 3.0")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "own.py").write_text("MORE = 0.5")
    (tmp_path / "configs" / "base.py").write_text("raise SystemExit('not this one')")
    done = start("config", "show", "mine.py", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nconfig.loss.gamma = 3.5\n" in done.stdout


def test_config_show_prints_every_value_and_what_it_means():
    from configs import base

    lines = call("config", "show", "splits/5pct.py", cwd=ROOT).stdout.splitlines()
    values = [line for line in lines if not line.startswith("# ")]
    keys = config_flag.flat(base.get_config().to_dict())
    assert [line.partition(" = ")[0] for line in values] == list(keys)
    assert "config.data.batch_size = 78" in values
    above = lines[lines.index("config.data.batch_size = 78") - 1]
    assert above.startswith("# ")


def test_comments_belong_to_the_line_below_and_to_their_own():
    source = "# One.\n\n# Two\n# lines.\nconfig.a = 1\n    config.b.c = 2  # three\nconfig.d = 3\n"
    assert config.read_comments(source) == {
        "config.a": ["Two", "lines."],
        "config.b.c": ["three"],
    }


def test_configs_are_called_by_the_same_names_from_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("splits/5pct.py", "configs/splits/5pct.py"):
        assert config_flag.absolute_config(["x", "--config", name, "--seed"]) == [
            "x",
            f"--config={ROOT / 'configs/splits/5pct.py'}",
            "--seed",
        ]
    with pytest.raises(UserError, match=r"did you mean demo.py\? Known: base.py, baseline/100pct"):
        config_flag.read_config("dmo.py", [])


@pytest.mark.slow
def test_wheel_holds_all_files_of_the_package_and_its_configs(tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    source = tmp_path / "source"
    source.mkdir()
    names = ("asc_jax", "configs", "pyproject.toml", "setup.py", "README.md", "LICENSE")
    for path in [ROOT / name for name in names] + sorted(ROOT.glob("requirements*.txt")):
        (source / path.name).symlink_to(path)
    build = "from setuptools import build_meta; build_meta.build_wheel('..')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        packed = {name for name in wheel.namelist() if ".dist-info" not in name}
        (entries,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
        assert "asc-jax = asc_jax.cli:main" in wheel.read(entries).decode()
    paths = [path for folder in ("asc_jax", "configs") for path in (ROOT / folder).rglob("*")]
    here = {
        str(path.relative_to(ROOT)).removeprefix("asc_jax/")
        for path in paths
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == {f"asc_jax/{name}" for name in here}
