"""Commands in the surroundings of others: variables, streams, signals, locks, memory, logs.

The names say which report of users of other programs a test stands for.
"""

import contextlib
import errno
import fcntl
import gc
import io
import json
import logging
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import warnings

import filelock
import jax
import pytest
from absl import logging as absl_logging
from commands import HANGS_S, call

from asc_jax import cli
from asc_jax.data import clips
from asc_jax.errors import Interrupted, UserError
from asc_jax.evaluation.report import figures
from asc_jax.machine import environment, files, lock, progress, signals, system_errors

COMMAND = (sys.executable, "-m", "asc_jax")


def shell(line, *args, cwd, **variables):
    """The finished process of a shell's line, in which "$@" is `asc-jax ARGS`."""
    return subprocess.run(
        ["sh", "-c", line, "sh", *COMMAND, *args],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.getcwd()} | variables,
        text=True,
        capture_output=True,
    )


@pytest.fixture(autouse=True)
def logger_as_before():
    """Undo what a command does to the loggers and hooks of its process."""
    log, hook, level = (
        logging.getLogger("asc_jax"),
        sys.unraisablehook,
        absl_logging.get_verbosity(),
    )
    handlers, propagate, own = [*log.handlers], log.propagate, log.level
    yield
    log.handlers[:], log.propagate, sys.unraisablehook = handlers, propagate, hook
    log.setLevel(own)
    absl_logging.set_verbosity(level)


@pytest.fixture
def settled(monkeypatch):
    """Call `settle` with variables, and undo all it does."""

    def settle(**variables):
        for name in ("MPLBACKEND", "KERAS_BACKEND", "JAX_PLATFORMS"):
            monkeypatch.setenv(name, variables.pop(name, "cpu"))
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        environment.settle()

    filters = [*warnings.filters]
    yield settle
    warnings.filters[:] = filters


@pytest.mark.nightly
def test_b02_b21_notebooks_and_other_peoples_variables_change_nothing(tmp_path):
    """A picture is drawn, help is there without docstrings, and a word prints in any encoding."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    args = ("complexity", "--config", "splits/5pct.py", "--png", "a.png")
    done = shell(
        '"$@"',
        *args,
        cwd=tmp_path,
        MPLBACKEND="module://matplotlib_inline.backend_inline",
        KERAS_BACKEND="nonsense",
        JAX_ENABLE_X64="1",
        PYTHONIOENCODING="ascii",
        PYTHONOPTIMIZE="2",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "29,428,372" in done.stdout
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_help_is_there_without_docstrings(tmp_path):
    done = shell('"$@"', "config", "--help", cwd=tmp_path, PYTHONOPTIMIZE="2")
    assert (done.returncode, done.stdout) == (0, call("config", "--help", cwd=tmp_path).stdout)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("cuda", "cuda,cpu"), ("cpu", "cpu"), ("cuda,cpu", "cuda,cpu"), ("tpu", "tpu,cpu")],
)
def test_b26_the_cpu_is_among_the_platforms(settled, given, wanted):
    settled(JAX_PLATFORMS=given)
    assert os.environ["JAX_PLATFORMS"] == wanted


def test_b26_device_that_is_not_there_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")
    with pytest.raises(UserError, match="JAX cannot use cuda: is there such a device"):
        cli.prepare_jax(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"), [("JAX_DEFAULT_PRNG_IMPL", "rbg"), ("JAX_RANDOM_SEED_OFFSET", "7")]
)
def test_variables_that_change_random_numbers_are_dropped(settled, name, value):
    key = name.lower()
    before = jax.config.values[key]
    try:
        jax.config.update(key, type(before)(value))
        settled(**{name: value})
        assert (jax.config.values[key], os.environ.get(name)) == (before, None)
    finally:
        jax.config.update(key, before)


def test_folder_that_has_been_removed_is_told(tmp_path):
    (tmp_path / "gone").mkdir()
    done = shell('rmdir "$PWD"; "$@"', "--version", cwd=tmp_path / "gone")
    assert done.returncode == 2
    assert done.stderr.endswith(
        "error: the current folder has been removed: change to one that exists\n"
    )


@pytest.mark.parametrize(("line", "status"), [("<&- >&- 2>&-", 2), (">&-", 2), ("2>&-", 2)])
def test_closed_streams_neither_stop_it_nor_mix_into_files(tmp_path, line, status):
    assert shell(f'"$@" {line}', "nonsense", cwd=tmp_path).returncode == status
    assert shell(f'"$@" {line}', "--version", cwd=tmp_path).returncode == 0


def test_word_that_the_terminal_cannot_show_is_spelt_out(settled, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    settled()
    print("1 – 2")
    stream.flush()
    assert stream.buffer.getvalue() == b"1 \\u2013 2\n"


@pytest.mark.parametrize("word", ["—workdir", "–workdir", "“--workdir”"])
def test_dashes_and_quotes_of_a_text_program_are_told(tmp_path, word):
    done = call("eval", word, "run", cwd=tmp_path)
    assert done.returncode == 2
    assert f"{word} begins with {word[0]}, which text programs put" in done.stderr


def test_b17_home_folder_is_found_behind_an_equals_sign(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for words in (("--workdir=~/a",), ("--workdir", "~/a")):
        message = call("eval", *words, cwd=tmp_path).stderr
        assert f"no run in {tmp_path}/home/a: " in message
    assert cli.with_home("--workdir=~nobody_of_that_name/a") == "--workdir=~nobody_of_that_name/a"
    assert cli.with_home("--out=a~b") == "--out=a~b"
    assert not (tmp_path / "~").exists()
    with pytest.raises(UserError, match=f"no data set in {tmp_path}/home/data"):
        clips.open_split("~/data", "test")  # as a config file may say


@pytest.mark.parametrize("number", signals.STOPPING)
def test_b32_every_warning_that_a_job_ends_stops_it_in_order(number):
    with signals.stop_signals() as stopped:
        signal.raise_signal(number)
        assert stopped == [number]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)


def test_b32_signal_ignored_as_under_nohup_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.stop_signals() as stopped:
            signal.raise_signal(signal.SIGHUP)
            assert not stopped
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", signals.BESIDE_CTRL_C)
def test_b32_command_that_does_not_train_ends_with_a_line(capsys, number):
    def swallow():
        try:
            signal.raise_signal(number)
        except Exception:
            raise AssertionError("taken for an error of its own") from None

    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as end:
        cli._guarded(swallow)
    assert end.value.code == 128 + number
    assert capsys.readouterr().err.startswith("stopped; what was there before still is")
    assert signal.getsignal(number) == before


def test_stopped_training_keeps_its_own_words(capsys):
    def stop():
        raise Interrupted("stopped after step 3", signal.SIGTERM)

    with pytest.raises(SystemExit) as end:
        cli._guarded(stop)
    assert (end.value.code, capsys.readouterr().err) == (143, "stopped after step 3\n")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."),
            r"the memory is full \(9 bytes were asked for\): another program may hold it .*batch_s",
        ),
        (MemoryError(), r"the memory is full: another program .*--config.train.resident=off"),
        (RuntimeError("std::bad_alloc"), "the memory is full"),
        (
            RuntimeError("Unable to initialize backend 'tpu': nothing (set JAX_PLATFORMS='')"),
            "JAX cannot use tpu: is there such a device",
        ),
        (
            ValueError('Invalid value "x" for JAX flag jax_num_cpu_devices'),
            'the environment variable JAX_NUM_CPU_DEVICES is "x", which JAX rejects',
        ),
        (OSError(errno.EIO, os.strerror(errno.EIO), "a\x1b.wav"), r"Input/output error \(a\\x1b"),
    ],
)
def test_b33_what_the_machine_lacks_is_one_line(capsys, error, expected):
    def fail():
        raise error

    with pytest.raises(SystemExit) as end:
        cli._guarded(fail)
    assert end.value.code == 2
    assert re.fullmatch(rf"error: {expected}.*\n", capsys.readouterr().err)


def test_error_of_the_program_is_no_fault_of_the_machine():
    assert system_errors.explain(ValueError("shapes do not match")) is None
    with pytest.raises(ZeroDivisionError):
        cli._guarded(lambda: 1 / 0)


@pytest.fixture
def of_another(tmp_path, monkeypatch):
    """A lock file that may not be opened for writing until it is made anew."""
    (tmp_path / lock.NAME).write_text("{}")
    acquire, left = lock._acquire, (tmp_path / lock.NAME).stat().st_ino

    def refuse(held, path):
        if path.exists() and path.stat().st_ino == left:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        acquire(held, path)

    monkeypatch.setattr(lock, "_acquire", refuse)
    return tmp_path


def test_b30_lock_file_that_another_user_left_is_no_obstacle(of_another):
    with lock.held(of_another):
        assert json.loads((of_another / lock.NAME).read_text())["pid"] == os.getpid()
    assert not (of_another / lock.NAME).exists()


def test_b30_lock_that_another_user_holds_holds(of_another):
    theirs = filelock.FileLock(of_another / lock.NAME, fallback_to_soft=False)
    with theirs, pytest.raises(UserError, match="is in use by"), lock.held(of_another):
        pass


def test_b30_owner_of_what_may_not_be_written_is_named(of_another, monkeypatch):
    monkeypatch.setattr(lock, "_remove_left_by_another", lambda path: False)
    owner = (of_another / lock.NAME).owner()
    expected = rf"Permission denied \(.*\.lock\), a file of {owner}'s; choose another folder"
    with pytest.raises(UserError, match=expected), lock.held(of_another):
        pass


def test_b30_lock_file_can_be_written_by_the_group_where_files_can(tmp_path):
    before = os.umask(0o002)
    try:
        with lock.held(tmp_path):
            assert (tmp_path / lock.NAME).stat().st_mode & 0o777 == 0o664
    finally:
        os.umask(before)


def test_b30_run_on_a_disk_that_cannot_be_written_is_quiet(settled):
    settled()
    warnings.warn("Error writing persistent compilation cache entry", stacklevel=1)
    with pytest.raises(UserWarning, match="another"):  # warnings are errors in tests
        warnings.warn("another", stacklevel=1)


def test_b39_log_file_gets_a_line_at_times_and_a_terminal_a_bar(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    texts = []
    for is_terminal in (False, True):
        stream = io.StringIO()
        stream.isatty = lambda is_terminal=is_terminal: is_terminal
        monkeypatch.setattr(sys, "stderr", stream)
        with progress.Progress(total=4, unit=" clips", desc="check") as bar:
            for _ in range(4):
                bar.update()
        texts.append(stream.getvalue())
    lines = texts[0].splitlines()
    assert "\r" not in texts[0]
    assert all(re.match(r"check: \d of 4 clips, ", line) for line in lines)
    assert lines[-1].startswith("check: 4 of 4 clips")
    assert "\r" in texts[1]


def test_b39_short_work_writes_no_line(capsys):
    with progress.Progress(total=4, unit=" clips", desc="check") as bar:
        bar.update(4)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("number", files.NOT_DAMAGE)
def test_b27_words_of_the_system_are_found_in_wrapped_errors(number):
    words = os.strerror(number)
    wrapped = RuntimeError("cannot read")
    wrapped.__cause__ = OSError(number, words)
    assert files.system_words(wrapped) == f"{words}; {files.NOT_DAMAGE[number]}"
    told = files.system_words(ValueError(f"Error [os_error_code='{number}']"))
    assert told == f"{words}; {files.NOT_DAMAGE[number]}"
    told = files.system_words(ValueError(f"DATA_LOSS: {words}: a.bin"))
    assert told == f"DATA_LOSS: {words}: a.bin; {files.NOT_DAMAGE[number]}"
    assert files.system_words(ValueError("Error [os_error_code='2']")) is None


def test_warnings_of_our_own_are_shown_by_commands(tmp_path):
    """The root logger is silenced against other packages, ours is not."""
    words = ("--config", "splits/5pct.py", "--config.features.n_fft=1000")
    done = call("complexity", *words, "--config.features.win_length=1000", cwd=tmp_path)
    assert done.stderr.startswith("WARNING: ")


@pytest.mark.parametrize(
    ("words", "status", "expected"),
    [
        (("help", "config"), 0, "usage: asc-jax config show"),
        (("prepare_data", "--help"), 0, "usage: asc-jax prepare-data"),
        (("Train",), 2, "unknown verb 'Train': did you mean train?"),
    ],
)
def test_verbs_as_people_type_them(tmp_path, words, status, expected):
    done = call(*words, cwd=tmp_path)
    assert done.returncode == status
    assert expected in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--config", "run/config.json"), "no Python file, as a config is: .*--workdir run$"),
        (("--config.model=tf_sepnet",), "is a section: .*--config.model.name=tf_sepnet"),
        (("--config.train.keep_best=yes",), "keep_best=yes: expected true or false"),
    ],
)
def test_values_as_people_type_them(tmp_path, words, expected):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text("{}")
    words = words if "--config" in words else ("--config", "splits/5pct.py", *words)
    done = call("complexity", *words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(expected, done.stderr.strip())


def test_page_of_robustness_names_tests_that_exist():
    here = pathlib.Path(__file__).parent
    page = (here.parent / "docs/robustness.md").read_text("utf-8")
    named = {*re.findall(r"`(test_\w+\.py)::(test_\w+)`", page)}
    assert len(named) > 100
    for file, test in named:
        assert f"def {test}(" in (here / file).read_text("utf-8"), f"{file}::{test}"


def test_signal_that_comes_where_nothing_can_be_raised_is_not_lost(monkeypatch, capsys):
    """A callback of Python's collector, of which JAX has one."""
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    sent = []

    def send(*_):
        if not sent:
            sent.append(signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    def work():
        gc.callbacks.append(send)
        gc.collect()
        threading.Event().wait(HANGS_S)

    try:
        with pytest.raises(SystemExit) as end:
            cli._guarded(work)
    finally:
        gc.callbacks.remove(send)
    assert end.value.code == 128 + signal.SIGTERM
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("line", ["2>/dev/full", "2>&1 >/dev/null | true"])
def test_full_or_closed_standard_error_leaves_the_exit_status(tmp_path, line):
    done = shell(f'"$@" {line}; echo $?', "nonsense", cwd=tmp_path)
    assert done.stdout in ("2\n", "0\n")  # 0: that of `true`
    assert "Traceback" not in done.stderr


def test_recording_that_begins_with_a_quote_can_be_given(tmp_path):
    (tmp_path / "“x”.wav").touch()
    assert cli._typed("“x”.wav") == "“x”.wav"
    with contextlib.chdir(tmp_path):
        (tmp_path / "—a.wav").touch()
        assert cli._typed("—a.wav") == "—a.wav"


@pytest.mark.parametrize("name", ["JAX_TRANSFER_GUARD", "JAX_NUMPY_DTYPE_PROMOTION"])
def test_variables_that_reject_sound_programs_are_dropped(settled, name):
    settled(**{name: "strict"})
    assert name not in os.environ


def test_b30_lock_file_that_has_just_taken_its_place_stays(of_another, monkeypatch):
    path = of_another / lock.NAME
    flock = fcntl.flock

    def replaced_meanwhile(*args):
        path.unlink()
        path.write_text("new")
        flock(*args)

    monkeypatch.setattr(fcntl, "flock", replaced_meanwhile)
    assert lock._remove_left_by_another(path)
    assert path.read_text() == "new"


def test_lock_file_that_is_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / lock.NAME)
    assert lock._remove_left_by_another(tmp_path / lock.NAME) in (True, False)


def test_picture_replaces_no_file_but_a_picture(tmp_path):
    for name, content in (("config.json", b"{}"), ("a.wav", b"RIFF")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: there is a file already that is no PNG"):
            figures.require_png(tmp_path / name)
    (tmp_path / "a.png").write_bytes(figures.PNG_SIGNATURE)
    for name in ("a.png", "none.png"):
        figures.require_png(tmp_path / name)
