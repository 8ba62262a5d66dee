"""Two seeds in one program, with the smallest network; test_loop has them with the package's."""

from loop_runs import assert_seeds_differ, fit, fit_two_seeds
from tiny import tiny_config

from asc_jax import experiment


def test_seeds_in_one_program_train_as_each_alone(tmp_path):
    tiny = experiment.make(tiny_config(data__batch_size=8))
    fit(tiny, tmp_path / "alone")
    assert_seeds_differ(fit_two_seeds(tiny, tmp_path, together=True)[1], tmp_path / "alone")
