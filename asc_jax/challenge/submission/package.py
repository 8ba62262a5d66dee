"""Make the package of a submission from five checked runs and an author file, and check it.

Source: the layout of DCASE 2024 Task 1.
"""

import dataclasses
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from flax.traverse_util import flatten_dict

from asc_jax.challenge.submission.check import ZIP, check_entry, members
from asc_jax.complexity import limits
from asc_jax.data.clips import Clips
from asc_jax.data.tau.taxonomy import DEVICES, SCENES, TRAIN_PERCENTS
from asc_jax.errors import UserError
from asc_jax.evaluation import evaluate, result_files
from asc_jax.experiment import Experiment
from asc_jax.machine import files, lock
from asc_jax.machine.staging import replacing
from asc_jax.models.precision import INT8, deployed
from asc_jax.training.workdir import run_config
from asc_jax.types import Params

CLIP_BYTES = 200  # of a line, rounded up
N_SHOWN = 20  # problems
_FROM_THE_RUN = ("seed", "data.train_split", "data.dir", "train.keep_checkpoints")
_PERCENTS = {f"train_{percent}pct": percent for percent in TRAIN_PERCENTS}


@dataclasses.dataclass(frozen=True)
class EvaluatedRun:
    """A finished and evaluated run."""

    workdir: Path
    percent: int  # of the training split it was trained on
    experiment: Experiment  # with the stored dtype that it was evaluated in
    variables: Params  # `{"params", "batch_stats"}` as trained
    results: Mapping[str, Any]  # the content of `results.json`

    @property
    def summary(self) -> Mapping[str, Any]:
        """Return accuracies and log losses with the parameters as stored."""
        return result_files.stored_summary(self.results)


def open_runs(
    workdirs: Sequence[str | os.PathLike], *, practice: bool = False
) -> list[EvaluatedRun]:
    """Open and check five runs, and return them by rising size of their training splits.

    Args:
      workdirs: one for each training split, in any order.
      practice: accept runs on other splits than TAU's own.

    Raises:
      UserError: a split has no run or two, or a run is not trained to its end, not evaluated,
        evaluated in another state, a teacher's, or over the budget.
    """
    found = {}
    for workdir in map(Path, workdirs):
        config = run_config.load(workdir)[1]
        if tuple(config.labels.classes) != SCENES:
            raise UserError(f"{workdir} was trained on other classes than TAU's ten scenes")
        if config.budget.role == limits.ROLES[1]:
            raise UserError(
                f"{workdir} is a teacher's (config.budget.role), not a submission: it may exceed "
                "the limits of the task. It cannot be submitted"
            )
        split = config.data.train_split
        if split not in _PERCENTS:
            raise UserError(
                f"{workdir} was trained on {split!r}, a submission takes {', '.join(_PERCENTS)}"
            )
        if split in found:
            raise UserError(f"{found[split]} and {workdir} were both trained on {split}: give one")
        found[split] = workdir
    missing = [split for split in _PERCENTS if split not in found]
    if missing:
        raise UserError(
            f"no run trained on {', '.join(missing)}: a submission holds a run for each of "
            f"{', '.join(_PERCENTS)}"
        )
    return [_open_run(found[split], practice) for split in _PERCENTS]


def _open_run(workdir: Path, practice: bool) -> EvaluatedRun:
    again = f"evaluate it: asc-jax eval --workdir {workdir}"
    path = workdir / "results.json"
    try:
        results = result_files.upgraded(files.parse_json(files.read_text(path)))
        figures(result_files.stored_summary(results))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; {again}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error!r}); {again}") from error
    if results["stored_dtype"] == INT8:
        raise UserError(
            f"{workdir} was evaluated in int8, and a package computes in floats: evaluate it with "
            f"asc-jax eval --workdir {workdir} --stored float16"
        )
    run = evaluate.open_run(workdir, stored=results["stored_dtype"])
    cost = run.experiment.cost
    if not run.experiment.within_budget:
        raise UserError(
            f"{workdir} is over the budget: {cost['macs']:,} MACs of {cost['max_macs']:,}, "
            f"{cost['bytes']:,} bytes of {cost['max_bytes']:,}. It cannot be submitted"
        )
    # `results.json` must describe the run as it is now, and the code it was evaluated with.
    current = evaluate.describe(run.experiment, run.name, run.extra, run.step)
    for key, value in json.loads(json.dumps(current)).items():
        if results.get(key) != value:
            raise UserError(
                f"{workdir} is stale: {key} is {results.get(key)!r} in results.json, but now "
                f"{value!r}; {again}"
            )
    epoch, n_epochs = results["epoch"], results["n_epochs"]
    if epoch < n_epochs and "converted_from" not in results:
        raise UserError(
            f"{workdir} is trained for {epoch} of {n_epochs} epochs: resume it with asc-jax train "
            "and the same --workdir"
        )
    if not practice and not results.get("official_lists"):
        raise UserError(
            f"{workdir} was not trained and tested on TAU's own lists: --practice makes a package "
            "of it that cannot be submitted"
        )
    percent = _PERCENTS[run.experiment.config.data.train_split]
    return EvaluatedRun(workdir, percent, run.experiment, run.variables, results)


def write_package(
    author: Mapping[str, Any],
    runs: Sequence[EvaluatedRun],
    clips: Sequence[Clips],
    out_dir: str | os.PathLike,
    *,
    practice: bool = False,
) -> Path:
    """Write `out_dir/task1/<label>`, complete and without a problem, or not at all; then the zip.

    An entry that is already there is replaced; a technical report (`*.pdf`) in it is kept.

    Args:
      author, runs: as `author.read_author` and `open_runs` return them.
      clips: of the evaluation split, for each run, in the split's order; as `make_evaluator`
        takes them.
      out_dir: made if needed.
      practice: accept other clips than the challenge's.

    Raises:
      UserError: the package has a problem, or cannot be written.
    """
    parent, label = Path(out_dir) / "task1", author["submission"]["label"]
    predict = _make_predict()
    with replacing(parent, label, 2 * len(clips[0]) * CLIP_BYTES * len(runs)) as staging:
        folder = staging / label
        folder.mkdir()
        for document in parent.joinpath(label).glob("*.pdf"):
            shutil.copy2(document, folder)
        style = {"sort_keys": False, "allow_unicode": True, "width": 96}
        meta = yaml.dump(make_meta(author, runs), Dumper=_NoAliases, **style)
        (folder / f"{label}.meta.yaml").write_text(meta, "utf-8")
        for run, clips_of_run in zip(runs, clips, strict=True):
            path = folder / f"{label}.output.split_{run.percent}.csv"
            result_files.write_output_csv(path, *predict(run, clips_of_run), SCENES)
        problems = check_entry(folder, label=label, practice=practice)
        if problems:
            more = [f"and {len(problems) - N_SHOWN} more"] * (len(problems) > N_SHOWN)
            listed = "; ".join([*problems[:N_SHOWN], *more])
            raise UserError(f"{label} cannot be submitted: {listed}")
    write_zip(out_dir)
    return parent / label


def write_zip(out_dir: str | os.PathLike) -> Path:
    """Write `out_dir/task1.zip`, what is submitted, from all entries in `out_dir/task1`.

    The same entries give the same bytes. What is no part of a submission is left out.

    Raises:
      UserError: it cannot be written.
    """
    path = Path(out_dir) / ZIP
    with lock.held(path.with_suffix("")):
        try:
            with (
                files.atomic_writer(path) as file,
                zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
            ):
                for name, member in members(path.parent).items():
                    info = zipfile.ZipInfo(name)  # of 1980, as a zip's dates begin
                    info.compress_type = zipfile.ZIP_DEFLATED
                    info.create_system, info.external_attr = 3, 0o100644 << 16  # Unix
                    with member.open("rb") as source, archive.open(info, "w") as target:
                        shutil.copyfileobj(source, target)
        except OSError as error:
            raise UserError(f"cannot write {path}: {files.reason(error)}") from error
    return path


def rank_score(runs: Sequence[EvaluatedRun]) -> float:
    """Return the mean of the macro average accuracies, 0 … 1, by which the challenge ranks."""
    return float(np.mean([run.summary["macro_accuracy"] for run in runs]))


def _make_predict():
    """Return `(run, clips) -> (filenames, probs)`; runs of one network share a compiled program."""
    evaluators = {}

    def predict(run: EvaluatedRun, clips: Clips) -> tuple[list[str], np.ndarray]:
        config = run.experiment.config.to_dict()
        parts = *(config[key] for key in ("model", "features")), config["data"]["clip_s"]
        network = json.dumps(parts)
        if network not in evaluators:
            evaluators[network] = evaluate.make_evaluator(run.experiment)
        variables = deployed(run.variables, run.results["stored_dtype"])
        predictions = evaluators[network](variables, clips)
        evaluate.require_finite(predictions.logits, f"the network in {run.workdir}")
        return predictions.filenames, evaluate.softmax(predictions.logits)

    return predict


class _NoAliases(yaml.SafeDumper):
    """Write what occurs twice, such as the affiliation of two authors, twice."""

    def ignore_aliases(self, data):
        return True


def make_meta(author: Mapping[str, Any], runs: Sequence[EvaluatedRun]) -> dict[str, Any]:
    """Return the content of the meta file: `submission`, `system` and `results`.

    The author's `description` wins over what the runs say. Accuracies are in percent, log losses
    in nats. Of the complexities the largest is given, should the runs differ.
    """
    cost = [run.results["complexity"] for run in runs]
    size = {"total_model_size": "bytes", "total_parameters": "n_params", "macs": "macs"}
    return {
        "submission": author["submission"],
        "system": {
            "description": describe(runs, author["external_datasets"]) | author["description"],
            "complexity": {key: max(c[name] for c in cost) for key, name in size.items()},
            "external_datasets": author["external_datasets"] or None,
            "source_code": author["source_code"],
        },
        "results": {
            "development_dataset": {f"split_{run.percent}": figures(run.summary) for run in runs}
        },
    }


def figures(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return accuracies in percent and log losses, overall, by scene and by device.

    Both overall values are the mean over the scenes, by which the challenge ranks.
    """

    def pair(part: Mapping[str, Any], prefix: str = "") -> dict[str, float | None]:
        accuracy, log_loss = part[f"{prefix}accuracy"], part[f"{prefix}log_loss"]
        return {
            "accuracy": None if accuracy is None else round(100 * accuracy, 4),
            "logloss": None if log_loss is None else round(log_loss, 4),
        }

    devices = summary["groups"]["device"]["values"]
    return {
        "overall": pair(summary, "macro_"),
        "class_wise": {name: pair(summary["classes"][name]) for name in SCENES},
        "device_wise": {name: pair(devices[name]) for name in DEVICES},
    }


def describe(
    runs: Sequence[EvaluatedRun], external_datasets: Sequence[Mapping]
) -> dict[str, str | None]:
    """Return `system.description`, in the challenge's words where it has some; None: nothing."""
    config = runs[0].experiment.config
    names = [dataset["name"] for dataset in external_datasets]
    held_out = config.data.get("validation_locations", 0)
    gamma = config.loss.get("gamma")
    adaptations = [f"{held_out:g} of the training locations held out"] * bool(held_out)
    sixteen = runs[0].results["stored_dtype"] in ("float16", "bfloat16")
    return {
        "input_sampling_rate": f"{config.features.sample_rate / 1000:g}kHz",
        "acoustic_features": "log-mel energies",
        "data_augmentation": ", ".join(_augmentation(config)) or None,
        "machine_learning_method": "CNN",
        "external_data_usage": ", ".join(names) or None,
        "complexity_management": ", ".join(["precision_16"] * sixteen + ["network design"]),
        "pipeline": "training",
        "framework": "jax",
        "split_adaptations": "; ".join([*differences(runs), *adaptations]) or None,
        "system_adaptations": f"softmax focal loss (gamma {gamma:g})" if gamma else None,
    }


def _augmentation(config: Mapping) -> Iterator[str]:
    augment, features = config.augment, config.features
    known = {"time_roll": "time rolling", "freq_mask": "frequency masking",
             "time_mask": "time masking", "freq_mixstyle": "freq-mixstyle"}  # fmt: skip
    switches = ("max_s", "max_width", "max_db", "p")  # 0 turns an augmentation off
    labels = [label for label in known if label in augment] + sorted({*augment} - {*known})
    for label in labels:
        if all(augment[label].get(switch, 1) for switch in switches):
            yield known.get(label, label.replace("_", " "))
    if features.f_min_jitter or features.f_max_jitter:
        yield "mel frequency jitter"


def differences(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Return what differs between runs: "schedule.peak_lr: 0.005 (5, 10 %), 0.01 (25 %)"."""
    flat = [flatten_dict(run.experiment.config.to_dict(), sep=".") for run in runs]
    lines = []
    for key in flat[0]:
        by_value: dict[str, list[str]] = {}
        for run, values in zip(runs, flat, strict=True):
            by_value.setdefault(json.dumps(values.get(key)), []).append(str(run.percent))
        if len(by_value) > 1 and key not in _FROM_THE_RUN:
            values = [f"{value} ({', '.join(which)} %)" for value, which in by_value.items()]
            lines.append(f"{key}: {', '.join(values)}")
    return lines
