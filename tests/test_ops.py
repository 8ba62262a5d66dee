"""Every body of an operation means the same, forward and backward."""

import jax
import numpy as np
import pytest

from asc_jax.models import ops

STRIDES = [(1, 1), (1, 2), (2, 1), (2, 2)]
SIZES = [(8, 7), (5, 6), (9, 9)]


def assert_close(a, b):
    np.testing.assert_allclose(a, b, atol=1e-10)


def assert_bodies_agree(fn, x, kernel):
    """Value and both gradients of the two bodies of `fn(x, kernel, body=…)`."""
    results = []
    for body in ("lax", "shifts"):
        y, vjp = jax.vjp(lambda x, k, body=body: fn(x, k, body=body), x, kernel)
        dy = jax.random.normal(jax.random.key(2), y.shape, y.dtype)
        results.append((y, *vjp(dy)))
    for a, b in zip(*results, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("strides", STRIDES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("op", ["conv3x3", "depthwise_conv"])
def test_bodies_of_3x3_convolutions_agree(x64, op, size, strides):
    x = jax.random.normal(jax.random.key(0), (2, *size, 4))
    c_in = 4 if op == "conv3x3" else 1
    kernel = jax.random.normal(jax.random.key(1), (3, 3, c_in, 4 if c_in == 1 else 6))
    fn = getattr(ops, op)
    assert_bodies_agree(lambda x, k, body: fn(x, k, strides=strides, body=body), x, kernel)


def test_bodies_of_pointwise_convolution_agree(x64):
    x = jax.random.normal(jax.random.key(0), (2, 4, 5, 3))
    kernel = jax.random.normal(jax.random.key(1), (1, 1, 3, 7))
    assert_bodies_agree(lambda x, k, body: ops.pointwise_conv(x, k, body=body), x, kernel)


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
    assert_close(ops.avg_pool3x3(x, strides=strides), expected)
