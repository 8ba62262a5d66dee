"""Kernels compute what their definitions mean, forward and backward, on a CPU and on a GPU."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asc_jax.models.kernels import compiler, convolution, normalise, pool, taps
from asc_jax.models.kernels.convolution import conv

CHANNELS_LAST = ("NHWC", "HWIO", "NHWC")
NIGHTLY = [pytest.mark.slow, pytest.mark.nightly]
# Kernel size, channels in and out, groups.
CONVOLUTIONS = {
    "pointwise, to more channels": ((1, 1), 3, 7, 1),
    "pointwise, to fewer channels": ((1, 1), 7, 3, 1),
    "3×3": ((3, 3), 4, 6, 1),
    "over mel bins": ((3, 1), 4, 3, 1),
    "over frames": ((1, 5), 2, 4, 1),
    "5×5": ((5, 5), 2, 3, 1),
    "depthwise": ((3, 3), 4, 4, 4),
    "depthwise over mel bins": ((3, 1), 4, 4, 4),
    "depthwise, two filters a channel": ((3, 3), 3, 6, 3),
    "one channel": ((3, 3), 1, 5, 1),
    "grouped": ((3, 3), 6, 4, 2),
    "grouped, two channels each": ((1, 1), 6, 12, 3),
}
# Strides, size of x, padding; None: half the kernel.
PLACES = [
    ((1, 1), (5, 6), None),
    ((1, 2), (5, 6), None),
    ((2, 1), (6, 5), None),
    ((2, 2), (7, 8), None),
    ((2, 2), (8, 7), [(1, 0), (0, 2)]),
    ((1, 2), (7, 9), [(0, 0), (2, 1)]),
]


def random(*shape, seed=0, dtype=None):
    return jax.random.normal(jax.random.key(seed), shape, float).astype(dtype or float)


def assert_close(result, expected):
    expected = np.asarray(expected)
    atol = 1e-12 * max(np.abs(expected).max(initial=0), 1e-300)
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=atol)


def value_and_pull(fn, *inputs):
    """Return the value of `fn` and its gradients from one random cotangent."""
    y, pull = jax.vjp(fn, *inputs)
    return y, *pull(jax.tree.map(lambda x: random(*x.shape, seed=9, dtype=x.dtype), y))


def definition(x, kernel, strides, groups, padding):
    padding = padding or [(n // 2, n // 2) for n in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        dimension_numbers=CHANNELS_LAST,
        feature_group_count=groups,
    )


def as_on_a_gpu(x, kernel, strides, groups, padding):
    """Return what is computed on a GPU, and its gradients from a random cotangent."""
    padding = padding or [(n // 2, n // 2) for n in kernel.shape[:2]]
    window = taps.Window(kernel.shape[:2], strides, tuple(padding))
    y = convolution._fast(window, groups, x, kernel, cpu=False)
    dy = random(*y.shape, seed=9, dtype=y.dtype)
    return y, *convolution._fast_backward(window, groups, x, kernel, dy, cpu=False)


@pytest.mark.parametrize("rest", [False, pytest.param(True, marks=NIGHTLY)])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolution_is_laxs_in_value_and_gradients_on_every_machine(x64, kind, rest):
    size, c_in, c_out, groups = CONVOLUTIONS[kind]
    here = PLACES[list(CONVOLUTIONS).index(kind) % 3 :: 3]
    kernel = random(*size, c_in // groups, c_out, seed=1)

    def results(kernel, strides, shape, padding):
        x, how = random(2, *shape, c_in), (strides, groups, padding)
        expected = value_and_pull(lambda x, k: definition(x, k, *how), x, kernel)
        on_cpu = value_and_pull(lambda x, k: conv(x, k, *how), x, kernel)
        return expected, on_cpu, as_on_a_gpu(x, kernel, *how)

    places = [place for place in PLACES if (place not in here) == rest]
    for expected, *others in jax.jit(lambda k: [results(k, *place) for place in places])(kernel):
        for other in others:
            jax.tree.map(assert_close, other, expected)


@pytest.mark.parametrize("n_rows", [1, 37, 3 * 64 * 17])  # one part, one, six
def test_products_of_many_rows_add_up_in_parts(x64, n_rows):
    x, y = random(n_rows, 3), random(n_rows, 5, seed=1)
    for cpu in (True, False):
        assert_close(taps._row_products(x, y, cpu), x.T @ y)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sums_over_many_positions_keep_what_16_bits_would_lose(dtype):
    x, kernel = np.ones((3, 64, 17, 2), dtype), np.ones((1, 1, 2, 3), dtype)
    _, pull = jax.vjp(lambda kernel: conv(x, kernel), kernel)
    (dkernel,) = pull(np.ones((3, 64, 17, 3), dtype))
    np.testing.assert_array_equal(dkernel, np.full(kernel.shape, 3 * 64 * 17, dtype))


@pytest.mark.parametrize("cpu", [True, False])
def test_column_sums_are_sums_over_all_positions(x64, cpu):
    x, y = random(2, 3, 4, 5, 6)
    assert_close(compiler.column_sums(x, y, cpu=cpu), [np.sum(a, (0, 1, 2)) for a in (x, y)])


FLAX_CONVOLUTIONS = {
    "same": {"kernel_size": (3, 3)},
    "valid": {"kernel_size": (3, 2), "padding": "VALID", "strides": (2, 1)},
    "strided": {"kernel_size": (3, 3), "strides": (2, 2)},
    "depthwise without bias": {
        "kernel_size": (3, 1),
        "feature_group_count": 4,
        "use_bias": False,
        "strides": (1, 2),
    },
    "dilated": {"kernel_size": (3, 3), "kernel_dilation": (2, 1)},
    "circular": {"kernel_size": (3, 3), "padding": "CIRCULAR"},
    "over one axis": {"kernel_size": (3,)},
    "one number for both strides": {"kernel_size": (3, 3), "strides": 2, "padding": 1},
}


@pytest.mark.parametrize("kind", FLAX_CONVOLUTIONS)
def test_flax_layers_compute_the_same_by_these_kernels(x64, kind):
    options = {"features": 4, "param_dtype": float} | FLAX_CONVOLUTIONS[kind]
    plain = nn.Conv(**options)
    fast = nn.Conv(**options, conv_general_dilated=convolution.conv_general_dilated)
    x = random(2, 5, 6, 4) if len(options["kernel_size"]) == 2 else random(2, 6, 4)
    variables = plain.init(jax.random.key(1), x)
    expected, result = jax.jit(
        lambda: [value_and_pull(net.apply, variables, x) for net in (plain, fast)]
    )()
    jax.tree.map(assert_close, result, expected)


def test_a_kernel_of_another_dtype_falls_through_to_lax():
    x, kernel = jnp.ones((1, 3, 3, 2), "bfloat16"), jnp.ones((1, 1, 2, 2))
    options = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": CHANNELS_LAST}
    with pytest.raises(TypeError, match="dtypes"):
        convolution.conv_general_dilated(x, kernel, **options)


# Size, strides, padding.
POOLS = [
    ((2, 2), (2, 2), ((0, 0), (0, 0))),
    ((3, 3), (2, 1), ((1, 1), (1, 1))),
    ((2, 3), (1, 2), ((1, 0), (0, 2))),
    ((1, 2), (3, 2), ((0, 0), (0, 0))),
]


@pytest.mark.parametrize(("size", "strides", "padding"), POOLS)
def test_pooling_is_flaxs_in_value_and_gradient(x64, size, strides, padding):
    x = random(2, 6, 7, 3)  # no two values are equal
    result, expected = jax.jit(
        lambda: [
            [
                value_and_pull(lambda x: fn(x, size, strides, padding), x)  # noqa: B023
                for fn in fns
            ]
            for fns in ((pool.avg_pool, pool.max_pool), (nn.avg_pool, nn.max_pool))
        ]
    )()
    jax.tree.map(assert_close, result, expected)


def choices(program):
    """The switches of a program, those within its calls included."""
    for eqn in program.eqns:
        if "branches" in eqn.params:
            yield eqn
        for value in eqn.params.values():
            yield from choices(value.jaxpr) if hasattr(value, "jaxpr") else ()


@pytest.mark.parametrize("fn", [pool.avg_pool, pool.max_pool])
def test_pooling_elsewhere_is_a_window_that_any_reader_of_the_program_knows(fn):
    program = jax.make_jaxpr(lambda x: fn(x, (2, 2), (2, 2)))(jnp.ones((1, 4, 4, 1))).jaxpr
    (choice,) = choices(program)
    (default,) = choice.params["branches"][-1].jaxpr.eqns
    assert default.primitive.name in ("reduce_window_sum", "reduce_window_max")


@pytest.mark.parametrize(("size", "strides", "padding"), POOLS[:2])
def test_of_equal_values_the_first_has_the_gradient_as_in_pytorch(size, strides, padding):
    torch = pytest.importorskip("torch")
    x = np.round(np.asarray(random(2, 6, 7, 3, dtype="float32")))  # many are equal
    pool_torch = torch.nn.MaxPool2d(size, strides, padding[0][0])
    of_torch = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    expected = pool_torch(of_torch)
    dy = np.asarray(random(*expected.shape, seed=1, dtype="float32"))
    expected.backward(torch.tensor(dy))
    y, pull = jax.vjp(lambda x: pool.max_pool(x, size, strides, padding), x)
    (dx,) = pull(dy.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(y, expected.detach().numpy().transpose(0, 2, 3, 1))
    np.testing.assert_allclose(dx, of_torch.grad.numpy().transpose(0, 2, 3, 1), atol=1e-6)


def test_padding_is_never_the_maximum(x64):
    x = -1 - jnp.abs(random(1, 3, 3, 2))
    y = pool.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    assert_close(y[0, 0, 0], x[0, :2, :2].max((0, 1)))


def moments(x, weight):
    """Return mean and biased variance of each channel over the clips that count, and how many."""
    weight = jnp.broadcast_to(compiler.clips(weight, x), (*x.shape[:-1], 1))
    axes, n = tuple(range(x.ndim - 1)), jnp.sum(weight)
    mean = jnp.sum(x * weight, axes) / n
    return mean, jnp.sum((x - compiler.channels(mean, x)) ** 2 * weight, axes) / n, n


@pytest.mark.parametrize("shape", [(4, 3, 5, 2), (4, 3, 2), (4, 2)])
def test_moments_are_those_of_the_clips_that_count(x64, shape):
    x, weight = random(*shape) + 3, jnp.array([1.0, 0, 1, 1])
    fns = [lambda x: normalise.batch_moments(x, weight, jnp.array([3.1, 2.7])), None]
    fns[1] = functools.partial(moments, weight=weight)
    result, expected = jax.jit(
        lambda x: [value_and_pull(lambda x: fn(x)[:2], x) + (fn(x)[2],) for fn in fns]  # noqa: B023
    )(x)
    jax.tree.map(assert_close, result, expected)


def test_moments_pass_no_gradient_to_weight_and_shift(x64):
    x, weight, shift = random(4, 3, 2), jnp.array([1.0, 0, 1, 1]), jnp.ones(2)
    _, _, *grads = value_and_pull(normalise.batch_moments, x, weight, shift)
    assert not any(map(np.any, grads))


def test_mean_far_from_zero_keeps_the_digits_of_the_variance():
    x = 1000 + random(8, 16, 16, 2, dtype="float32")
    _, var, _ = normalise.batch_moments(x, jnp.ones(8), jnp.full(2, 999.0))
    np.testing.assert_allclose(var, np.var(np.asarray(x, float), (0, 1, 2)), rtol=1e-5)


@pytest.mark.parametrize("shape", [(3, 4, 5, 2), (3, 2)])
def test_affine_is_its_formula_in_value_and_gradients(x64, shape):
    def formula(x, mean, factor, bias):
        by_channel = functools.partial(compiler.channels, like=x)
        return (x - by_channel(mean)) * by_channel(factor) + by_channel(bias)

    inputs = (random(*shape), *random(3, 2, seed=1))
    result, expected = jax.jit(
        lambda *inputs: [value_and_pull(fn, *inputs) for fn in (normalise.affine, formula)]
    )(*inputs)
    jax.tree.map(assert_close, result, expected)
    y, pull = jax.vjp(formula, *inputs)
    dy = random(*y.shape, seed=9)
    on_gpu = normalise._affine_pull(*inputs, dy, cpu=False)
    jax.tree.map(assert_close, on_gpu, pull(dy))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_results_and_gradients_of_16_bits_keep_their_dtypes_and_are_near(dtype):
    x = random(4, 5, 6, 4, dtype=dtype)
    wide, mean = jnp.full(4, 1.5), jnp.full(4, 0.1)
    kernels = {
        "3×3": lambda x: conv(x, random(3, 3, 4, 3, seed=1, dtype=x.dtype)),
        "depthwise": lambda x: conv(x, random(3, 3, 1, 4, seed=1, dtype=x.dtype), (2, 1), 4),
        "grouped": lambda x: conv(x, random(1, 1, 2, 6, seed=1, dtype=x.dtype), groups=2),
        "avg_pool": lambda x: pool.avg_pool(x, (2, 2), (2, 2)),
        "max_pool": lambda x: pool.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))),
        "affine": lambda x: normalise.affine(x, mean, wide, mean),
    }

    @jax.jit
    def run(x):
        return {
            **{name: value_and_pull(fn, x) for name, fn in kernels.items()},
            "moments": normalise.batch_moments(x, jnp.ones(4), mean),
        }

    result, expected = run(x), run(x.astype("float32"))
    near = functools.partial(np.testing.assert_allclose, atol=0.3, rtol=0.05)
    jax.tree.map(lambda a, b: near(np.asarray(a, float), b), result, expected)
    assert {a.dtype for a in result.pop("moments")} == {np.dtype("float32")}
    assert {a.dtype for a in jax.tree.leaves(result)} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_gradients_to_parameters_keep_their_dtypes(dtype):
    x, kernel = random(2, 3, 3, 2, dtype=dtype), random(3, 3, 2, 2, seed=1, dtype=dtype)
    _, dx, dkernel = value_and_pull(conv, x, kernel)
    assert dx.dtype == dkernel.dtype == dtype
    _, dx, *of_channels = value_and_pull(normalise.affine, x, *jnp.ones((3, 2)))
    assert dx.dtype == dtype
    assert {a.dtype for a in of_channels} == {np.dtype("float32")}
