"""Every primitive that the installed JAX has is counted, known to be free, or refused."""

import collections
import json
import pathlib
import subprocess
import sys

import pytest

from asc_jax.complexity import jaxpr_walk, primitive_costs

SCRIPT = pathlib.Path(__file__).with_name("installed_primitives.py")
# The languages that kernels are written in: what holds a kernel is itself refused.
KERNELS = ("pallas", "mosaic")
FOLLOWED = {"cond", "custom_linear_solve", "scan", "shard_map", "while"}
# They hold a jaxpr, which raises by itself: how often they run it is not settled here.
HOLDERS = {"custom_jvp_call_jaxpr", "eval_jaxpr", "fused_call", "remat_opt", "run_state"}
KINDS = (
    primitive_costs.ELEMENTWISE,
    primitive_costs.REDUCTIONS,
    primitive_costs.CUMULATIVE,
    primitive_costs.WINDOWS,
    primitive_costs.SUMS,
    primitive_costs.COMBINED,
    primitive_costs.ALGORITHMS,
    primitive_costs.FREE,
    primitive_costs.OTHERS,
    primitive_costs.PRODUCTS,
    jaxpr_walk.CALLS | FOLLOWED | HOLDERS,
)


@pytest.fixture(scope="module")
def installed():
    """Name → modules, of every primitive of JAX's own."""
    command = [sys.executable, "-W", "ignore", SCRIPT]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


@pytest.mark.slow
def test_every_primitive_of_jax_is_classified_or_deliberately_refused(installed):
    assert {"dot_general", "scaled_dot", "bcoo_dot_general", "psum"} <= set(installed)
    unknown = {
        name: modules[0]
        for name, modules in installed.items()
        if "does not know" in (primitive_costs.refusal(name) or "")
        and name not in jaxpr_walk.CALLS | FOLLOWED | HOLDERS
        and not all(any(word in module for word in KERNELS) for module in modules)
    }
    assert not unknown, f"new in this JAX; decide what they cost in primitive_costs: {unknown}"


def test_no_primitive_is_classified_twice():
    counted = collections.Counter(name for names in KINDS for name in names)
    assert [name for name, n in counted.items() if n > 1] == []
    refused = [name for name in counted if name.startswith(primitive_costs.OPAQUE)]
    assert refused + [name for name in counted if primitive_costs.SPARSE.fullmatch(name)] == []


@pytest.mark.parametrize("name", sorted(HOLDERS | {"my_matmul", "mul_", "xdot_general", ""}))
def test_what_is_not_in_the_sets_is_refused(name):
    assert "would have to call it free" in primitive_costs.refusal(name)
