"""The counter on what people pass to it: NNX networks that train, keywords, heads nobody uses."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from asc_jax.complexity import count_macs

CLIPS = jax.ShapeDtypeStruct((1, 10, 64), jnp.float32)
DENSE = 10 * 64 * 32
GRU = 10 * 6 * 64 * 64


class Training(nnx.Module):
    """Hold BatchNorm and Dropout, which are in training mode as made and change when called."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.dense = nnx.Linear(64, 32, rngs=rngs)
        self.norm = nnx.BatchNorm(32, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.n_calls = nnx.Variable(jnp.array(0))

    def __call__(self, x):
        self.n_calls[...] += 1
        return self.dropout(self.norm(nnx.relu(self.dense(x))))


def loss(net, x):
    return net(x).sum()


def train_step(net, optimizer, x):
    value, gradient = nnx.value_and_grad(loss)(net, x)
    optimizer.update(net, gradient)
    return value


def gru():
    return nnx.RNN(nnx.GRUCell(64, 64, rngs=nnx.Rngs(0)))


def split_and_merged(net, x):
    graph, state = nnx.split(net)
    return nnx.merge(graph, state)(x)


@pytest.mark.parametrize(
    ("fn", "macs"),
    [
        (lambda net: (net, CLIPS), DENSE),
        (lambda net: (net.__call__, CLIPS), DENSE),
        (lambda net: (nnx.jit(lambda net, x: net(x)), net, CLIPS), DENSE),
        (lambda net: (split_and_merged, net, CLIPS), DENSE),
        (lambda net: (nnx.remat(lambda net, x: net(x)), net, CLIPS), DENSE),
        (lambda net: (nnx.grad(loss), net, CLIPS), 2 * DENSE),
        (lambda net: (nnx.value_and_grad(loss), net, CLIPS), 2 * DENSE),
        (lambda net: (lambda net, x: nnx.grad(lambda net: loss(net, x))(net), net, CLIPS),
         2 * DENSE),
        (lambda net: (train_step, net, nnx.Optimizer(net, optax.adam(1e-3), wrt=nnx.Param), CLIPS),
         2 * DENSE),
    ],
)  # fmt: skip
def test_b13_nnx_network_in_training_mode_counts_and_stays_as_it_is(fn, macs):
    """The gradient of the weights alone is asked for: a product as large as the layer's own."""
    net = Training()
    before = jax.tree.leaves(net)
    assert count_macs(*fn(net)).total == macs
    assert all(now is then for now, then in zip(jax.tree.leaves(net), before, strict=True))
    assert int(net.n_calls[...]) == 0
    assert net(jnp.ones((2, 10, 64))).shape == (2, 10, 32), "and is still of use"


def test_b13_nnx_recurrent_networks_as_made():
    assert count_macs(gru(), CLIPS).total == GRU
    assert count_macs(nnx.Bidirectional(gru(), gru()), CLIPS).total == 2 * GRU
    lstm = nnx.RNN(nnx.LSTMCell(64, 64, rngs=nnx.Rngs(0)))
    assert count_macs(lstm, CLIPS).total == 10 * 8 * 64 * 64


def test_nnx_networks_of_shapes_alone_and_with_shared_layers():
    assert count_macs(nnx.eval_shape(Training), CLIPS).total == DENSE
    shared = nnx.Linear(64, 64, rngs=nnx.Rngs(0))
    assert count_macs(nnx.Sequential(shared, nnx.relu, shared), CLIPS).total == 2 * 10 * 64 * 64


@pytest.mark.parametrize(
    "fn",
    [
        lambda net: lambda x: net(x),
        lambda net: functools.partial(lambda net, x: net(x), net),
        nnx.jit,
        lambda net: lambda x: nnx.grad(loss)(net, x),
    ],
)
def test_b13_module_that_is_no_argument_is_told_what_to_do(fn):
    with pytest.raises(ValueError, match=r"not among its arguments, .* as in count_macs\(lambda"):
        count_macs(fn(Training()), CLIPS)
    with pytest.raises(ValueError, match="make it an argument"):
        count_macs(fn(gru()), CLIPS)


class TwoHeads(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(32)(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        auxiliary = nn.Dense(1000, name="aux")(x)
        return nn.Dense(10, name="head")(x), auxiliary


@pytest.fixture(scope="module")
def variables():
    return jax.eval_shape(TwoHeads().init, jax.random.key(0), CLIPS)


def test_b13_static_keywords_reach_the_function_as_they_are(variables):
    apply = TwoHeads().apply
    macs = DENSE + 10 * 32 * (1000 + 10)
    rngs = {"dropout": jax.random.key(0)}
    for train in (False, np.bool_(False)):
        assert count_macs(apply, variables, CLIPS, train=train).total == macs
    for mutable in (["batch_stats"], "batch_stats", True):
        count = count_macs(apply, variables, CLIPS, train=True, mutable=mutable, rngs=rngs)
        assert count.total == macs
    static = jax.jit(apply, static_argnames=("train", "mutable"))
    assert count_macs(static, variables, CLIPS, train=False, mutable=False).total == macs


@pytest.mark.parametrize(
    ("fn", "keywords", "name"),
    [
        (None, {"train": jnp.array(True)}, r"kwargs\['train'\]"),
        (jax.jit, {"train": True}, r"kwargs\['train'\]"),
        (jax.jit, {"mutable": ["batch_stats"]}, r"mutable\[0\]"),
    ],
)
def test_b13_argument_whose_value_is_needed_is_named_and_told_what_to_do(
    variables, fn, keywords, name
):
    apply = TwoHeads().apply
    with pytest.raises(TypeError, match=name) as caught:
        count_macs(fn(apply) if fn else apply, variables, CLIPS, **keywords)
    told = "".join([str(caught.value), *caught.value.__notes__])
    assert "static_argnames" in told
    assert "array, such as train=True" in told or "mutable" in keywords


@pytest.mark.parametrize(
    "fn",
    [
        lambda x, n: x if n else 0,
        lambda x, n: [x for _ in range(n)],
        lambda x, n: x.reshape(int(n), -1),
        lambda x, n: np.zeros(3) + np.asarray(n),
        lambda x, n: x[x > n],
    ],
)
def test_value_that_a_function_needs_gets_the_same_note(fn):
    with pytest.raises((TypeError, IndexError)) as caught:
        count_macs(fn, CLIPS, jnp.array(2))
    assert "bind it with functools.partial" in caught.value.__notes__[-1]


def test_mistakes_of_the_function_itself_get_no_note():
    for wrong in (lambda x: x @ "a", lambda x: [][0], lambda: 0):
        with pytest.raises((TypeError, IndexError)) as caught:
            count_macs(wrong, CLIPS)
        assert "count_macs" not in "".join(caught.value.__notes__)


def test_b31_work_whose_result_is_not_used_counts(variables):
    """The docstring says so, and torchinfo counts every module that is called, too."""
    apply = TwoHeads().apply
    count = count_macs(lambda variables, x: apply(variables, x)[0], variables, CLIPS)
    assert count.total == 343_680
    assert count.by_layer == {"Dense_0": 20_480, "aux": 320_000, "head": 3_200}
    assert count_macs(lambda x: (x @ x, 0)[1], jnp.ones((3, 3))).total == 27


def test_b31_products_that_move_and_interpolate_values_count():
    """ConvLocal: 10 × 3 × 64 × 8 of its own and 10 × 3 × 64 × 3 for the patches of one channel."""
    local = nn.ConvLocal(8, (3,))
    variables = jax.eval_shape(local.init, jax.random.key(0), CLIPS)
    assert count_macs(local.apply, variables, CLIPS).total == 15_360 + 5_760
    resize = functools.partial(jax.image.resize, shape=(1, 20, 64), method="bilinear")
    assert count_macs(resize, CLIPS).total == 20 * 10 * 64
    assert count_macs(lambda i: jax.nn.one_hot(i, 10) @ jnp.ones((10, 4)), jnp.arange(7)).total == (
        7 * 10 * 4
    )
