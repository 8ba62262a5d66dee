"""Every body of an operation means the same, forward and backward."""

import jax
import numpy as np
import pytest

from asc_jax.models.blocks import InvertedResidual, Pending
from asc_jax.models.kernels import compiler, convolution

STRIDES = [(1, 1), (1, 2), (2, 1), (2, 2)]
SIZES = [(5, 6), pytest.param((8, 7), marks=[pytest.mark.slow, pytest.mark.nightly])]


@pytest.fixture(params=["as on a CPU", "as on a GPU"])
def machine(request, monkeypatch):
    """What is traced for a CPU, and what is traced elsewhere."""
    monkeypatch.setattr(compiler, "on_cpu", lambda: request.param == "as on a CPU")


def assert_close(a, b):
    np.testing.assert_allclose(a, b, atol=1e-10)


def assert_bodies_agree(fn, x, kernel):
    """Value and both gradients of the two bodies of `fn(x, kernel, body=…)`."""

    def run(body):
        y, vjp = jax.vjp(lambda x, k: fn(x, k, body=body), x, kernel)
        return y, *vjp(jax.random.normal(jax.random.key(2), y.shape, y.dtype))

    for a, b in zip(*jax.jit(lambda: (run("lax"), run("shifts")))(), strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("strides", STRIDES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("op", "c_in", "c_out"), [("conv3x3", 4, 6), ("conv3x3", 1, 6), ("depthwise_conv", 4, 4)]
)
def test_bodies_of_3x3_convolutions_agree(x64, machine, op, c_in, c_out, size, strides):
    x = jax.random.normal(jax.random.key(0), (2, *size, c_in))
    filters_in = 1 if op == "depthwise_conv" else c_in
    kernel = jax.random.normal(jax.random.key(1), (3, 3, filters_in, c_out))
    fn = getattr(convolution, op)
    assert_bodies_agree(lambda x, k, body: fn(x, k, strides=strides, body=body), x, kernel)


@pytest.mark.parametrize(("c_in", "c_out"), [(3, 7), (7, 3)])
@pytest.mark.parametrize(
    "shape",  # one part, six, one
    [
        (2, 4, 5),
        (3, 64, 17),
        pytest.param((1, 37, 29), marks=[pytest.mark.slow, pytest.mark.nightly]),
    ],
)
def test_bodies_of_pointwise_convolution_agree(x64, machine, shape, c_in, c_out):
    x = jax.random.normal(jax.random.key(0), (*shape, c_in))
    kernel = jax.random.normal(jax.random.key(1), (1, 1, c_in, c_out))
    assert_bodies_agree(lambda x, k, body: convolution.pointwise_conv(x, k, body=body), x, kernel)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sums_over_many_positions_keep_what_16_bits_would_lose(machine, dtype):
    x, kernel = np.ones((3, 64, 17, 2), dtype), np.ones((1, 1, 2, 3), dtype)
    _, vjp = jax.vjp(lambda kernel: convolution.pointwise_conv(x, kernel, body="shifts"), kernel)
    (dkernel,) = vjp(np.ones((3, 64, 17, 3), dtype))
    np.testing.assert_array_equal(dkernel, np.full(kernel.shape, 3 * 64 * 17, dtype))


def test_column_sums_are_sums_over_all_positions(x64, machine):
    x, y = jax.random.normal(jax.random.key(0), (2, 3, 4, 5, 6))
    expected = [np.sum(array, axis=(0, 1, 2)) for array in (x, y)]
    assert_close(compiler.column_sums(x, y), expected)


def test_block_is_the_same_on_every_machine(x64, monkeypatch):
    x, mask = jax.random.normal(jax.random.key(0), (3, 6, 5, 4)), np.array([True, True, False])
    block = InvertedResidual(4, expansion=2, strides=(2, 1), grn=True)
    variables = block.init(jax.random.key(1), Pending(x), train=True, mask=mask)
    variables = jax.tree.map(lambda leaf: leaf.astype(np.float64), variables)

    def loss(variables):
        y, updated = block.apply(
            variables, Pending(x), train=True, mask=mask, mutable=["batch_stats"]
        )
        return jax.numpy.sum(y.compute()[mask] ** 3), updated

    value_and_grad = jax.value_and_grad(loss, has_aux=True)
    on_cpu = jax.jit(value_and_grad)(variables)
    monkeypatch.setattr(compiler, "on_cpu", lambda: False)
    elsewhere = jax.jit(lambda variables: value_and_grad(variables))(variables)
    jax.tree.map(assert_close, on_cpu, elsewhere)


@pytest.mark.parametrize("strides", STRIDES)
def test_average_pool_counts_its_padding(x64, strides):
    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 3))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = np.stack(
        [
            np.stack(
                [padded[:, i : i + 3, j : j + 3].mean((1, 2)) for j in range(0, 6, strides[1])],
                axis=1,
            )
            for i in range(0, 5, strides[0])
        ],
        axis=1,
    )
    assert_close(convolution.avg_pool3x3(x, strides=strides), expected)
