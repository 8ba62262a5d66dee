"""Distillation: PyTorch's numbers, teachers matched by name, and the same bits on every path."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loop_runs import Stopping, assert_same_end, compiled_once, fit
from small import small_clips
from tiny import tiny_config

from asc_jax import experiment
from asc_jax.data.teacher_logits import TeacherLogits, with_teacher_logits, with_teachers_of
from asc_jax.errors import Interrupted, UserError
from asc_jax.machine import replicas
from asc_jax.training import distillation, losses

BY_NIGHT = [pytest.mark.slow, pytest.mark.nightly]
GOLDEN = pathlib.Path(__file__).parent / "golden" / "d_distillation.npz"


def label_loss(logits, batch):
    return losses.focal(logits, batch, gamma=0.0)


def loss_and_gradient(reduction, average, dtype):
    """Return logits of the reference's 16 clips, of three teachers."""
    arrays = np.load(GOLDEN)
    loss_fn = distillation.distilled(
        label_loss,
        temperature=float(arrays["T"]),
        weight=float(arrays["lam"]),
        reduction=reduction,
        average=average,
    )
    teachers = jnp.asarray(arrays["teacher_logits"].swapaxes(0, 1), dtype)
    batch = {"label": jnp.asarray(arrays["labels"]), "teacher_logits": teachers}
    mean = jax.value_and_grad(lambda logits: jnp.mean(loss_fn(logits, batch)))
    loss, gradient = mean(jnp.asarray(arrays["logits"], dtype))
    assert loss.dtype == gradient.dtype == dtype
    return (loss, gradient), [arrays[f"{kind}_{reduction}_{average}"] for kind in ("loss", "grad")]


@pytest.mark.parametrize("average", distillation.AVERAGES)
@pytest.mark.parametrize("reduction", distillation.REDUCTIONS)
def test_loss_and_gradient_equal_pytorch(reduction, average):
    for ours, reference in zip(*loss_and_gradient(reduction, average, np.float32), strict=True):
        np.testing.assert_allclose(ours, reference, rtol=0, atol=1e-6)
    with jax.enable_x64(True):
        for ours, reference in zip(*loss_and_gradient(reduction, average, np.float64), strict=True):
            np.testing.assert_allclose(ours, reference, rtol=0, atol=1e-12)


def test_reductions_are_a_factor_of_the_classes_apart():
    keywords = {"temperature": 3.0, "weight": 0.0, "average": "logits"}
    keys = jax.random.split(jax.random.key(0))
    batch = {"label": jnp.arange(4), "teacher_logits": jax.random.normal(keys[0], (4, 2, 10))}
    logits = jax.random.normal(keys[1], (4, 10))
    mean, batchmean = (
        distillation.distilled(label_loss, reduction=reduction, **keywords)(logits, batch)
        for reduction in ("mean", "batchmean")
    )
    np.testing.assert_allclose(10 * mean, batchmean, rtol=1e-6)


def test_limits_are_the_label_loss_alone_and_zero_for_a_network_equal_to_its_teacher():
    logits = jax.random.normal(jax.random.key(0), (5, 10))
    batch = {"label": jnp.arange(5), "teacher_logits": logits[:, None] + 1.0}
    keywords = {"temperature": 2.0, "reduction": "batchmean"}
    for average in distillation.AVERAGES:
        alone, none = (
            distillation.distilled(label_loss, weight=weight, average=average, **keywords)
            for weight in (1.0, 0.0)
        )
        np.testing.assert_array_equal(alone(logits, batch), label_loss(logits, batch))
        np.testing.assert_allclose(none(logits, batch), np.zeros(5), atol=1e-6)


@pytest.mark.parametrize("average", distillation.AVERAGES)
def test_gradient_is_finite_for_confident_teachers_and_for_padding(average):
    logits = jnp.array([[1e4, -1e4, 0.0], [0.0, 0.0, 0.0]])
    teachers = jnp.array([[[-1e4, 1e4, 0.0], [1e4, 0.0, 0.0]], [[0.0] * 3] * 2])
    batch = {"label": jnp.array([0, 0]), "teacher_logits": teachers}
    loss_fn = distillation.distilled(
        label_loss, temperature=0.5, weight=0.02, reduction="mean", average=average
    )
    assert np.all(np.isfinite(jax.grad(lambda x: loss_fn(x, batch).sum())(logits)))


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", 0.0), ("weight", 1.5), ("reduction", "sum"), ("average", "geometric")],
)
def test_bad_value_is_rejected_by_name(name, value):
    keywords = {"temperature": 2.0, "weight": 0.02, "reduction": "mean", "average": "logits"}
    with pytest.raises(UserError, match=name):
        distillation.distilled(label_loss, **keywords | {name: value})


N = 20
NAMES = [str(number) for number in range(N)]  # as `from_arrays` numbers clips
LOGITS = np.random.default_rng(0).integers(-3, 4, (2, N, 10)).astype(np.float32)


@pytest.fixture(scope="module")
def student():
    """A tiny network's experiment, with a loss that follows its teachers."""
    config = tiny_config(data__batch_size=8, distill__logits="teachers.npz")
    return experiment.make(config)


def clips_of(logits=LOGITS, order=slice(None)):
    """Clips whose content is known, with the logits of a file in some order."""
    clips = small_clips(N)
    clips.identity = "of the waveforms"
    names = np.array(NAMES)[order].tolist()
    teacher = TeacherLogits("teachers.npz", names, logits[:, order], None)
    return with_teacher_logits(clips, [teacher], list(range(10)))


@pytest.fixture(scope="module")
def programs():
    """Return the programs of the run `whole`, for those that end as it does."""
    return {}


@pytest.fixture(scope="module")
def whole(student, programs, tmp_path_factory):
    """Workdir and final state of a run that streams its clips."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    workdir = tmp_path_factory.mktemp("whole")
    with compiled_once(student, programs):
        state = fit(student, workdir, clips_of())
    yield workdir, state
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.parametrize(
    "resident",
    # What the tests of a day compile rounds otherwise in another program, teachers or none.
    ["off", pytest.param("float32", marks=BY_NIGHT)],
)
def test_resident_clips_and_another_order_of_the_file_give_the_same_bits(
    student, whole, resident, tmp_path
):
    order = np.random.default_rng(2).permutation(N)
    state = fit(student, tmp_path, clips_of(order=order), resident=resident)
    assert_same_end(state, tmp_path, whole)


def test_resumed_run_has_the_same_bits_and_rejects_other_logits(student, whole, programs, tmp_path):
    with compiled_once(student, programs):
        with pytest.raises(Interrupted):
            fit(student, tmp_path, Stopping(clips_of(), at=5))
        with pytest.raises(UserError, match="or with other logits of teachers: .*config.distill"):
            fit(student, tmp_path, clips_of(LOGITS + 1))
        state = fit(student, tmp_path, clips_of())
    assert_same_end(state, tmp_path, whole)


@pytest.mark.parametrize(
    ("resident", "n_replicas"),
    [
        ("off", 2),
        ("float32", 2),
        pytest.param("float32", 1, marks=BY_NIGHT),
        pytest.param("int16", 2, marks=BY_NIGHT),
    ],
)
def test_every_replica_reads_the_bits_of_its_own_clips(
    student, n_replicas, resident, tmp_path, monkeypatch, compiled_fast
):
    """Sums of whole numbers, which no order of the additions changes."""
    monkeypatch.setattr(replicas, "n_replicas", lambda: n_replicas)
    weights = np.arange(20).reshape(2, 10).astype(np.float32)
    reads = dataclasses.replace(
        student,
        loss_fn=lambda logits, batch: (
            jnp.sum(batch["teacher_logits"] * weights[None], axis=(1, 2)) + 0 * logits.sum(-1)
        ),
    )
    fit(reads, tmp_path, clips_of(), n_epochs=1, resident=resident)
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    expected = (LOGITS * weights[:, None]).sum() / N
    assert json.loads(line)["loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.nightly  # above, every replica reads its own teachers
@pytest.mark.slow
def test_two_replicas_train_as_four_do(student, whole, tmp_path, monkeypatch, compiled_fast):
    monkeypatch.setattr(replicas, "n_replicas", lambda: 2)
    two = fit(student, tmp_path, clips_of())
    for ours, theirs in zip(*map(jax.tree.leaves, (two.params, whole[1].params)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def test_clips_without_logits_are_told_in_the_first_step(student, tmp_path, compiled_fast):
    with pytest.raises(UserError, match="no column teacher_logits, which config.distill asks for"):
        fit(student, tmp_path, small_clips(N))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"distill__temperature": 0.0}, "config.distill.temperature is 0.0, expected above 0"),
        ({"distill__temperature": None}, "^config.distill.temperature is None, expected a number"),
        ({"train__ema": None}, "^config.train.ema is None, expected a number"),
        ({"distill__reduction": "sum"}, "config.distill.reduction is 'sum', expected mean or"),
        ({"loss__gamma": -1.0}, "config.loss.gamma is -1.0"),
    ],
)
def test_bad_value_of_the_section_is_told_before_training(values, expected):
    with pytest.raises(UserError, match=expected):
        experiment.make(tiny_config(distill__logits="teachers.npz", **values))


def test_without_teachers_the_loss_is_the_label_loss_itself():
    config = tiny_config(distill__logits=None)  # as "" is
    assert with_teachers_of(config, "the clips") == "the clips"
    loss_fn = experiment.make_loss(config)
    assert (loss_fn.func, loss_fn.keywords) == (losses.focal, {"gamma": 2.0})
