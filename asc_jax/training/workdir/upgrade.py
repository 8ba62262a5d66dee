"""Configs that were saved, or are written, with the keys of an earlier version.

A run is resumed and evaluated by any later version: what its saved config lacks takes the value
that reproduces it, and what has moved is found at its new place.
"""

from collections.abc import Mapping

from asc_jax.data.labels import from_dict
from asc_jax.data.tau.taxonomy import LABELS

# The old key → the new one.
MOVED = {
    "network": "model.name",
    "optim.peak_lr": "schedule.peak_lr",
    "optim.warmup_steps": "schedule.warmup_steps",
    "augment.max_roll_s": "augment.time_roll.max_s",
    "augment.max_freq_mask": "augment.freq_mask.max_width",
    "augment.max_time_mask": "augment.time_mask.max_width",
    "augment.mixstyle_p": "augment.freq_mixstyle.p",
    "augment.mixstyle_alpha": "augment.freq_mixstyle.alpha",
}
# A key that a saved config may lack → the value that reproduces runs from before it was added.
# A later version that adds a key adds a row.
ADDED = {
    "data.validation_locations": 0.0,
    "data.clip_s": 1.0,
    "train.resident": "auto",
    "train.n_seeds": 1,
    "train.ema": 0.0,
    "train.clip_norm": 0.0,
    "budget.role": "submission",
    "init.from_run": "",
    "init.checkpoint": "last",
    "init.fresh": "",
    "init.freeze": "",
    "init.rate": 1.0,
    "loss.name": "focal",
    "distill.logits": "",
    "distill.meta_csv": "",
    "distill.average": "logits",
    "distill.temperature": 2.0,
    "distill.weight": 0.02,
    "distill.reduction": "mean",
    "quantise.aware": False,
    "quantise.calibration": "mse",
    "quantise.freeze_epoch": 0,
    "quantise.momentum": 0.99,
    "optim.name": "adamw",
    "schedule.name": "warmup_cosine",
    "features.pre_emphasis": 0.0,
    "features.window": "hann",
    "features.mel_scale": "htk",
    "features.norm_mean": 0.0,
    "features.norm_std": 1.0,
    "features.f_min_jitter": 0.0,
    "features.f_max_jitter": 0.0,
}
# The name of a part and its old keyword → the new one.
RENAMED = {("device_impulse_response", "values"): "column_values"}
PARTS_OF_FIRST_VERSION = ("time_roll", "freq_mask", "time_mask", "freq_mixstyle")


def upgraded(saved: Mapping) -> dict:
    """Return a saved config, nested dicts, with the keys of this version.

    Example:
      >>> upgraded({"network": "cp_mobile", "optim": {"peak_lr": 0.1}})["schedule"]
      {'peak_lr': 0.1, 'name': 'warmup_cosine'}
    """
    flat = _flatten(saved)
    if "network" in saved:  # written by the first version
        flat = {MOVED.get(key, key): value for key, value in flat.items()}
        flat |= {f"augment.{name}.name": name for name in PARTS_OF_FIRST_VERSION}
    flat = {_renamed(key, flat): value for key, value in flat.items()}
    nested = _nested(flat | {key: value for key, value in ADDED.items() if key not in flat})
    # Before runs kept the names of their classes, all were of TAU.
    labels = from_dict(saved["labels"]) if "labels" in saved else LABELS
    return {**nested, "labels": labels.to_dict()}


def _renamed(key: str, flat: Mapping) -> str:
    """Return the key that a keyword of a part has now."""
    section, dot, name = key.rpartition(".")
    return section + dot + RENAMED.get((flat.get(f"{section}.name"), name), name)


def _flatten(tree: Mapping, prefix: str = "") -> dict:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _nested(flat: Mapping) -> dict:
    tree: dict = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return tree
