"""Infer the config that a PyTorch checkpoint was made with from its file."""

import dataclasses
import math
from collections.abc import Iterable, Mapping

import ml_collections
import numpy as np

from asc_jax.errors import UserError, short
from asc_jax.models import MODELS
from asc_jax.models.cp_mobile import STRIDES
from asc_jax.models.from_config import SUPPLIED
from asc_jax.pytorch import front_end
from asc_jax.pytorch.front_end import ORIG_RATE
from asc_jax.pytorch.weights import infer_config, of_teacher, recognise

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
    "model.activation": ("activation",),
}
FRONT_END_NAMES = {n for k, names in HYPER_PARAMETERS.items() if k[0] == "f" for n in names}
ACTIVATIONS = {  # ours → PyTorch's, in small letters without "_". Its gelu is not ours, of tanh.
    "relu": ("relu",),
    "relu6": ("relu6",),
    "hard_swish": ("hardswish",),
    "silu": ("silu", "swish"),
}
OTHER_FRONT_ENDS = {  # name → what is another value than ours, and ours
    "power": (lambda value: _is_number(value) and value != 2, "2"),
    "center": (lambda value: value is False, "True"),
    "normalized": (lambda value: value is True, "False"),
    "pad_mode": (lambda value: _word(value) not in ("", "reflect"), "'reflect'"),
    "window_fn": (lambda value: _word(value) and "hann" not in _word(value), "a Hann window"),
    "mel_scale": (lambda value: _word(value) not in ("", "htk"), "'htk'"),
    "norm": (lambda value: _word(value) == "slaney", "None"),
    "mel_norm": (lambda value: _is_number(value) or _word(value) not in ("", "none"), "None"),
}
WITHOUT = (
    "the network would hear what it was not trained on. To train it further, save its weights "
    "without hyper-parameters: torch.save(checkpoint['state_dict'], 'weights.pt')"
)
# Of the front end of 2023's CP-Mobile, of which nothing is stored among the tensors: these tell
# neither its pre-emphasis nor its scaling.
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
      constants: of its front end, as `front_end.choose` returns them.
      told: the file's hyper-parameters; a module that was given all of them as one argument has
        them one level deeper.
      config: for all that the file does not tell; `overrides` are already in it.
      overrides: keys that were set explicitly, such as `"features.hop_length"`.

    Returns:
      A new locked config, and where in the file each key that it tells was found.

    Raises:
      UserError: an override contradicts the tensors, a hyper-parameter is of another type, of
        recordings at another rate or of another front end or network, two of one meaning differ,
        or the network has another number of classes than the config.
    """
    _check_hyper_parameters(told, config.features.mel_scale)
    config = config.copy_and_resolve_references().unlock()
    sources, inferred, kind = {}, infer_config(network), recognise(network).network
    attributes = _defaults(kind)
    if kind != config.model.get("name"):
        if lost := [key for key in overrides if key.startswith("model.")]:
            raise UserError(f"config.{lost[0]} is set, but the file holds a {kind}: leave it out")
        config.model = {"name": kind, **attributes}
        sources["model.name"] = "tensor names"
    for name in attributes.keys() & {*inferred, "activation"} - {*config.model}:
        config.model[name] = attributes[name]
    sources |= _take_hyper_parameters(config, kind, told, overrides)
    sources |= _take_tensors(config, network, constants, overrides)
    return config.lock(), sources


def _take_hyper_parameters(
    config: ml_collections.ConfigDict,
    kind: str,
    told: Mapping[str, object],
    overrides: Mapping[str, object],
) -> dict[str, str]:
    """Set the values of a config that hyper-parameters tell, and return where each was found.

    kind: name of the network; only those of CP-Mobile tell its attributes.
    """
    sources = {}
    strides = {} if "model.strides" in overrides else _found(told, ("strides",))
    for place, value in strides.items():
        value = _strides(place, value)
        if kind == "cp_mobile" and value != config.model.get("strides", STRIDES):
            config.model.strides, sources["model.strides"] = value, "hyper-parameters"
    for key, names in HYPER_PARAMETERS.items():
        if key.startswith("model.") and kind != "cp_mobile":
            continue
        found = {} if key in overrides else _found(told, names)
        if key == "features.f_max":
            half = config.features.sample_rate / 2  # what torchaudio takes for None
            if {*map(type, found.values())} == {type(None)} and config.features.f_max == half:
                continue
            found = {place: half if value is None else value for place, value in found.items()}
        if key == "model.activation":
            found = {place: _activation(place, value) for place, value in found.items()}
        place = _agreed(key, found)
        if place:
            _set(config, key, found[place], f"the hyper-parameter {place}")
            outer = place.rpartition(".")[0]
            sources[key] = f"hyper-parameters ({outer})" if outer else "hyper-parameters"
    return sources


def _take_tensors(
    config: ml_collections.ConfigDict,
    network: Mapping[str, np.ndarray],
    constants: Mapping[str, np.ndarray],
    overrides: Mapping[str, object],
) -> dict[str, str]:
    """Set the values of a config that tensors tell, and return where each was found."""
    buffers = front_end.settings_of(constants, config.features)
    wanted = {n: config.model[n] for n in ("width_multiplier", "expansion") if n in config.model}
    attributes = infer_config(network, **wanted)
    if "depthwise" in config.model and "depthwise" not in recognise(network).variant:
        attributes["depthwise"] = "batch_norm"
    n_classes = attributes.pop("n_classes")
    if n_classes != len(config.labels.classes):
        raise UserError(
            f"the network has {n_classes} classes, and config.labels.classes has "
            f"{len(config.labels.classes)}: give all of them, in the order of its logits, with "
            """--config FILE --config.labels.classes='("a","b")'"""
        )
    shapes = {f"model.{name}": value for name, value in attributes.items()}
    for key, value in (shapes | buffers).items():
        if key in overrides and overrides[key] != value:
            raise UserError(
                f"config.{key} is {overrides[key]!r}, but the tensors in the file say {value!r}: "
                "leave it out"
            )
        _set(config, key, value, "the file")
    return dict.fromkeys(buffers, "stored buffers") | dict.fromkeys(shapes, "tensor shapes")


def _found(told: Mapping[str, object], names: Iterable[str]) -> dict[str, object]:
    """Return the values that are set under some names: place, such as `student.n_fft` → value.

    Those one level deeper count where there are none above, but a teacher's alone do not. Where a
    `resample_rate` is told, a `sample_rate` may be that of the recordings, which does not count.
    """
    found = [(name, name, value) for name, value in told.items()]
    for outer, inner in told.items():
        if isinstance(outer, str) and isinstance(inner, Mapping):
            found += [(f"{outer}.{name}", name, value) for name, value in inner.items()]
    found = [
        (place, name, value)
        for place, name, value in found
        if name in names and (value is not None or name in HYPER_PARAMETERS["features.f_max"])
    ]
    if any(name == "resample_rate" and not of_teacher(place) for place, name, _ in found):
        found = [
            (place, name, value)
            for place, name, value in found
            if not (name == "sample_rate" and _is_number(value) and value == ORIG_RATE)
        ]
    above = {place: value for place, name, value in found if place == name}
    found = above or {place: value for place, _, value in found}
    return {} if all(map(of_teacher, found)) else found


def _agreed(key: str, found: Mapping[str, object]) -> str | None:
    """Return the place of the value on which all places agree; None: nothing is found."""
    places = {}
    for place, value in found.items():
        places.setdefault(value if _is_number(value) else short(value), place)
    if len(places) > 1 and key in ("model.width_multiplier", "model.expansion"):
        return None  # tensor shapes tell them
    if len(places) > 1:
        each = " and ".join(f"{place} ({short(found[place])})" for place in places.values())
        raise UserError(
            f"the hyper-parameters {each} differ: say which is the network's with "
            f"--config base.py --config.{key}=…"
        )
    return next(iter(places.values()), None)


def _activation(place: str, value) -> str:
    """Return our name of an activation, such as `nn.ReLU`."""
    word = _word(value).rpartition(".")[2].replace("_", "").removesuffix("()")
    for ours, names in ACTIVATIONS.items():
        if word in names:
            return ours
    raise UserError(
        f"the hyper-parameter {place} is {short(value)}, expected one of "
        f"{', '.join(ACTIVATIONS)}: say with --config base.py --config.model.activation=… which "
        "is the network's (gelu is the approximation by tanh)"
    )


def _word(value) -> str:
    return value.lower() if isinstance(value, str) else ""


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_hyper_parameters(told: Mapping[str, object], mel_scale: str) -> None:
    """Raise a `UserError` if they are those of what no config of ours describes.

    mel_scale: of the config, which has to be told of Kaldi's mel bands.
    """
    told = {
        name: value
        for name, value in told.items()
        if not (isinstance(value, Mapping) and of_teacher(str(name)))
    }
    for place, rate in _found(told, ("orig_sample_rate",)).items():
        if not (_is_number(rate) and rate == ORIG_RATE):
            raise UserError(
                f"the hyper-parameter {place} is {short(rate)}, expected {ORIG_RATE}: data sets "
                f"are made of recordings at {ORIG_RATE} Hz, and others, resampled, have another "
                "spectrum than the network was trained on"
            )
    for place in () if mel_scale == "kaldi" else _found(told, KALDI_PARAMETERS):
        raise UserError(
            f"the hyper-parameter {place} is that of another front end (pre-emphasis, Kaldi's "
            "mel bands, scaled log-mel), of which the file does not contain all: choose it with "
            "--config base.py --config.features.mel_scale=kaldi and the other values of "
            "docs/front_ends.md"
        )
    for name, (is_other, ours) in OTHER_FRONT_ENDS.items():
        for place, value in _found(told, (name,)).items():
            beside = told if place == name else told[place.removesuffix(f".{name}")]
            is_clear = place == name or name.startswith("mel_") or FRONT_END_NAMES & {*beside}
            if is_clear and is_other(value):
                raise UserError(
                    f"the hyper-parameter {place} is {short(value)}, that of another front end, "
                    f"and features has {ours}: {WITHOUT}"
                )


def _defaults(kind: str) -> dict:
    """Return the attributes of a network that a config may hold, as they are if nothing is said."""
    fields = {field.name: field.default for field in dataclasses.fields(MODELS[kind])}
    others = {"n_classes", "parent", "name", *SUPPLIED}
    return {name: default for name, default in fields.items() if name not in others}


def _strides(place: str, strides) -> tuple:
    """Return the strides of CP-Mobile's blocks that a hyper-parameter tells."""
    ours = {f"b{number}": strides for number, strides in enumerate(STRIDES, 1)}
    if isinstance(strides, list | tuple) and len(strides) == len(ours):
        strides = dict(zip(ours, strides, strict=True))
    if not isinstance(strides, Mapping):
        raise UserError(
            f"the hyper-parameter {place} is {short(strides)}, expected those of the blocks "
            f"{', '.join(ours)}, {short([*ours.values()])}. If they are these, save the weights "
            "without hyper-parameters: torch.save(checkpoint['state_dict'], 'weights.pt')"
        )
    theirs = {block: (1, 1) for block in ours} | {
        block: tuple(value) if isinstance(value, list | tuple) else (value, value)
        for block, value in strides.items()
    }
    for block, value in theirs.items():
        fits = block in ours and len(value) == 2 and all(type(n) is int and n >= 1 for n in value)
        if not fits:
            raise UserError(
                f"the hyper-parameter {place} has {short(value)} for block {block}, expected one "
                f"or two whole numbers for each of the blocks {', '.join(ours)}"
            )
    return tuple(theirs[block] for block in ours)


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
