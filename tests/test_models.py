"""The network against the official baseline, in every mode, and its limiting cases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asc_jax.errors import UserError
from asc_jax.models import CPMobile, normalisation
from asc_jax.models.folding import fold_batch_norm
from asc_jax.models.kernels import chunks
from asc_jax.pytorch.weights import from_torch
from asc_jax.training import state

BODIES = ["lax", "shifts"]


def to_input(log_mel):
    return jnp.asarray(log_mel, jnp.float32)[..., None]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("hop", [500, 472])
def test_evaluation_logits_equal_the_baseline(golden, body, hop):
    variables = from_torch(golden("c_state_calib"))
    log_mel = to_input(golden("b_frontend")[f"logmel_hop{hop}"])
    logits = CPMobile(body=body).apply(variables, log_mel)
    np.testing.assert_allclose(logits, golden("c_logits_calib")[f"logits_hop{hop}"], atol=1e-4)


@pytest.mark.parametrize("body", BODIES)
def test_evaluation_logits_of_held_out_clips_equal_the_baseline(golden, body):
    variables = from_torch(golden("c_state_calib"))
    log_mel = to_input(golden("g_trajectory")["held_x_q"]) / 16
    logits = CPMobile(body=body).apply(variables, log_mel)
    np.testing.assert_allclose(logits, golden("c_logits_calib")["logits_held"], atol=1e-4)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("hop", [500, 472])
def test_training_logits_and_statistics_equal_the_baseline(golden, body, hop):
    state3, reference = golden("c_state3"), golden("c_logits")
    log_mel = to_input(golden("b_frontend")[f"logmel_hop{hop}"])
    logits, updated = CPMobile(body=body).apply(
        from_torch(state3), log_mel, train=True, mutable=["batch_stats"]
    )
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
    module = normalisation.GlobalResponseNorm()
    x = jnp.zeros((2, 4, 5, 3)).at[..., 0].set(1.0)  # two silent channels
    response = module.apply(module.init(jax.random.key(0)))
    np.testing.assert_array_equal(normalisation.response_norm(x, *response), x)
    moved = jax.tree.map(jnp.ones_like, response)
    grads = jax.grad(lambda r, x: jnp.sum(normalisation.response_norm(x, *r)), argnums=(0, 1))(
        moved, x
    )
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


@pytest.mark.parametrize("max_clips", [None, 2, 5])
def test_gradient_through_batch_norm_equals_autodiff(x64, max_clips):
    x = jax.random.normal(jax.random.key(0), (5, 3, 4, 2), jnp.float64)
    scale, bias = jnp.array([1.5, 0.5]), jnp.array([0.1, -0.2])
    mask = jnp.array([1.0, 1, 1, 1, 0])
    target = jax.random.normal(jax.random.key(1), x.shape) * mask[:, None, None, None]

    def plain(x, scale, bias):
        valid = x[:4]
        mean, var = (
            valid.mean((0, 1, 2), keepdims=True),
            valid.var((0, 1, 2), keepdims=True),
        )
        y = (x - mean) / jnp.sqrt(var + 1e-5)
        return jnp.sum(target * (y * scale[None, None, None] + bias[None, None, None]))

    def ours(x, scale, bias):
        shift = jnp.array([0.3, 5.0])
        (y,), mean, var, n_values = chunks.layer(
            lambda clips, _: (clips,), max_clips, None, x, scale, mask, shift
        )
        assert n_values == 4 * 3 * 4
        factor = scale / jnp.sqrt(var + 1e-5)
        return jnp.sum(
            target * normalisation.scale_shift(y, normalisation.Affine(mean, factor, bias))
        )

    for a, b in zip(
        jax.grad(plain, (0, 1, 2))(x, scale, bias),
        jax.grad(ours, (0, 1, 2))(x, scale, bias),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_batch_norm_over_replicas_is_that_of_the_whole_batch(x64):
    """Value and gradient, of two replicas of three clips, of which the last only fills up."""
    x, target = jax.random.normal(jax.random.key(0), (2, 6, 3, 4, 2), jnp.float64)
    mask = jnp.array([1.0, 1, 1, 1, 1, 0])
    target = target * mask[:, None, None, None]

    def loss(x, target, mask, axis_name=None):
        (y,), mean, var, n_values = chunks.layer(
            lambda clips, _: (clips,), None, axis_name, x, (), mask, jnp.array([0.3, 5.0])
        )
        affine = normalisation.Affine(mean, 1 / jnp.sqrt(var + 1e-5), jnp.zeros(2))
        return jnp.sum(target * normalisation.scale_shift(y, affine)), n_values

    def value_and_gradient(*arrays, **options):
        return jax.value_and_grad(loss, has_aux=True)(*arrays, **options)

    (expected, n_values), gradient = value_and_gradient(x, target, mask)
    of_replica = functools.partial(value_and_gradient, axis_name="replica")
    halves = [array.reshape(2, 3, *array.shape[1:]) for array in (x, target, mask)]
    (values, ns), gradients = jax.vmap(of_replica, axis_name="replica")(*halves)
    np.testing.assert_allclose(values.sum(), expected, rtol=1e-12)
    np.testing.assert_array_equal(ns, [n_values, n_values])
    np.testing.assert_allclose(gradients.reshape(x.shape), gradient, atol=1e-12)


def test_a_step_holds_little_more_than_its_backward_pass_needs():
    net, n_clips = CPMobile(width=8, body="shifts"), 4 * chunks.CPU_CLIPS
    log_mel = jax.ShapeDtypeStruct((n_clips, 64, 34, 1), jnp.float32)
    variables = jax.eval_shape(net.init, jax.random.key(0), log_mel)

    def loss(params, batch_stats, log_mel):
        variables = {"params": params, "batch_stats": batch_stats}
        logits, _ = net.apply(variables, log_mel, train=True, mutable=["batch_stats"])
        return jnp.sum(logits**2)

    args = variables["params"], variables["batch_stats"], log_mel
    kept = jax.eval_shape(lambda params, *rest: jax.vjp(lambda p: loss(p, *rest), params)[1], *args)
    n_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))
    step = jax.jit(jax.grad(loss)).lower(*args).compile()
    assert step.memory_analysis().temp_size_in_bytes < 1.25 * n_bytes


def test_bfloat16_compute_gives_float32_logits_near_the_float32_ones(golden):
    variables = from_torch(golden("c_state_calib"))
    log_mel = to_input(golden("b_frontend")["logmel_hop472"])
    logits = CPMobile(dtype="bfloat16").apply(variables, log_mel)
    assert logits.dtype == jnp.float32
    full = CPMobile().apply(variables, log_mel)
    assert float(jnp.max(jnp.abs(logits - full))) < 0.05 * float(jnp.max(jnp.abs(full)))


@pytest.mark.parametrize("values", [{"activation": "swish"}, {"body": "fast"}])
def test_unknown_names_are_refused_with_the_known_ones(values):
    with pytest.raises(ValueError, match="known: "):
        CPMobile(**values).init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))


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


@pytest.mark.parametrize("body", BODIES)
def test_folded_network_gives_the_same_logits_with_fewer_values(golden, body):
    variables = from_torch(golden("c_state_calib"))
    folded = fold_batch_norm(variables)
    log_mel = to_input(golden("g_trajectory")["held_x_q"]) / 16
    logits = CPMobile(body=body, folded=True).apply(folded, log_mel)
    np.testing.assert_allclose(logits, golden("c_logits_calib")["logits_held"], atol=1e-4)
    assert sum(x.size for x in jax.tree.leaves(folded)) == 59_794
    assert {np.asarray(x).dtype.name for x in jax.tree.leaves(folded)} == {"float32"}


def test_folding_keeps_the_response_norms():
    model = CPMobile(width=8, grn=True)
    variables = state.init_variables(model, jax.random.key(0), (32, 20, 1))
    moved = jax.tree.map(lambda x: x + 0.1, variables)
    log_mel = jax.random.normal(jax.random.key(1), (3, 32, 20, 1))
    folded = jax.jit(CPMobile(width=8, grn=True, folded=True).apply)
    logits = folded(fold_batch_norm(moved), log_mel)
    np.testing.assert_allclose(logits, jax.jit(model.apply)(moved, log_mel), rtol=1e-4)


def test_folded_network_cannot_be_trained():
    with pytest.raises(ValueError, match="cannot be trained"):
        CPMobile(folded=True).init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)), train=True)
