"""Infer the config that a PyTorch checkpoint was made with from its file."""

import math
from collections.abc import Mapping

import ml_collections
import numpy as np

from asc_jax.data.tau import taxonomy
from asc_jax.errors import UserError
from asc_jax.features import filters
from asc_jax.pytorch.files import TorchFile
from asc_jax.pytorch.weights import FRONT_END_BUFFERS, infer_config, plain_names

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
    """Complete a config with the values that a checkpoint's file tells.

    Tensor shapes and stored buffers come first, then `overrides`, then the checkpoint's
    hyper-parameters, then `config`.

    Args:
      file: as `files.read` returns it.
      config: for all that the file does not tell; `overrides` are already in it.
      overrides: keys that were set explicitly, such as `"features.hop_length"`.

    Returns:
      A new locked config, and where in the file each key that it tells was found.

    Raises:
      UserError: an override contradicts the tensors, a hyper-parameter is of another type or
        of recordings at another rate, or the network has another number of scenes.
    """
    rate = file.hyper_parameters.get("orig_sample_rate")
    if rate is not None and not (isinstance(rate, int | float) and rate == ORIG_RATE):
        raise UserError(
            f"the hyper-parameter orig_sample_rate is {rate!r}, expected {ORIG_RATE}: data sets "
            f"are made of recordings at {ORIG_RATE} Hz, and others, resampled, have another "
            "spectrum than the network was trained on"
        )
    config = config.copy_and_resolve_references().unlock()
    hyper_parameters = {
        key: file.hyper_parameters[name]
        for key, name in HYPER_PARAMETERS.items()
        if file.hyper_parameters.get(name) is not None and key not in overrides
    }
    for key, value in hyper_parameters.items():
        _set(config, key, value, f"the hyper-parameter {HYPER_PARAMETERS[key]}")
    buffer_sizes = _buffer_sizes(_buffers(file), config.features.n_fft)
    wanted = {name: config.model[name] for name in ("width_multiplier", "expansion")}
    network = infer_config(file.state_dict, **wanted)
    n_classes = network.pop("n_classes")
    if n_classes != taxonomy.N_SCENES:
        raise UserError(f"the network tells {n_classes} scenes apart, not {taxonomy.N_SCENES}")
    network = {f"model.{name}": value for name, value in network.items()}
    for key, value in (network | buffer_sizes).items():
        if key in overrides and overrides[key] != value:
            raise UserError(
                f"config.{key} is {overrides[key]!r}, but the tensors in the file say {value!r}: "
                "leave it out"
            )
        _set(config, key, value, "the file")
    sources = dict.fromkeys(hyper_parameters, "hyper-parameters")
    sources |= dict.fromkeys(buffer_sizes, "stored buffers")
    sources |= dict.fromkeys(network, "tensor shapes")
    return config.lock(), sources


def check_front_end(file: TorchFile, f: ml_collections.ConfigDict) -> None:
    """Compare the stored constants of a front end with ours for these features.

    Args:
      file: as `files.read` returns it.
      f: section `features` of a config that `experiment.make` accepts.

    Raises:
      UserError: they are those of another front end.
    """
    rate = f.sample_rate
    constants = (  # functions, because a resampling kernel that nobody needs can be gigabytes
        lambda: filters.resample_kernel(ORIG_RATE, rate),
        lambda: filters.hann_window(f.win_length),
        lambda: filters.mel_filterbank(f.n_fft, f.n_mels, rate, f.f_min, f.f_max),
    )
    constants = dict(zip(FRONT_END_BUFFERS, constants, strict=True))
    for name, stored in _buffers(file).items():
        ours = constants[name]()
        # Two machines' sines differ in the last bit; 16 bits round to 2⁻⁸ of a value at worst.
        tolerance = 1e-6 if stored.dtype.itemsize >= 4 else 2**-8
        theirs = np.asarray(stored, np.float64).reshape(-1)
        if theirs.size != ours.size:
            problem = f"has shape {stored.shape}, expected {ours.shape}"
        else:
            largest = np.max(np.abs(theirs - ours.reshape(-1)))
            if largest <= tolerance:
                continue
            problem = f"differs from ours by up to {largest:.2g}"
        raise UserError(
            f"the file was made with another front end: {name} {problem} for {rate} Hz, "
            f"n_fft {f.n_fft}, win_length {f.win_length}, n_mels {f.n_mels}, {f.f_min:g} to "
            f"{f.f_max:g} Hz (HTK mel without norm, periodic Hann, resampled from {ORIG_RATE} Hz)"
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


def _buffers(file: TorchFile) -> dict[str, np.ndarray]:
    """Return the front end's stored constants by name."""
    tensors = plain_names(file.state_dict)
    return {name: tensors[name] for name in FRONT_END_BUFFERS if name in tensors}


def _buffer_sizes(buffers: Mapping[str, np.ndarray], n_fft: int) -> dict[str, int]:
    """Return the lengths of the front end that the shapes of its constants tell.

    An odd and an even n_fft have as many bins; `n_fft` is kept where it has the right number.
    """
    sizes = {}
    window, filterbank = (buffers.get(name, np.zeros(())) for name in FRONT_END_BUFFERS[1:])
    if window.ndim == 1 and window.size:
        sizes["features.win_length"] = window.shape[0]
    if filterbank.ndim == 2 and filterbank.size:
        n_bins, n_mels = filterbank.shape
        sizes["features.n_fft"] = n_fft if n_fft // 2 + 1 == n_bins else 2 * (n_bins - 1)
        sizes["features.n_mels"] = n_mels
    return sizes
