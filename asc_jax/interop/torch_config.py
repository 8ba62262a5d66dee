"""The config that a PyTorch checkpoint was made with, as far as its file tells."""

from collections.abc import Mapping

import ml_collections
import numpy as np

from asc_jax import features, taxonomy
from asc_jax.errors import UserError
from asc_jax.interop.torch import FRONT_END_BUFFERS, infer_config
from asc_jax.interop.torch_files import TorchFile

ORIG_RATE = 44_100  # Hz, of the recordings the baseline reads
HYPER_PARAMETERS = {  # our key → the name on the baseline's command line
    "model.width_multiplier": "channels_multiplier",
    "model.expansion": "expansion_rate",
    "features.sample_rate": "sample_rate",
    "features.n_fft": "n_fft",
    "features.win_length": "window_length",
    "features.hop_length": "hop_length",
    "features.n_mels": "n_mels",
    "features.f_min": "f_min",
    "features.f_max": "f_max",
}


def infer(
    file: TorchFile,
    config: ml_collections.ConfigDict,
    overrides: Mapping[str, object],
) -> tuple[ml_collections.ConfigDict, dict[str, str]]:
    """Complete a config with what a checkpoint says.

    Tensor shapes and stored buffers decide; then comes what was given explicitly, then the
    checkpoint's hyper-parameters, then `config`.

    Args:
      file: as `torch_files.read` gives it.
      config: for all that the file does not tell; `overrides` are already in it.
      overrides: keys that were given explicitly, such as `"features.hop_length"`.

    Returns:
      A new locked config, and for every key that the file told, what in it did.

    Raises:
      UserError: an override contradicts the tensors, the network has another number of
        scenes, or the stored buffers are those of another front end.
    """
    config = config.copy_and_resolve_references().unlock()
    buffers = {name: file.state_dict[name] for name in FRONT_END_BUFFERS if name in file.state_dict}
    told = {
        key: file.hyper_parameters[name]
        for key, name in HYPER_PARAMETERS.items()
        if file.hyper_parameters.get(name) is not None and key not in overrides
    }
    sources = {key: "hyper-parameters" for key in told}
    for key, value in told.items():
        _set(config, key, value, f"the hyper-parameter {HYPER_PARAMETERS[key]}")
    sources |= dict.fromkeys(_buffer_sizes(buffers), "stored buffers")
    wanted = {name: config.model[name] for name in ("width_multiplier", "expansion")}
    network = infer_config(file.state_dict, **wanted)
    n_classes = network.pop("n_classes")
    if n_classes != taxonomy.N_SCENES:
        raise UserError(f"the network tells {n_classes} scenes apart, not {taxonomy.N_SCENES}")
    facts = {f"model.{name}": value for name, value in network.items()}
    sources |= dict.fromkeys(facts, "tensor shapes")
    for key, value in (facts | _buffer_sizes(buffers)).items():
        if key in overrides and overrides[key] != value:
            raise UserError(
                f"config.{key} is {overrides[key]!r}, but the tensors in the file say {value!r}: "
                "leave it out"
            )
        _set(config, key, value, "the file")
    _check_front_end(buffers, config.features)
    return config.lock(), sources


def _set(config, key: str, value, whose: str) -> None:
    section, name = key.split(".")
    try:
        config[section][name] = value
    except (TypeError, ValueError) as error:
        kind = type(config[section][name]).__name__
        raise UserError(f"{whose} is {value!r}, expected {kind} for config.{key}") from error


def _buffer_sizes(buffers: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Lengths of the front end that the shapes of its constants give away."""
    sizes = {}
    window, filterbank = (buffers.get(name, np.zeros(())) for name in FRONT_END_BUFFERS[1:])
    if window.ndim == 1:
        sizes["features.win_length"] = window.shape[0]
    if filterbank.ndim == 2:
        sizes["features.n_fft"] = 2 * (filterbank.shape[0] - 1)
        sizes["features.n_mels"] = filterbank.shape[1]
    return sizes


def _check_front_end(buffers: Mapping[str, np.ndarray], f: ml_collections.ConfigDict) -> None:
    """Hold the stored constants of a front end against ours for these features."""
    rate = f.sample_rate
    ours_of = {
        FRONT_END_BUFFERS[0]: lambda: features.resample_kernel(ORIG_RATE, rate),
        FRONT_END_BUFFERS[1]: lambda: features.hann_window(f.win_length),
        FRONT_END_BUFFERS[2]: lambda: features.mel_filterbank(
            f.n_fft, f.n_mels, rate, f.f_min, f.f_max
        ),
    }
    for name, stored in buffers.items():
        ours = ours_of[name]()
        # Two machines' sines differ in the last bit; 16 bits round to 2⁻⁸ of a value at worst.
        tolerance = 1e-6 if stored.dtype.itemsize >= 4 else 2**-8
        theirs = np.asarray(stored, np.float64).reshape(-1)
        if theirs.size != ours.size:
            problem = f"has shape {stored.shape}, expected {ours.shape}"
        elif not np.max(np.abs(theirs - ours.reshape(-1))) <= tolerance:
            largest = np.max(np.abs(theirs - ours.reshape(-1)))
            problem = f"differs from ours by up to {largest:.2g}"
        else:
            continue
        raise UserError(
            f"the file was made with another front end: {name} {problem} for {rate} Hz, "
            f"n_fft {f.n_fft}, win_length {f.win_length}, n_mels {f.n_mels}, {f.f_min:g} to "
            f"{f.f_max:g} Hz (HTK mel without norm, periodic Hann, resampled from {ORIG_RATE} Hz)"
        )
