"""The counter against loops that visit every product, and against XLA's own count."""

import itertools
import math

import jax
import jax.numpy as jnp
from by_day import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from asc_jax.complexity import count_macs

SHAPE_SETTINGS = {"deadline": None, "derandomize": True, "database": None}


def struct(shape):
    return jax.ShapeDtypeStruct(tuple(shape), jnp.float32)


def of(draw, n, low, high):
    return tuple(draw(st.integers(low, high)) for _ in range(n))


@st.composite
def convolutions(draw, padded=True):
    """Keywords, shapes `(lhs, rhs)` in their drawn layouts, and what the loops need."""
    n = draw(st.integers(1, 3))
    groups, batch_groups = draw(st.sampled_from([(1, 1), (2, 1), (3, 1), (1, 2), (1, 3)]))
    c_in, n_filters, batch = of(draw, 3, 1, 2)
    window, strides, rhs_dilation = (of(draw, n, 1, high) for high in (3, 3, 2))
    lhs_dilation = of(draw, n, 1, 3) if padded else (1,) * n
    padding = [of(draw, 2, -1, 2) if padded else (0, 0) for _ in range(n)]
    reach = [(w - 1) * d + 1 for w, d in zip(window, rhs_dilation, strict=True)]
    # negative padding may eat a short input: leave at least one element
    sizes = [draw(st.integers(2, 4)) if padded else r + draw(st.integers(0, 3)) for r in reach]
    case = {
        "n_filters": n_filters * groups * batch_groups,
        "batch": batch,
        "c_in": c_in,
        "window": window,
        "reach": reach,
        "inside": [(s - 1) * d + 1 for s, d in zip(sizes, lhs_dilation, strict=True)],
        "padding": padding,
        "strides": strides,
    }
    lhs = dict(zip("NC012"[: n + 2], (batch * batch_groups, c_in * groups, *sizes), strict=True))
    rhs = dict(zip("OI012"[: n + 2], (case["n_filters"], c_in, *window), strict=True))
    layouts = [
        "".join(draw(st.permutations(names[: n + 2]))) for names in ("NC012", "OI012", "NC012")
    ]
    axes = [
        tuple(map(layout.index, names[: n + 2]))
        for layout, names in zip(layouts, ("NC012", "OI012", "NC012"), strict=True)
    ]
    keywords = {
        "window_strides": strides,
        "padding": padding,
        "lhs_dilation": lhs_dilation,
        "rhs_dilation": rhs_dilation,
        "dimension_numbers": jax.lax.ConvDimensionNumbers(*axes),
        "feature_group_count": groups,
        "batch_group_count": batch_groups,
    }
    shapes = [[lhs[name] for name in layouts[0]], [rhs[name] for name in layouts[1]]]
    return keywords, shapes, case


def convolve(keywords):
    return lambda x, kernel: jax.lax.conv_general_dilated(x, kernel, **keywords)


def conv_by_loops(case):
    """Slide the window over every axis, and visit every tap and channel of every result."""
    starts = []
    for inside, (low, high), reach, stride in zip(
        case["inside"], case["padding"], case["reach"], case["strides"], strict=True
    ):
        starts.append([])
        at = -low
        while at + reach <= inside + high:
            starts[-1].append(at)
            at += stride
    n_products = 0
    taps = [range(size) for size in case["window"]]
    for _ in itertools.product(range(case["batch"]), range(case["n_filters"]), *starts):
        for _ in itertools.product(*taps):
            for _ in range(case["c_in"]):
                n_products += 1
    return n_products


@settings(max_examples=examples(400), **SHAPE_SETTINGS)
@given(convolutions())
def test_convolutions_equal_a_loop_over_every_product(drawn):
    keywords, shapes, case = drawn
    count = count_macs(convolve(keywords), *map(struct, shapes))
    assert count.total == conv_by_loops(case)
    assert dict(count.by_primitive) == {"conv_general_dilated": count.total}


@settings(max_examples=examples(150), **SHAPE_SETTINGS)
@given(convolutions(padded=False))
def test_unpadded_convolutions_equal_xlas_count(drawn):
    keywords, shapes, _ = drawn
    shapes = [struct(shape) for shape in shapes]
    lowered = jax.jit(convolve(keywords)).lower(*shapes)
    assert count_macs(convolve(keywords), *shapes).total == lowered.cost_analysis()["flops"] / 2


@st.composite
def products(draw):
    """Shapes and dimension numbers of a `dot_general`, and the sizes that the loops need."""
    batch, contracted, left, right = (of(draw, draw(st.integers(0, 2)), 0, 3) for _ in range(4))
    sides, numbers = [], []
    for free in (left, right):
        axes = [("b", i) for i in range(len(batch))] + [("c", i) for i in range(len(contracted))]
        axes = draw(st.permutations(axes + [("f", i) for i in range(len(free))]))
        sizes = {"b": batch, "c": contracted, "f": free}
        sides.append([sizes[kind][i] for kind, i in axes])
        numbers.append([[axes.index((k, i)) for i in range(len(sizes[k]))] for k in "cb"])
    (left_c, left_b), (right_c, right_b) = numbers
    return sides, ((left_c, right_c), (left_b, right_b)), (batch + left + right, contracted)


@settings(max_examples=examples(400), **SHAPE_SETTINGS)
@given(products())
def test_matrix_products_equal_a_loop_over_every_product(drawn):
    shapes, numbers, (results, contracted) = drawn
    expected = sum(
        1
        for _ in itertools.product(*map(range, results))
        for _ in itertools.product(*map(range, contracted))
    )
    count = count_macs(lambda a, b: jax.lax.dot_general(a, b, numbers), *map(struct, shapes))
    assert count.total == expected


@settings(max_examples=60, **SHAPE_SETTINGS)
@given(st.integers(1, 3), convolutions())
def test_vmap_over_both_sides_multiplies_the_count(n, drawn):
    keywords, shapes, case = drawn
    stacked = [struct((n, *shape)) for shape in shapes]
    assert count_macs(jax.vmap(convolve(keywords)), *stacked).total == n * conv_by_loops(case)


@settings(max_examples=60, **SHAPE_SETTINGS)
@given(
    st.sampled_from([jnp.sum, jnp.max, jnp.prod]),
    st.lists(st.integers(1, 4), min_size=1),
    st.data(),
)
def test_reductions_take_one_operation_per_element_beyond_the_first(reduce, shape, data):
    shape = shape[:4]
    axis = data.draw(st.integers(0, len(shape) - 1))
    n_results = math.prod(shape) // shape[axis]
    count = count_macs(lambda x: reduce(x, axis=axis), struct(shape))
    assert (count.total, count.flops) == (0, n_results * (shape[axis] - 1))
