"""The whole table from one command: what is planned, what is refused, and killed on the way."""

import contextlib
import fcntl
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time
import types

import pytest
from finished_runs import finish, plan
from small import SMALL_FLAGS
from table1_data import write_data

from asc_jax.challenge.table1.runs import Run
from asc_jax.cli import campaign_flags, table1
from asc_jax.errors import Interrupted, UserError
from asc_jax.evaluation.campaign import processes
from asc_jax.training.workdir import run_config

ROOT = pathlib.Path(__file__).parent.parent
TINY = (
    "--config.data.dir=data",
    "--config.data.batch_size=8",
    *SMALL_FLAGS,
    "--config.train.n_epochs=2",
    "--config.train.eval_every_epochs=0",
    "--config.train.steps_per_call=1",
)

# ml_collections loads config files that way.
OLD_LOADER = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def start(*args, cwd, **env):
    command = [sys.executable, "-m", "asc_jax.cli.table1", *args]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=cwd, env=environment, **pipes)


def planned(system, percent=5, overrides=(), n_clips=6_980):
    """The config of one run, on a training list of so many clips."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table1, "_n_clips", lambda data_dir, split: n_clips)
        return table1.plan(pathlib.Path("out"), system, percent, 1, overrides)


def differences(a, b):
    """Names of the values in which two configs differ."""
    flat = [
        {
            f"{section}.{key}": value
            for section, values in config.to_dict().items()
            if isinstance(values, dict)
            for key, value in values.items()
        }
        for config in (a.config, b.config)
    ]
    return {key: flat[0][key] for key in flat[0] if flat[0][key] != flat[1][key]}


@OLD_LOADER
def test_plan_is_the_systems_own_config_with_seed_and_overrides():
    run = planned("report", 50, ("--config.train.n_epochs=3",))
    assert run.config_name == "splits/50pct.py"
    assert (run.config.data.train_split, run.config.data.batch_size) == ("train_50pct", 130)
    assert (run.config.seed, run.config.train.n_epochs) == (1, 3)
    assert run.workdir == pathlib.Path("out/report/50pct/seed1")
    assert run.work == 3 * 6_980
    assert run.title == "report, 50 %, seed 1"


@OLD_LOADER
def test_ablation_changes_one_thing_at_a_time_from_baseline_to_report():
    chain = [planned(name) for name in ("baseline", *table1.STEPS)]
    loss, hop, batch, warm_up = (differences(b, a) for a, b in zip(chain, chain[1:], strict=False))
    assert loss == {"loss.gamma": 2.0}
    assert hop == {"features.hop_length": 472}
    # 28 steps an epoch become 90; 2,000 steps of warm-up were 47.6 % of 4,200 and remain so
    assert batch == {"data.batch_size": 78, "schedule.warmup_steps": round(2000 * 90 / 28)}
    assert warm_up == {"schedule.warmup_steps": 2000}


@OLD_LOADER
def test_ablation_of_a_large_split_changes_the_rate_with_the_batch():
    before, after = (planned(n, 50, n_clips=69_800) for n in ("ablation_hop", "ablation_batch"))
    assert set(differences(after, before)) == {
        "data.batch_size",
        "schedule.peak_lr",
        "schedule.warmup_steps",
    }


def test_wrong_input_is_refused_in_one_line_before_anything_runs(tmp_path):
    process = start("--config.schedule.peak_rl=1", cwd=tmp_path)
    said = process.communicate()[0]
    assert process.returncode == 2, said
    assert re.fullmatch(r"error: [^\n]+\n", said), said
    assert (
        "unknown config key config.schedule.peak_rl: did you mean config.schedule.peak_lr?" in said
    )
    assert list(tmp_path.iterdir()) == []


@OLD_LOADER
@pytest.mark.parametrize(
    ("words", "collect_only", "expected"),
    [
        (["stray"], False, "unexpected words on the command line: stray"),
        ([], False, "no data set in"),
        ([], True, "none of the 4 runs is done: report, 5 %, seed 0: not begun"),
    ],
)
def test_what_cannot_be_done_is_refused(tmp_path, monkeypatch, words, collect_only, expected):
    given = types.SimpleNamespace(
        out=str(tmp_path / "out"),
        splits=["5", "10"],
        systems=["report", "baseline"],
        seeds=["0"],
        ablation=False,
        collect_only=collect_only,
    )
    monkeypatch.setattr(table1, "flags", types.SimpleNamespace(FLAGS=given))
    monkeypatch.setattr(table1, "keep_accelerator_free", lambda: None)
    with pytest.raises(UserError, match=expected):
        table1.main(["table1", *words], [f"--config.data.dir={tmp_path}"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flag", "values", "known", "expected"),
    [
        ("splits", ["5", "7"], (5, 10), "--splits=5,7: expected some of 5,10, each once"),
        ("splits", [], (5, 10), "--splits=: expected some of 5,10, each once"),
        ("seeds", ["0", "0"], None, "--seeds=0,0: expected some of 0, each once"),
        ("seeds", ["-1"], None, "--seeds=-1: expected whole numbers from 0, with commas"),
    ],
)
def test_unknown_and_doubled_values_are_refused(flag, values, known, expected):
    with pytest.raises(UserError) as error:
        campaign_flags.numbers(flag, values, known)
    assert str(error.value) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--config.schedule.peak_lr", "expected --config.schedule.peak_lr=value, in one word"),
        ("--config.seed=3", "--config.seed differs from run to run: choose with --seeds"),
        ("--config.data.train_split=x", "choose with --splits"),
        ("--config.train.n_seeds=2", "choose with --seeds; --seeds_together"),
        ("--config.budget.role=teacher", "--config.budget.role is not for a run of this table"),
    ],
)
def test_overrides_that_cannot_apply_to_all_runs_are_refused(given, expected):
    with pytest.raises(UserError, match=expected):
        campaign_flags.check_overrides([given], table1.CHOSEN)


def test_crash_of_one_run_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    runs = [plan(tmp_path, "report", percent, 0) for percent in (5, 10, 25)]
    finish(runs[2], 0.5)
    monkeypatch.setattr(processes, "COMMAND", [sys.executable, str(tmp_path / "none.py")])
    failed = processes.carry_out(runs, tmp_path / "cache")
    assert list(failed) == ["report, 5 %, seed 0", "report, 10 %, seed 0"]
    for reason in failed.values():
        assert reason.startswith("train ended with status 2; its last line: ")
        assert "No such file" in reason
        assert ".log)" in reason
    assert "1/3  report, 5 %, seed 0" in capsys.readouterr().out


@pytest.fixture
def sleeping(tmp_path, monkeypatch):
    """Two runs whose training does nothing, for long."""
    (tmp_path / "sleep.py").write_text(
        "import time\nprint('sleeping', flush=True)\ntime.sleep(600)"
    )
    monkeypatch.setattr(processes, "COMMAND", [sys.executable, str(tmp_path / "sleep.py")])
    return [plan(tmp_path, "report", percent, 0) for percent in (5, 10)]


@pytest.fixture
def meanwhile(monkeypatch):
    """`meanwhile(do)`: a campaign that waits calls `do()` again and again until it is true."""

    def call(do):
        done = []

        def sleep(seconds):
            if not done and do():
                done.append(True)
            time_sleep(min(seconds, 0.01))

        monkeypatch.setattr(processes.time, "sleep", sleep)

    time_sleep = time.sleep
    return call


def test_stop_signal_reaches_the_run_and_ends_the_command(tmp_path, sleeping, meanwhile):
    def stop_once_it_sleeps():
        if b"sleeping" not in pathlib.Path(f"{sleeping[0].workdir}.log").read_bytes():
            return False
        os.kill(os.getpid(), signal.SIGTERM)
        return True

    meanwhile(stop_once_it_sleeps)
    with pytest.raises(Interrupted, match="run the same command again to resume") as error:
        processes.carry_out(sleeping, tmp_path / "cache")
    assert error.value.signal_number == signal.SIGTERM
    log = pathlib.Path(f"{sleeping[0].workdir}.log")
    with log.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody works on the run any more
    assert not sleeping[1].workdir.with_suffix(".log").exists()


def test_run_that_another_process_works_on_is_waited_for(tmp_path, sleeping, meanwhile, capsys):
    """As after a SIGKILL of the command alone; once the other is done nothing is done again."""
    run = sleeping[0]
    log = pathlib.Path(f"{run.workdir}.log")
    log.parent.mkdir(parents=True)
    with log.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        def done():
            finish(run, 0.5)
            fcntl.flock(held, fcntl.LOCK_UN)
            return True

        meanwhile(done)
        assert processes.carry_out([run], tmp_path / "cache") == {}
    assert f"waiting: another process still works on {run.workdir}" in capsys.readouterr().out
    assert log.read_text() == ""


def test_nothing_runs_when_one_workdir_belongs_to_another_config(tmp_path):
    runs = [plan(tmp_path, "report", percent, 0) for percent in (5, 10)]
    finish(runs[1], 0.5)
    before = (runs[1].workdir / "config.json").read_bytes()
    runs[1].config.unlock().schedule.peak_lr = 0.01
    with pytest.raises(UserError, match=r"peak_lr was 0.005, now 0.01. Choose another --out"):
        processes.carry_out(runs, tmp_path / "cache")
    assert not runs[0].workdir.exists()
    assert (runs[1].workdir / "config.json").read_bytes() == before


def test_progress_counts_clips_and_tells_the_time_left(tmp_path, monkeypatch):
    runs = [plan(tmp_path, "report", percent, 0) for percent in (5, 10)]  # 100 and 200 clips
    clock = iter([0.0, 60.0])
    monkeypatch.setattr("asc_jax.evaluation.campaign.processes.time.monotonic", lambda: next(clock))
    with processes.Progress(runs, set()) as progress:
        assert progress.left() == ""
        progress.end(runs[0])
        assert progress.left() == ", about 2 min left"


def outputs(out):
    """The table in its five forms, and every run's probabilities."""
    paths = [*out.glob("table1.*"), *out.glob("*/*/*/output.csv")]
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    pytest.importorskip("tensorflow_datasets")
    home = tmp_path_factory.mktemp("home")
    write_data(home / "tau")
    build = [sys.executable, "-m", "asc_jax.cli.prepare_data", "--tau_dir", str(home / "tau")]
    subprocess.run([*build, "--data_dir", str(home / "data")], cwd=ROOT, check=True)
    return home


def kill(process, *, with_child):
    """SIGKILL for the command; its run is killed too, or is left to end by itself."""
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.communicate()  # closes its pipe
    if with_child:
        for child in children:
            with contextlib.suppress(ProcessLookupError):  # it may just have ended
                os.kill(int(child), signal.SIGKILL)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="finds children in /proc")
def test_table_killed_twice_and_resumed_is_the_same_bit_for_bit(home):
    """Two systems, killed at random moments: once with the run, once without it."""
    args = ("--splits=10", "--seeds=0", *TINY)
    env = {"JAX_COMPILATION_CACHE_DIR": str(home / "cache")}
    whole = start("--out=whole", *args, cwd=home, **env)
    said = whole.communicate()[0]
    assert whole.returncode == 0, said
    assert "Not comparable with the published figures" in said
    for with_child in (True, False):
        process = start("--out=killed", *args, cwd=home, **env)
        time.sleep(random.uniform(3, 15))
        kill(process, with_child=with_child)
    resumed = start("--out=killed", *args, cwd=home, **env)
    said = resumed.communicate()[0]
    assert resumed.returncode == 0, said
    assert len(outputs(home / "whole")) == 5 + 2
    assert outputs(home / "killed") == outputs(home / "whole")
    table = json.loads((home / "killed" / "table1.json").read_text())
    assert (len(table["results"]), table["missing"]) == (2, {})
    config = run_config.load(home / "killed" / "baseline" / "10pct" / "seed0")[1]
    assert (config.loss.gamma, config.data.train_split) == (0.0, "train_10pct")
    again = start("--out=killed", *args, cwd=home, **env)
    assert "all 2 runs are done" in again.communicate()[0]


def test_seeds_together_are_trained_in_one_call(tmp_path):
    """Runs alike but for consecutive seeds; the call leaves them where each would lie."""

    def run(percent, seed, *changes):
        given = ("--config.train.n_epochs=1", *changes, f"--config.seed={seed}")
        workdir = tmp_path / "report" / f"{percent}pct" / f"seed{seed}"
        parts = {"config_name": "x.py", "overrides": given, "config": None, "workdir": workdir}
        return Run("report", percent, seed=seed, n_clips=10, **parts)

    runs = [run(5, 0), run(10, 0), run(5, 1), run(5, 3), run(5, 2, "--config.schedule.peak_lr=1")]
    (group,) = processes.seed_groups(runs)
    assert group == [run(5, 0), run(5, 1)]
    command = processes.train_seeds(group)
    assert command[-3:] == [
        "--config.seed=0",
        "--config.train.n_seeds=2",
        f"--workdir={tmp_path / 'report' / '5pct'}",
    ]
    assert "--config.train.n_epochs=1" in command
