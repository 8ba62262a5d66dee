"""Test what a submission says of each student's size, and that a teacher is not submitted."""

import jax
import numpy as np
import pytest
from small_submission import random_summary, write_author
from test_students import NIGHTLY, config_of

from asc_jax import experiment
from asc_jax.challenge.submission import package
from asc_jax.challenge.submission.author import read_author
from asc_jax.data.tau.taxonomy import LABELS
from asc_jax.errors import UserError
from asc_jax.evaluation import evaluate, result_files
from asc_jax.machine import version
from asc_jax.training.workdir import checkpoints, run_config


def write_run(workdir, name, **features):
    """Write a run of that config as the last epoch and `eval.py` leave it, of untrained zeros."""
    config = config_of(name)
    config.features.update(features)
    made = experiment.make(config)
    run_config.save(workdir, f"{name}.py", config)
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), made.abstract_state())
    extra = {"epoch": config.train.n_epochs, "code_version": version.code_version()}
    manager = checkpoints.Checkpoints(workdir)
    manager.save(7, state.replace(step=np.asarray(7, np.int32)), extra)
    manager.close()
    run = evaluate.open_run(workdir)
    results = evaluate.describe(run.experiment, run.name, run.extra, run.step)
    results |= {"stored_dtype": config.precision.stored, "formats": {}, "official_lists": True}
    results |= {"labels": LABELS.to_dict(), "checkpoint": "last", "float16": random_summary()}
    result_files.write_results(results, workdir)
    return workdir


def by_day(day, others):
    return [*day, *(pytest.param(*each, marks=NIGHTLY) for each in others)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "features", "params", "macs"),
    by_day(
        [("students/rep_mobile", {}, 60_664, 17_047_552)],
        [
            ("students/rep_mobile", {"pre_emphasis": 0.0}, 60_664, 18_573_312),
            ("students/cp_mobile_61160", {}, 61_160, 29_416_448),
            ("students/cp_mobile_61160", {"pre_emphasis": 0.97}, 61_160, 26_951_680),
            ("students/cp_mobile_half", {}, 61_160, 17_047_552),
            ("students/cp_mobile_half", {"pre_emphasis": 0.0}, 61_160, 18_573_312),
            ("students/cp_mobile_12310", {}, 12_310, 3_883_008),
            ("students/cp_mobile_12310", {"pre_emphasis": 0.0}, 12_310, 4_292_864),
            ("students/cnn_gru", {}, 58_171, 10_889_944),
            ("tf_sepnet_40", {"pre_emphasis": 0.97}, 53_370, 7_025_200),
        ],
    ),
)
def test_submission_states_the_size_of_the_network_as_deployed(
    tmp_path, name, features, params, macs
):
    run = package._open_run(write_run(tmp_path / "run", name, **features), practice=False)
    author = read_author(write_author(tmp_path / "author.yaml"))
    meta = package.make_meta(author, [run])
    expected = {"total_model_size": 2 * params, "total_parameters": params, "macs": macs}
    assert meta["system"]["complexity"] == expected
    stored = {leaf.dtype for leaf in jax.tree.leaves(run.variables)}
    assert stored == {np.dtype(np.float32)}
    assert sum(leaf.size for leaf in jax.tree.leaves(run.variables["params"])) == params


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    by_day(["teachers/cp_resnet"], [("teachers/tf_sepnet_64",), ("teachers/cp_mobile_126952",)]),
)
def test_teacher_is_not_submitted(tmp_path, name):
    workdir = write_run(tmp_path / "run", name)
    with pytest.raises(UserError, match=r"is a teacher's .*It cannot be submitted"):
        package.open_runs([workdir], practice=True)  # before the missing splits are named
