"""Checks of the values of a config that no single part of a run can check."""

import functools
import logging
import math

from asc_jax.complexity.limits import MAX_BYTES, MAX_MACS, ROLES
from asc_jax.data import labels
from asc_jax.data.resampling import STORED_RATES
from asc_jax.errors import UserError, short
from asc_jax.features import filters
from asc_jax.machine.named_parts import require_section
from asc_jax.models import precision
from asc_jax.operations.calibrate import METHODS

log = logging.getLogger("asc_jax")

COMPUTE_DTYPES = ("float32", "bfloat16", "float16")
RESIDENT = ("auto", "off", "float32", "int16")  # of `resident.place_clips`
CLIP_S = (0.1, 30.0)
MAX_RATE = 1000.0  # what `init.rate` may multiply a learning rate by
WHOLE_NUMBERS = {  # far beyond any use, and below what JAX's integers or a machine's memory hold
    "seed": (0, 2**62),
    "data.batch_size": (1, 2**16),
    "train.n_epochs": (1, 10**6),
    "train.steps_per_call": (1, 2**16),
    "train.eval_every_epochs": (0, 10**6),
    "train.checkpoint_every_epochs": (1, 10**6),
    "train.keep_checkpoints": (1, 10**6),
    "train.n_seeds": (1, 1000),
    "quantise.freeze_epoch": (0, 10**6),
}
NUMBERS = (  # with the former, what has to be a number before it is compared with one
    "data.validation_locations",
    "data.clip_s",
    "train.ema",
    "train.clip_norm",
    "init.rate",
    "quantise.momentum",
    "budget.max_macs",
    "budget.max_bytes",
    "features.sample_rate",
    "features.n_fft",
    "features.win_length",
    "features.hop_length",
    "features.n_mels",
    "features.f_min",
    "features.f_max",
    "features.f_min_jitter",
    "features.f_max_jitter",
    "features.pre_emphasis",
    "features.norm_mean",
    "features.norm_std",
)
SECTIONS = [
    "labels",
    "data",
    "features",
    "augment",
    "model",
    "init",
    "loss",
    "distill",
    "quantise",
    "optim",
    "schedule",
    "precision",
    "budget",
    "train",
]
Expectation = tuple[str, bool, str]  # name, whether it holds, what is expected


def check_values(config) -> None:
    """Raise a `UserError` for values that would otherwise fail late or in silence."""
    try:
        for section in SECTIONS:
            require_section(config[section], f"config.{section}")
        for name in (*WHOLE_NUMBERS, *NUMBERS):
            value = _value(config, name)
            if not isinstance(value, int | float):
                raise UserError(f"config.{name} is {short(value)}, expected a number")
        expectations = _expectations(config)
        labels.from_dict(config.labels.to_dict())
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # saved by other code, say
        raise UserError(f"a key or a type in the config is not that of base.py: {error}") from error
    for name, holds, expected in expectations:
        if not holds:
            raise UserError(f"config.{name} is {short(_value(config, name))}, expected {expected}")
    f = config.features
    _warn_of_empty_bands(f.mel_scale, f.n_fft, f.n_mels, f.sample_rate, f.f_min, f.f_max)


@functools.cache  # once for the seeds of a run
def _warn_of_empty_bands(mel_scale: str, n_fft: int, n_mels: int, *rate_and_edges: float) -> None:
    """Warn of mel bands that no frequency of the FFT falls into, and say what has none."""
    empty = filters.n_empty_bands(mel_scale, n_fft, n_mels, *rate_and_edges)
    if not empty:
        return
    fitting = (
        n
        for n in range(n_mels - 1, 0, -1)
        if not filters.n_empty_bands(mel_scale, n_fft, n, *rate_and_edges)
    )
    log.warning(
        "%d of the %d mel bands are always silent, since n_fft=%d has no frequency in them; "
        "--config.features.n_mels=%d has none such, or take a larger --config.features.n_fft",
        *(empty, n_mels, n_fft, next(fitting, 1)),
    )


def _expectations(config) -> tuple[Expectation, ...]:
    """Return an expectation for every value with a range; the first that fails is reported."""
    train = config.train
    compute, stored = config.precision.compute, config.precision.stored
    budget, (low, high) = config.budget, CLIP_S
    return (
        *_of_whole_numbers(config),
        ("data.validation_locations", 0 <= config.data.validation_locations < 1, "in [0, 1)"),
        *_of_budget(budget),
        ("train.ema", 0 <= train.ema < 1, "in [0, 1)"),
        ("train.clip_norm", 0 <= train.clip_norm < math.inf, "at least 0"),
        ("train.resident", train.resident in RESIDENT, " or ".join(RESIDENT)),
        ("data.train_split", config.data.train_split != "evaluation", "a split with labels"),
        ("data.test_split", config.data.test_split != "evaluation", "a split with labels"),
        ("data.clip_s", low <= config.data.clip_s <= high, f"in {low:g} … {high:g}"),
        *_of_features(config.features, config.data.clip_s),
        *_of_init(config.init),
        *_of_quantise(config),
        ("precision.compute", compute in COMPUTE_DTYPES, " or ".join(COMPUTE_DTYPES)),
        (
            "precision.stored",
            stored in precision.DEPLOYED_FORMS,
            " or ".join(precision.DEPLOYED_FORMS),
        ),
    )


def _of_whole_numbers(config) -> tuple[Expectation, ...]:
    return tuple(
        (name, low <= _value(config, name) <= high, f"in {low} … {high:,}")
        for name, (low, high) in WHOLE_NUMBERS.items()
    )


def _of_budget(budget) -> tuple[Expectation, ...]:
    limits = {"max_macs": MAX_MACS, "max_bytes": MAX_BYTES}
    return ("budget.role", budget.role in ROLES, " or ".join(ROLES)), *(
        (
            f"budget.{name}",
            budget[name] >= 1 and (budget[name] <= limit or not budget.enforce),
            f"in 1 … {limit:,}, the task's limit (--config.budget.enforce=False goes past it)",
        )
        for name, limit in limits.items()
    )


def _of_features(f, clip_s: float) -> tuple[Expectation, ...]:
    n_mels, n_fft, nyquist = f.n_mels, f.n_fft, f.sample_rate / 2
    half, scales = nyquist * clip_s, filters.FILTERBANKS  # half of a clip's samples
    return (
        (
            "features.sample_rate",
            f.sample_rate in STORED_RATES,
            " or ".join(map(str, STORED_RATES)) + ", as data sets are stored",
        ),
        ("features.hop_length", 1 <= f.hop_length <= half, f"in 1 … {half:g}, half a clip"),
        ("features.n_mels", 1 <= n_mels <= n_fft // 2 + 1, f"in 1 … {n_fft // 2 + 1} (of n_fft)"),
        ("features.n_fft", n_fft < 4 * half - 2 * bool(f.pre_emphasis), "less than two clips"),
        ("features.win_length", 1 <= f.win_length <= n_fft, f"in 1 … {n_fft} (n_fft)"),
        ("features.f_max", f.f_max <= nyquist, f"at most {nyquist:g} Hz, half the sample rate"),
        ("features.f_min", 0 <= f.f_min < f.f_max, "at least 0 and below features.f_max"),
        ("features.pre_emphasis", 0 <= f.pre_emphasis < 1, "in [0, 1): 0 is none, 0.97 is usual"),
        ("features.window", f.window in filters.WINDOWS, " or ".join(filters.WINDOWS)),
        ("features.mel_scale", f.mel_scale in scales, " or ".join(scales)),
        ("features.norm_mean", math.isfinite(f.norm_mean), "a number, such as the mean log-mel"),
        ("features.norm_std", 0 < f.norm_std < math.inf, "above 0, such as 1 for none"),
        *_of_jitter(f, nyquist),
    )


def _of_jitter(f, nyquist: float) -> tuple[Expectation, ...]:
    lowest_top = f.f_max - f.f_max_jitter / 2
    return (
        (
            "features.f_max_jitter",
            0 <= f.f_max_jitter <= 2 * (nyquist - f.f_max),
            f"in 0 … {2 * (nyquist - f.f_max):g}, so that features.f_max, moved by half of it, "
            f"stays at most {nyquist:g} Hz: lower features.f_max by half of the jitter",
        ),
        (
            "features.f_min_jitter",
            f.f_min_jitter >= 0 and f.f_min + f.f_min_jitter < lowest_top,
            "at least 0, so that features.f_min, moved by it, stays below features.f_max",
        ),
    )


def _of_init(init) -> tuple[Expectation, ...]:
    return (
        ("init.checkpoint", init.checkpoint in ("last", "best"), "last or best"),
        ("init.rate", 0 <= init.rate <= MAX_RATE, f"in 0 … {MAX_RATE:g}"),
        *(
            (f"init.{name}", not init[name] or bool(init.from_run), "empty without init.from_run")
            for name in ("fresh", "freeze")
        ),
    )


def _of_quantise(config) -> tuple[Expectation, ...]:
    quantise, aware = config.quantise, config.quantise.aware
    return (
        ("quantise.calibration", quantise.calibration in METHODS, " or ".join(METHODS)),
        ("quantise.momentum", 0 <= quantise.momentum < 1, "in [0, 1)"),
        ("init.from_run", bool(config.init.from_run) or not aware, "a run, for quantise.aware"),
        (
            "precision.compute",
            config.precision.compute == "float32" or not aware,
            "float32, for quantise.aware",
        ),
    )


def _value(config, name: str):
    """`train.n_epochs` → `config.train.n_epochs`."""
    return functools.reduce(getattr, name.split("."), config)
