"""int8 as the stored form: what the budget counts, and what an evaluation says of it."""

import jax
import numpy as np
import pytest
from exported import moved_variables
from small import small_clips
from test_quantisation import mini_config

from asc_jax import experiment
from asc_jax.cli import complexity
from asc_jax.complexity import budget
from asc_jax.errors import UserError
from asc_jax.evaluation import evaluate, int8
from asc_jax.evaluation.report import tables
from asc_jax.operations import network, simulate
from asc_jax.quantisation import chip_cost


def large_config(**features):
    """CP-Mobile with 126,952 parameters in its own front end, stored as int8."""
    from configs.teachers import cp_mobile_126952

    config = cp_mobile_126952.get_config().unlock()
    config.precision.stored, config.budget.role = "int8", "submission"
    config.features.update(features)
    return config.lock()


def test_large_cp_mobile_is_within_the_rule_and_over_by_its_biases():
    """A byte for each parameter: 126,952. Folded: 122,760 weights, 2,090 biases, 12 of GRN."""
    rows, totals = budget.examine(large_config())
    assert (totals["bytes"], totals["n_params"]) == (126_952, 126_952)
    assert (totals["n_folded"], totals["bytes_folded"]) == (124_862, 122_760 + 4 * (2090 + 12))
    assert totals["macs"] == 28_889_088
    assert totals["within_budget"]
    assert sum(row.n_bytes for row in rows) == totals["bytes"]
    chip = chip_cost.examine(large_config(), measure_code=False)
    text = complexity.as_text("x", rows, complexity.as_program(totals, chip), chip)
    assert "131,126 bytes: 1 for a weight, 4 for a bias, 3,126 over the limit if" in text
    assert "1 byte for each of the 126,952 parameters in int8" in text
    assert "within budget" in text


def test_large_cp_mobile_is_over_the_products_at_65_frames():
    totals = budget.examine(large_config(hop_length=496))[1]
    assert (totals["macs"], totals["within_budget"]) == (31_680_000, False)


@pytest.fixture(scope="module")
def mini():
    parts = experiment.make(mini_config())
    return parts, jax.tree.map(np.asarray, moved_variables(parts))


def test_evaluation_gives_int8_beside_the_others(mini):
    parts, variables = mini
    clips, calibration = small_clips(12), small_clips(20, seed=1)
    results, predictions = evaluate.evaluate_precisions(
        parts, variables, clips, calibration_clips=calibration
    )
    assert [*results["formats"]] == ["float32", "bfloat16", "float16", "int8"]
    cost = results["formats"]["int8"]
    assert cost["bytes"] == parts.cost["bytes_int8"] < results["formats"]["float16"]["bytes"]
    assert results["int8"]["n_clips"] == 12
    assert 0 <= cost["changed_top_scene"] <= 12
    row = tables.make("formats", results).rows[-1]
    assert (row[0], row[-1]) == ("int8", "–")
    assert predictions.logits.dtype == np.float32


def test_evaluated_logits_are_those_of_the_program_that_is_converted(mini):
    parts, variables = mini
    config = parts.config.copy_and_resolve_references()
    config.precision.stored = "int8"
    stored = experiment.make(config)
    clips, calibration = small_clips(12), small_clips(20, seed=1)
    given = evaluate.evaluate_stored(stored, variables, clips, calibration_clips=calibration)
    integers = int8.make_program(stored, variables, None, calibration)
    x = simulate.quantise(integers.input, network.compute_log_mel(config, clips, 12))
    expected = simulate.dequantise(integers.output, simulate.simulator(integers)(x))
    np.testing.assert_array_equal(given.logits, expected)


def test_network_without_integers_is_named_and_refused_where_int8_is_stored(mini):
    parts = experiment.make(mini_config("Quotient"))
    variables, clips = moved_variables(parts), small_clips(4)
    results, _ = evaluate.evaluate_precisions(parts, variables, clips, calibration_clips=clips)
    assert "operation div of div has no rule" in results["formats"]["int8"]["refused"]
    assert "int8" not in results
    config = parts.config.copy_and_resolve_references()
    config.precision.stored = "int8"
    with pytest.raises(UserError, match="operation div of div has no rule"):
        evaluate.evaluate_stored(experiment.make(config), variables, clips, calibration_clips=clips)
    with pytest.raises(UserError, match="int8 needs clips of the split train_5pct"):
        int8.make_program(*mini, None)
