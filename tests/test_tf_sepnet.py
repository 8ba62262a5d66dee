"""TF-SepNet against its authors' implementation, its published size, and a step of training."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from asc_jax.complexity import count_macs
from asc_jax.errors import BadValue
from asc_jax.models import training
from asc_jax.models.precision import n_params
from asc_jax.models.tf_sepnet import LAYERS, NORM, POOL, TFSepNet
from asc_jax.training import state

GOLDEN = pathlib.Path(__file__).parent / "golden"
MODULES = {
    "trans_conv": "expand",
    "freq_dw_conv": "freq_depthwise",
    "freq_pw_conv": "freq_pointwise",
    "temp_dw_conv": "time_depthwise",
    "temp_pw_conv": "time_pointwise",
}
LEAVES = {
    "_conv.weight": ("params", "kernel"),
    "weight": ("params", "kernel"),
    "bias": ("params", "bias"),
    "_bn.weight": ("params", "norm/scale"),
    "_bn.bias": ("params", "norm/bias"),
    "_bn.running_mean": ("batch_stats", "norm/mean"),
    "_bn.running_var": ("batch_stats", "norm/var"),
}


def flat_variables(arrays, prefix, depth):
    """Return the authors' arrays whose names begin so by our paths, `params/b1/…`."""
    modules = {"conv_layers.0": "stem1", "conv_layers.1": "stem2", "classifier.conv": "head"}
    blocks = [number for number, layer in enumerate(LAYERS[depth]) if layer not in (NORM, POOL)]
    for block, number in enumerate(blocks, 1):
        for theirs, ours in MODULES.items():
            modules[f"middle_layers.{number}.{theirs}"] = f"b{block}/{ours}"
    flat = {}
    for theirs, ours in modules.items():
        for theirs_leaf, (collection, leaf) in LEAVES.items():
            value = arrays.get(f"{prefix}/{theirs}.{theirs_leaf}")
            if value is not None:
                value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
                flat[f"{collection}/{ours}/{leaf}"] = value
    assert len(flat) == sum(name.startswith(prefix) for name in arrays)
    return flat


def load(width, depth):
    """Return golden arrays, the network that made them, our variables and its input."""
    arrays = dict(np.load(GOLDEN / f"tf_sepnet_{width}.npz"))
    network = TFSepNet(width=width, depth=depth, norm="res_norm", dropout=0.0)
    variables = traverse_util.unflatten_dict(flat_variables(arrays, "state", depth), sep="/")
    return arrays, network, variables, jnp.moveaxis(jnp.asarray(arrays["log_mel"]), 1, -1)


@pytest.mark.parametrize(
    ("attributes", "shape", "params", "macs"),
    [
        ({}, (256, 64), 53_370, 7_025_200),
        ({"norm": "res_norm"}, (256, 65), 52_290, 7_315_280),
        ({"width": 80}, (256, 64), 196_730, 24_171_200),
        ({"width": 64, "depth": 17, "norm": "res_norm"}, (512, 64), 126_858, 29_413_888),
        ({"width": 64, "depth": 17, "norm": "res_norm"}, (512, 65), 126_858, 30_734_848),
    ],
)
def test_size_is_the_published_one(attributes, shape, params, macs):
    network, clip = TFSepNet(**attributes), jax.ShapeDtypeStruct((1, *shape, 1), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), clip)
    assert n_params(variables["params"]) == params
    assert count_macs(network.apply, variables, clip).total == macs


@pytest.mark.parametrize(("width", "depth"), [(40, 16), (64, 17)])
def test_evaluation_logits_equal_the_authors(width, depth):
    arrays, network, variables, log_mel = load(width, depth)
    logits = jax.jit(network.apply)(variables, log_mel)
    np.testing.assert_allclose(logits, arrays["logits"], atol=1e-5)


@pytest.mark.slow
@pytest.mark.nightly
def test_training_logits_statistics_and_gradients_equal_the_authors(x64):
    arrays, network, variables, log_mel = load(40, 16)
    variables, log_mel = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (variables, log_mel))

    @jax.jit
    def gradient(params):
        def loss(params):
            given = {**variables, "params": params}
            logits, updated = network.apply(given, log_mel, train=True, mutable=["batch_stats"])
            label = jnp.arange(4)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
            return losses.mean(), (logits, updated)

        return jax.grad(loss, has_aux=True)(params)

    grads, (logits, updated) = gradient(variables["params"])
    np.testing.assert_allclose(logits, arrays["train_logits"], atol=1e-9)
    found = traverse_util.flatten_dict({"params": grads, **updated}, sep="/")
    for prefix, tolerance in (("after", 1e-9), ("grad", 2e-6)):
        for path, value in flat_variables(arrays, prefix, 16).items():
            np.testing.assert_allclose(found[path], value, atol=tolerance, err_msg=path)


def test_adaptive_normalisation_contains_the_plain_one():
    """With γ = 1.1 and ρ = 1/11 it is the other: 1.1 · (x / 11 + 10 / 11 · n) = 0.1 · x + n."""
    arrays, network, variables, log_mel = load(40, 16)
    widths = (80, 40, 60, 80, 100)
    weights = {"rho": 1 / 11, "gamma": 1.1, "beta": 0.0}
    norms = {
        f"n{number}": {name: jnp.full(n, value) for name, value in weights.items()}
        for number, n in enumerate(widths, 1)
    }
    variables = {**variables, "params": {**variables["params"], **norms}}
    logits = jax.jit(network.clone(norm="ada_res_norm").apply)(variables, log_mel)
    np.testing.assert_allclose(logits, arrays["logits"], atol=1e-5)


@pytest.mark.nightly
@pytest.mark.slow
def test_dropout_draws_in_training_only():
    network = TFSepNet(width=4, dropout=0.5)
    log_mel = jax.random.normal(jax.random.key(1), (3, 32, 20, 1))
    variables = state.init_variables(network, jax.random.key(0), log_mel.shape[1:])
    same = jnp.concatenate([log_mel[:1]] * 3)
    logits = network.apply(variables, same)
    np.testing.assert_allclose(logits[1:], logits[:2], atol=1e-6)
    forward = jax.jit(training(network))
    first, again, other = (
        forward(variables, same, None, jax.random.key(seed))[0] for seed in (2, 2, 3)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    assert np.abs(first[0] - first[1]).max() > 1e-3  # each clip has draws of its own


@pytest.mark.nightly
@pytest.mark.slow
def test_a_few_steps_lower_the_loss():
    network = TFSepNet(width=4, dropout=0.1)
    log_mel = jax.random.normal(jax.random.key(1), (8, 32, 20, 1))
    label, mask = jnp.arange(8) % 4, jnp.ones(8, bool)
    variables = state.init_variables(network, jax.random.key(0), log_mel.shape[1:])
    forward, tx = training(network), optax.adam(0.01)

    @jax.jit
    def step(variables, opt_state, key):
        def loss(params):
            logits, updates = forward({**variables, "params": params}, log_mel, mask, key)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
            return losses.mean(), updates

        (value, updated), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        updates, opt_state = tx.update(grads, opt_state)
        params = optax.apply_updates(variables["params"], updates)
        return {"params": params, **updated}, opt_state, value, grads

    opt_state, losses = tx.init(variables["params"]), []
    for number in range(20):
        key = jax.random.fold_in(jax.random.key(4), number)
        variables, opt_state, value, grads = step(variables, opt_state, key)
        losses.append(float(value))
    assert losses[-1] < 0.8 * losses[0]
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize(
    ("attribute", "value"), [("width", 6), ("depth", 15), ("norm", "batch"), ("dropout", 1.0)]
)
def test_attribute_outside_its_range_is_named(attribute, value):
    with pytest.raises(BadValue, match=attribute):
        TFSepNet(**{attribute: value}).init(jax.random.key(0), jnp.zeros((1, 32, 20, 1)))
