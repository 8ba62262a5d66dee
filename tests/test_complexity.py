"""MACs and bytes: the published figures to the unit, and the gate."""

import csv
import pathlib

import jax
import jax.numpy as jnp
import pytest

from asc_jax import complexity
from asc_jax.complexity import limits
from asc_jax.errors import UserError
from asc_jax.models import CPMobile, precision
from asc_jax.pytorch.weights import torch_names

GOLDEN = pathlib.Path(__file__).parents[1] / "asc_jax/pytorch/parity/golden"
LIMITS = {"max_macs": 30_000_000, "max_bytes": 128_000}


def count(n_frames, **model):
    net = CPMobile(**model)
    clip = jax.ShapeDtypeStruct((1, 256, n_frames, 1), jnp.float32)
    variables = jax.eval_shape(net.init, jax.random.key(0), clip)
    return complexity.count_macs(net.apply, variables, clip), variables


@pytest.mark.parametrize(("n_frames", "expected"), [(65, 29_416_448), (68, 29_425_664)])
def test_macs_of_the_network_equal_the_published_figure_less_batch_norm(n_frames, expected):
    """torchinfo and NeSsi print 29,419,156 and 29,428,372: they add each of the 2,708
    BatchNorm parameters once."""
    assert count(n_frames)[0].total == expected
    assert expected + 2708 in (29_419_156, 29_428_372)


@pytest.mark.parametrize("n_frames", [65, 68])
def test_macs_of_each_layer_equal_the_baselines_formula(n_frames):
    with (GOLDEN / f"a_layers_{n_frames}.csv").open() as file:
        theirs = {
            row["name"]: int(row["conv_macs_by_formula"])
            for row in csv.DictReader(file)
            if row["type"] == "Conv2d"
        }
    ours = count(n_frames)[0].by_layer
    assert theirs == {f"{name}.0": ours["/".join(path)] for name, path in torch_names().items()}


@pytest.mark.parametrize(("n_frames", "total"), [(65, 29_419_156), (68, 29_428_372)])
def test_torchinfo_rows_equal_the_published_table_row_by_row(n_frames, total):
    """Every Conv2d, BatchNorm2d and activation row of torchinfo's table, and nothing else."""
    with (GOLDEN / f"a_layers_{n_frames}.csv").open() as file:
        theirs = {
            row["name"]: int(row["torchinfo_mult_adds"])
            for row in csv.DictReader(file)
            if row["type"] in ("Conv2d", "BatchNorm2d") or int(row["torchinfo_mult_adds"])
        }
    macs, variables = count(n_frames)
    rows = complexity.torchinfo_macs(macs.by_layer, variables)
    renamed = {}
    for name, path in torch_names().items():
        renamed[f"{name}.0"] = rows.pop("/".join(path))
        renamed[f"{name}.1"] = rows.pop("/".join((*path, "norm")))
    assert renamed == theirs
    assert rows == {}
    assert sum(renamed.values()) == total


def test_folding_batch_norm_leaves_one_bias_per_channel():
    variables = count(68)[1]
    assert precision.n_folded(variables) == 59_794
    assert precision.n_params(variables["params"]) - 59_794 == 2708 // 2


def test_bytes_in_float16_equal_the_published_figures():
    variables = count(68)[1]
    assert precision.tree_bytes(variables["params"], "float16")["total"] == 122_296
    assert precision.tree_bytes(variables, "float16")["total"] == 127_712


def test_budget_passes_the_reports_network_and_names_what_exceeds_it():
    macs, variables = count(68)
    n_bytes = complexity.layer_bytes(variables["params"], 2)
    assert limits.check_budget(macs.by_layer, n_bytes, **LIMITS)
    over, _ = count(70)  # 69 and 70 frames: one more column for block 1 … 3
    with pytest.raises(UserError) as error:
        limits.check_budget(over.by_layer, n_bytes, **LIMITS)
    message = str(error.value)
    assert f"{over.total:,}" in message
    assert f"{over.total - 30_000_000:,} over the limit of 30,000,000" in message
    assert max(over.by_layer, key=over.by_layer.get) in message
    assert not limits.check_budget(over.by_layer, n_bytes, **LIMITS, enforce=False)


def test_budget_names_the_bytes_that_exceed_it():
    macs, variables = count(68, width=40)
    n_bytes = complexity.layer_bytes(variables["params"], 2)
    with pytest.raises(UserError, match="bytes are .* over the limit of 128,000; .*b6/project"):
        limits.check_budget(macs.by_layer, n_bytes, **LIMITS)
