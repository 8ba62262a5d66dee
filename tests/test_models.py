"""The network against the official baseline, in every mode, and its limiting cases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asc_jax.errors import UserError
from asc_jax.models import CPMobile, layers, training
from asc_jax.models.kernels import by_chunks, convolution, normalise, pool
from asc_jax.pytorch.weights import from_torch
from asc_jax.training import state


@pytest.fixture(scope="class", params=["fast kernels", "definitions"])
def kernels(request):
    """Choose what a CPU computes, or a machine for which there are no fast kernels."""
    if request.param == "fast kernels":
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        for module in (convolution, normalise, pool):
            patch.setattr(
                module, "by_machine", lambda _, definition, static, *x: definition(*static, *x)
            )
        jax.clear_caches()
        yield
    jax.clear_caches()


def to_input(log_mel):
    return jnp.asarray(log_mel, jnp.float32)[..., None]


@pytest.mark.usefixtures("kernels")
class TestAgainstTheBaseline:
    """One class, because programs are traced anew for each choice of kernels."""

    @pytest.mark.parametrize("hop", [500, 472])
    def test_evaluation_logits_equal_the_baseline(self, golden, hop):
        variables = from_torch(golden("c_state_calib"))
        log_mel = to_input(golden("b_frontend")[f"logmel_hop{hop}"])
        logits = jax.jit(CPMobile().apply)(variables, log_mel)
        np.testing.assert_allclose(logits, golden("c_logits_calib")[f"logits_hop{hop}"], atol=1e-4)

    def test_evaluation_logits_of_held_out_clips_equal_the_baseline(self, golden):
        variables = from_torch(golden("c_state_calib"))
        log_mel = to_input(golden("g_trajectory")["held_x_q"]) / 16
        logits = jax.jit(CPMobile().apply)(variables, log_mel)
        np.testing.assert_allclose(logits, golden("c_logits_calib")["logits_held"], atol=1e-4)

    @pytest.mark.parametrize("hop", [pytest.param(500, marks=pytest.mark.nightly), 472])
    def test_training_logits_and_statistics_equal_the_baseline(self, golden, hop):
        state3, reference = golden("c_state3"), golden("c_logits")
        log_mel = to_input(golden("b_frontend")[f"logmel_hop{hop}"])
        logits, updated = jax.jit(training(CPMobile()))(from_torch(state3), log_mel)
        np.testing.assert_allclose(logits, reference[f"train_logits_hop{hop}"], atol=1e-3)
        prefix = f"train_hop{hop}|"
        after = {k.removeprefix(prefix): v for k, v in reference.items() if k.startswith(prefix)}
        expected = from_torch(state3 | after)["batch_stats"]
        jax.tree.map(
            lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-5),
            updated["batch_stats"],
            expected,
        )


def test_float16_storage_costs_what_it_costs_the_baseline(golden):
    variables = from_torch(golden("c_state_calib"))
    rounded = jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32), variables)
    log_mel = golden("b_frontend")["logmel_hop472"].astype(np.float16)
    logits = CPMobile().apply(rounded, to_input(log_mel))
    reference = golden("c_logits_calib")["logits_halfweights_f32math_hop472"]
    np.testing.assert_allclose(logits, reference, atol=1e-4)


@pytest.mark.parametrize(("grn", "expected"), [(False, 61_148), (True, 61_160)])
def test_number_of_parameters(grn, expected):
    """CP-Mobile's response normalisation adds a scale and a shift to each of six normalisation."""
    variables = jax.eval_shape(
        CPMobile(grn=grn).init, jax.random.key(0), jnp.zeros((1, 256, 68, 1))
    )
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == expected


def test_response_norm_starts_as_the_identity_and_has_finite_gradients():
    module = layers.GlobalResponseNorm()
    x = jnp.zeros((2, 4, 5, 3)).at[..., 0].set(1.0)  # two silent channels
    variables = module.init(jax.random.key(0), x)
    np.testing.assert_array_equal(module.apply(variables, x), x)
    moved = jax.tree.map(jnp.ones_like, variables)
    grads = jax.grad(lambda *args: jnp.sum(module.apply(*args)), argnums=(0, 1))(moved, x)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))


def test_initial_kernels_follow_kaiming_fan_out():
    variables = state.init_variables(CPMobile(), jax.random.key(0), (256, 68, 1))
    kernel = np.asarray(variables["params"]["b6"]["project"]["kernel"])
    assert kernel.std() == pytest.approx((2 / 104) ** 0.5, rel=0.03)
    depthwise = np.asarray(variables["params"]["b6"]["depthwise"]["kernel"])
    assert depthwise.std() == pytest.approx((2 / (120 * 9)) ** 0.5, rel=0.08)


def test_padding_rows_change_neither_logits_nor_statistics():
    model = CPMobile(width=8)
    x = jax.random.normal(jax.random.key(1), (6, 32, 20, 1))
    variables = state.init_variables(model, jax.random.key(0), x.shape[1:])
    padded = jnp.concatenate([x, 100 * jnp.ones((3, *x.shape[1:]))])

    @jax.jit
    def run(x, mask):
        return model.apply(variables, x, train=True, mask=mask, mutable=["batch_stats"])

    alone, stats = run(x, jnp.ones(6, bool))
    beside, padded_stats = run(padded, jnp.arange(9) < 6)
    np.testing.assert_allclose(beside[:6], alone, atol=2e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), stats, padded_stats)


def test_batch_norm_over_replicas_is_that_of_the_whole_batch(x64):
    """Value and gradient, of two replicas of three clips, of which the last only fills up."""
    x, target = jax.random.normal(jax.random.key(0), (2, 6, 3, 4, 2), jnp.float64)
    mask = jnp.array([1.0, 1, 1, 1, 1, 0])
    target = target * mask[:, None, None, None]

    def loss(x, target, mask, axis_name=None):
        moments = normalise.batch_moments(x, mask, jnp.array([0.3, 5.0]), axis_name)
        mean, var, n_values = moments
        y = normalise.affine(x, mean, 1 / jnp.sqrt(var + 1e-5), jnp.zeros(2))
        return jnp.sum(target * y), n_values

    def value_and_gradient(*arrays, **options):
        return jax.value_and_grad(loss, has_aux=True)(*arrays, **options)

    (expected, n_values), gradient = value_and_gradient(x, target, mask)
    of_replica = functools.partial(value_and_gradient, axis_name="replica")
    halves = [array.reshape(2, 3, *array.shape[1:]) for array in (x, target, mask)]
    (values, ns), gradients = jax.vmap(of_replica, axis_name="replica")(*halves)
    np.testing.assert_allclose(values.sum(), expected, rtol=1e-12)
    np.testing.assert_array_equal(ns, [n_values, n_values])
    np.testing.assert_allclose(gradients.reshape(x.shape), gradient, atol=1e-12)


@pytest.mark.nightly
@pytest.mark.slow
def test_a_step_holds_little_more_than_its_backward_pass_needs(monkeypatch):
    net, n_clips = CPMobile(width=8), 20
    monkeypatch.setattr(by_chunks, "clips_in_cache", lambda jaxpr, n_clips: 5)
    log_mel = jax.ShapeDtypeStruct((n_clips, 64, 34, 1), jnp.float32)
    variables = jax.eval_shape(net.init, jax.random.key(0), log_mel)

    def loss(params, batch_stats, log_mel):
        variables = {"params": params, "batch_stats": batch_stats}
        logits, _ = training(net)(variables, log_mel)
        return jnp.sum(logits**2)

    args = variables["params"], variables["batch_stats"], log_mel
    kept = jax.eval_shape(lambda params, *rest: jax.vjp(lambda p: loss(p, *rest), params)[1], *args)
    n_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))
    step = jax.jit(jax.grad(loss)).lower(*args).compile()
    assert step.memory_analysis().temp_size_in_bytes < 1.25 * n_bytes


def test_training_elsewhere_than_on_a_cpu_is_the_plain_network(monkeypatch):
    net, log_mel = CPMobile(width=8), jax.random.normal(jax.random.key(1), (4, 32, 17, 1))
    variables = state.init_variables(net, jax.random.key(0), log_mel.shape[1:])
    by_chunks_on_a_cpu = jax.jit(training(net))(variables, log_mel)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    elsewhere = jax.jit(training(net))(variables, log_mel)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), by_chunks_on_a_cpu, elsewhere
    )


def test_bfloat16_compute_gives_float32_logits_near_the_float32_ones(golden):
    variables = from_torch(golden("c_state_calib"))
    log_mel = to_input(golden("b_frontend")["logmel_hop472"])
    logits = CPMobile(dtype="bfloat16").apply(variables, log_mel)
    assert logits.dtype == jnp.float32
    full = CPMobile().apply(variables, log_mel)
    assert float(jnp.max(jnp.abs(logits - full))) < 0.05 * float(jnp.max(jnp.abs(full)))


def test_an_unknown_activation_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="known: "):
        CPMobile(activation="swish").init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))


def test_from_torch_accepts_a_lightning_checkpoint(golden):
    plain = golden("c_state3")
    lightning = {f"model.{name}": value for name, value in plain.items()}
    lightning |= {"mel.0.kernel": np.zeros(1), "mel.1.mel_scale.fb": np.zeros(1)}
    jax.tree.map(np.testing.assert_array_equal, from_torch(lightning), from_torch(plain))


def test_from_torch_names_every_tensor_that_does_not_fit(golden):
    tensors = golden("c_state3")
    tensors["stages.s1.b1.extra"] = tensors.pop("in_c.0.0.weight")
    tensors["feed_forward.0.weight"] = np.zeros(3)
    with pytest.raises(UserError) as error:
        from_torch(tensors)
    for name in (
        "missing in_c.0.0.weight",
        "unknown stages.s1.b1.extra",
        "feed_forward.0.weight",
    ):
        assert name in str(error.value)
