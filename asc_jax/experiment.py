"""Config → the parts of a run, so that training and evaluation cannot drift apart."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import ml_collections
import optax

from asc_jax import complexity, features, losses, optim, precision, state, steps
from asc_jax.errors import UserError, short
from asc_jax.models import MODELS
from asc_jax.types import Array, Params

CPU_CHUNK = 1  # clip
COMPUTE_DTYPES = ("float32", "bfloat16", "float16")
RESIDENT = ("auto", "off", "float32", "int16")  # of `resident.place_clips`
SAMPLE_RATE = 32_000  # Hz, what data sets are stored at
MAX_LR = 1e6
WHOLE_NUMBERS = {  # far beyond any use, and below what JAX's integers or a machine's memory hold
    "seed": (0, 2**62),
    "data.batch_size": (1, 2**16),
    "optim.warmup_steps": (0, 10**9),
    "train.n_epochs": (1, 10**6),
    "train.steps_per_call": (1, 2**16),
    "train.eval_every_epochs": (0, 10**6),
    "train.checkpoint_every_epochs": (1, 10**6),
    "train.keep_checkpoints": (1, 10**6),
    "train.n_seeds": (1, 1000),
    "augment.max_time_mask": (0, SAMPLE_RATE),
}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The parts of a run that do not depend on its data.

    config: the whole config. cost: what `measure` says of the network. within_budget: the
    verdict on it. n_samples: length of a clip, samples.
    """

    config: ml_collections.ConfigDict
    cost: Mapping
    within_budget: bool
    n_samples: int

    def variables(self) -> Params:
        """Fresh `{"params", "batch_stats"}`, from the config's seed."""
        key, _ = jax.random.split(jax.random.key(self.config.seed))
        return state.init_variables(model(self.config), key, log_mel_shape(self.config))

    def root_key(self) -> Array:
        """The key that every training step folds its number into."""
        return jax.random.split(jax.random.key(self.config.seed))[1]

    def tx(self, n_steps: int) -> optax.GradientTransformation:
        """The optimiser of a run of `n_steps` steps."""
        return optim.make_tx(n_steps, **self.config.optim)

    def new_state(self, variables: Params, tx: optax.GradientTransformation) -> state.TrainState:
        """The state before the first step; computing in float16 needs a loss scale."""
        scale_loss = self.config.precision.compute == "float16"
        return state.create(variables, tx, scale_loss=scale_loss)

    def train_steps(self, tx, axis_name: str | None = None) -> Callable:
        """`(state, batches, n_steps, key) -> (state, metrics)`."""
        step = functools.partial(
            steps.train_step,
            forward=functools.partial(train_forward, config=self.config, axis_name=axis_name),
            loss_fn=functools.partial(losses.focal_loss, **self.config.loss),
            tx=tx,
            axis_name=axis_name,
        )
        return functools.partial(steps.train_steps, step=step)

    def eval_step(self, axis_name: str | None = None) -> Callable:
        """`(variables, batch) -> (sums, logits)`."""
        forward = functools.partial(eval_forward, config=self.config)
        return functools.partial(steps.eval_step, forward=forward, axis_name=axis_name)


def make(config: ml_collections.ConfigDict) -> Experiment:
    """Check a config and bind its parts; over budget raises before anything is compiled.

    Args:
      config: as `configs/base.py` defines it.

    Returns:
      An `Experiment`.

    Raises:
      UserError: a value that no part accepts, or a network over the budget.
    """
    check_values(config)
    cost = measure(config)
    within = complexity.check_budget(
        cost["macs_by_layer"],
        cost["bytes_by_layer"],
        max_macs=cost["max_macs"],
        max_bytes=cost["max_bytes"],
        enforce=config.budget.enforce,
    )
    return Experiment(config, cost, within, config.features.sample_rate)


def model(config, *, train: bool = False, axis_name: str | None = None, body: str = "auto"):
    """The config's network. Evaluation computes in float32, whatever training used."""
    if config.network not in MODELS:
        raise UserError(f"unknown network {short(config.network)}; known: {', '.join(MODELS)}")
    compute = config.precision.compute
    dtype = compute if train and compute != "float32" else None
    cls = MODELS[config.network]
    return cls(**config.model, dtype=dtype, axis_name=axis_name, body=body)


def log_mel_shape(config) -> tuple[int, int, int]:
    """`(n_mels, n_frames, 1)` of a one-second clip."""
    f = config.features
    return f.n_mels, features.n_frames(f.sample_rate, f.hop_length), 1


def measure(config) -> dict:
    """Cost of the network on one clip, from shapes alone: counts, by layer and in total.

    Returns:
      `macs`, `n_params`, `bytes` (parameters in the stored dtype, the official rule's
      figure), `bytes_with_statistics`, `max_macs`, `max_bytes` (never above the task's),
      `macs_by_layer`, `bytes_by_layer`.
    """
    net = model(config, body="lax")
    clip = jax.ShapeDtypeStruct((1, *log_mel_shape(config)), jnp.float32)
    try:
        variables = jax.eval_shape(net.init, jax.random.key(0), clip)
    except (OverflowError, TypeError, ValueError) as error:
        raise UserError(f"config.model does not describe a network: {error}") from error
    macs = complexity.count_macs(net.apply, variables, clip)
    stored = config.precision.stored
    itemsize = jnp.dtype(stored).itemsize
    return {
        "macs": macs.total,
        "max_macs": min(config.budget.max_macs, complexity.MAX_MACS),
        "n_params": precision.n_params(variables["params"]),
        "bytes": precision.tree_bytes(variables["params"], stored)["total"],
        "bytes_with_statistics": precision.tree_bytes(variables, stored)["total"],
        "max_bytes": min(config.budget.max_bytes, complexity.MAX_BYTES),
        "macs_by_layer": dict(macs.by_layer),
        "bytes_by_layer": complexity.layer_bytes(variables["params"], itemsize),
    }


def train_forward(params, batch_stats, audio, mask, key, *, config, axis_name=None):
    """Waveform → logits with augmentation and batch statistics; also the updated statistics."""
    log_mel = steps.augmented_log_mel(
        key,
        audio,
        mask,
        features_config=config.features,
        axis_name=axis_name,
        **config.augment,
    )
    net = model(config, train=True, axis_name=axis_name)
    logits, updated = net.apply(
        {"params": params, "batch_stats": batch_stats},
        log_mel,
        train=True,
        mask=mask,
        mutable=["batch_stats"],
    )
    return logits, updated["batch_stats"]


def eval_forward(variables, audio, *, config):
    """Waveform → logits. On a CPU a few clips at a time, whose activations fit the cache."""

    def forward(audio):
        return model(config).apply(variables, features.log_mel(audio, **config.features))

    if jax.default_backend() != "cpu" or audio.shape[0] <= CPU_CHUNK:
        return forward(audio)
    return jax.lax.map(lambda clip: forward(clip[None])[0], audio, batch_size=CPU_CHUNK)


def check_values(config) -> None:
    """Refuse, by a `UserError`, values that would otherwise fail late or in silence."""
    try:
        optim.make_tx(1, **config.optim)
        expectations = _expectations(config)
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # saved by other code, say
        raise UserError(f"a key or a type in the config is not that of base.py: {error}") from error
    for name, holds, expected in expectations:
        if not holds:
            value = functools.reduce(getattr, name.split("."), config)
            raise UserError(f"config.{name} is {short(value)}, expected {expected}")


def _expectations(config) -> tuple[tuple[str, bool, str], ...]:
    """`(name, whether it holds, what is expected)` of every value with a range of its own."""
    augment, net, train = config.augment, config.model, config.train
    compute, stored = config.precision.compute, config.precision.stored
    n_mels = config.features.n_mels
    budget = config.budget
    limits = {"max_macs": complexity.MAX_MACS, "max_bytes": complexity.MAX_BYTES}
    return (
        *(
            (
                name,
                low <= functools.reduce(getattr, name.split("."), config) <= high,
                f"in {low} … {high:,}",
            )
            for name, (low, high) in WHOLE_NUMBERS.items()
        ),
        ("data.validation_locations", 0 <= config.data.validation_locations < 1, "in [0, 1)"),
        ("model.width", net.width >= 1, "at least 1"),
        ("model.width_multiplier", 0 < net.width_multiplier <= 64, "above 0 and at most 64"),
        ("model.expansion", 0 < net.expansion <= 64, "above 0 and at most 64"),
        ("loss.gamma", 0 <= config.loss.gamma < math.inf, "at least 0"),
        *(
            (
                f"budget.{name}",
                budget[name] >= 1 and (budget[name] <= limit or not budget.enforce),
                f"in 1 … {limit:,}, the task's limit (--config.budget.enforce=False goes past it)",
            )
            for name, limit in limits.items()
        ),
        ("train.resident", train.resident in RESIDENT, " or ".join(RESIDENT)),
        ("augment.mixstyle_p", 0 <= augment.mixstyle_p <= 1, "in [0, 1]"),
        ("augment.mixstyle_alpha", augment.mixstyle_alpha > 0, "above 0"),
        ("augment.max_roll_s", 0 <= augment.max_roll_s < 1, "in [0, 1)"),
        (
            "augment.max_freq_mask",
            0 <= augment.max_freq_mask <= n_mels,
            f"in 0 … {n_mels} (n_mels)",
        ),
        ("data.train_split", config.data.train_split != "evaluation", "a split with labels"),
        ("data.test_split", config.data.test_split != "evaluation", "a split with labels"),
        ("optim.peak_lr", config.optim.peak_lr <= MAX_LR, f"at most {MAX_LR:g}"),
        *_of_features(config.features),
        ("precision.compute", compute in COMPUTE_DTYPES, " or ".join(COMPUTE_DTYPES)),
        (
            "precision.stored",
            stored in precision.STORED_DTYPES,
            " or ".join(precision.STORED_DTYPES),
        ),
    )


def _of_features(f) -> tuple[tuple[str, bool, str], ...]:
    """The same of the front end's section."""
    n_mels, n_fft, nyquist = f.n_mels, f.n_fft, f.sample_rate / 2
    return (
        ("features.sample_rate", f.sample_rate == SAMPLE_RATE, f"{SAMPLE_RATE}, the data set's"),
        ("features.hop_length", 1 <= f.hop_length <= nyquist, f"in 1 … {nyquist:g}"),
        ("features.n_mels", 1 <= n_mels <= n_fft // 2 + 1, f"in 1 … {n_fft // 2 + 1} (of n_fft)"),
        ("features.n_fft", n_fft < 2 * f.sample_rate, "less than two seconds"),
        ("features.win_length", 1 <= f.win_length <= n_fft, f"in 1 … {n_fft} (n_fft)"),
        ("features.f_max", f.f_max <= nyquist, f"at most {nyquist:g} Hz, half the sample rate"),
        ("features.f_min", 0 <= f.f_min < f.f_max, "at least 0 and below features.f_max"),
    )
