"""The table's rows, and how far the network could go."""

import pytest
from small import small_config

from asc_jax import experiment
from asc_jax.complexity import budget
from asc_jax.errors import UserError


@pytest.fixture(scope="module")
def report_config():
    """The report's front end and network: 68 frames."""
    from configs import base

    config = base.get_config().unlock()
    config.features.hop_length = 472
    return config.lock()


def test_rows_add_up_to_the_published_totals(report_config):
    rows, totals = budget.examine(report_config)
    assert len(rows) == 21
    assert (rows[0].layer, rows[-1].layer) == ("stem1", "head")
    assert sum(row.macs for row in rows) == totals["macs"] == 29_425_664
    assert sum(row.n_bytes for row in rows) == totals["bytes"] == 122_296
    assert sum(row.n_params for row in rows) == totals["n_params"] == 61_148
    assert totals["macs_torchinfo"] == 29_428_372
    assert (totals["n_folded"], totals["bytes_folded"]) == (59_794, 119_588)
    assert totals["bytes_with_statistics"] == 127_712
    assert (totals["headroom_macs"], totals["headroom_bytes"]) == (574_336, 5704)
    assert totals["within_budget"] is True


def test_rows_say_what_each_layer_makes(report_config):
    rows = {row.layer: row for row in budget.examine(report_config)[0]}
    assert rows["stem1"] == budget.LayerCost("stem1", (128, 34, 8), 88, 313_344, 176)
    assert rows["b3/depthwise"].output_shape == (64, 9, 64)
    assert rows["head"].output_shape == (32, 9, 10)


def test_layers_without_products_have_rows_too():
    rows, totals = budget.examine(small_config(model__grn=True))
    grn = next(row for row in rows if row.layer == "b4/grn")
    assert (grn.macs, grn.n_params) == (0, 2)
    assert grn.output_shape == (4, 3, 16)
    assert sum(row.n_params for row in rows) == totals["n_params"]


@pytest.mark.parametrize("enforce", [True, False])
def test_over_budget_is_a_verdict_here_not_an_error(enforce):
    config = small_config(budget__max_bytes=1000, budget__enforce=enforce)
    totals = budget.examine(config)[1]
    assert totals["within_budget"] is False
    assert totals["headroom_bytes"] == 1000 - totals["bytes"] < 0


def test_wrong_values_are_refused_as_in_training():
    with pytest.raises(UserError, match="config.model.width is 0, expected at least 1"):
        budget.examine(small_config(model__width=0))


@pytest.mark.nightly  # one step further is tried below
@pytest.mark.slow
def test_the_reports_network_is_as_far_as_the_budget_goes(report_config):
    assert budget.solve(report_config) == {
        "n_frames": 68,
        "hop_lengths": (471, 477),
        "width": 32,
        "expansion": 2.12,
        "at_least": [],
    }


def test_one_step_further_is_over(report_config):
    for section, values in (
        ("features", {"hop_length": 470}),
        ("model", {"width": 40}),
        ("model", {"expansion": 2.13}),
    ):
        further = report_config.copy_and_resolve_references()
        further[section].update(values)
        assert not budget.examine(further)[1]["within_budget"], values
    edge = report_config.copy_and_resolve_references()
    edge.features.hop_length = 471
    assert experiment.make(edge).within_budget


def test_nothing_fits_a_budget_of_nothing():
    solved = budget.solve(small_config(budget__max_bytes=10))
    assert solved.pop("at_least") == []
    assert set(solved.values()) == {None}


@pytest.mark.nightly
def test_search_that_ends_before_the_budget_says_so(monkeypatch):
    monkeypatch.setattr(budget, "MAX_WIDTH", 16)
    monkeypatch.setattr(budget, "MAX_EXPANSION", 0.1)
    solved = budget.solve(small_config(features__n_mels=4, augment__freq_mask__max_width=0))
    assert solved["at_least"] == ["n_frames", "width", "expansion"]
