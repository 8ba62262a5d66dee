"""One integer program: in JAX, in LiteRT's reference kernels and in plain 64-bit integers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import call
from exported import moved_variables
from ml_collections import ConfigDict
from small import small_clips, small_config
from tau_folder import write_tau

from asc_jax import experiment, features
from asc_jax.cli import convert, prepare_data
from asc_jax.errors import UserError
from asc_jax.export import check
from asc_jax.export.run import deploy
from asc_jax.models.layers import ConvBn, InvertedResidual
from asc_jax.operations import calibrate, graph, lower, program, simulate
from asc_jax.operations.graph import INPUT, Operation
from asc_jax.quantisation import litert, run
from asc_jax.training.workdir import checkpoints, run_config


class Mini(nn.Module):
    """A stem, a block with a strided shortcut and a head: every layer of CP-Mobile."""

    act: str = "relu"
    grn: bool = False

    @nn.compact
    def __call__(self, log_mel, train, mask=None):
        act = getattr(nn, self.act)
        x = act(ConvBn(8, (3, 3), (2, 2), name="stem")(log_mel, train, mask))
        x = InvertedResidual(8, 2.0, (1, 2), act, self.grn, name="b1")(x, train, mask)
        x = ConvBn(10, (1, 1), name="head")(x, train, mask)
        return jnp.mean(x, axis=(1, 2))


class Quotient(nn.Module):
    """A network with an operation that has no rule in integers."""

    @nn.compact
    def __call__(self, log_mel, train, mask=None):
        x = Mini()(log_mel, train, mask)
        return x / (1 + jnp.abs(x))


def mini_config(network="Mini", **options):
    config = small_config(data__dir="nowhere").unlock()
    config.model = ConfigDict({"name": f"test_quantisation:{network}", **options})
    return config.lock()


IMAGE = (7, 6, 4)
# Ranges that are not as all others: one of them is below what sums can resolve.
RANGES = {"add": (-9.0, 9.0), INPUT: (-3.0, 5.0), "narrow": (-1e-6, 1e-6)}


def conv(name, c_out, size, strides=(1, 1), padding=((0, 0), (0, 0)), groups=1, activation=None):
    """A convolution of `IMAGE` with random arrays."""
    rng = np.random.default_rng(len(name))
    image = zip(IMAGE[:2], size, strides, padding, strict=True)
    shape = (*((n + sum(pad) - k) // s + 1 for n, k, s, pad in image), c_out)
    arrays = {"kernel": rng.normal(0, 0.3, (*size, IMAGE[2] // groups, c_out))}
    arrays["bias"] = rng.normal(0, 1, c_out)
    options = {"strides": strides, "padding": padding, "groups": groups}
    return Operation("conv", name, [INPUT], shape, options, arrays, activation)


def pool(kind, name, size, strides, padding, shape):
    options = {"size": size, "strides": strides, "padding": padding}
    return Operation(kind, name, [INPUT], shape, options)


def dense(name, shape, c_out, source=INPUT, activation=None):
    rng = np.random.default_rng(3)
    arrays = {"kernel": rng.normal(0, shape[-1] ** -0.5, (shape[-1], c_out))}
    arrays["bias"] = rng.normal(0, 1, c_out)
    return Operation("dense", name, [source], (*shape[:-1], c_out), {}, arrays, activation)


def constant(name, value):
    value = np.reshape(value, (1, 1, 1, -1))
    return Operation("constant", name, [], value.shape[1:], {}, {"value": value})


def grn(name, activation=None):
    arrays = {"gamma": np.array([0.7]), "beta": np.array([0.1])}
    return Operation("grn", name, [INPUT], IMAGE, {}, arrays, activation)


ODD_PART = [(1, 7, 2), (0, 6, 1), (2, 4, 1)]
NO_PADDING = ((0, 0), (0, 0))
ODD = ((1, 1), (0, 2))  # none of TensorFlow's
NETWORKS = {
    "pointwise": [conv("a", 5, (1, 1))],
    "strided, padded otherwise than TensorFlow": [conv("b", 5, (3, 3), (2, 2), ODD)],
    "padded as by TensorFlow": [conv("c", 3, (3, 3), padding=((1, 1), (1, 1)), activation="relu")],
    "grouped": [conv("d", 6, (3, 1), groups=2, activation="relu6")],
    "depthwise": [conv("e", 4, (3, 3), (1, 2), ((1, 1), (1, 1)), 4, "relu")],
    "depthwise, two results for each": [conv("f", 8, (2, 3), groups=4)],
    "as large as the image": [conv("g", 10, IMAGE[:2])],
    "weights of 0, and next to none": [conv("h", 4, (1, 1))],
    "range far too narrow": [conv("narrow", 4, (1, 1))],
    "sum": [
        conv("left", 4, (1, 1)),
        Operation("add", "add", ["left", INPUT], IMAGE, activation="relu"),
    ],
    "mean, dense": [
        Operation("reduce_mean", "m", [INPUT], (4,), {"axis": (1, 2), "keepdims": False}),
        dense("dense", (4,), 3, "m", "relu"),
    ],
    "mean of images": [
        Operation("reduce_mean", "m", [INPUT], (1, 1, 4), {"axis": (1, 2), "keepdims": True}),
    ],
    "flat, dense": [
        Operation("reshape", "flat", [INPUT], (168,)),
        dense("dense", (168,), 3, "flat"),
    ],
    "dense over channels": [dense("dense", IMAGE, 3)],
    "average pool, padding counted": [
        pool("avg_pool", "p", (3, 3), (1, 2), ((1, 1), (1, 1)), (7, 3, 4))
    ],
    "average pool": [pool("avg_pool", "p", (2, 3), (2, 1), NO_PADDING, (3, 4, 4))],
    "maximum pool": [pool("max_pool", "p", (2, 2), (2, 2), NO_PADDING, (3, 3, 4))],
    "maximum pool, padded": [pool("max_pool", "p", (3, 3), (2, 2), ODD, (4, 3, 4))],
    "activation alone": [Operation("activation", "r", [INPUT], IMAGE, activation="relu6")],
    "difference, one for all channels": [
        conv("one", 1, (1, 1)),
        Operation("sub", "sub", [INPUT, "one"], IMAGE, activation="relu6"),
    ],
    "sum, one for all frames": [
        Operation("reduce_mean", "m", [INPUT], (7, 1, 4), {"axis": (2,), "keepdims": True}),
        Operation("add", "sum", ["m", INPUT], IMAGE),
    ],
    "means over axes": [
        Operation("reduce_mean", "a", [INPUT], (1, 6, 4), {"axis": (1,), "keepdims": True}),
        Operation("reduce_sum", "b", ["a"], (1, 1, 1), {"axis": (2, 3), "keepdims": True}),
        Operation("mul", "c", ["a", "b"], (1, 6, 4)),
        Operation("reduce_mean", "d", ["c"], (1, 6), {"axis": (3,), "keepdims": False}),
        Operation("reduce_mean", "e", ["d"], (1,), {"axis": (2,), "keepdims": False}),
    ],
    "maximum over an axis": [
        Operation("reduce_max", "m", [INPUT], (7, 1, 4), {"axis": (2,), "keepdims": True}),
    ],
    "squeeze, excite": [
        Operation("reduce_mean", "m", [INPUT], (1, 1, 4), {"axis": (1, 2), "keepdims": True}),
        dense("squeeze", (1, 1, 4), 4, "m", "sigmoid"),
        Operation("mul", "mul", [INPUT, "squeeze"], IMAGE, activation="relu"),
    ],
    **{f"table: {a}": [conv(a, 4, (1, 1), activation=a)] for a in ("silu", "hard_swish", "gelu")},
    "functions of one value": [
        constant("two", 2.0),
        Operation("abs", "abs", [INPUT], IMAGE),
        Operation("add", "more", ["abs", "two"], IMAGE),
        Operation("sqrt", "sqrt", ["more"], IMAGE),
        Operation("div", "div", ["two", "sqrt"], IMAGE, activation="relu"),
    ],
    "factors and shifts by channel": [
        constant("factors", [0.5, -1.0, 2.0, 0.1]),
        constant("shifts", [0.3, 0.0, -1.0, 0.2]),
        Operation("mul", "scaled", ["factors", INPUT], IMAGE),
        Operation("mul", "other", ["rest", "factors"], IMAGE),
        Operation("add", "twice", ["scaled", "other"], IMAGE),
        Operation("mul", "more", ["twice", "factors"], IMAGE),
        Operation("sub", "shifted", ["more", "shifts"], IMAGE, activation="relu"),
    ],
    "residual normalisation": [
        Operation("reduce_mean", "m", [INPUT], (7, 1, 1), {"axis": (2, 3), "keepdims": True}),
        Operation("sub", "centred", [INPUT, "m"], IMAGE),
        Operation("mul", "square", ["centred", "centred"], IMAGE),
        Operation("reduce_sum", "sum", ["square"], (7, 1, 1), {"axis": (2, 3), "keepdims": True}),
        constant("n", 23.0),
        Operation("div", "var", ["sum", "n"], (7, 1, 1)),
        Operation("sqrt", "std", ["var"], (7, 1, 1)),
        constant("one", 1.0),
        Operation("div", "inverse", ["one", "std"], (7, 1, 1)),
        Operation("mul", "normal", ["centred", "inverse"], IMAGE),
    ],
    "response normalisation": [grn("grn", "relu")],
    "response normalisation, a table": [grn("grn/silu", "silu")],
    "channels in turn, parts of them": [
        Operation("reshape", "pairs", [INPUT], (7, 6, 2, 2)),
        Operation("transpose", "turned", ["pairs"], (7, 6, 2, 2), {"permutation": (0, 1, 2, 4, 3)}),
        Operation("reshape", "shuffled", ["turned"], IMAGE),
        Operation("slice", "odd", ["shuffled"], (3, 6, 2), {"ranges": ODD_PART}),
    ],
    "one after the other": [
        conv("left", 4, (1, 1)),
        Operation("concatenate", "both", ["left", INPUT, "left"], (7, 18, 4), {"axis": 2}),
    ],
    "one after the other, of one range": [
        conv("left", 4, (1, 1)),
        conv("right!", 3, (1, 1)),
        Operation("concatenate", "both", ["left", "right!"], (7, 6, 7), {"axis": 3}),
    ],
}
NETWORKS["factors and shifts by channel"].insert(0, conv("rest", 4, (1, 1), activation="relu"))
_arrays = NETWORKS["weights of 0, and next to none"][0].arrays
_arrays["kernel"] *= np.array([0, 0, 1e-12, 1])
_arrays["bias"] *= np.array([1, 0, 1, 1])


def build(operations):
    """The program of a network of few layers: values of half of the clips are cut off."""
    own = {op.name: (-2.0, 1.5) for op in lower.lower(operations)}
    own |= {name: (0.0, 200.0) for name in own if "energy" in name or name == "sum"}
    return program.build(operations, IMAGE, own | RANGES)


def random_input(n=6, shape=IMAGE):
    """int8 values of different means, and the ends of int8 among them."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-90, 90, (n, *(1,) * len(shape))) + rng.normal(0, 40, (n, *shape))
    return np.clip(x, -128, 127).astype(np.int8)


# Every rule once more, in 64-bit integers and as its source says it.


def multiply_high(a, b):
    """gemmlowp's SaturatingRoundingDoublingHighMul."""
    product = a.astype(np.int64) * np.int64(b)
    nudge = np.where(product >= 0, 2**30, 1 - 2**30)
    total = product + nudge
    return np.sign(total) * (np.abs(total) // 2**31)  # C++ truncates


def divide_by_power(x, exponent):
    """gemmlowp's RoundingDivideByPOT."""
    mask = (np.int64(1) << np.int64(exponent)) - 1
    threshold = (mask >> 1) + np.where(x < 0, 1, 0)
    return (x >> exponent) + np.where((x & mask) > threshold, 1, 0)


def requantised(x, multiplier, shift):
    return divide_by_power(multiply_high(x, np.int64(multiplier)), -np.int64(shift))


def slow_conv(step, x):
    c_in, c_out = x.shape[-1], step.kernel.shape[-1]
    x = np.pad(x.astype(np.int64) - step.inputs[0].zero_point, ((0, 0), *step.padding, (0, 0)))
    sums = np.zeros((len(x), *step.output.shape), np.int64)
    for k in range(c_out):
        first = k // (c_out // step.groups) * (c_in // step.groups)
        kernel = step.kernel[..., k].astype(np.int64)
        for i in range(sums.shape[1]):
            for j in range(sums.shape[2]):
                top, left = i * step.strides[0], j * step.strides[1]
                window = x[:, top : top + kernel.shape[0], left : left + kernel.shape[1]]
                window = window[..., first : first + kernel.shape[2]]
                sums[:, i, j, k] = (window * kernel).sum(axis=(1, 2, 3)) + step.bias[k]
    assert np.abs(sums).max() < 2**31
    return requantised(sums, step.multiplier, step.shift) + step.output.zero_point


def slow_add(step, *inputs):
    total = 0
    for n, (x, tensor) in enumerate(zip(inputs, step.inputs, strict=True)):
        x = (x.astype(np.int64) - tensor.zero_point) * 2**20 * (step.sign if n else 1)
        total = total + requantised(x, step.multipliers[n], step.shifts[n])
    return requantised(total, step.multipliers[2], step.shifts[2]) + step.output.zero_point


def slow_pool(step, x):
    value = step.inputs[0].zero_point if step.kind == "avg" else -128
    x = np.pad(x.astype(np.int64), ((0, 0), *step.padding, (0, 0)), constant_values=value)
    y = np.zeros((len(x), *step.output.shape), np.int64)
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            top, left = i * step.strides[0], j * step.strides[1]
            window = x[:, top : top + step.size[0], left : left + step.size[1]]
            total, n = window.sum(axis=(1, 2)), step.size[0] * step.size[1]
            half = np.where(total > 0, n // 2, -(n // 2))
            mean = np.sign(total) * (np.abs(total + half) // n)
            y[:, i, j] = window.max(axis=(1, 2)) if step.kind == "max" else mean
    return y


def slow_mul(step, *inputs):
    a, b = (x.astype(np.int64) - t.zero_point for x, t in zip(inputs, step.inputs, strict=True))
    return requantised(a * b, step.multiplier, step.shift) + step.output.zero_point


def slow_mean(step, x, power=1):
    x = (x.astype(np.int64) - step.inputs[0].zero_point) ** power
    total = x.sum(axis=tuple(axis + 1 for axis in step.axis), keepdims=True)
    assert np.abs(total).max() < 2**31
    return requantised(total, step.multiplier, step.shift) + step.output.zero_point


def slow_lookup(step, x):
    y = np.zeros(x.shape, np.int64)
    for at in np.ndindex(x.shape):
        y[at] = step.table[int(x[at]) + 128]
    return y


def slow_slice(step, x):
    for axis, (start, end, stride) in enumerate(step.ranges, 1):
        x = x.take(range(start, end, stride), axis)
    return x


SLOW = {
    program.Conv: slow_conv,
    program.Add: slow_add,
    program.Pool: slow_pool,
    program.Mul: slow_mul,
    program.Max: lambda step, *inputs: np.maximum(*inputs),
    program.Lookup: slow_lookup,
    program.Constant: lambda step: step.values[None],
    program.Mean: slow_mean,
    program.Energy: lambda step, x: slow_mean(step, x, 2),
    program.Slice: slow_slice,
    program.Transpose: lambda step, x: x.transpose(0, *np.array(step.permutation) + 1),
    program.Concat: lambda step, *inputs: np.concatenate(inputs, step.axis + 1),
    program.Reshape: lambda step, x: x.reshape(len(x), *step.output.shape),
}


def slow(integers, x):
    results = {INPUT: x}
    for step in integers.steps:
        y = SLOW[type(step)](step, *(results[tensor.name] for tensor in step.inputs))
        results[step.output.name] = np.clip(y, step.low, step.high).astype(np.int8)
    return results[integers.output.name]


def test_sums_are_requantised_as_in_64_bits():
    rng = np.random.default_rng(0)
    ends = np.array([0, 1, 2, 2**15, 2**16, 2**30, 2**31 - 1, 65_535, 32_767])
    near = (ends[:, None] + np.arange(-3, 4)).ravel()
    x = np.concatenate([near, -near, [-(2**31)], rng.integers(-(2**31), 2**31, 5_000)])
    x = np.clip(x, -(2**31), 2**31 - 1).astype(np.int32)
    ends = [0, 2**30, 2**30 + 1, 2**31 - 1, 2**31 - 2, 0x5555_5555, 0x4000_FFFF, 0x7FFF_0000]
    multiplier = np.array(ends + [*rng.integers(2**30, 2**31, 24)], np.int32)[:, None]
    for shift in (0, -1, -7, -16, -30, -31):
        shifts = np.full(multiplier.shape, shift, np.int32)
        ours = np.asarray(simulate.requantise(np.tile(x, (32, 1)), multiplier, shifts))
        np.testing.assert_array_equal(ours, requantised(x[None], multiplier, shifts))


def test_factors_are_multipliers_of_31_bits():
    for factor in (0.999_999_9, 0.5, 1 / 3, 1e-3, 3e-9, 0.5 - 2**-40):
        multiplier, shift = program.requantisation(factor)
        assert 2**30 <= multiplier < 2**31
        assert -31 <= shift <= 0
        assert multiplier * 2.0 ** (shift - 31) == pytest.approx(factor, rel=2**-31)
    assert program.requantisation(0.0) == program.requantisation(2.0**-40) == (0, 0)
    with pytest.raises(ValueError, match="not below 1"):
        program.requantisation(1.5)


def test_real_values_are_quantised_by_one_product_and_one_rounding():
    """The same in NumPy, in JAX and in a compiled program, where compilers like to simplify."""
    tensor = program.tensor("x", (), (-7.3, 2.9))
    rng = np.random.default_rng(0)
    x = rng.uniform(-9, 4, 50_000).astype(np.float32)
    x[:256] = (np.arange(-128, 128) + np.float32(0.5)) * tensor.scale  # between two steps
    x[256:260] = 1e9, -1e9, np.inf, -np.inf
    expected = np.rint(x * tensor.inverse) + tensor.zero_point
    q = jax.jit(lambda x: simulate.quantise(tensor, x))(x)
    np.testing.assert_array_equal(q, np.clip(expected, -128, 127))
    np.testing.assert_array_equal(q, simulate.quantise(tensor, x))
    back = np.asarray(simulate.dequantise(tensor, q))
    inside = (x > -7.3) & (x < 2.9)
    assert np.abs(back - x)[inside].max() <= 0.51 * tensor.scale


@pytest.mark.parametrize("name", NETWORKS)
def test_operation_is_that_of_64_bit_integers_and_of_litert(name):
    integers, x = build(NETWORKS[name]), random_input()
    ours = np.asarray(simulate.simulator(integers)(x))
    np.testing.assert_array_equal(ours, slow(integers, x))
    assert len(np.unique(ours)) > 2
    pytest.importorskip("ai_edge_litert.interpreter")
    data = litert.build(integers, {})
    np.testing.assert_array_equal(ours, litert.load(data)(x))
    np.testing.assert_array_equal(ours, by_microcontroller(data, x, ours))


LOWERED = [name for name, ops in NETWORKS.items() if lower.lower(ops) != ops]  # by identity


@pytest.mark.parametrize("name", LOWERED)
def test_lowered_network_computes_the_same(name):
    operations, x = NETWORKS[name], np.random.default_rng(0).normal(0, 2, (3, *IMAGE))
    params = {op.owner: op.arrays for op in operations}
    exact = graph.results(operations, params, x.astype("f4"))
    found = lower.results(lower.lower(operations), params, x.astype("f4"))
    for result in {*exact} & {*found}:
        np.testing.assert_allclose(found[result], exact[result], rtol=1e-4, atol=1e-5)
    assert operations[-1].name in found


def test_functions_that_follow_each_other_are_one_operation():
    kinds = {name: [op.kind for op in lower.lower(NETWORKS[name])] for name in NETWORKS}
    assert kinds["functions of one value"] == ["lookup"]
    assert kinds["factors and shifts by channel"] == ["conv", "conv", "conv", "add"]
    assert kinds["table: silu"] == ["conv", "lookup"]
    residual = ["reduce_mean", "sub", "energy", "lookup", "mul"]
    assert kinds["residual normalisation"] == residual


def by_microcontroller(data, x, otherwise):
    """Return what LiteRT for Microcontrollers computes of a file, if it is installed."""
    try:
        from tflite_micro.python.tflite_micro import runtime
    except ImportError:
        return otherwise
    interpreter, results = runtime.Interpreter.from_bytes(data, arena_size=2**23), []
    for one in x:
        interpreter.set_input(one[None], 0)
        interpreter.invoke()
        results.append(interpreter.get_output(0)[0].copy())
    return np.array(results)


def test_more_channels_than_float32_can_sum_are_summed_exactly():
    shape = (1, 1, 3000)
    op = dense("dense", shape, 2)
    op.arrays = {"kernel": np.full((3000, 2), [1.0, -1.0]), "bias": np.array([0.3, 0.0])}
    bounds = {INPUT: (0.0, 1.0), "dense": (-3000.0, 3000.0)}
    integers = program.build([op], shape, bounds)
    x = random_input(4, shape)
    x[0], x[1] = 127, -128
    np.testing.assert_array_equal(simulate.simulator(integers)(x), slow(integers, x))
    assert np.abs(integers.steps[-1].kernel).min() == 127


def quantised(config, n_clips=8, n_calibration_clips=8):
    """A network's deployment, log-mels, and its program."""
    parts = experiment.make(config)
    deployment = deploy(parts, moved_variables(parts), "float32", {})
    audio = check.synthetic_noise(np.random.default_rng(0), n_clips, parts.n_samples)
    compute = jax.jit(lambda audio: features.log_mel(audio, **deployment.features))
    batches = (audio[start : start + 64] for start in range(0, n_clips, 64))
    log_mel = np.concatenate([np.asarray(compute(batch)) for batch in batches])
    return deployment, log_mel, run.quantise(deployment, log_mel[:n_calibration_clips], "minmax")


@pytest.fixture(scope="module")
def mini():
    return quantised(mini_config())


def test_network_is_that_of_64_bit_integers_and_close_to_float32(mini):
    assert_network(*mini)


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("name", ["cp_mobile", "cp_resnet", "tf_sepnet"])
def test_every_layer_of_our_networks_is_that_of_64_bit_integers(name):
    config = small_config().unlock()
    config.model, config.budget.enforce = ConfigDict({"name": name}), False
    deployment, log_mel, integers = quantised(config.lock())
    assert_network(deployment, log_mel, integers)
    pytest.importorskip("ai_edge_litert.interpreter")
    x = np.asarray(simulate.quantise(integers.input, log_mel))
    theirs = litert.load(litert.build(integers, {}))(x)
    np.testing.assert_array_equal(simulate.simulator(integers)(x), theirs)


def assert_network(deployment, log_mel, integers):
    x = np.asarray(simulate.quantise(integers.input, log_mel))
    ours = np.asarray(simulate.simulator(integers)(x))
    np.testing.assert_array_equal(ours[:2], slow(integers, x[:2]))
    exact = np.asarray(deployment.apply(deployment.variables, log_mel))
    error = np.asarray(simulate.dequantise(integers.output, ours)) - exact
    assert np.abs(error).max() < 0.05 * np.ptp(exact)  # measured: 0.02


def test_errors_are_reported_layer_by_layer(mini):
    deployment, log_mel, integers = mini
    operations = deployment.operations
    ratios = calibrate.signal_to_noise(integers, operations, deployment.variables, log_mel)
    assert [*ratios] == [INPUT, *(op.name for op in operations)]
    assert ratios[INPUT] > ratios["b1/expand"] > 10
    lines = run.error_table(integers, ratios, "minmax, 8 clips", 8)
    assert lines[0] == "calibration: minmax, 8 clips; ratio of signal to error on 8 of them:"
    assert lines[2].split()[0] == "log-mel"
    assert lines[-1].split()[0] == "reduce_mean"


def histogram(values):
    low, high = float(values.min()), float(values.max())
    return np.histogram(values, calibrate.N_BINS, (low, high))[0], low, high


def test_percentiles_cut_off_one_value_of_ten_thousand_at_either_end():
    values = np.random.default_rng(0).uniform(-1, 3, 400_000)
    low, high = calibrate.percentile_range(*histogram(values))
    assert low == pytest.approx(np.quantile(values, 1e-4), abs=2e-3)
    assert high == pytest.approx(np.quantile(values, 1 - 1e-4), abs=2e-3)
    assert calibrate.percentile_range(*histogram(np.zeros(100))) == pytest.approx((0, 0), abs=1)


def test_least_squares_keep_an_even_distribution_and_cut_off_an_outlier():
    rng = np.random.default_rng(0)
    even = histogram(rng.uniform(-1, 3, 100_000))
    assert calibrate.mse_range(*even) == pytest.approx((-1, 3), abs=0.05)
    values = np.append(rng.normal(0, 1, 1_000_000), 20.0)
    low, high = calibrate.mse_range(*histogram(values))
    assert low < -3
    assert 3 < high < 10

    def error(bounds):
        tensor = program.tensor("", (), bounds)
        x = values.astype(np.float32)
        back = np.asarray(simulate.dequantise(tensor, simulate.quantise(tensor, x)))
        return np.mean((back - x) ** 2)

    assert error((low, high)) < 0.5 * error((values.min(), values.max()))


def test_calibration_is_the_same_each_time_and_of_the_values_alone(mini):
    deployment, log_mel, _ = mini
    args = deployment.operations, deployment.variables
    extremes = calibrate.calibrate(*args, log_mel, "minmax")
    assert extremes[INPUT] == (float(log_mel.min()), float(log_mel.max()))
    assert extremes["stem"][0] == 0  # of a relu
    assert "b1/avg_pool" not in extremes  # it has its input's scale
    found = calibrate.calibrate(*args, log_mel, "mse")
    assert found == calibrate.calibrate(*args, log_mel, "mse")
    for name, (low, high) in found.items():
        assert extremes[name][0] <= low <= high <= extremes[name][1]


def test_what_has_no_integers_is_named(mini):
    deployment, log_mel, _ = mini
    with pytest.raises(UserError, match="unknown calibration 'max'; known: minmax, percentile"):
        run.quantise(deployment, log_mel, "max")
    with pytest.raises(UserError, match="no clip to calibrate on"):
        run.quantise(deployment, log_mel[:0], "mse")
    with pytest.raises(UserError, match="values of log_mel are not finite"):
        run.quantise(deployment, np.full_like(log_mel, np.nan), "mse")
    two = [INPUT, INPUT]
    for op, expected in (
        (Operation("div", "b1/div", two, IMAGE), "the operation div of b1/div has no rule in int"),
        (Operation("add", "sum", [INPUT], (7, 6, 2, 2, 1)), "a result of 5 axes of sum has no"),
        (
            Operation("reduce_sum", "m", [INPUT], (6,), {"axis": (1, 3), "keepdims": False}),
            "a sum over the axes 1, 3 of m has no rule",
        ),
    ):
        with pytest.raises(UserError, match=expected):
            program.require_rules([op])


def test_networks_with_normalisations_and_tables_are_close_to_float32():
    """Response normalisation before silu; the ratio of signal to error is hardly less after it."""
    deployment, log_mel, integers = quantised(mini_config(act="silu", grn=True))
    assert_network(deployment, log_mel, integers)
    ratios = calibrate.signal_to_noise(
        integers, deployment.operations, deployment.variables, log_mel
    )
    assert [*ratios] == [INPUT, *(op.name for op in deployment.operations)]
    assert ratios["b1/grn"] > ratios["b1/add"] - 3


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return save_mini(tmp_path_factory.mktemp("run"))


def save_mini(workdir, **changes):
    """Write a workdir of the network as training leaves it; changes: of the section data."""
    config = mini_config().unlock()
    config.data.update(changes)
    parts = experiment.make(config.lock())
    manager = checkpoints.Checkpoints(workdir)
    manager.save(3, parts.new_state(moved_variables(parts), parts.tx(1)))
    manager.close()
    run_config.save(workdir, "mini.py", config)
    return workdir


@pytest.mark.slow
def test_run_becomes_a_file_that_was_compared_first(workdir, tmp_path):
    interpreters = pytest.importorskip("ai_edge_litert.interpreter")
    options = {"out_dir": tmp_path, "clips": small_clips(40), "n_calibration_clips": 12}
    lines = run.export_int8(workdir, small_clips(30, seed=1), **options)
    (path,) = tmp_path.iterdir()
    assert path.name == "log_mel_to_logits.int8.tflite"
    text = "\n".join(lines)
    assert f"{path}: {path.stat().st_size:,} bytes" in text
    assert "calibration: mse, 12 clips; ratio of signal to error on 12 of them" in text
    assert "compared on 256 clips, 216 of them synthetic noise" in text
    assert "by LiteRT's reference kernels, the same bits" in text
    interpreter = interpreters.Interpreter(model_content=path.read_bytes())
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert source["dtype"] == result["dtype"] == np.int8
    assert [*source["shape"]] == [1, 32, 17, 1]
    types = {detail["dtype"] for detail in interpreter.get_tensor_details()}
    assert types == {np.int8, np.int32}  # no island of float32
    used = {operation["op_name"] for operation in interpreter._get_ops_details()}
    assert used - {"DELEGATE"} <= {*litert.VERSIONS}
    assert b'"weights": "int8"' in path.read_bytes()


@pytest.mark.slow
def test_nothing_is_written_where_litert_computes_otherwise(workdir, tmp_path, monkeypatch):
    pytest.importorskip("ai_edge_litert.interpreter")
    true = litert.load

    def load(data, *, reference=True):
        return lambda x: true(data, reference=reference)(x) ^ np.int8(reference)

    monkeypatch.setattr(litert, "load", load)
    with pytest.raises(UserError, match="differ by 1 steps from those of the integer program"):
        run.export_int8(workdir, small_clips(4), out_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "int8 needs clips of the split train_.*: --data_dir names the folder .*nowhere"),
        ({"kind": "stablehlo"}, "--dtype int8 goes with --to litert, c and onnx, not with .*hlo"),
        (
            {"dtype": "float32", "calibration": "mse"},
            "--calibration goes with --dtype int8",
        ),
    ],
)
def test_wrong_flags_are_named(workdir, options, expected):
    options = {"kind": "litert", "dtype": "int8"} | options
    with pytest.raises(UserError, match=expected):
        convert._export(workdir, **options)


@pytest.mark.slow
@pytest.mark.nightly
def test_command_calibrates_on_training_clips_and_compares_on_test_clips(tmp_path):
    pytest.importorskip("ai_edge_litert.interpreter")
    pytest.importorskip("tensorflow_datasets")
    write_tau(tmp_path / "tau")
    prepare_data.prepare(tmp_path / "tau", tmp_path / "data")
    save_mini(tmp_path / "x", train_split="train_5pct")
    words = ("convert", "--to=litert", "--dtype=int8", "--workdir=x", "--data_dir=data")
    done = call(*words, "--calibration=percentile", "--calibration_clips=3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "x/export/log_mel_to_logits.int8.tflite: " in done.stdout
    assert "calibration: percentile, 3 clips" in done.stdout
    assert "compared on 256 clips, 249 of them synthetic noise" in done.stdout
    done = call(*words, "--calibration_clips=0", cwd=tmp_path)
    assert done.returncode == 2
    assert "calibration_clips is 0, expected at least 1" in done.stderr
