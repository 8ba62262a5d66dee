"""One pass over a split: sums, probabilities, and the results of a finished run."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from asc_jax.data.labels import UNKNOWN, Labels, id_column
from asc_jax.errors import UserError
from asc_jax.evaluation import calibration, int8, metrics
from asc_jax.experiment import Experiment, eval_forward
from asc_jax.experiment import make as make_experiment
from asc_jax.machine import replicas, version
from asc_jax.models import from_config, precision
from asc_jax.operations import simulate
from asc_jax.operations.program import Program, Range
from asc_jax.training.state import first_layout
from asc_jax.training.workdir import checkpoints, run_config
from asc_jax.types import Params

BATCH_SIZE = 128  # over all replicas
CHECKPOINTS = {"last": "checkpoints", "best": "best"}  # → the folder in a workdir


class OpenRun(NamedTuple):
    """A trained run.

    name: of its config. experiment: the config, bound. variables: `{"params", "batch_stats"}`, not
    rounded. Both are those of the network as deployed (`from_config.deployed`). extra: what the
    checkpoint says besides. step: of the checkpoint. ranges: of the results of its operations,
    where the training was aware of the quantisation; None: it was not.
    """

    name: str
    experiment: Experiment
    variables: Params
    extra: Mapping[str, Any]
    step: int
    ranges: Mapping[str, Range] | None = None


class Predictions(NamedTuple):
    """A network's predictions for the clips of a split.

    summary: `metrics.summarize`. filenames: `[n_clips]`, in the split's order; in the same
    order logits: `[n_clips, n_classes]` float32, label: `[n_clips]` int, groups: column →
    `[n_clips]` int, -1 where unknown; recordings: `[n_clips]` str, what each clip was cut from,
    None where only the clips' names say it. labels: the names of all these numbers.
    """

    summary: dict[str, Any]
    filenames: list[str]
    logits: np.ndarray
    label: np.ndarray
    groups: dict[str, np.ndarray]
    recordings: np.ndarray | None
    labels: Labels


def make_eval_step(experiment: Experiment) -> Callable:
    """Return `(variables, batch) -> logits [b, n_classes]` of an experiment's network."""
    forward = functools.partial(eval_forward, config=experiment.config)
    return lambda variables, batch: forward(variables, batch["audio"])


def make_evaluator(experiment: Experiment):
    """A compiled `(variables, clips) -> Predictions`, reusable.

    `clips` is anything with `in_order(batch_size)`, as `data.clips` opens it.
    """
    n = replicas.n_replicas()
    step = replicas.pmap_eval(make_eval_step(experiment), n)
    return functools.partial(_evaluate, step, n, experiment.labels)


def _evaluate(step, n_replicas: int, labels: Labels, variables: Params, clips) -> Predictions:
    labels = getattr(clips, "labels", None) or labels  # clips in memory may have none
    columns: dict[str, list] = {"logits": []}
    for batch in clips.in_order(min(BATCH_SIZE, max(len(clips), 1))):
        logits = step(variables, replicas.shard({"audio": batch["audio"]}, n_replicas))
        valid = batch["mask"]
        columns["logits"].append(replicas.gather_rows(logits, len(valid))[valid])
        for name in ("label", "filename", "recording", *map(id_column, labels.groups)):
            if name in batch:
                columns.setdefault(name, []).append(batch[name][valid])
    if not columns["logits"]:
        raise UserError("the split holds no clips: nothing to evaluate")
    rows = {name: np.concatenate(parts) for name, parts in columns.items()}
    logits, label = rows["logits"], rows["label"]
    not_known = np.full(len(label), UNKNOWN)
    groups = {column: rows.get(id_column(column), not_known) for column in labels.groups}
    summary = metrics.summarize(calibration.log_probs(logits), label, groups, labels)
    filenames = rows["filename"].tolist()
    return Predictions(summary, filenames, logits, label, groups, rows.get("recording"), labels)


def open_run(
    workdir: str | os.PathLike,
    *,
    checkpoint: str = "last",
    stored: str | None = None,
    as_trained: bool = False,
) -> OpenRun:
    """Open a trained run with its newest or its best checkpoint.

    Args:
      workdir: of the run.
      checkpoint: "last" or "best".
      stored: dtype to deploy in; None: that of the run's config.
      as_trained: return the network that was trained where another form of it is deployed.

    Raises:
      UserError: there is no such run or checkpoint, or its network is over the budget.
    """
    if checkpoint not in CHECKPOINTS:
        raise UserError(f"unknown checkpoint {checkpoint!r}; known: {', '.join(CHECKPOINTS)}")
    name, config = saved = run_config.load(workdir)
    if stored is not None:
        config = config.copy_and_resolve_references()
        config.precision.stored = stored
    experiment = make_experiment(config)
    state, extra, step = restore(experiment, workdir, name=CHECKPOINTS[checkpoint])
    if "config" in extra:
        run_config.hold_against(extra["config"], saved[1], workdir)
    deployed, fuse = from_config.deployed(config)
    if as_trained or deployed is config:
        return OpenRun(name, experiment, state.variables, extra, step, state.ranges)
    return OpenRun(name, make_experiment(deployed), fuse(state.variables), extra, step)


def output_folder(workdir: str | os.PathLike, checkpoint: str) -> pathlib.Path:
    """Return the folder for what is written about a checkpoint of a run."""
    return pathlib.Path(workdir, "best_checkpoint" if checkpoint == "best" else "")


def restore(experiment: Experiment, workdir, *, name: str = "checkpoints"):
    """Return the newest sound checkpoint of a run, `(TrainState, extra, step)`.

    Raises:
      UserError: there is none.
    """
    restored = None
    if (pathlib.Path(workdir) / name).is_dir():
        manager = checkpoints.Checkpoints(workdir, name=name)
        try:
            template = experiment.abstract_state()
            restored = manager.restore(template, older=first_layout)
        finally:
            manager.close()
    if restored is None:
        how = "with --config.train.keep_best=True" if name == "best" else "with asc-jax train"
        raise UserError(
            f"no checkpoint in {workdir}/{name}: train first, {how} and the same --workdir"
        )
    return restored


def evaluate_precisions(
    experiment: Experiment,
    variables: Params,
    clips,
    *,
    ranges: Mapping[str, Range] | None = None,
    calibration_clips=None,
) -> tuple[dict, Predictions]:
    """Evaluate the network as trained (float32) and as stored in each dtype.

    The stored values are computed with in float32, the features too: what is measured is
    what rounding the parameters and statistics costs. In int8 all is computed in integers.

    Args:
      experiment: of the network as it is deployed.
      variables: of it, not rounded.
      clips: to evaluate on.
      ranges: for int8, of a quantisation-aware training.
      calibration_clips: training clips to find the ranges on where there are none. With neither,
        int8 is left out, unless it is the stored dtype.

    Returns:
      `stored_dtype`; `labels`, names as `Labels.to_dict`; by dtype name a `metrics.summarize`; and
      `formats`, by dtype name `bytes` (parameters), `bytes_with_statistics`, `changed_top_scene`
      (clips that get another class than in float32) and `rounding`, what
      `precision.rounding` says of each leaf (nothing for int8, whose `bytes` are those of its
      weights and biases). A format that a value overflows, or int8 where an operation has no rule
      in integers, has `refused` alone there, the reason. Then the `Predictions` of the stored
      dtype.

    Raises:
      UserError: the stored dtype is refused, or logits are not finite.
    """
    stored = experiment.config.precision.stored
    evaluate = make_evaluator(experiment)
    results = {"stored_dtype": stored, "formats": {}}
    for dtype in precision.STORED_DTYPES:  # float32 first: the others are compared with it
        try:
            rounded = precision.cast(variables, dtype)
        except UserError as error:
            if dtype == stored:
                raise UserError(f"{error}: asc-jax eval --stored bfloat16") from error
            results["formats"][dtype] = {"refused": str(error)}
            continue
        deployed = jax.tree.map(lambda x, like: x.astype(like.dtype), rounded, variables)
        given = evaluate(deployed, clips)
        results[dtype], logits = given.summary, given.logits
        require_finite(logits, f"stored in {dtype}, it")
        if dtype == "float32":
            full_logits = logits
        if dtype == stored:
            predictions = given
        results["formats"][dtype] = {
            "bytes": precision.tree_bytes(rounded["params"])["total"],
            "bytes_with_statistics": precision.tree_bytes(rounded)["total"],
            "changed_top_scene": int(np.sum(full_logits.argmax(-1) != logits.argmax(-1))),
            "rounding": [dataclasses.asdict(r) for r in precision.rounding(variables, rounded)],
        }
    if stored == precision.INT8 or ranges is not None or calibration_clips is not None:
        given = _add_int8(results, experiment, variables, clips, ranges, calibration_clips)
        if given is not None:
            logits = given.logits
            changed = int(np.sum(full_logits.argmax(-1) != logits.argmax(-1)))
            results["formats"][precision.INT8]["changed_top_scene"] = changed
        predictions = given if stored == precision.INT8 else predictions
    results["labels"] = predictions.labels.to_dict()
    return results, predictions


def _add_int8(results, experiment, variables, clips, ranges, calibration_clips):
    """Add int8 to the results of `evaluate_precisions`, or why not; return its predictions."""
    try:
        integers = int8.make_program(experiment, variables, ranges, calibration_clips)
    except UserError as error:
        if results["stored_dtype"] == precision.INT8:
            raise
        results["formats"][precision.INT8] = {"refused": str(error)}
        return None
    given = _evaluate_int8(experiment, integers, clips)
    results[precision.INT8] = given.summary
    n_bytes = {"bytes": integers.n_bytes, "bytes_with_statistics": integers.n_bytes}
    results["formats"][precision.INT8] = n_bytes | {"rounding": []}
    return given


def _evaluate_int8(experiment: Experiment, integers: Program, clips) -> Predictions:
    forward, n = int8.make_forward(experiment, integers), replicas.n_replicas()
    step = replicas.pmap_eval(lambda arrays, batch: forward(arrays, batch["audio"]), n)
    return _evaluate(step, n, experiment.labels, simulate.arrays(integers), clips)


def evaluate_stored(
    experiment: Experiment,
    variables: Params,
    clips,
    *,
    ranges: Mapping[str, Range] | None = None,
    calibration_clips=None,
) -> Predictions:
    """Evaluate the network in its stored dtype alone; see `evaluate_precisions`."""
    if experiment.config.precision.stored == precision.INT8:
        integers = int8.make_program(experiment, variables, ranges, calibration_clips)
        return _evaluate_int8(experiment, integers, clips)
    deployed = precision.deployed(variables, experiment.config.precision.stored)
    return make_evaluator(experiment)(deployed, clips)


def require_finite(logits: np.ndarray, what: str) -> None:
    """Raise an error if some of the logits `[n_clips, n_classes]` of `what` are not finite."""
    n_bad = int(np.sum(~np.isfinite(logits).all(axis=-1)))
    if n_bad:
        raise UserError(
            f"{what} gives NaN or inf for {n_bad:,} of {len(logits):,} clips: its training "
            "diverged or its weights are corrupted. Take --checkpoint best, if there is one, or "
            "train again at a lower --config.schedule.peak_lr"
        )


def softmax(logits: np.ndarray) -> np.ndarray:
    """`[…, n]` logits → probabilities, float64 so that rows sum to 1 when written."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def describe(experiment: Experiment, name: str, extra: Mapping, step: int) -> dict:
    """The part of `results.json` that says what was evaluated."""
    config, cost = experiment.config, experiment.cost
    keys = ("macs", "max_macs", "n_params", "bytes", "bytes_with_statistics", "max_bytes")
    return {
        "config": name,
        "split": config.data.train_split,
        "test_split": config.data.test_split,
        "epoch": extra.get("epoch", 0),
        "n_epochs": config.train.n_epochs,
        "step": step,
        "seed": config.seed,
        "code_version": extra.get("code_version", "unknown"),
        "evaluated_with": version.code_version(),
        "over_budget": not experiment.within_budget,
        "complexity": {key: cost[key] for key in keys},
        **({"role": experiment.config.budget.role} if experiment.is_teacher else {}),
    } | {key: extra[key] for key in ("converted_from", "sha256") if key in extra}
