"""Control flow, what the counter refuses, and the rules of its two figures."""

import copy
import dataclasses
import functools
import json
import pickle

import jax
import jax.export
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas, sparse

from asc_jax.complexity import count_macs
from asc_jax.complexity.count import Branches

SQUARE = jax.ShapeDtypeStruct((2, 2), jnp.float32)  # x @ x: 8 multiply-accumulates
VECTOR = jax.ShapeDtypeStruct((4,), jnp.float32)


def square(x):
    return x @ x


def test_cond_and_switch_count_the_dearest_branch_and_list_the_others():
    def choose(i, x):
        with jax.named_scope("router"):
            x = jax.lax.switch(i, [lambda x: x, lambda x: x @ x @ x, lambda x: x @ x], x)
        return jax.lax.scan(
            lambda c, p: (jax.lax.cond(p, square, jnp.sin, c), None), x, i > jnp.arange(3)
        )[0]

    count = count_macs(choose, 1, SQUARE)
    assert count.total == 16 + 3 * 8
    assert set(count.branches) == {
        Branches("router", (0, 16, 8), 1),
        Branches("", (0, 8), 1),
    }


def test_among_branches_of_equal_macs_the_one_with_more_flops_counts():
    count = count_macs(lambda p, x: jax.lax.cond(p, jnp.sin, lambda x: x, x), True, SQUARE)
    assert (count.total, count.flops) == (0, 4)


def test_while_counts_as_often_as_the_caller_says():
    def loop(x):
        x = jax.lax.while_loop(lambda x: (x @ x)[0, 0] < 9, square, x)
        return jax.lax.fori_loop(0, x[0, 0].astype(int), lambda _, x: x @ x, x)

    assert count_macs(loop, SQUARE, while_trips=3).total == 4 * 8 + 3 * 8 + 3 * 8
    assert count_macs(loop, SQUARE, while_trips=(3, 5)).total == 4 * 8 + 3 * 8 + 5 * 8
    with pytest.raises(ValueError, match="a while loop: how often it runs is not in the jaxpr"):
        count_macs(loop, SQUARE)
    with pytest.raises(ValueError, match="while_trips names 1 loops, and there is another"):
        count_macs(loop, SQUARE, while_trips=(3,))
    with pytest.raises(ValueError, match="while_trips names 3 loops, there are 2"):
        count_macs(loop, SQUARE, while_trips=(3, 5, 7))


def test_while_trips_are_whole_numbers_of_any_kind():
    def loop(x):
        return jax.lax.while_loop(lambda x: x[0, 0] < 9, square, x)

    for trips in (np.int64(3), np.array([3]), [3]):
        assert count_macs(loop, SQUARE, while_trips=trips).total == 3 * 8
    for trips in (2.5, "3", np.array([1.0])):
        with pytest.raises(ValueError, match="while_trips must be whole numbers, got "):
            count_macs(loop, SQUARE, while_trips=trips)
    with pytest.raises(ValueError, match="while_trips must be at least 0, got -1"):
        count_macs(loop, SQUARE, while_trips=-1)
    with pytest.raises(ValueError, match="while_trips names 2 loops, there are 1"):
        count_macs(loop, SQUARE, while_trips=np.array([3, 5]))


def test_a_while_loop_is_named_by_the_module_it_is_in():
    def loop(x):
        with jax.named_scope("head"):
            return jax.lax.while_loop(lambda x: x[0, 0] < 9, square, x)

    with pytest.raises(ValueError, match="while loop in head: .* say how often with while_trips"):
        count_macs(loop, SQUARE)


def kernel(x_ref, y_ref):
    y_ref[...] = x_ref[...] @ x_ref[...]


def novel(x):
    """A primitive of somebody else's, with its jaxpr two levels down."""
    primitive = jax.extend.core.Primitive("novel")
    primitive.def_abstract_eval(lambda x, **_: x)
    return primitive.bind(x, plan=Plan({"body": jax.make_jaxpr(square)(x)}))


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    steps: dict


def strange(x):
    """A primitive of somebody else's, with nothing in it to look at."""
    primitive = jax.extend.core.Primitive("my_matmul")
    primitive.def_abstract_eval(lambda x: x)
    with jax.named_scope("head"):
        return primitive.bind(x)


EXPORTED = jax.export.export(jax.jit(square))(SQUARE)


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (strange, "'my_matmul' in head: the counter does not know what it computes"),
        (EXPORTED.call, "'call_exported': the counter cannot see what it comp"),
        (lambda x: sparse.BCOO.fromdense(x, nse=2) @ x, "'bcoo_dot_general': how many products"),
        (lambda x: sparse.CSR.fromdense(x, nse=2) @ x, "'csr_matmat': how many products"),
        (lambda x: jax.lax.scaled_dot(x, x), "'scaled_dot': the counter cannot see"),
        (pallas.pallas_call(kernel, out_shape=SQUARE, interpret=True), "'pallas_call' holds a jax"),
        (novel, "'novel' holds a jaxpr that the counter does not know how to count"),
        (lambda x: jax.pure_callback(np.array, SQUARE, x), "'pure_callback': .* cannot see"),
        (jax.ffi.ffi_call("mine", SQUARE), "'ffi_call': the counter cannot see what it computes"),
        (
            lambda x: jax.nn.scaled_matmul(x[None], x[None], x[None, :, :1], x[None, :, :1]),
            "'scaled_matmul.*would have to call it free",
        ),
    ],
)
def test_counter_refuses_what_it_cannot_count(fn, message):
    with pytest.raises(ValueError, match=message):
        count_macs(fn, SQUARE)


def accumulate(v):
    sums = jax.new_ref(jnp.zeros(9))
    jax.ref.addupdate(sums, slice(0, 4), v)
    return jax.ref.freeze(sums)


def everyone(v):
    """A sum over replicas communicates: it is not counted."""
    mesh = jax.make_mesh((2,), ("r",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, everywhere = jax.sharding.PartitionSpec("r"), jax.sharding.PartitionSpec()
    body = lambda v: jax.lax.psum(v, "r")  # noqa: E731
    return jax.shard_map(body, mesh=mesh, in_specs=rows, out_specs=everywhere)(v)


def test_algorithms_without_visible_products_are_listed():
    count = count_macs(lambda x: jnp.linalg.solve(x, jnp.fft.fft(x).real[0]), SQUARE)
    assert count.total == 0
    assert count.uncounted == {"fft": 1, "lu": 1, "triangular_solve": 2}
    gamma = count_macs(lambda v: jax.random.gamma(jax.random.key(0), v), VECTOR)
    assert gamma.uncounted == {"random_gamma": 1}


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (lambda v: v + jnp.exp(v) * 2, 12),
        (lambda v: jnp.where(v > 0, v, 1)[::-1].astype(jnp.int32) + 1, 0),
        (lambda v: jnp.clip(v, 0, 1), 8),
        (jnp.cumsum, 4),
        (lambda v: jax.lax.reduce(v, 1.0, lambda a, b: a * b + a, (0,)), 3 * 2),
        (lambda v: jax.lax.reduce_window(v, 0.0, jax.lax.add, (3,), (1,), "VALID"), 2 * 2),
        (
            lambda v: jax.lax.reduce_window(v, 0.0, lambda a, b: a + b * b, (2,), (1,), "VALID"),
            3 * 2,
        ),
        (lambda v: v.at[jnp.array([1, 2])].add(1.0), 2),
        (lambda v: v.at[jnp.array([1, 2])].set(1.0), 0),
        (lambda v: jnp.sort(v), 0),
        (lambda v: jnp.nextafter(v, jnp.inf), 4),
        (accumulate, 4),
        (lambda v: sparse.BCOO.fromdense(v, nse=3).todense(), 3),
        (jax.vmap(lambda x: jax.lax.psum(x, "i"), axis_name="i"), 3),
        (everyone, 0),
    ],
)
def test_flops_follow_the_stated_rule(fn, expected):
    count = count_macs(fn, VECTOR)
    assert (count.total, count.flops) == (0, expected)


def test_ragged_products_count_as_if_the_groups_filled_every_row():
    rows, experts = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((6, 3), (2, 3, 5)))
    sizes = jax.ShapeDtypeStruct((2,), jnp.int32)
    assert count_macs(jax.lax.ragged_dot, rows, experts, sizes).total == 6 * 3 * 5
    numbers = jax.lax.RaggedDotDimensionNumbers(
        dot_dimension_numbers=(((0,), (0,)), ((), ())),
        lhs_ragged_dimensions=[0],
        rhs_group_dimensions=[],
    )
    gradient = functools.partial(jax.lax.ragged_dot_general, ragged_dot_dimension_numbers=numbers)
    results = jax.ShapeDtypeStruct((6, 5), jnp.float32)
    assert count_macs(gradient, rows, results, sizes).total == 6 * 3 * 5


def test_transposed_convolution_counts_its_inserted_zeros():
    """As torchinfo does: 9 results × 3 taps × 2 channels in × 4 out; 24 of them meet data."""
    x, taps = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1, 4, 2), (3, 2, 4)))
    transposed = functools.partial(
        jax.lax.conv_transpose,
        strides=(2,),
        padding="VALID",
        dimension_numbers=("NHC", "HIO", "NHC"),
    )
    assert count_macs(transposed, x, taps).total == 9 * 3 * 2 * 4


def test_result_cannot_be_changed_and_can_be_copied_and_pickled():
    count = count_macs(square, SQUARE)
    for twin in (pickle.loads(pickle.dumps(count)), copy.deepcopy(count), copy.copy(count)):
        assert twin == count
        assert hash(twin) == hash(count)
        with pytest.raises(TypeError, match="a count cannot be changed"):
            twin.by_primitive.update(dot_general=0)
    assert json.loads(json.dumps(dataclasses.asdict(count)))["by_primitive"] == {"dot_general": 8}
    with pytest.raises(AttributeError):
        count.total = 0
    with pytest.raises(TypeError):
        count.by_layer["x"] = 1
