"""Config → the parts of a run, so that training and evaluation cannot drift apart."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import ml_collections
import optax

from asc_jax import features
from asc_jax.complexity import limits
from asc_jax.complexity.measure import measure
from asc_jax.features import training_input
from asc_jax.models import apply_training, scratch_shapes_of
from asc_jax.models.from_config import log_mel_shape, model
from asc_jax.training import config_checks, losses, optim, state, steps
from asc_jax.types import Array, Params, Scratch

CPU_CHUNK = 1  # clip


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
        """`(state, batches, n_steps, key, clips, scratch) -> (state, metrics, scratch)`."""
        step = functools.partial(
            steps.train_step,
            forward=functools.partial(train_forward, config=self.config, axis_name=axis_name),
            loss_fn=functools.partial(losses.focal_loss, **self.config.loss),
            tx=tx,
            axis_name=axis_name,
        )
        return functools.partial(steps.train_steps, step=step)

    def scratch_shapes(self, audio: jax.ShapeDtypeStruct) -> Scratch:
        """Shapes of what a training step on `audio [b, n_samples]` can write over."""
        f, (n_clips, n_samples) = self.config.features, audio.shape
        shape = n_clips, f.n_mels, features.n_frames(n_samples, f.hop_length), 1
        net = model(self.config, train=True, body="lax")  # the quickest to trace
        return scratch_shapes_of(net, jax.ShapeDtypeStruct(shape, audio.dtype))

    def abstract_state(self) -> state.TrainState:
        """Return the shapes and dtypes of the run's `TrainState`."""
        return jax.eval_shape(lambda: self.new_state(self.variables(), self.tx(1)))


def make(config: ml_collections.ConfigDict) -> Experiment:
    """Check a config and bind its parts; over budget raises before anything is compiled.

    Args:
      config: as `configs/base.py` defines it.

    Returns:
      An `Experiment`.

    Raises:
      UserError: a value that no part accepts, or a network over the budget.
    """
    config_checks.check_values(config)
    cost = measure(config)
    within = limits.check_budget(
        cost["macs_by_layer"],
        cost["bytes_by_layer"],
        max_macs=cost["max_macs"],
        max_bytes=cost["max_bytes"],
        enforce=config.budget.enforce,
    )
    return Experiment(config, cost, within, config.features.sample_rate)


def train_forward(params, batch_stats, audio, mask, key, scratch=None, *, config, axis_name=None):
    """Waveform → logits with augmentation and batch statistics: `apply_training`'s results."""
    log_mel = training_input.augmented_log_mel(
        key,
        audio,
        mask,
        features_config=config.features,
        axis_name=axis_name,
        **config.augment,
    )
    net = model(config, train=True, axis_name=axis_name)
    return apply_training(net, params, batch_stats, log_mel, mask, scratch)


def eval_forward(variables, audio, *, config):
    """Waveform → logits. On a CPU a few clips at a time, whose activations fit the cache."""

    def forward(audio):
        return model(config).apply(variables, features.log_mel(audio, **config.features))

    if jax.default_backend() != "cpu" or audio.shape[0] <= CPU_CHUNK:
        return forward(audio)
    return jax.lax.map(lambda clip: forward(clip[None])[0], audio, batch_size=CPU_CHUNK)
