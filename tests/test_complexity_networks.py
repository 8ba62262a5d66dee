"""Networks that are not ours, counted and checked by formulas written out by hand."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from asc_jax.complexity import count_macs, torchinfo_macs
from asc_jax.models.precision import n_folded, n_params

WIDTH, DEPTH, N_HEADS, LENGTH, N_BATCH = 12, 3, 2, 7, 2


class Bottleneck(nn.Module):
    """ResNet's 1×1, 3×3, 1×1 block; the shortcut is projected where its shape changes."""

    width: int
    strides: int

    @nn.compact
    def __call__(self, x):
        conv = functools.partial(nn.Conv, use_bias=False)
        norm = functools.partial(nn.BatchNorm, use_running_average=True)
        y = nn.relu(norm()(conv(self.width, (1, 1))(x)))
        y = nn.relu(norm()(conv(self.width, (3, 3), self.strides)(y)))
        y = norm()(conv(4 * self.width, (1, 1))(y))
        if x.shape != y.shape:
            x = norm(name="norm_proj")(
                conv(4 * self.width, (1, 1), self.strides, name="conv_proj")(x)
            )
        return nn.relu(x + y)


class ResNet50(nn.Module):
    """Stages of 3, 4, 6 and 3 bottlenecks; the stride of a stage is in its first 3×3."""

    stages: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.width, (7, 7), 2, padding=3, use_bias=False, name="conv_init")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True, name="bn_init")(x))
        x = nn.max_pool(x, (3, 3), (2, 2), padding="SAME")
        for i, n_blocks in enumerate(self.stages):
            for j in range(n_blocks):
                x = Bottleneck(self.width * 2**i, 2 if i and not j else 1)(x)
        return nn.Dense(1000)(x.mean((1, 2)))


def resnet_macs():
    """Side × side × in × out × taps, bottleneck by bottleneck, of one 224 × 224 picture."""
    macs, n_in, side = 112**2 * 7 * 7 * 3 * 64, 64, 56
    for i, n_blocks in enumerate((3, 4, 6, 3)):
        width = 64 * 2**i
        for j in range(n_blocks):
            macs += side**2 * n_in * width
            side = side // 2 if i and not j else side
            macs += side**2 * width * (9 * width + 4 * width)
            macs += side**2 * n_in * 4 * width if not j else 0
            n_in = 4 * width
    return macs + 2048 * 1000


def test_resnet_50_equals_its_formula_and_the_published_size():
    net, picture = ResNet50(), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(net.init, jax.random.key(0), picture)
    count = count_macs(net.apply, variables, picture)
    assert count.total == resnet_macs() == 4_089_184_256  # "4.1 billion", stride in the 3×3
    assert n_params(variables["params"]) == 25_557_032  # torchvision's resnet50
    assert count.by_layer["conv_init"] == 112**2 * 7 * 7 * 3 * 64
    assert count.by_layer["Bottleneck_0/conv_proj"] == 56**2 * 64 * 256
    norms = 2 * 26_560  # scale and bias of the 26,560 channels that are normalised
    assert sum(torchinfo_macs(count.by_layer, variables).values()) == count.total + norms
    assert n_folded(variables) == 25_557_032 - 26_560


class Block(nn.Module):
    """Pre-norm attention and a feed-forward layer four times as wide."""

    @nn.compact
    def __call__(self, x, _):
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(N_HEADS, name="attention")(y)
        y = nn.gelu(nn.Dense(4 * WIDTH, name="widen")(nn.LayerNorm()(x)))
        return x + nn.Dense(WIDTH, name="narrow")(y), None


class Transformer(nn.Module):
    remat: bool = False

    @nn.compact
    def __call__(self, x):
        body = nn.remat(Block) if self.remat else Block
        layers = nn.scan(
            body, variable_axes={"params": 0}, split_rngs={"params": True}, length=DEPTH
        )
        x, _ = layers(name="layers")(x, None)
        return nn.Dense(10, name="head")(x[:, 0])


@pytest.mark.parametrize("remat", [False, True])
def test_transformer_with_scanned_layers_equals_its_formula(remat):
    net, tokens = Transformer(remat), jax.ShapeDtypeStruct((N_BATCH, LENGTH, WIDTH), jnp.float32)
    count = count_macs(net.apply, jax.eval_shape(net.init, jax.random.key(0), tokens), tokens)
    square = DEPTH * N_BATCH * LENGTH * WIDTH**2
    assert dict(count.by_layer) == {
        **{f"layers/attention/{name}": square for name in ("query", "key", "value", "out")},
        "layers/attention": 2 * DEPTH * N_BATCH * LENGTH**2 * WIDTH,  # scores, weighted values
        "layers/widen": 4 * square,
        "layers/narrow": 4 * square,
        "head": N_BATCH * WIDTH * 10,
    }


class OddlyNamed(nn.Module):
    @nn.compact
    def __call__(self, x):
        for name in ("checkpoint", "a,b", "input->hidden"):
            x = nn.Dense(3, name=name)(x)
        return jnp.einsum("ij,kj->ik", x, self.param("table", nn.initializers.ones, (4, 3)))


@pytest.mark.parametrize("remat", [False, True])
def test_layers_of_odd_names_keep_their_rows(remat):
    net, x = OddlyNamed(), jax.ShapeDtypeStruct((2, 3), jnp.float32)
    variables = jax.eval_shape(net.init, jax.random.key(0), x)
    count = count_macs(jax.checkpoint(net.apply) if remat else net.apply, variables, x)
    rows = dict.fromkeys(("checkpoint", "a,b", "input->hidden"), 2 * 3 * 3)
    assert dict(count.by_layer) == rows | {"OddlyNamed": 2 * 3 * 4}


def test_two_networks_in_one_function_keep_their_names():
    x = jax.ShapeDtypeStruct((1, 3), jnp.float32)

    class Teacher(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(4, name="head")(x)

    class Student(Teacher):
        pass

    teacher, student = Teacher(), Student()
    variables = jax.eval_shape(teacher.init, jax.random.key(0), x)
    count = count_macs(lambda v, x: (teacher.apply(v, x), student.apply(v, x)), variables, x)
    assert dict(count.by_layer) == {"Teacher/head": 12, "Student/head": 12}


class Stateful(nnx.Module):
    """A network of NNX, whose BatchNorm and Dropout change their state when they are called."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.dense = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.dropout(self.norm(self.dense(x)))

    def logits(self, x, *, n):
        return self(x)[:, :n]


@pytest.mark.parametrize("train", [False, True])
def test_nnx_modules_count_in_both_modes_and_keep_their_state(train):
    net, x = Stateful(), jax.ShapeDtypeStruct((2, 3), jnp.float32)
    (net.train if train else net.eval)()
    before = jax.tree.leaves(net)
    counts = [count_macs(net, x), count_macs(net.logits, x, n=2)]
    counts.append(count_macs(lambda net, x: net(x), net, x))
    assert [count.total for count in counts] == [2 * 3 * 4] * 3
    assert all(now is then for now, then in zip(jax.tree.leaves(net), before, strict=True))


def test_nnx_rnn_counts_its_cell_once_per_step():
    rnn = nnx.RNN(nnx.LSTMCell(3, 5, rngs=nnx.Rngs(0)))
    assert count_macs(rnn, jax.ShapeDtypeStruct((2, 7, 3), jnp.float32)).total == 2 * 7 * 4 * 5 * 8
