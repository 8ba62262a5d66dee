"""Make the parts of a run from its config, the same for training and evaluation."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import ml_collections
import numpy as np
import optax

from asc_jax import features
from asc_jax.complexity import limits
from asc_jax.complexity.measure import measure
from asc_jax.data.tau.taxonomy import N_SCENES
from asc_jax.errors import UserError, expect
from asc_jax.features.augmentation import (
    AUGMENTATIONS,
    STAGES,
    Augmentation,
    Context,
    training_input,
)
from asc_jax.machine.named_parts import bind, errors_named, find, require_section, takes
from asc_jax.models import evaluation, training
from asc_jax.models.from_config import log_mel_shape, model
from asc_jax.training import config_checks, optim, state, steps
from asc_jax.training.losses import LOSSES
from asc_jax.types import Array, Params

CPU_CHUNK = 1  # clip


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The parts of a run that do not depend on its data.

    config: the whole config. cost: what `measure` returns for the network. within_budget:
    whether it is within the limits; a teacher is not compared with them. n_samples: length of a
    clip, samples. augmentations: in the order in which they run. loss_fn: `(logits, batch) -> [b]`.
    """

    config: ml_collections.ConfigDict
    cost: Mapping
    within_budget: bool
    n_samples: int
    augmentations: tuple[Augmentation, ...]
    loss_fn: Callable

    @property
    def is_teacher(self) -> bool:
        """Return whether it is a teacher, of which nothing can be handed in."""
        return self.config.budget.role == limits.ROLES[1]

    def variables(self) -> Params:
        """Return fresh `{"params", "batch_stats"}`, from the config's seed."""
        key, _ = jax.random.split(jax.random.key(self.config.seed))
        return state.init_variables(model(self.config), key, log_mel_shape(self.config))

    def root_key(self) -> Array:
        """Return the key that every training step folds its number into."""
        return jax.random.split(jax.random.key(self.config.seed))[1]

    def tx(self, n_steps: int) -> optax.GradientTransformation:
        """Return the optimiser of a run of `n_steps` steps, with its schedule."""
        return make_optimiser(self.config, n_steps)

    def new_state(self, variables: Params, tx: optax.GradientTransformation) -> state.TrainState:
        """Return the state before the first step; computing in float16 needs a loss scale."""
        scale_loss = self.config.precision.compute == "float16"
        return state.create(variables, tx, scale_loss=scale_loss)

    def abstract_state(self) -> state.TrainState:
        """Return the shapes and dtypes of the run's `TrainState`."""
        return jax.eval_shape(lambda: self.new_state(self.variables(), self.tx(1)))

    def arrays(self) -> dict[str, Mapping]:
        """Return the arrays that the augmentations read, by the augmentation's label.

        Raises:
          UserError: they cannot be loaded.
        """
        loaded = {}
        for each in self.augmentations:
            if each.load_arrays is not None:
                with errors_named(f"config.augment.{each.label}"):
                    arrays = each.load_arrays()
                    loaded[each.label] = {k: np.asarray(v) for k, v in dict(arrays).items()}
        return loaded

    def train_steps(self, tx, axis_name: str | None = None) -> Callable:
        """Return `(state, batches, n_steps, key, clips, arrays) -> (state, metrics)`.

        See `steps.train_steps`.
        """
        step = functools.partial(
            steps.train_step,
            augment=functools.partial(
                training_input,
                augmentations=self.augmentations,
                features_config=self.config.features,
                axis_name=axis_name,
            ),
            forward=train_forward(self.config, axis_name),
            loss_fn=self.loss_fn,
            tx=tx,
            axis_name=axis_name,
        )
        return functools.partial(steps.train_steps, step=step)


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
    augmentations = make_augmentations(config)
    loss_fn = bind(LOSSES, config.loss, "config.loss")
    make_optimiser(config, 1)
    cost = measure(config)
    _check_parts(config, augmentations, loss_fn, cost["n_classes"])
    within = config.budget.role == limits.ROLES[1] or limits.check_budget(
        cost["macs_by_layer"],
        cost["bytes_by_layer"],
        max_macs=cost["max_macs"],
        max_bytes=cost["max_bytes"],
        enforce=config.budget.enforce,
    )
    return Experiment(config, cost, within, config.features.sample_rate, augmentations, loss_fn)


def make_optimiser(config, n_steps: int) -> optax.GradientTransformation:
    """Return the optimiser of the sections `optim` and `schedule` for a run of `n_steps` steps.

    Raises:
      UserError: there is no such part, or it rejects a value.
    """
    schedule = bind(optim.SCHEDULES, config.schedule, "config.schedule")
    optimiser = bind(optim.OPTIMISERS, config.optim, "config.optim")
    if config.init.from_run:
        optimiser = optim.with_factors(optimiser)
    with errors_named("config.schedule"):
        schedule = schedule(n_steps)
        jax.eval_shape(schedule, _shape((), int))
    with errors_named("config.optim"):
        tx = optim.scheduled(schedule, optimiser)
        params = {"kernel": _shape((1,), float)}
        _, state = jax.eval_shape(lambda p: tx.update(p, tx.init(p), p), params)
        if any(jax.dtypes.issubdtype(x.dtype, jax.dtypes.extended) for x in jax.tree.leaves(state)):
            raise TypeError("its state holds a random key, which a checkpoint cannot")
    return tx


def make_augmentations(config) -> tuple[Augmentation, ...]:
    """Return the augmentations of the section `augment`, in the order in which they run.

    Those of one stage run by their `order`, a number that is 0 where it is not given, and then
    by their names.

    Raises:
      UserError: there is no such augmentation, or it does not take a value.
    """
    require_section(config.augment, "config.augment")
    for label, section in config.augment.items():
        require_section(section, f"config.augment.{label}")
        order = section.get("order", 0)
        fits = isinstance(order, int | float)
        expect(f"config.augment.{label}.order", order, fits, "a number")
    made = []
    by_order = sorted(config.augment.items(), key=lambda item: (item[1].get("order", 0), item[0]))
    for label, section in by_order:
        where = f"config.augment.{label}"
        section = {key: value for key, value in section.items() if key != "order"}
        fn = find(AUGMENTATIONS, section.get("name"), where)
        if not hasattr(fn, "stage"):
            raise UserError(
                f"{where}.name is {section['name']!r}, which is not marked with "
                "@asc_jax.features.augmentation.augmentation(stage)"
            )
        bound = bind(AUGMENTATIONS, section, where, supplied=("key", "batch", "context"))
        load = fn.load_arrays and functools.partial(fn.load_arrays, **bound.keywords)
        made.append(Augmentation(label, fn.stage, bound, fn.n_keys, takes(fn, "context"), load))
    return tuple(made)


def _check_parts(config, augmentations, loss_fn: Callable, n_classes: int) -> None:
    """Trace the augmentations and the loss on two clips, so that bad values are reported early.

    A part that reads a column which only the data knows is left to the first training step.
    """
    model(config, train=True)
    if n_classes != N_SCENES:
        raise UserError(f"config.model gives {n_classes} logits for a clip, expected {N_SCENES}")
    n_samples, (n_mels, n_frames, _) = config.features.sample_rate, log_mel_shape(config)
    dtypes = {"label": int, "device_id": int, "batch_row": int, "mask": bool}
    batch = {name: _shape((2,), dtype) for name, dtype in dtypes.items()}
    shapes = (n_samples,), (n_mels, n_frames), (n_mels, n_frames, 1)
    for stage, name, shape in zip(STAGES, ("audio", *STAGES[1:]), shapes, strict=True):
        batch[name] = _shape((2, *shape), float)
        for each in augmentations:
            if each.stage == stage and each.load_arrays is None:
                with errors_named(f"config.augment.{each.label}"), contextlib.suppress(KeyError):
                    call = functools.partial(each, context=Context(n_samples))
                    batch = jax.eval_shape(call, jax.random.key(0), batch)
    logits = _shape((2, n_classes), float)
    with errors_named("config.loss"), contextlib.suppress(KeyError):
        shape = jax.eval_shape(loss_fn, logits, batch).shape
        expect("name", config.loss.name, shape == (2,), f"a value for each clip, not {shape}")


def _shape(shape: tuple[int, ...], dtype: type) -> jax.ShapeDtypeStruct:
    """Return the shape of an array of Python's type, in 32 bits or 64 as JAX is set up."""
    return jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(dtype))


def train_forward(config, axis_name: str | None = None) -> Callable:
    """Return `(variables, batch, key) -> (logits, updates)`; a batch has `log_mel` and `mask`."""
    forward = training(model(config, train=True, axis_name=axis_name), axis_name)

    def of_batch(variables, batch, key):
        return forward(variables, batch["log_mel"], batch["mask"], key)

    return of_batch


def eval_forward(variables, audio, *, config):
    """Return the logits of waveforms `[b, n_samples]`.

    On a CPU a few clips are computed at a time, whose activations fit the cache.
    """

    def forward(audio):
        return evaluation(model(config))(variables, features.log_mel(audio, **config.features))

    if jax.default_backend() != "cpu" or audio.shape[0] <= CPU_CHUNK:
        return forward(audio)
    return jax.lax.map(lambda clip: forward(clip[None])[0], audio, batch_size=CPU_CHUNK)
