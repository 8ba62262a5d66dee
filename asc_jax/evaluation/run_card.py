"""The card of a run: what it was trained on, with what, how long, and what was changed."""

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import ml_collections

from asc_jax.errors import UserError
from asc_jax.machine import files
from asc_jax.training.workdir.journal import NAME

PACKAGES = ("jax", "flax", "optax", "numpy")  # whose versions matter for results


def describe(
    workdir: str | os.PathLike,
    config: ml_collections.ConfigDict,
    extra: Mapping[str, Any],
    *,
    data_dir: str,
    changed: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what a reader asks of a run besides its figures, ready for JSON.

    Args:
      workdir: of the run; its `config.json` and training log are read.
      config: of the run.
      extra: what its checkpoint says besides.
      data_dir: of the data set that it was evaluated on.
      changed: full names of the config's values that differ from the defaults → value.

    Returns:
      `workdir`, `data_dir`, `n_train_clips` and `train_data` (their identity), `network`,
      `optimiser`, `loss`, `augmentations` (in words), `batch_size`, `compute` (dtype of training),
      `changed` (name → value in words), `jax_version` of the training, `clips_per_s` (median over
      its epochs), and `evaluated_on`: `machine`, `device`, `python` and the versions of `PACKAGES`.
      What is not recorded is None.
    """
    rates = sorted(_rates(Path(workdir) / NAME))
    return {
        "workdir": str(workdir),
        "data_dir": str(data_dir),
        "n_train_clips": extra.get("n_train_clips"),
        "train_data": extra.get("train_data"),
        "network": _part(config.model),
        "optimiser": f"{_part(config.optim)}; {_part(config.schedule)}",
        "loss": _part(config.loss),
        "augmentations": "; ".join(_part(each) for each in config.augment.values()) or "none",
        "batch_size": config.data.batch_size,
        "compute": config.precision.compute,
        "changed": {name: _word(value) for name, value in changed.items()},
        "jax_version": _saved(workdir).get("jax_version"),
        "clips_per_s": rates[len(rates) // 2] if rates else None,
        "evaluated_on": {
            "machine": f"{platform.system()} {platform.machine()}",
            "device": jax.devices()[0].device_kind,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
    }


def _part(section: Mapping[str, Any]) -> str:
    """Return a section as its name and its values, such as `adamw (weight_decay 0.0001)`."""
    values = dict(section.items())
    name = values.pop("name", "")
    listed = ", ".join(f"{key} {_word(value)}" for key, value in sorted(values.items()))
    return f"{name} ({listed})" if listed else str(name)


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _saved(workdir: str | os.PathLike) -> Mapping[str, Any]:
    """Return the content of `config.json`; empty where it cannot be read."""
    try:
        content = files.parse_json(files.read_text(Path(workdir) / "config.json"))
    except (OSError, ValueError, UserError):
        return {}
    return content if isinstance(content, Mapping) else {}


def _rates(path: Path) -> list[float]:
    """Return the training clips per second of the epochs that a training log has."""
    from asc_jax.evaluation.report.figures import read_log

    entries = (entry.get("clips_per_s") for entry in read_log(path)["train"])
    return [float(rate) for rate in entries if isinstance(rate, int | float)]
