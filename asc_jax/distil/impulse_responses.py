"""Configs with device impulse responses: the section is added to those that have none.

An override such as `--config.augment.dir.p=0.6` cannot add a section, so a run with one has a
config file of its own, which is written by the campaign and takes the rest from the original.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections

from asc_jax.errors import UserError
from asc_jax.features.augmentation import AUGMENTATIONS

NAME, LABEL = "device_impulse_response", "dir"
FILE = '''"""{name} with device impulse responses, as `asc-jax distil` wrote it."""

from asc_jax.distil.impulse_responses import config_with


def get_config():
    return config_with(
        {path!r},
        {section!r},
    )
'''


def with_section(
    config: ml_collections.ConfigDict, section: Mapping[str, Any]
) -> ml_collections.ConfigDict:
    """Return a config with a section `augment.dir`.

    Raises:
      UserError: it has device impulse responses, or another section of that label, already.
    """
    for label, own in config.augment.items():
        if label == LABEL or AUGMENTATIONS.get(own.get("name")) is AUGMENTATIONS[NAME]:
            raise UserError(
                f"config.augment.{label} is there already: the networks without and with "
                "--impulse_responses need a config that has no device impulse responses"
            )
    changed = config.copy_and_resolve_references().unlock()
    changed.augment[LABEL] = ml_collections.ConfigDict(section)
    return changed.lock()


def config_with(path: str, section: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """Return the config of a file with a section `augment.dir`; see `with_section`."""
    spec = importlib.util.spec_from_file_location("without_impulse_responses", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return with_section(module.get_config(), section)


def file_with(path: str, section: Mapping[str, Any]) -> str:
    """Return the text of a config file that gives `config_with(path, section)`."""
    return FILE.format(name=Path(path).name, path=path, section=dict(section))
