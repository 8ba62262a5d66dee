"""The baseline's weights in and out, and its network in PyTorch beside ours."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asc_jax.errors import UserError
from asc_jax.models import CPMobile
from asc_jax.pytorch.twin import make_twin
from asc_jax.pytorch.weights import from_torch, infer_config, read_counters, to_torch

STATES = ("c_init_state", "c_state3", "c_state_calib", "g_final_state64")
NETWORKS = (
    {},
    {"width": 16},
    {"grn": True},
    {"width": 24, "width_multiplier": 2.4, "expansion": 3.2, "grn": True},
    {"width": 8, "width_multiplier": 1.0, "expansion": 6.0, "activation": "hard_swish"},
)
MODULES = ("stages.s1.b1.block.1", "feed_forward")


def assert_same(ours, theirs):
    """Names and their order, shapes, dtypes and every bit."""
    assert list(ours) == list(theirs)
    for name in theirs:
        assert (ours[name].shape, ours[name].dtype) == (theirs[name].shape, theirs[name].dtype)
        assert ours[name].tobytes() == theirs[name].tobytes(), name
        assert ours[name].flags.c_contiguous, name


def random_variables(network, dtype=np.float32):
    """Variables in which no two values are alike."""
    shapes = jax.eval_shape(CPMobile(**network).init, jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.uniform(0.5, 1.5, x.shape).astype(dtype), shapes)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("name", STATES)
def test_there_and_back_is_bit_exact(golden, name, dtype):
    tensors = {
        key: value.astype(jnp.dtype(dtype)) if value.dtype.kind == "f" else value
        for key, value in golden(name).items()
    }
    assert len(tensors) == 126
    assert_same(to_torch(from_torch(tensors), read_counters(tensors)), tensors)


@pytest.mark.parametrize("network", NETWORKS)
def test_back_and_there_is_bit_exact_for_other_networks(network):
    variables = random_variables(network)
    tensors = to_torch(variables, 7)
    assert len(tensors) == 126 + 12 * network.get("grn", False)
    assert set(read_counters(tensors).values()) == {7}
    jax.tree.map(np.testing.assert_array_equal, from_torch(tensors), variables)


def test_each_counter_is_kept(golden):
    tensors = golden("c_state3")
    tensors["in_c.0.1.num_batches_tracked"] = np.array(12)
    assert read_counters(tensors)["in_c.0.1.num_batches_tracked"] == 12
    assert_same(to_torch(from_torch(tensors), read_counters(tensors)), tensors)
    tensors["in_c.0.1.num_batches_tracked"] = np.array(1.5)
    with pytest.raises(UserError, match="in_c.0.1.num_batches_tracked is float64"):
        read_counters(tensors)


@pytest.mark.parametrize("count", [-3, 2**62])
def test_counter_that_counts_nothing_is_refused(count):
    counter = {"in_c.0.1.num_batches_tracked": np.array(count)}
    with pytest.raises(UserError, match=f"in_c.0.1.num_batches_tracked is {count}, expected a cou"):
        read_counters(counter)


@pytest.mark.parametrize("function", [from_torch, infer_config, read_counters])
def test_two_networks_are_refused_and_both_are_named(golden, function):
    tensors = golden("c_state_calib")
    with pytest.raises(UserError, match="^there are 2 networks, with the prefixes '', 'model.': "):
        function(tensors | {f"model.{name}": value for name, value in tensors.items()})


@pytest.mark.parametrize("function", [from_torch, infer_config])
def test_one_tensor_of_a_second_network_is_unknown(golden, function):
    tensors = golden("c_state_calib")
    with pytest.raises(UserError, match="unknown model.in_c.0.0.weight of shape"):
        function(tensors | {"model.in_c.0.0.weight": tensors["in_c.0.0.weight"]})


@pytest.mark.parametrize("prefix", ["net.", "module.", "model._orig_mod.", "model.model.", "a/b."])
def test_prefix_of_a_wrapper_is_taken_off(golden, prefix):
    tensors = golden("c_state_calib")
    wrapped = {prefix + name: value for name, value in tensors.items()}
    assert_same(to_torch(from_torch(wrapped), read_counters(wrapped)), tensors)
    assert infer_config(wrapped) == infer_config(tensors)


@pytest.mark.parametrize("name", ["width_multiplier", "expansion"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, 1e300])
def test_wanted_number_out_of_its_range_is_refused(golden, name, value):
    with pytest.raises(UserError, match=f"{name} is .*, expected a number above 0 and at most 64"):
        infer_config(golden("c_state_calib"), **{name: value})


def test_to_torch_copies():
    variables = random_variables({})
    tensors = to_torch(variables)
    tensors["in_c.0.1.weight"][:] = 0
    assert variables["params"]["stem1"]["norm"]["scale"].min() >= 0.5


@pytest.mark.parametrize("network", NETWORKS)
def test_config_is_inferred_from_the_shapes(network):
    inferred = infer_config(to_torch(random_variables(network)))
    expected = {"width": 32, "width_multiplier": 1.8, "expansion": 2.1, "grn": False} | network
    expected.pop("activation", None)  # leaves no trace
    if network.get("width") == 8:  # 1.0 makes 8, 8, 8 channels, and so does anything near it
        assert inferred["width_multiplier"] <= 1.2
        inferred["width_multiplier"] = 1.0
    assert inferred == expected | {"n_classes": 10}


def test_inferred_values_make_the_same_shapes_and_prefer_the_wanted_ones(golden):
    tensors = golden("c_init_state")
    assert infer_config(tensors, width_multiplier=1.79)["width_multiplier"] == 1.79
    inferred = infer_config(tensors, width_multiplier=3.0, expansion=9.0)
    shapes = jax.eval_shape(CPMobile(**inferred).init, jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    jax.tree.map(
        lambda a, b: np.testing.assert_equal(a.shape, b.shape), shapes, from_torch(tensors)
    )


def test_every_bad_tensor_is_named_with_found_and_expected_shape(golden):
    tensors = golden("c_state_calib")
    kernel, head = (f"{module}.0.weight" for module in MODULES)
    tensors["extra.weight"] = np.zeros((2, 3))
    tensors["extra.num_batches_tracked"] = np.array(3)
    del tensors["in_c.1.1.bias"]
    tensors[kernel] = tensors[kernel][1:]
    tensors[head] = tensors[head].reshape(-1)
    tensors["in_c.0.1.weight"] = np.arange(8)
    tensors["in_c.0.1.bias"][2:4] = np.nan, np.inf
    tensors["in_c.0.1.running_var"][:3] = -1e-3
    with pytest.raises(UserError) as error:
        from_torch(tensors)
    for problem in (
        "missing in_c.1.1.bias of shape (32,)",
        f"misshapen {kernel}: (63, 1, 3, 3), expected (64, 1, 3, 3)",
        f"misshapen {head}: (1040,), expected (10, 104, 1, 1)",
        "not floating in_c.0.1.weight: int64, expected float32",
        "not finite in_c.0.1.bias: 2 of 8 values are NaN or inf",
        "negative in_c.0.1.running_var: 3 of 8 variances are below 0",
        "unknown extra.weight of shape (2, 3)",
        "unknown extra.num_batches_tracked of shape ()",
    ):
        assert problem in str(error.value)
    assert str(error.value).count(";") == 7, "and nothing else is blamed"


def test_response_norm_is_all_or_nothing():
    tensors = to_torch(random_variables({"grn": True}))
    del tensors["stages.s2.b4.after_block_norm.beta"]
    with pytest.raises(UserError, match=r"missing stages.s2.b4.after_block_norm.beta of shape"):
        from_torch(tensors)


def test_channels_that_no_network_has_are_refused():
    tensors = {
        name: value[:24] if name.startswith("stages.s3.b6.block.2") and value.shape else value
        for name, value in to_torch(random_variables({})).items()
    }
    tensors["feed_forward.0.weight"] = tensors["feed_forward.0.weight"][:, :24]
    with pytest.raises(UserError, match=r"no width, .* make these channel counts: .* stage3 24"):
        from_torch(tensors)


@pytest.mark.parametrize("tensors", [{}, {"conv1.weight": np.zeros((64, 3, 7, 7))}])
def test_another_architecture_is_told_from_a_spoilt_one(tensors):
    with pytest.raises(UserError, match="none of the tensors .* is one of the baseline's network"):
        from_torch(tensors)


def test_other_variables_are_not_written():
    variables = random_variables({})
    variables["params"]["b7"] = variables["params"].pop("b6")
    with pytest.raises(UserError, match=r"missing params/b6/\S+; .*unknown params/b7/"):
        to_torch(variables)


def load_twin(tensors, dtype="float32", **network):
    torch = pytest.importorskip("torch")
    twin = make_twin(**network).to(getattr(torch, dtype))
    twin.load_state_dict({n: torch.from_numpy(v) for n, v in tensors.items()}, strict=True)
    return twin


def run_twin(twin, log_mel, *, train):
    """`log_mel [b, f, t]` → logits."""
    torch = pytest.importorskip("torch")
    twin.train(train)
    with torch.no_grad():
        return twin(torch.from_numpy(log_mel)[:, None]).numpy()


@pytest.mark.parametrize("hop", [500, 472])
def test_twin_evaluates_as_the_baseline(golden, hop):
    twin = load_twin(to_torch(from_torch(golden("c_state_calib"))))
    logits = run_twin(twin, golden("b_frontend")[f"logmel_hop{hop}"], train=False)
    np.testing.assert_allclose(logits, golden("c_logits_calib")[f"logits_hop{hop}"], atol=1e-5)


@pytest.mark.parametrize("hop", [500, 472])
def test_twin_trains_as_the_baseline(golden, hop):
    """Logits, running statistics and counters; the statistics start as in the state dict."""
    twin = load_twin(golden("c_state3"))
    logits = run_twin(twin, golden("b_frontend")[f"logmel_hop{hop}"], train=True)
    reference = golden("c_logits")
    np.testing.assert_allclose(logits, reference[f"train_logits_hop{hop}"], atol=1e-5)
    after = {k.split("|")[1]: v for k, v in reference.items() if k.startswith(f"train_hop{hop}|")}
    assert len(after) == 63
    for name, value in after.items():
        np.testing.assert_allclose(twin.state_dict()[name].numpy(), value, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "network",
    [
        {"width": 8, "grn": True, "activation": "hard_swish"},
        *(pytest.param(network, marks=pytest.mark.nightly) for network in NETWORKS),
    ],
)
def test_twin_equals_ours_in_either_mode(x64, compiled_fast, network):
    """In float64: a batch this small makes float32 statistics mostly noise."""
    variables = random_variables(network, np.float64)
    variables["params"] = jax.tree.map(lambda x: x - 1, variables["params"])
    tensors = to_torch(variables)
    twin = load_twin(tensors, dtype="float64", **network)
    assert list(twin.state_dict()) == list(tensors)
    log_mel = np.random.default_rng(1).standard_normal((3, 32, 17))
    model, clip = CPMobile(**network), jnp.asarray(log_mel)[..., None]
    ours = jax.jit(model.apply)(variables, clip)
    np.testing.assert_allclose(run_twin(twin, log_mel, train=False), ours, rtol=1e-9, atol=1e-9)
    train = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    ours, updated = train(variables, clip)
    np.testing.assert_allclose(run_twin(twin, log_mel, train=True), ours, rtol=1e-9, atol=1e-9)
    theirs = from_torch({n: v.numpy() for n, v in twin.state_dict().items()})["batch_stats"]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9),
        theirs,
        updated["batch_stats"],
    )


def test_fresh_twin_is_drawn_like_ours():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    depthwise = make_twin().state_dict()["stages.s3.b6.block.1.0.weight"]
    assert depthwise.std().item() == pytest.approx((2 / (120 * 9)) ** 0.5, rel=0.1)


def test_unknown_activation_of_the_twin_is_refused():
    pytest.importorskip("torch")
    with pytest.raises(UserError, match="unknown activation 'swish'; known: relu, relu6"):
        make_twin(activation="swish")


def test_missing_pytorch_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"torch cannot be .*pip install -r requirements-interop"):
        make_twin()
