"""The meta file of a submission: what the runs are and what they reached.

Source: the layout of DCASE 2024 Task 1.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from asc_jax.challenge.submission.runs import Run
from asc_jax.data.tau.taxonomy import DEVICES, SCENES

_FROM_THE_RUN = ("seed", "data.train_split", "data.dir", "train.keep_checkpoints")


class _NoAliases(yaml.SafeDumper):
    """Writes what occurs twice, such as the affiliation of two authors, twice."""

    def ignore_aliases(self, data):
        return True


def to_yaml(meta: Mapping[str, Any]) -> str:
    """The text of a meta file, in the order of `meta`."""
    return yaml.dump(meta, Dumper=_NoAliases, sort_keys=False, allow_unicode=True, width=96)


def make_meta(author: Mapping[str, Any], runs: Sequence[Run]) -> dict[str, Any]:
    """Everything of the meta file.

    Args:
      author: as `submission_author.read_author` returns it; its `description` wins.
      runs: by rising size of their training lists.

    Returns:
      `submission`, `system` and `results`; accuracies in percent, log losses in nats. Of the
      complexities the largest is given, should the runs differ.
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
    """Accuracies in percent and log losses, overall, by scene and by device.

    Overall stands the mean of the scenes, for both: accuracy is ranked by it.
    """
    macro = {key: summary[f"macro_{key}"] for key in ("accuracy", "log_loss")}
    return {
        "overall": _pair(macro),
        "class_wise": {scene: _pair(summary["scenes"][scene]) for scene in SCENES},
        "device_wise": {device: _pair(summary["devices"][device]) for device in DEVICES},
    }


def _pair(entry: Mapping[str, Any]) -> dict[str, float | None]:
    accuracy, log_loss = entry["accuracy"], entry["log_loss"]
    return {
        "accuracy": None if accuracy is None else round(100 * accuracy, 4),
        "logloss": None if log_loss is None else round(log_loss, 4),
    }


def describe(runs: Sequence[Run], external_datasets: Sequence) -> dict[str, str | None]:
    """`system.description`, in the challenge's words as far as it has some; None: none."""
    config = runs[0].parts.config
    names = [str(d.get("name", d)) if isinstance(d, Mapping) else str(d) for d in external_datasets]
    held_out = config.data.get("validation_locations", 0)
    adaptations = [f"{held_out:g} of the training locations held out"] * bool(held_out)
    sixteen = runs[0].results["stored_dtype"] in ("float16", "bfloat16")
    return {
        "input_sampling_rate": f"{config.features.sample_rate / 1000:g}kHz",
        "acoustic_features": "log-mel energies",
        "data_augmentation": ", ".join(_augmentation(config.augment)) or None,
        "machine_learning_method": "CNN",
        "external_data_usage": ", ".join(names) or None,
        "complexity_management": ", ".join(["precision_16"] * sixteen + ["network design"]),
        "pipeline": "training",
        "framework": "jax",
        "split_adaptations": "; ".join([*differences(runs), *adaptations]) or None,
        "system_adaptations": (
            f"softmax focal loss (gamma {config.loss.gamma:g})"
            if config.loss.get("gamma")
            else None
        ),
    }


def _augmentation(augment: Mapping) -> Iterator[str]:
    known = {"time_roll": "time rolling", "freq_mask": "frequency masking",
             "time_mask": "time masking", "freq_mixstyle": "freq-mixstyle"}  # fmt: skip
    switches = ("max_s", "max_width", "p")  # 0 turns an augmentation off
    labels = [label for label in known if label in augment] + sorted({*augment} - {*known})
    for label in labels:
        if all(augment[label].get(switch, 1) for switch in switches):
            yield known.get(label, label.replace("_", " "))


def differences(runs: Sequence[Run]) -> list[str]:
    """What is not the same in all runs, such as "optim.peak_lr: 0.005 (5, 10 %), 0.01 (25 %)"."""
    flat = [dict(_flatten(run.parts.config.to_dict())) for run in runs]
    lines = []
    for key in flat[0]:
        by_value: dict[str, list[str]] = {}
        for run, values in zip(runs, flat, strict=True):
            by_value.setdefault(json.dumps(values.get(key)), []).append(str(run.percent))
        if len(by_value) > 1 and key not in _FROM_THE_RUN:
            parts = [f"{value} ({', '.join(which)} %)" for value, which in by_value.items()]
            lines.append(f"{key}: {', '.join(parts)}")
    return lines


def _flatten(tree: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
