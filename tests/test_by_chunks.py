"""A network a few clips at a time is the network: value, gradients, statistics."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asc_jax.models import MODELS, CPMobile
from asc_jax.models.kernels import clip_axis
from asc_jax.models.kernels.by_chunks import by_chunks
from asc_jax.models.kernels.convolution import conv
from asc_jax.models.kernels.normalise import affine, batch_moments
from asc_jax.models.kernels.pool import avg_pool, max_pool
from asc_jax.models.layers import BatchNorm, ConvBn

NIGHTLY = [pytest.mark.slow, pytest.mark.nightly]
N_CLIPS, AT_A_TIME = 6, 2
SMALL = {
    "cp_mobile": {"width": 8, "grn": True},
    "tf_sepnet": {"width": 4},
    "cnn_gru": {"width": 4, "hidden": 3},
    "cp_resnet": {"widths": (4, 6, 8)},
}


class Recurrent(nn.Module):
    """Convolutions, a GRU over frames, a dense layer."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train, mask=None):
        for n in (4, 6):
            x = nn.relu(ConvBn(n, (3, 3), (2, 1), axis_name=self.axis_name)(x, train, mask))
        x = nn.RNN(nn.GRUCell(5, param_dtype=float))(jnp.mean(x, axis=1))
        x = BatchNorm(self.axis_name)(x, train, mask)
        return nn.Dense(3)(jnp.mean(x, axis=1))


class Shuffled(nn.Module):
    """Grouped convolutions with the channels of the groups interleaved, and others permuted."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train, mask=None):
        x = ConvBn(6, (3, 3), (2, 2), axis_name=self.axis_name)(x, train, mask)
        for _ in range(2):
            x = ConvBn(6, (3, 1), groups=2, axis_name=self.axis_name)(x, train, mask)
            x = x.reshape(*x.shape[:3], 2, 3).swapaxes(3, 4).reshape(x.shape)
            x = nn.relu(x)[..., np.array([3, 0, 1, 5, 4, 2])]
        return nn.Dense(3)(jnp.mean(max_pool(x, (2, 2), (1, 1)) ** 2, axis=(1, 2)))


NETWORKS = {
    **{name: network(**SMALL.get(name, {})) for name, network in MODELS.items()},
    "cp_mobile with branches": CPMobile(width=8, depthwise="branches"),
    "with a GRU": Recurrent(),
    "with shuffles": Shuffled(),
}


def random(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def assert_close(result, expected):
    expected = np.asarray(expected)
    atol = 1e-12 * max(np.abs(expected).max(initial=0), 1)
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=atol)


def started(network, masked=True, **clips):
    """Return the variables of a network in float64, and clips, of which one is padding."""
    x = random(N_CLIPS, 32, 20, 1, seed=1)
    variables = network.init(jax.random.key(0), x, train=False)
    clips |= {"x": x} | ({"mask": jnp.arange(N_CLIPS) != 4} if masked else {})
    return jax.tree.map(lambda leaf: leaf.astype(float), variables), clips


def application(network):
    """Return `(shared, clips) -> (logits, statistics)`; shared: variables, a key for dropout."""

    def apply(shared, clips):
        variables, key = shared
        return network.apply(
            variables,
            clips["x"],
            train=True,
            mask=clips.get("mask"),
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )

    return apply


def in_chunks(fn):
    run = by_chunks(fn, n_at_once=AT_A_TIME)
    return lambda shared, clips: run(shared, clips)[0]


def runs_in_pieces(fn, shared, clips) -> bool:
    """Return whether `fn` is only traced, for all clips and for some, and not called itself."""
    calls = []

    def counted(*inputs):
        calls.append(inputs)
        return fn(*inputs)

    jax.eval_shape(in_chunks(counted), shared, clips)
    return len(calls) == 2


def loss(fn):
    """Return a number that every result of `fn` has part in, and the results."""

    def number(shared, clips):
        results = fn(shared, clips)
        weights = lambda x: 1 + jnp.arange(x.size, dtype=float).reshape(x.shape)  # noqa: E731
        parts = [jnp.sum(jnp.sin(x) * weights(x)) for x in jax.tree.leaves(results)]
        return sum(parts), results

    return number


def results_and_gradients(fn, shared, clips):
    return jax.value_and_grad(loss(fn), (0, 1), has_aux=True, allow_int=True)(shared, clips)


def assert_same(fn, shared, clips, pieces=True):
    """Compare all that comes of `fn` and of it by chunks; `pieces`: whether it can be cut."""
    assert runs_in_pieces(fn, shared, clips) == pieces
    expected, result = jax.jit(
        lambda: [results_and_gradients(f, shared, clips) for f in (fn, in_chunks(fn))]
    )()
    assert_all_close(result, expected)


def assert_all_close(result, expected):
    """Compare two pytrees, each pair of leaves by the scale of the largest leaf there is."""
    leaves, others = (jax.tree.leaves(_floats(tree)) for tree in (result, expected))
    scale = max(np.abs(leaf).max(initial=1) for leaf in map(np.asarray, others))
    for a, b in zip(leaves, others, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12 * scale)


def _floats(tree):
    """Return a pytree without the gradients to integers, which are empty."""
    return jax.tree.map(lambda x: 0 if x.dtype == jax.dtypes.float0 else x, tree)


def by_day(kinds, names):
    """Return all kinds as parameters of a test, of which only those of these names by day."""
    return [pytest.param(kind, marks=() if kind in names else NIGHTLY) for kind in kinds]


@pytest.mark.slow
@pytest.mark.parametrize("masked", [True, pytest.param(False, marks=NIGHTLY)])
@pytest.mark.parametrize("name", by_day(NETWORKS, ["with a GRU"]))
def test_networks_are_the_same_by_chunks(x64, name, masked):
    variables, clips = started(NETWORKS[name], masked)
    assert_same(application(NETWORKS[name]), (variables, jax.random.key(2)), clips)


@pytest.mark.parametrize(
    "name", by_day(["with shuffles", "with a GRU", *MODELS], ["with shuffles"])
)
def test_two_replicas_are_the_same_by_chunks(x64, name):
    variables, clips = started(NETWORKS[name])
    clips |= {"x": random(8, 32, 20, 1), "mask": jnp.arange(8) != 6}
    apply = application(NETWORKS[name].clone(axis_name="replicas"))
    clips = jax.tree.map(lambda x: x.reshape(2, 4, *x.shape[1:]), clips)

    def step(fn):
        one = lambda clips: results_and_gradients(fn, (variables, jax.random.key(0)), clips)  # noqa: E731
        return jax.pmap(one, axis_name="replicas")(clips)

    assert_all_close(step(in_chunks(apply)), step(apply))


def test_statistics_of_each_replica_by_itself_stay_so(x64):
    x = random(2, 4, 3)
    fn = lambda shared, clips: normalised(clips)  # noqa: E731
    expected, result = (
        jax.pmap(f, axis_name="replicas")(jnp.zeros(2), x) for f in (fn, in_chunks(fn))
    )
    assert_close(result, expected)


def test_networks_vmapped_over_seeds_are_the_same_by_chunks(x64):
    network = NETWORKS["with shuffles"]
    variables, clips = started(network)
    assert runs_in_pieces(application(network), (variables, jax.random.key(0)), clips)
    seeds = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf**2 + 0.1]), variables)
    apply = application(network)

    def of_all(fn):
        one = lambda v: results_and_gradients(fn, (v, jax.random.key(0)), clips)  # noqa: E731
        return jax.vmap(one)(seeds)

    expected, result = jax.jit(lambda: [of_all(fn) for fn in (apply, in_chunks(apply))])()
    assert_all_close(result, expected)


def test_scratch_memory_goes_from_call_to_call_and_changes_no_bit():
    x, w = random(N_CLIPS, 5, 4), random(4, 4, seed=1)
    run = by_chunks(lambda w, x: normalised(jnp.sin(normalised(x @ w)) @ w), n_at_once=AT_A_TIME)
    step = jax.jit(
        jax.grad(lambda w, x, s: (lambda y, s: (y.sum(), s))(*run(w, x, s)), has_aux=True)
    )
    shapes = jax.eval_shape(lambda w, x: run(w, x, ())[1], w, x)
    assert [s.shape for s in shapes] == [x.shape, x.shape]
    filled = [[jnp.full(s.shape, n, s.dtype) for s in shapes] for n in (0, 7, np.nan)]
    (expected, scratch), *results = [step(w, x, s) for s in (*filled, (), tuple(filled[0]))]
    for result, written in [*results, step(w, x, scratch)]:
        np.testing.assert_array_equal(result, expected)
        assert [(s.shape, s.dtype) for s in written] == [(s.shape, s.dtype) for s in shapes]
    of_other_clips = (jnp.ones(2),)
    result, returned = step(w, x, of_other_clips)
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(returned, of_other_clips)
    assert run(w, x)[1] is None


def normalised(x, weight=None, shift=0.1):
    """Batch normalisation without parameters."""
    weight = jnp.ones(x.shape[0], x.dtype) if weight is None else weight
    by_channel = jnp.full(x.shape[-1:], shift, weight.dtype)
    mean, var, _ = batch_moments(x, weight, by_channel)
    return affine(x, mean, jax.lax.rsqrt(var + 1e-3), jnp.zeros_like(mean))


def after_normalisation(fn):
    """Return a network of batch normalisation, a product, and `fn` of its `[b, 4]`."""
    return lambda shared, clips: fn(normalised(clips["x"], clips["weight"]) @ shared["w"], clips)


def assert_same_after(fn, pieces, shared=(), **clips):
    clips |= {"x": random(N_CLIPS, 4), "weight": jnp.ones(N_CLIPS)}
    assert_same(after_normalisation(fn), {"w": random(4, 4, seed=1), **dict(shared)}, clips, pieces)


def rowwise(fn, gradient):
    """Return `fn` with another gradient: that of the identity, changed."""
    fn = jax.custom_vjp(fn)
    fn.defvjp(lambda x: (fn(x), None), lambda _, dy: (gradient(dy),))
    return fn


@jax.custom_jvp
def sine(x):
    return jnp.sin(x)


@sine.defjvp
def _sine_whose_derivative_mixes_clips(primals, tangents):
    return sine(*primals), tangents[0] - jnp.mean(tangents[0], axis=0, keepdims=True)


def column(x):
    """Return `[0, 1, … b - 1]` as `[b, 1]`."""
    return jnp.arange(x.shape[0], dtype=float)[:, None]


MIXING = {
    "mean": lambda x: x - jnp.mean(x, axis=0, keepdims=True),
    "Flax's batch norm": lambda x: nn.BatchNorm(False, use_bias=False, use_scale=False).apply(
        {"batch_stats": {"mean": x[0], "var": x[0]}}, x, mutable=["batch_stats"]
    )[0],
    "reversed": lambda x: x[::-1],
    "rolled": lambda x: jnp.roll(x, 1, axis=0),
    "cumsum": lambda x: jnp.cumsum(x, axis=0),
    "scan over clips": lambda x: jax.lax.associative_scan(jnp.add, x),
    "sorted": lambda x: jnp.sort(x, axis=0),
    "top_k": lambda x: jax.lax.top_k(x.T, x.shape[0])[0].T,
    "fft": lambda x: jnp.abs(jnp.fft.fft(x, axis=0)),
    "window": lambda x: nn.avg_pool(x[None], (3,), (1,), "SAME")[0],
    "permuted": lambda x: x[jax.random.permutation(jax.random.key(0), x.shape[0])],
    "scrambled": lambda x: x.T.reshape(x.shape),
    "einsum": lambda x: x @ jnp.einsum("bc,bd->cd", x, x),
    "attention": lambda x: nn.softmax(x @ x.T) @ x,
    "halves exchanged": lambda x: x.reshape(2, -1, 4)[::-1].reshape(x.shape),
    "shifted by one": lambda x: jnp.concatenate([jnp.zeros((1, 4)), x])[:-1],
    "tiled": lambda x: jnp.tile(x, (2, 1)).reshape(-1, 2, 4).sum(axis=1),
    "first half": lambda x: x[: x.shape[0] // 2],
    "all but one": lambda x: x[1:],
    "every second": lambda x: x[::2],
    "split": lambda x: jnp.multiply(*jnp.split(x, 2)),
    "pairs": lambda x: x.reshape(-1, 2, 4).mean(axis=1),
    "triples": lambda x: x.reshape(x.shape[0] // 3, 3, 4).mean(axis=1),
    "one set": lambda x: x.at[0].set(0.0),
    "one increased": lambda x: x.at[0].add(1.0),
    "by their number": lambda x: x / x.shape[0],
    "another branch for few clips": lambda x: x - jnp.sin(x) if x.shape[0] > 4 else jnp.sin(x) - x,
    "another factor for few clips": lambda x: x * (2 if x.shape[0] > 4 else 3),
    "another power for few clips": lambda x: x ** (2 if x.shape[0] > 4 else 3),
    "a loop over their number": lambda x: jax.lax.fori_loop(0, x.shape[0], lambda _, x: x + 1, x),
    "all clips asserted": lambda x: jnp.broadcast_to(x, (N_CLIPS, 4)) + 1,
    "their index inside jit": jax.jit(lambda x: x * column(x)),
    "a constant of each inside jit": jax.jit(
        lambda x: x * jnp.asarray(np.arange(x.shape[0])[:, None])
    ),
    "random numbers inside jit": jax.jit(
        lambda x: x * jax.random.normal(jax.random.key(0), x.shape)
    ),
    "random numbers inside remat": jax.checkpoint(
        lambda x: x * jax.random.normal(jax.random.key(0), x.shape)
    ),
    "statistics inside remat": jax.checkpoint(lambda x: normalised(jnp.sin(x))),
    "a gradient that mixes them": rowwise(jnp.sin, lambda dy: dy - dy.mean(axis=0, keepdims=True)),
    "a gradient by their number": rowwise(jnp.sin, lambda dy: dy / dy.shape[0]),
    "a derivative that mixes them": sine,
    "a condition on all": lambda x: jax.lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x),
    "map over clips": lambda x: jax.lax.map(jnp.sin, x),
    "clips last, in the result": lambda x: x.T,
    "flat, in the result": lambda x: x.reshape(-1),
    "clips last, beyond a cut": lambda x: jnp.exp(x.T).T + normalised(jnp.exp(x.T).T * 2),
    "statistics of parts of clips": lambda x: normalised(x.reshape(-1, 2)),
    "statistics over channels": lambda x: normalised(x.T),
    "statistics vmapped": lambda x: jax.vmap(lambda n: normalised(n * x))(jnp.arange(1.0, 7.0)),
    "statistics of valid clips found by value": lambda x: normalised(x, jnp.sum(x, axis=1) ** 2),
    "their number in the result": lambda x: (x, jnp.asarray(1.0 * x.shape[0])),
    "filters of each": lambda x: (
        conv(x.reshape(1, -1, 2, 2).swapaxes(1, 3), jnp.ones((1, 1, 6, 6)))
        if x.shape[0] == 6
        else conv(x.reshape(1, -1, 2, 2).swapaxes(1, 3), jnp.ones((1, 1, 2, 2)))
    ),
}


@pytest.mark.parametrize("kind", MIXING)
def test_a_network_that_mixes_clips_runs_as_it_is_written(x64, kind):
    assert_same_after(lambda x, _: MIXING[kind](x), pieces=MIXES_IN_PIECES.get(kind, False))


# Which mix clips of one piece alone, or not at all with the clips there are.
MIXES_IN_PIECES = {"clips last, beyond a cut": True}


def vmapped_condition(x):
    return jax.vmap(lambda row: jax.lax.cond(row[0] > 0, jnp.sin, jnp.cos, row))(x)


APART = {
    "jit": jax.jit(lambda x: jnp.sin(x)),
    "remat": jax.checkpoint(lambda x: jnp.sin(x) * 2),
    "activations": lambda x: nn.silu(x) + nn.relu6(x) + nn.gelu(x) + nn.elu(x) + nn.softmax(x),
    "sorted channels": lambda x: jnp.sort(x, axis=1)[:, ::-1],
    "top_k of channels": lambda x: jax.lax.top_k(x, 2)[0],
    "permuted channels": lambda x: x[:, np.array([2, 0, 3, 1])],
    "a constant of each clip": lambda x: x * np.arange(6.0)[: x.shape[0], None],
    "index of the clip": lambda x: x * column(x),
    "a condition on each clip": vmapped_condition,
    "a loop": lambda x: jax.lax.fori_loop(0, 3, lambda i, x: jnp.sin(x) + i, x),
    "frames first": lambda x: jax.lax.scan(
        lambda h, t: (jnp.tanh(h + t[:, None]), h), jnp.zeros((x.shape[0], 4)), x.T
    )[1].swapaxes(0, 1),
    "pooled": lambda x: (
        avg_pool(x.reshape(-1, 2, 2, 1), (2, 1), (1, 1))
        + max_pool(x.reshape(-1, 2, 2, 1), (2, 1), (1, 1))
        + nn.max_pool(x.reshape(-1, 2, 2, 1), (2, 1))
    ),
    "layer norm": lambda x: nn.LayerNorm(use_bias=False, use_scale=False).apply({}, x),
    "truth beyond a cut": lambda x: (lambda large: jnp.where(large, normalised(x), 0.1 * x))(x > 0),
    "integers beyond a cut": lambda x: normalised(x) * jnp.argmax(x, axis=1)[:, None],
    "integers normalised": lambda x: normalised((10 * x).astype(jnp.int8), jnp.ones(x.shape[0])),
    "integers normalised beside others": lambda x: (
        x * normalised((10 * x).astype(jnp.int8), jnp.ones(x.shape[0]))
    ),
    "statistics twice": lambda x: normalised(x) + 2 * normalised(x, shift=0.5),
    "branches": lambda x: normalised(jnp.sin(x)) * normalised(jnp.cos(x)) + normalised(x),
    "a branch that waits for another": lambda x: (
        lambda y: normalised(y * y) + jnp.exp(normalised(jnp.cos(x))) * y
    )(normalised(x)),
    "integers normalised in a branch": lambda x: (
        normalised((10 * x).astype(jnp.int8), jnp.ones(x.shape[0])) * normalised(jnp.sin(x))
    ),
    "statistics of statistics": lambda x: normalised(normalised(x)),
    "statistics not used": lambda x: (normalised(x), 2 * x)[1],
    "statistics alone": lambda x: (jnp.zeros((x.shape[0], 3)), *moments_of(x)),
    "zeros": lambda x: (normalised(x), jnp.zeros((x.shape[0], 3))),
    "a number and None": lambda x: {"x": x, "n": jnp.float32(3), "none": None, "same": x},
    "no numbers": lambda x: (x, jnp.zeros((x.shape[0], 0))),
    "complex": lambda x: jnp.abs(normalised(x) * jnp.exp(1j * x)),
    "random numbers": lambda x: x * jax.random.normal(jax.random.key(3), x.shape),
}


def moments_of(x):
    return batch_moments(x, jnp.ones(x.shape[0]), jnp.zeros(x.shape[-1]))


# Each of the others differs little from one of these.
APART_BY_DAY = (
    *("remat", "permuted channels", "top_k of channels", "a constant of each clip"),
    *("a condition on each clip", "a loop", "pooled", "truth beyond a cut", "integers normalised"),
    *("statistics twice", "a branch that waits for another", "statistics not used"),
    *("a number and None", "random numbers"),
)


@pytest.mark.parametrize("kind", by_day(APART, APART_BY_DAY))
def test_a_network_that_keeps_clips_apart_runs_in_pieces(x64, kind):
    assert_same_after(lambda x, _: APART[kind](x), pieces=True)


def test_branches_are_read_in_one_piece():
    def n_pieces(network):
        program = jax.make_jaxpr(in_chunks(lambda _, x: network(x)))((), random(N_CLIPS, 4))
        return sum(eqn.primitive.name == "custom_vjp_call" for eqn in program.eqns)

    assert n_pieces(lambda x: normalised(jnp.sin(x)) + normalised(jnp.cos(x))) == 2
    assert n_pieces(lambda x: normalised(jnp.cos(normalised(jnp.sin(x))))) == 3


def test_inputs_may_be_integers_truth_values_and_keys(x64):
    def fn(shared, clips):
        x = normalised(shared["table"][clips["class"]], clips["valid"].astype(float))
        x = jnp.where(clips["valid"][:, None], x[:, shared["order"]], x * shared["n"])
        noise = jax.vmap(lambda key: jax.random.normal(key, (4,)))(clips["key"])
        x = jnp.where(shared["noisy"], normalised(x) + noise, x)
        return x * jax.random.bernoulli(shared["key"], shape=x.shape), clips["class"]

    shared = {
        "table": random(4, 4),
        "order": jnp.array([1, 0, 3, 2]),
        "n": jnp.int8(3),
        "noisy": jnp.array(True),
        "key": jax.random.key(1),
    }
    clips = {
        "class": jnp.arange(N_CLIPS) % 4,
        "valid": jnp.arange(N_CLIPS) != 4,
        "key": jax.random.split(jax.random.key(2), N_CLIPS),
    }
    assert_same(fn, shared, clips)


def test_inputs_may_be_normalised_and_returned_themselves(x64):
    fn = lambda shared, clips: (normalised(clips), clips, shared)  # noqa: E731
    assert_same(fn, random(3), random(N_CLIPS, 3))


def test_a_network_without_statistics_or_operations_runs_as_it_is_written():
    x = jnp.ones((6, 2))
    for fn in (lambda shared, clips: clips, lambda shared, clips: clips + shared):
        result, scratch = by_chunks(fn)(1.0, x)
        np.testing.assert_array_equal(result, fn(1.0, x))
        assert scratch is None


def test_an_unknown_primitive_mixes_clips(x64):
    """Run what nobody has said keeps clips apart as it is written."""
    callback = lambda x: jax.pure_callback(lambda x: np.flip(x, 0), x, x)  # noqa: E731
    x, shared = random(N_CLIPS, 3), jnp.zeros(())
    fn = lambda shared, x: callback(normalised(x))  # noqa: E731
    assert not runs_in_pieces(fn, shared, x)
    assert_close(jax.jit(in_chunks(fn))(shared, x), fn(shared, x))


def test_the_axis_of_clips_is_where_two_traces_differ():
    part, whole = (jax.make_jaxpr(lambda x: x.T)(jnp.ones((n, 3))).jaxpr for n in (2, 6))
    assert clip_axis.find(part.invars[0], whole.invars[0]) == 0
    assert clip_axis.find(part.outvars[0], whole.outvars[0]) == 1
    assert clip_axis.find(part.invars[0], part.invars[0]) is None
