"""Networks that are deployed in another form than they are trained in: branches fused into one.

The fused network is what is counted, stored, rounded, evaluated after the training and exported.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exported import kind_of, kinds, moved_variables, save_run
from small import small_clips, small_config

from asc_jax import experiment
from asc_jax.complexity import budget
from asc_jax.complexity.measure import measure
from asc_jax.errors import BadValue
from asc_jax.evaluation import evaluate, initial
from asc_jax.export.run import export_run
from asc_jax.models import CPMobile, evaluation
from asc_jax.models.from_config import deployed, model
from asc_jax.models.layers import BiasedConv, BranchedDepthwise, fuse_branches
from asc_jax.models.precision import cast, n_params, tree_bytes
from asc_jax.pytorch import runs as torch_runs
from asc_jax.pytorch.twin import make_twin


def branched_config(**overrides):
    config = small_config(**overrides).unlock()
    config.model.depthwise = "branches"
    return config.lock()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """`(workdir, config, variables)` of a run with branches, its variables off their start."""
    workdir, config = tmp_path_factory.mktemp("runs") / "branches", branched_config()
    made = experiment.make(config)
    variables = moved_variables(made)
    return save_run(workdir, config, variables, made), config, variables


def moved(shapes, dtype):
    """Return variables off their start; alphas around 1, so that no branch weighs nothing."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        start = 1.0 if path[-1].key in ("scale", "var", "alpha") else 0.0
        return jnp.asarray(start + rng.uniform(-0.7, 0.7, leaf.shape), dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.parametrize("strides", [(1, 1), (1, 2), (2, 1), (2, 2)])
@pytest.mark.parametrize(("wide", "atol"), [(False, 1e-5), (True, 1e-10)])
def test_fused_filter_computes_what_its_branches_do(request, strides, wide, atol):
    if wide:
        request.getfixturevalue("x64")
    dtype = np.float64 if wide else np.float32
    x = jnp.asarray(np.random.default_rng(1).standard_normal((2, 9, 6, 5)), dtype)
    branched = BranchedDepthwise(strides)
    shapes = jax.eval_shape(lambda x: branched.init(jax.random.key(0), x, train=False), x)
    variables = moved(shapes, dtype)
    expected = branched.apply(variables, x, train=False)
    fused = fuse_branches(variables["params"], variables["batch_stats"])
    found = BiasedConv(5, (3, 3), strides, 5).apply({"params": fused}, x)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(found, expected, atol=atol, rtol=0)


@pytest.mark.nightly
@pytest.mark.slow
def test_whole_network_computes_what_it_did_with_branches():
    config = branched_config(model__grn=True)
    variables = moved_variables(experiment.make(config))
    of_deployed, fuse = deployed(config)
    log_mel = np.random.default_rng(1).standard_normal((3, 32, 17, 1), np.float32)
    expected = jax.jit(evaluation(model(config)))(variables, log_mel)
    found = jax.jit(evaluation(model(of_deployed)))(fuse(variables), log_mel)
    scale = max(float(np.abs(expected).max()), 1)
    np.testing.assert_allclose(found, expected, atol=1e-5 * scale, rtol=0)


def test_fused_network_is_counted(home):
    plain = measure(small_config())
    rows, totals = budget.examine(branched_config())
    assert totals["macs"] == plain["macs"]
    assert totals["n_params"] < plain["n_params"] < n_params(home[2]["params"])
    assert sum(row.n_params for row in rows) == totals["n_params"]
    assert {row.layer for row in rows} == {*plain["macs_by_layer"]}


def test_network_of_one_form_is_left_as_it_is():
    config = small_config()
    same, fuse = deployed(config)
    variables = {"params": {}, "batch_stats": {}}
    assert same is config
    assert fuse(variables) is variables
    assert CPMobile().deployed()[0] == {}


def test_unknown_filter_is_named():
    network = CPMobile(depthwise="dense")
    with pytest.raises(BadValue, match="depthwise is 'dense', expected batch_norm or branches or"):
        jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 64, 32, 1)))


def test_opened_run_is_the_fused_network_and_is_stored_as_such(home):
    workdir, config, variables = home
    run = evaluate.open_run(workdir)
    cost = run.experiment.cost
    assert run.experiment.config.model.depthwise == "fused"
    assert set(run.variables["params"]["b1"]["depthwise"]) == {"kernel", "bias"}
    jax.tree.map(np.testing.assert_array_equal, run.variables, deployed(config)[1](variables))
    assert n_params(run.variables["params"]) == cost["n_params"]
    assert tree_bytes(cast(run.variables, "float16")["params"])["total"] == cost["bytes"]
    described = evaluate.describe(run.experiment, run.name, run.extra, run.step)
    assert described["complexity"]["n_params"] == cost["n_params"]


def test_training_starts_from_the_branches_of_another_run(home, monkeypatch):
    workdir, _, variables = home
    made = experiment.make(branched_config(init__from_run=str(workdir)))
    fresh = jax.tree.map(np.zeros_like, variables)
    monkeypatch.setattr(type(made), "variables", lambda self: fresh)
    begin = initial.start(made)
    jax.tree.map(np.testing.assert_array_equal, begin.variables, variables)


@pytest.mark.nightly
@pytest.mark.slow
def test_evaluation_of_a_run_is_that_of_the_network_with_branches(home):
    run = evaluate.open_run(home[0])
    trained = evaluate.open_run(home[0], as_trained=True)
    assert "alpha" in trained.variables["params"]["b1"]["depthwise"]
    results, predictions = evaluate.evaluate_precisions(
        run.experiment, run.variables, small_clips(8)
    )
    stored = results["formats"]["float16"]
    assert stored["bytes"] == run.experiment.cost["bytes"]
    assert {row["leaf"] for row in stored["rounding"]} >= {"params/b1/depthwise/bias"}
    expected = evaluate.evaluate_stored(trained.experiment, trained.variables, small_clips(8))
    np.testing.assert_array_equal(predictions.logits.argmax(-1), expected.logits.argmax(-1))


@pytest.mark.nightly
@pytest.mark.slow
def test_pytorch_network_of_a_run_is_the_fused_one_and_agrees(home, tmp_path):
    torch = pytest.importorskip("torch")
    workdir, config, _ = home
    torch_runs.run_to_torch(workdir, tmp_path / "out.pt")
    run = evaluate.open_run(workdir)
    twin = make_twin(width=8, depthwise="fused").eval()
    twin.load_state_dict(torch.load(tmp_path / "out.pt", weights_only=True), strict=True)
    log_mel = np.random.default_rng(1).standard_normal((3, 32, 17, 1), np.float32)
    expected = evaluation(model(run.experiment.config))(run.variables, log_mel)
    with torch.no_grad():
        logits = twin(torch.from_numpy(log_mel).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    options = {"name": "small.py", "config": config}
    torch_runs.run_from_torch(tmp_path / "out.pt", tmp_path / "again", **options)
    again = evaluate.open_run(tmp_path / "again")
    jax.tree.map(np.testing.assert_array_equal, again.variables, run.variables)


def test_branches_survive_a_way_through_pytorch(home, tmp_path):
    torch = pytest.importorskip("torch")
    workdir, config, variables = home
    torch_runs.run_to_torch(workdir, tmp_path / "out.pt", as_trained=True)
    make_twin(width=8, depthwise="branches").load_state_dict(
        torch.load(tmp_path / "out.pt", weights_only=True), strict=True
    )
    options = {"name": "small.py", "config": small_config()}  # the tensors tell of the branches
    torch_runs.run_from_torch(tmp_path / "out.pt", tmp_path / "again", **options)
    again = evaluate.open_run(tmp_path / "again", as_trained=True)
    assert again.experiment.config.model.depthwise == "branches"
    jax.tree.map(np.testing.assert_array_equal, again.variables, variables)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("kind", kinds())
def test_export_holds_the_fused_network(home, tmp_path, kind):
    """`export_run` compares each file with JAX before it writes it."""
    kind_of(kind)
    lines = export_run(home[0], kind, out_dir=tmp_path)
    assert sum("same top class on 100.00 %" in line for line in lines) == 3
