"""`train.py` and `eval.py` as a person starts them: what they print, and how they end."""

import csv
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from commands import HANGS_S, call, started
from small import small_config
from tau_folder import write_tau
from tiny import TINY_FLAGS

from asc_jax.cli import prepare_data, train
from asc_jax.data.tau.taxonomy import SCENES
from asc_jax.training.workdir import run_config

ROOT = pathlib.Path(__file__).parent.parent
# What other processes need to find the package, and the network of `tiny.py`.
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))}
REPORT = ("--config", "splits/5pct.py")
NO_DATA = r"no data set in .*data/tau22: build one with `asc-jax prepare-data .*"


def command(script, *args):
    return [sys.executable, str(ROOT / script), *map(str, args)]


def start(script, *args, cwd):
    """The finished process; whatever happened, no traceback."""
    done = subprocess.run(command(script, *args), cwd=cwd, text=True, capture_output=True)
    assert "Traceback" not in done.stderr
    return done


def refused(script, *args, cwd):
    """The one line of a verb that refused its input."""
    done = call(script.removesuffix(".py"), *args, cwd=cwd)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert not list(pathlib.Path(cwd).glob("runs/*")), "a refused run leaves nothing behind"
    assert re.fullmatch(r"error: [^\n]+\n", done.stderr), done.stderr
    return done.stderr


@pytest.mark.parametrize(
    "config", [REPORT, ("--config", "configs/splits/5pct.py"), ("--config=splits/5pct.py",)]
)
def test_missing_data_set_says_how_to_get_it_and_names_the_demo(tmp_path, config):
    """From a folder that is not the repository, in each spelling of the config."""
    message = refused("train.py", *config, cwd=tmp_path)
    assert re.search(NO_DATA, message)
    assert "make demo" in message


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((), "which config? For example: asc-jax train --config splits/5pct.py"),
        (("--config", "splits/5pc.py"), "no config 'splits/5pc.py': did you mean splits/5pct.py?"),
        (("--config=", "splits/5pct.py"), "no config ''"),
        (("--config.schedule.peak_lr=1",), "--config comes first"),
        (
            (*REPORT, "--config.schedule.peak_rl=1"),
            "unknown config key config.schedule.peak_rl: did you mean config.schedule.peak_lr?",
        ),
        ((*REPORT, "--config.qqq=1"), "unknown config key config.qqq: `asc-jax config show NAME`"),
        (
            (*REPORT, "--config.augment.mixup.p=1"),
            "there is no section config.augment.mixup, and an augmentation is added in a config f",
        ),
        ((*REPORT, "--config.train.keep_best", "True"), "on the command line: True (a flag is"),
        ((*REPORT, "--config.data.batch_size=abc"), "--config.data.batch_size=abc: invalid"),
        ((*REPORT, "--config.data.batch_size=0"), "config.data.batch_size is 0, expected in 1 …"),
        ((*REPORT, "--config.model.name=foo"), "name is 'foo': unknown; known are cp_mobile"),
        ((*REPORT, "stray", "words"), "unexpected words on the command line: stray words"),
        ((*REPORT, "--wrkdir=x"), "Did you mean: workdir"),
    ],
)
def test_wrong_command_line_is_named(tmp_path, args, expected):
    assert expected in refused("train.py", *args, cwd=tmp_path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("def get_config(:\n", "the config file cannot be loaded: invalid syntax (mine.py, line 1"),
        (
            "from configs import base\ndef get_config():\n    config = base.get_config()\n"
            "    config.schedule.peak_rl = 1\n    return config\n",
            'Did you mean "peak_lr" instead of "peak_rl"? (`asc-jax config show base.py`',
        ),
    ],
)
def test_broken_config_file_is_named(tmp_path, content, expected):
    (tmp_path / "mine.py").write_text(content)
    assert expected in refused("train.py", "--config", "mine.py", cwd=tmp_path)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("features.hop_length=440", "32,785,408 MACs are 2,785,408 over the limit of 30,000,000"),
        ("model.width=40", "over the limit of 128,000; most go to b6/project"),
    ],
)
def test_over_budget_never_starts(tmp_path, override, expected):
    """Refused before the data set, which is not there either, is looked for."""
    message = refused("train.py", *REPORT, f"--config.{override}", cwd=tmp_path)
    assert expected in message
    assert re.search(r"most go to \S+ \([\d,]+\), \S+ \([\d,]+\), \S+ \([\d,]+\)", message)
    assert "data set" not in message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("budget.max_bytes=1000000", "config.budget.max_bytes is 1000000, expected in 1 … 128,000"),
        (
            "budget.max_macs=30000001",
            "max_macs is 30000001, expected in 1 … 30,000,000, the task's",
        ),
        ("budget.max_macs=0", "config.budget.max_macs is 0, expected in 1"),
        ("model.expansion=inf", "config.model.expansion is inf, expected above 0 and at most 64"),
        ("optim.weight_decay=nan", "config.optim.weight_decay is nan, expected at least 0"),
    ],
)
def test_limits_cannot_be_raised_and_values_must_be_numbers(tmp_path, override, expected):
    assert expected in refused("train.py", *REPORT, f"--config.{override}", cwd=tmp_path)


def test_over_budget_starts_when_it_is_not_enforced(tmp_path):
    args = (*REPORT, "--config.model.width=40", "--config.budget.enforce=False")
    assert re.search(NO_DATA, refused("train.py", *args, cwd=tmp_path))


def test_evaluation_refuses_a_network_over_the_budget(tmp_path):
    """Before a checkpoint, which is not there either, is looked for."""
    config = small_config(budget__max_bytes=1000)
    run_config.save(tmp_path / "run", "mine.py", config)
    message = refused("eval.py", "--workdir", "run", cwd=tmp_path)
    assert "over the limit of 1,000; most go to b6/project" in message
    assert "checkpoint" not in message


def test_evaluation_without_a_run_says_what_is_missing(tmp_path):
    assert "which run? For example" in refused("eval.py", cwd=tmp_path)
    assert "unexpected words" in refused("eval.py", "--workdir", "a", "b", cwd=tmp_path)
    message = refused("eval.py", "--workdir", "nowhere", cwd=tmp_path)
    assert "no run in nowhere: config.json is missing. Train first" in message
    run_config.save(tmp_path / "run", "splits/5pct.py", small_config())
    message = refused("eval.py", "--workdir", "run", cwd=tmp_path)
    assert "no checkpoint in run/checkpoints: train first" in message


@pytest.mark.parametrize(
    ("script", "names"), [("train.py", "config workdir"), ("eval.py", "workdir")]
)
def test_help_lists_the_flags(tmp_path, script, names):
    done = start(script, "--help", cwd=tmp_path)
    assert done.returncode == 0
    for name in names.split():
        assert f"\n  --{name} " in done.stdout


TINY = (
    "--config=demo.py",
    "--config.data.dir=data",
    "--config.data.batch_size=8",
    *TINY_FLAGS,
    "--config.train.n_epochs=6",
    "--config.train.checkpoint_every_epochs=2",
    "--config.train.eval_every_epochs=0",
    "--config.train.steps_per_call=2",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a built data set of 20 clips and a whole run on it."""
    pytest.importorskip("tensorflow_datasets")
    home = tmp_path_factory.mktemp("home")
    write_tau(home / "tau")
    prepare_data.prepare(home / "tau", home / "data")
    done = call("train", *TINY, "--workdir=whole", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "demo.py: 20 clips" in done.stdout
    assert "asc-jax eval --workdir whole" in done.stdout
    return home


def check_against_scikit_learn(workdir):
    """Each figure of `results.json` from the nine digits that `output.csv` gives each clip."""
    pytest.importorskip("sklearn")
    from sklearn import calibration, metrics

    results = json.loads((workdir / "results.json").read_text())
    with (workdir / "output.csv").open() as file:
        rows = list(csv.reader(file, delimiter="\t"))[1:]
    truth = np.array([SCENES.index(row[0].split("-")[0]) for row in rows])
    named = np.array([SCENES.index(row[1]) for row in rows])
    probs = np.array([row[2:] for row in rows], float)
    probs /= probs.sum(1, keepdims=True)
    right, sure = named == truth, probs.max(1)
    n_bins = len(results["calibration"]["as_trained"]["bins"])
    accuracies, means = calibration.calibration_curve(right, sure, n_bins=n_bins)
    clips = np.histogram(sure, n_bins, (0, 1))[0]
    ece = np.sum(np.abs(accuracies - means) * clips[clips > 0]) / len(rows)
    ours = results[results["stored_dtype"]]
    recalls = metrics.recall_score(truth, named, average=None, labels=np.unique(truth))
    close = {"rel": 0, "abs": 1e-9}
    assert ours["macro_accuracy"] == pytest.approx(recalls.mean(), **close)
    assert ours["log_loss"] == pytest.approx(
        metrics.log_loss(truth, probs, labels=range(10)), rel=0, abs=1e-8
    )
    assert results["calibration"]["as_trained"]["ece"] == pytest.approx(ece, **close)
    assert ours["confusion"] == metrics.confusion_matrix(truth, named, labels=range(10)).tolist()


def train_lines(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(line["epoch"], line["step"], line["loss"], line["accuracy"]) for line in lines]


@pytest.mark.slow
def test_evaluation_writes_its_results(home):
    done = call("eval", "--workdir", "whole", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "macro" in done.stdout
    results = json.loads((home / "whole" / "results.json").read_text())
    assert results["config"] == "demo.py"
    assert (results["epoch"], results["step"]) == (6, 18)
    for dtype in ("float32", "bfloat16", "float16"):
        assert results["formats"][dtype]["changed_top_scene"] in range(8)
        assert results[dtype]["n_clips"] == 7
        assert 0 <= results[dtype]["accuracy"] <= 1
    assert len((home / "whole" / "output.csv").read_text().splitlines()) == 8
    for name in ("confusion", "by_device", "learning_curve"):
        assert (home / "whole" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert results["segments"]["n_segments"] == 7  # a clip each
    assert results["calibration"]["temperature"] is None
    page = (home / "whole" / "report.html").read_text("utf-8")
    assert "No temperature: no clips to fit one on" in page
    assert page.count("<svg") == 2 + len(results["most_confused"])
    assert page.count("<audio") == len(results["most_confused"])
    assert results["intervals"]["clusters"] == "moments"
    assert results["by_class_and_value"]["device"]["values"][0] == "a"
    assert results["run"]["changed"]["config.features.n_mels"] == "32"
    check_against_scikit_learn(home / "whole")


# The network of `tiny.py`, which compiles at once.
OVER = """
from configs import demo

def get_config():
    config = demo.get_config().unlock()
    config.model = {"name": "tiny:Tiny", "width": 8}
    return config.lock()
"""


@pytest.fixture(scope="module")
def over(home):
    """Printed by training and evaluating an over-budget network, selected on locations held out."""
    (home / "over.py").write_text(OVER)
    model = ("--config.model.name=tiny:Tiny", "--config.model.width=2000")
    budget = ("--config=over.py", *TINY[1:], *model)
    budget += ("--config.budget.max_bytes=1000000", "--config.budget.enforce=False")  # no way past
    length = ("--config.train.n_epochs=1", "--config.train.eval_every_epochs=1")
    best = ("--config.data.validation_locations=0.5", "--config.train.keep_best=True")
    trained = call("train", *budget, *length, *best, "--workdir=over", cwd=home)
    assert trained.returncode == 0, trained.stderr
    look = ("--checkpoint=best", "--stored=bfloat16")
    evaluated = call("eval", "--workdir=over", *look, cwd=home)
    assert evaluated.returncode == 0, evaluated.stderr
    return trained.stdout, evaluated.stdout


@pytest.mark.slow
@pytest.mark.nightly
def test_run_with_locations_held_out_selects_and_calibrates_on_them(home, over):
    """Of each scene's two locations one, with a clip each; the test list chooses nothing."""
    trained, evaluated = over
    assert "over.py: 10 clips" in trained
    assert "held out: 10 clips, of 50% of the locations" in trained
    assert "validation macro accuracy" in trained
    assert "test macro accuracy" not in trained
    out = home / "over" / "best_checkpoint"
    results = json.loads((out / "results.json").read_text())
    assert results["selection"] == "selected on training locations held out"
    assert results["validation"]["n_clips"] == len(results["validation"]["locations"]) == 10
    assert "held out    10 training locations, 10 clips" in evaluated
    assert "selected on training locations held out" in (out / "report.html").read_text("utf-8")


@pytest.mark.slow
def test_evaluation_can_store_in_another_format(home, over):
    results = home / "over" / "best_checkpoint" / "results.json"
    assert json.loads(results.read_text())["stored_dtype"] == "bfloat16"


@pytest.mark.slow
def test_over_budget_is_stamped_into_every_output(home, over):
    run = home / "over"
    assert all("OVER BUDGET" in printed for printed in over)
    for line in (run / "metrics.jsonl").read_text().splitlines():
        assert json.loads(line)["over_budget"] is True
    events = b"".join(path.read_bytes() for path in run.glob("tensorboard/*"))
    assert b"over_budget" in events
    for meta in run.glob("*/*/meta/metadata"):
        assert json.loads(meta.read_text())["over_budget"] is True, meta
    assert len(list(run.glob("*/*/meta/metadata"))) == 2  # of the last checkpoint and of the best
    for name in ("config.json", "best.json", "best_checkpoint/results.json"):
        assert json.loads((run / name).read_text())["over_budget"] is True
    lines = (run / "best_checkpoint" / "output.csv").read_text().splitlines()
    assert all(line.endswith("\tover budget") for line in lines[1:])
    assert "OVER BUDGET" in (run / "best_checkpoint" / "report.html").read_text("utf-8")


@pytest.mark.slow
def test_data_set_that_has_gone_is_an_error(home):
    message = call("eval", "--workdir=whole", "--data_dir=gone", cwd=home).stderr
    assert "gone: build one with" in message


@pytest.mark.slow
def test_finished_run_says_there_is_nothing_to_do_and_refuses_another_config(home):
    done = call("train", *TINY, "--workdir=whole", cwd=home)
    assert done.returncode == 0
    assert "whole: nothing to do, all 18 steps are done" in done.stdout
    done = call("train", *TINY, "--workdir=whole", "--config.seed=1", cwd=home)
    assert done.returncode == 2
    assert "belongs to a run with another config: config.seed was 0, now 1" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("config", "show", "base.py"),
        pytest.param(
            ("train", *TINY, "--workdir=whole"), marks=[pytest.mark.slow, pytest.mark.nightly]
        ),
    ],
)
def test_output_that_cannot_be_written_is_told_in_a_line(home, words):
    args = [sys.executable, "-m", "asc_jax", *words]
    options = {"cwd": home, "text": True, "stderr": subprocess.PIPE}
    options["env"] = ENVIRONMENT
    with open("/dev/full", "w") as full:
        done = subprocess.run(args, stdout=full, **options)
    expected = "error: cannot write to standard output: No space left on device\n"
    assert (done.returncode, done.stderr) == (2, expected)
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(args, stdout=theirs, **options)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (141, ""), "as `head` ends it"


# `asc-jax train`, which stands still after its first epoch until its standard input ends.
STANDS_STILL = """
import sys
sys.modules["torch"] = None  # which TensorBoard's writer would import, for seconds
from asc_jax import cli
from asc_jax.training.workdir.journal import Journal

def log(self, entry, whole=Journal.log):
    whole(self, entry)
    print("an epoch is logged", flush=True)
    sys.stdin.read()

Journal.log = log
cli.main("train")
"""


@pytest.mark.slow
def test_terminated_run_exits_with_143_and_goes_on_to_the_same_figures(home):
    args = [sys.executable, "-c", STANDS_STILL, *TINY, "--workdir=stopped"]
    replicas = {"JAX_NUM_CPU_DEVICES": str(jax.device_count())}  # as many as in this process
    env = ENVIRONMENT | replicas
    with started(args, cwd=home, env=env) as process:
        assert "an epoch is logged\n" in iter(process.stdout.readline, ""), process.stderr.read()
        process.send_signal(signal.SIGTERM)
        message = process.communicate(timeout=HANGS_S)[1]  # which lets it go on
    assert process.returncode == 128 + signal.SIGTERM, message
    assert re.search(r"stopped after step \d+ of 18, saved in stopped; run the same", message)
    assert "Traceback" not in message
    done = call("train", *TINY, "--workdir=stopped", cwd=home)
    assert done.returncode == 0, done.stderr
    assert re.search(r"resuming stopped at step \d+ of 18", done.stdout)
    assert train_lines(home / "stopped") == train_lines(home / "whole")


@pytest.mark.parametrize(("warmup_steps", "said"), [(8, True), (7, False)])
def test_run_that_ends_within_its_warm_up_is_told(capsys, warmup_steps, said):
    config = small_config(schedule__warmup_steps=warmup_steps, train__n_epochs=4)
    cost = dict.fromkeys(("n_params", "macs", "bytes"), 1)
    experiment = types.SimpleNamespace(
        config=config, cost=cost, within_budget=True, is_teacher=False
    )
    train.announce("x.py", experiment, range(config.data.batch_size + 1), "runs/x")
    printed = capsys.readouterr().out
    note = "note: the run's 8 steps end within the warm-up of 8, so it learns little: --config.sch"
    assert (note in printed) == said
