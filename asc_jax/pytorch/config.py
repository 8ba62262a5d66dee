"""Infer the config that a PyTorch checkpoint was made with from its file."""

import math
from collections.abc import Mapping

import ml_collections
import numpy as np

from asc_jax.data.tau import taxonomy
from asc_jax.errors import UserError, short
from asc_jax.models.cp_mobile import BLOCKS
from asc_jax.pytorch import front_end
from asc_jax.pytorch.front_end import ORIG_RATE
from asc_jax.pytorch.weights import infer_config

HYPER_PARAMETERS = {  # our key → names on the command lines of the baseline and of its descendants
    "model.width_multiplier": ("channels_multiplier",),
    "model.expansion": ("expansion_rate",),
    "features.sample_rate": ("sample_rate", "resample_rate"),
    "features.n_fft": ("n_fft",),
    "features.win_length": ("window_length", "win_length", "window_size"),
    "features.hop_length": ("hop_length", "hop_size", "hopsize"),
    "features.n_mels": ("n_mels",),
    "features.f_min": ("f_min", "fmin"),
    "features.f_max": ("f_max", "fmax"),
}
# Of the front end of 2023's CP-Mobile, of which nothing is stored among the tensors.
KALDI_PARAMETERS = ("fmin_aug_range", "fmax_aug_range")


def infer(
    network: Mapping[str, np.ndarray],
    constants: Mapping[str, np.ndarray],
    told: Mapping[str, object],
    config: ml_collections.ConfigDict,
    overrides: Mapping[str, object],
) -> tuple[ml_collections.ConfigDict, dict[str, str]]:
    """Complete a config with the values that a checkpoint's file tells.

    Tensor shapes and stored buffers come first, then `overrides`, then the checkpoint's
    hyper-parameters, then `config`.

    Args:
      network: its tensors by the baseline's names.
      constants: of its front end, as `front_end.find_constants` names them.
      told: the file's hyper-parameters.
      config: for all that the file does not tell; `overrides` are already in it.
      overrides: keys that were set explicitly, such as `"features.hop_length"`.

    Returns:
      A new locked config, and where in the file each key that it tells was found.

    Raises:
      UserError: an override contradicts the tensors, a hyper-parameter is of another type, of
        recordings at another rate or of another front end or network, or the network has another
        number of scenes.
    """
    _check_hyper_parameters(told)
    config = config.copy_and_resolve_references().unlock()
    hyper_parameters = {}
    for key, names in HYPER_PARAMETERS.items():
        name = next((name for name in names if told.get(name) is not None), None)
        if name and key not in overrides:
            _set(config, key, told[name], f"the hyper-parameter {name}")
            hyper_parameters[key] = told[name]
    half = config.features.sample_rate / 2  # what torchaudio takes for None
    unset = "f_max" in told and told["f_max"] is None and "features.f_max" not in overrides
    if unset and config.features.f_max != half:
        config.features.f_max = hyper_parameters["features.f_max"] = half
    buffers = front_end.settings_of(constants, config.features)
    wanted = {name: config.model[name] for name in ("width_multiplier", "expansion")}
    network = infer_config(network, **wanted)
    n_classes = network.pop("n_classes")
    if n_classes != taxonomy.N_SCENES:
        raise UserError(f"the network tells {n_classes} scenes apart, not {taxonomy.N_SCENES}")
    network = {f"model.{name}": value for name, value in network.items()}
    for key, value in (network | buffers).items():
        if key in overrides and overrides[key] != value:
            raise UserError(
                f"config.{key} is {overrides[key]!r}, but the tensors in the file say {value!r}: "
                "leave it out"
            )
        _set(config, key, value, "the file")
    sources = dict.fromkeys(hyper_parameters, "hyper-parameters")
    sources |= dict.fromkeys(buffers, "stored buffers")
    sources |= dict.fromkeys(network, "tensor shapes")
    return config.lock(), sources


def _check_hyper_parameters(told: Mapping[str, object]) -> None:
    """Raise a `UserError` if they are those of what no config of ours describes."""
    rate = told.get("orig_sample_rate")
    if rate is not None and not (isinstance(rate, int | float) and rate == ORIG_RATE):
        raise UserError(
            f"the hyper-parameter orig_sample_rate is {rate!r}, expected {ORIG_RATE}: data sets "
            f"are made of recordings at {ORIG_RATE} Hz, and others, resampled, have another "
            "spectrum than the network was trained on"
        )
    kaldi = [name for name in KALDI_PARAMETERS if told.get(name) is not None]
    if kaldi:
        raise UserError(
            f"the hyper-parameter {kaldi[0]} is that of another front end (pre-emphasis, Kaldi's "
            "mel bands, scaled log-mel), which features cannot compute: the network would hear "
            "what it was not trained on. To train it further, save its weights without "
            "hyper-parameters: torch.save(checkpoint['state_dict'], 'weights.pt')"
        )
    strides = told.get("strides")
    ours = {f"b{number}": strides for number, (_, strides) in enumerate(BLOCKS, 1)}
    if isinstance(strides, Mapping):
        theirs = {block: (1, 1) for block in ours} | {
            block: tuple(value) if isinstance(value, list | tuple) else (value, value)
            for block, value in strides.items()
        }
        for block, value in theirs.items():
            if value != ours.get(block):
                raise UserError(
                    f"the hyper-parameter strides has {short(value)} for block {block}, and the "
                    f"baseline's network {ours.get(block, 'no such block')}: a network of other "
                    "strides cannot be converted yet"
                )


def _set(config, key: str, value, whose: str) -> None:
    """Set a value of the config's own type; a float must be finite."""
    section, name = key.split(".")
    kind = type(config[section][name])
    infinite = isinstance(value, float) and not math.isfinite(value)
    try:
        if infinite or isinstance(value, bool) != (kind is bool):
            raise ValueError
        config[section][name] = value
    except (TypeError, ValueError) as error:
        expected = f"a finite {kind.__name__}" if infinite else kind.__name__
        raise UserError(f"{whose} is {value!r}, expected {expected} for config.{key}") from error
