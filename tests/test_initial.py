"""A training that starts from the parameters of another run."""

import jax
import numpy as np
import pytest
from loop_runs import N_CLIPS, OPTIONS
from small import small_clips, small_config
from small_run import restored, write_run

from asc_jax import experiment
from asc_jax.errors import UserError
from asc_jax.evaluation import initial
from asc_jax.evaluation.evaluate import make_evaluator
from asc_jax.training import loop


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """`(workdir, variables)` of a run."""
    workdir = tmp_path_factory.mktemp("runs") / "other"
    return workdir, restored(write_run(workdir), workdir)


def parts_from(workdir, **overrides):
    return experiment.make(
        small_config(data__batch_size=8, init__from_run=str(workdir), **overrides)
    )


def test_everything_that_fits_is_taken_and_the_rest_is_fresh(other):
    workdir, theirs = other
    parts = parts_from(workdir, init__fresh="head/*", init__rate=0.25, init__freeze="stem*/*")
    begin = initial.start(parts)
    own = parts.variables()
    np.testing.assert_array_equal(
        begin.variables["params"]["b1"]["expand"]["kernel"],
        theirs["params"]["b1"]["expand"]["kernel"],
    )
    jax.tree.map(
        np.testing.assert_array_equal,
        begin.variables["params"]["head"],
        jax.tree.map(np.asarray, own["params"]["head"]),
    )
    factors = begin.factors
    assert {float(x) for x in jax.tree.leaves(factors["head"])} == {1.0}
    assert {float(x) for x in jax.tree.leaves(factors["b1"])} == {0.25}
    assert "arrays taken" in begin.report[0]
    assert any("head/" in line and "as init.fresh says" in line for line in begin.report)


def test_layers_of_another_width_are_fresh_and_named(other):
    workdir, theirs = other
    begin = initial.start(parts_from(workdir, model__expansion=3.0))
    assert any("there, (" in line for line in begin.report)
    np.testing.assert_array_equal(
        jax.tree.leaves(begin.variables["params"]["stem1"])[0],
        jax.tree.leaves(theirs["params"]["stem1"])[0],
    )


@pytest.mark.nightly
def test_frozen_parameters_stay_and_a_resumed_run_ends_in_the_same_bits(other, tmp_path):
    workdir, theirs = other
    parts = parts_from(workdir, init__freeze="b*/*")

    def fit(folder, n_epochs):
        options = OPTIONS | {"n_epochs": n_epochs}
        clips = small_clips(N_CLIPS)
        return loop.fit(
            parts, clips, None, folder, make_evaluator=make_evaluator, start=initial.start,
            **options,
        )  # fmt: skip

    whole = fit(tmp_path / "whole", 2)
    for name in ("kernel",):
        np.testing.assert_array_equal(
            whole.params["b1"]["expand"][name], theirs["params"]["b1"]["expand"][name]
        )
    assert not np.array_equal(
        jax.tree.leaves(whole.params["stem1"])[0], jax.tree.leaves(theirs["params"]["stem1"])[0]
    )
    again = fit(tmp_path / "whole", 2)  # nothing to do; the factors come from the checkpoint
    jax.tree.map(np.testing.assert_array_equal, whole, again)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"init__freeze": "nothing/*"}, "config.init.freeze: no parameter is named 'nothing/.'"),
        ({"init__rate": -1.0}, "config.init.rate is -1.0, expected in 0"),
        ({"init__checkpoint": "first"}, "config.init.checkpoint is 'first', expected last or best"),
    ],
)
def test_values_that_do_not_fit_are_named(other, overrides, message):
    with pytest.raises(UserError, match=message):
        initial.start(parts_from(other[0], **overrides))


def test_patterns_need_a_run_and_a_run_has_to_be_there(tmp_path):
    with pytest.raises(UserError, match="config.init.freeze is 'b1/.*', expected empty without"):
        experiment.make(small_config(init__freeze="b1/*"))
    with pytest.raises(UserError, match="no run in .*nowhere"):
        initial.start(parts_from(tmp_path / "nowhere"))
