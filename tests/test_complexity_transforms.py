"""The counter through JAX's transformations: what runs inside them counts as often as it runs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.custom_partitioning import custom_partitioning

from asc_jax.complexity import count_macs
from asc_jax.models import CPMobile

SQUARE = jax.ShapeDtypeStruct((2, 2), jnp.float32)  # x @ x: 8 multiply-accumulates


def square(x):
    return x @ x


@jax.custom_vjp
def custom_vjp(x):
    return x @ x


custom_vjp.defvjp(lambda x: (x @ x, x), lambda x, dy: (dy @ x,))


@jax.custom_jvp
def custom_jvp(x):
    return x @ x


custom_jvp.defjvp(lambda x, dx: (x[0] @ x[0], dx[0] @ x[0]))


@jax.custom_batching.custom_vmap
def custom_vmap(x):
    return x @ x


custom_vmap.def_vmap(lambda n, batched, x: (jax.vmap(square)(x), True))


@custom_partitioning
def partitioned(x):
    return x @ x


partitioned.def_partition(
    lambda mesh, args, result: (mesh, square, result.sharding, (args[0].sharding,)),
    sharding_rule="i j -> i j",
)


def replicas(names, shape, in_axes):
    """`x @ x.T` under shard_map over the given mesh, manual over `in_axes`."""
    auto = (jax.sharding.AxisType.Auto,) * len(names)
    mesh = jax.make_mesh(shape, names, axis_types=auto)
    spec = jax.sharding.PartitionSpec(*in_axes)
    body = lambda x: x @ x.T  # noqa: E731
    return jax.shard_map(body, mesh=mesh, in_specs=spec, out_specs=spec, axis_names=set(in_axes))


def solve(x):
    """Forward only the solver runs: 8, not the 8 of the operator as well."""
    matvec = lambda v: x @ x @ v  # noqa: E731
    return jax.lax.custom_linear_solve(matvec, x[0], lambda _, b: x @ x @ b, symmetric=True)


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (jax.jit(square), 8),
        (jax.jit(jax.jit(square)), 8),
        (jax.checkpoint(square), 8),
        (jax.named_call(square, name="named"), 8),
        (custom_vjp, 8),
        (custom_jvp, 8),
        (custom_vmap, 8),
        (jax.lax.composite(square, name="my.square"), 8),
        (partitioned, 8),
        (lambda x: jax.lax.optimization_barrier(x @ x), 8),
        (lambda x: jax.lax.map(lambda row: x @ row, x), 8),
        (lambda x: jax.lax.scan(lambda c, _: (c @ c, None), x, length=7)[0], 56),
        (lambda x: jax.lax.fori_loop(0, 5, lambda _, c: c @ c, x), 40),
        (lambda x: jax.lax.associative_scan(jnp.matmul, jnp.stack([x, x, x])), 16),
        (jax.grad(lambda x: jnp.sum(square(x))), 24),
        (jax.grad(lambda x: jnp.sum(custom_vjp(x))), 16),
        (lambda x: jax.jvp(custom_jvp, (x,), (x,))[1], 16),
        (lambda x: jax.linearize(square, x)[1](x), 24),
        (jax.jacfwd(square), 8 + 2 * 4 * 8),
        (solve, 8 + 4),
        (lambda x: jnp.einsum("ij,jk,kl->il", x, x, x), 16),
    ],
)
def test_counter_follows_transformations(fn, expected):
    assert count_macs(fn, SQUARE).total == expected


def test_remat_counts_what_the_backward_pass_computes_again():
    def gradient(body):
        return count_macs(jax.grad(lambda x: jnp.sum(body(x))), SQUARE).total

    def cube(x):
        return x @ x @ x

    assert gradient(cube) == 2 * 8 + 4 * 8
    assert gradient(jax.checkpoint(cube)) == gradient(cube) + 8  # x @ x, once more


def endless(x):
    return jax.lax.while_loop(lambda x: x[0, 0] < 9, square, x)


def by_platform(x):
    """Compute `x @ x` by default, and elsewhere what costs more or cannot be counted."""
    inner = functools.partial(
        jax.lax.platform_dependent, tpu=lambda x: x @ x @ x, cuda=jnp.linalg.inv, default=custom_vjp
    )
    return jax.lax.platform_dependent(x, cpu=endless, default=inner)


@jax.custom_vjp
def custom_by_platform(x):
    return by_platform(x)


custom_by_platform.defvjp(lambda x: (by_platform(x), x), lambda x, dy: (by_platform(dy),))


@pytest.mark.parametrize(
    ("fn", "n_squares"),
    [
        (by_platform, 1),
        (jax.jit(by_platform), 1),
        (jax.checkpoint(by_platform), 1),
        (custom_by_platform, 1),
        (lambda x: jax.vjp(custom_by_platform, x)[1](x), 2),
        (lambda x: jax.lax.scan(lambda c, _: (by_platform(c), None), x, length=3)[0], 3),
        (lambda x: jax.vmap(by_platform)(jnp.stack([x, x])), 2),
        (lambda x: jax.pmap(by_platform)(jnp.stack([x, x])), 2),
    ],
)
def test_platform_dependent_counts_its_default_alone(fn, n_squares):
    count = count_macs(fn, SQUARE)
    assert (count.total, count.flops) == (n_squares * 8, 0)
    assert count.branches == ()
    assert count.uncounted == {}


def test_platform_dependent_without_a_default_counts_its_dearest_branch():
    both = functools.partial(jax.lax.platform_dependent, cpu=square, tpu=lambda x: x @ x @ x)
    count = count_macs(both, SQUARE)
    assert (count.total, count.branches[0].macs) == (16, (8, 16))


def test_loops_for_other_platforms_need_no_trips():
    count = count_macs(lambda x: endless(by_platform(x)), SQUARE, while_trips=(5,))
    assert count.total == 8 + 5 * 8


def repeated(x, n):
    for _ in range(n):
        x = x @ x
    return jax.lax.fori_loop(0, n, lambda _, x: x @ x, x)


@pytest.mark.parametrize("n", [3, np.int64(3)])
def test_arguments_that_are_no_arrays_keep_their_values(n):
    def fn(x, options, *, dtype, act):
        x = repeated(x, options["n"]) if options["train"] else x
        return act(x.astype(dtype).reshape(options["shape"]))

    options = {"n": n, "train": True, "shape": (4, 1), "name": "a string"}
    assert count_macs(fn, SQUARE, options, dtype=np.float16, act=jnp.sin).total == 6 * 8
    assert count_macs(jax.jit(repeated, static_argnames="n"), SQUARE, n).total == 6 * 8


def test_an_array_whose_value_is_needed_is_named():
    def fn(x, n):
        return x @ x if n else x

    with pytest.raises(TypeError, match="value of the argument n"):
        count_macs(fn, SQUARE, np.array(1))
    assert count_macs(functools.partial(fn, n=np.array(1)), SQUARE).total == 8


def test_pytrees_keywords_and_arrays_count_alike():
    def fn(tree, *, scale):
        return tree["a"] @ tree["b"][0] * scale

    tree = {"a": np.ones((2, 3), np.float32), "b": [jax.ShapeDtypeStruct((3, 5), jnp.float32)]}
    assert count_macs(fn, tree, scale=2.0).total == 30


def test_every_shard_counts_and_axes_the_body_sees_whole_do_not():
    rows, square_rows = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((4, 3), (4, 4)))
    assert count_macs(replicas(("r",), (2,), ("r",)), rows).total == 2 * 2 * 2 * 3
    assert count_macs(replicas(("r", "m"), (2, 2), ("r",)), rows).total == 2 * 2 * 2 * 3
    assert count_macs(replicas(("r", "m"), (2, 2), ("r", "m")), square_rows).total == 4 * 2 * 2 * 2


@pytest.mark.parametrize("train", [False, True])
def test_the_network_counts_the_same_under_jit_vmap_remat_and_pmap(train):
    net = CPMobile(width=8)
    shape = (2, 32, 17, 1)
    clips = jax.ShapeDtypeStruct(shape, jnp.float32)
    variables = jax.eval_shape(net.init, jax.random.key(0), clips)
    fn = functools.partial(net.apply, train=train, mutable=["batch_stats"])
    plain = count_macs(fn, variables, clips)
    assert count_macs(net.apply, variables, clips, train=train, mutable=["batch_stats"]) == plain

    def stacked(tree, n):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((n, *x.shape), x.dtype), tree)

    assert "b1/expand" in plain.by_layer
    for same in (jax.jit(fn), jax.checkpoint(fn), jax.jit(jax.checkpoint(fn))):
        assert count_macs(same, variables, clips) == plain
    for n, many in ((3, jax.vmap(fn)), (2, jax.pmap(fn)), (3, jax.jit(jax.vmap(fn)))):
        count = count_macs(many, stacked(variables, n), stacked(clips, n))
        assert count.total == n * plain.total
        assert count.by_layer == {name: n * macs for name, macs in plain.by_layer.items()}
