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
from asc_jax.data.clips import labels_of
from asc_jax.data.labels import Labels, from_dict, id_column
from asc_jax.errors import UserError, expect
from asc_jax.features.augmentation import (
    AUGMENTATIONS,
    STAGES,
    Augmentation,
    Context,
    training_input,
)
from asc_jax.machine.named_parts import bind, check_name, errors_named, find, require_section, takes
from asc_jax.models import evaluation, training
from asc_jax.models.from_config import log_mel_shape, model, n_samples
from asc_jax.training import aware, config_checks, distillation, optim, state, steps
from asc_jax.training.losses import LOSSES
from asc_jax.training.mixed_loss import of_mixed
from asc_jax.types import Array, Params

CPU_CHUNK = 1  # clip


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The parts of a run that do not depend on its data.

    config: the whole config. cost: what `measure` returns for the network. within_budget:
    whether it is within the limits, which a teacher may exceed. n_samples: length of a clip,
    samples. augmentations: in the order in which they run. loss_fn: `(logits, batch) -> [b]`.
    """

    config: ml_collections.ConfigDict
    cost: Mapping
    within_budget: bool
    n_samples: int
    augmentations: tuple[Augmentation, ...]
    loss_fn: Callable

    @property
    def labels(self) -> Labels:
        """The names of the run's classes and groups."""
        return from_dict(self.config.labels.to_dict())

    @property
    def is_teacher(self) -> bool:
        """Return whether it is a teacher, of which nothing can be submitted."""
        return self.config.budget.role == limits.ROLES[1]

    def variables(self) -> Params:
        """Return fresh `{"params", "batch_stats"}`, from the config's seed."""
        key, _ = jax.random.split(jax.random.key(self.config.seed))
        return state.init_variables(model(self.config), key, log_mel_shape(self.config))

    def root_key(self) -> Array:
        """Return the key that every training step folds its number into."""
        return jax.random.split(jax.random.key(self.config.seed))[1]

    def tx(self, n_steps: int, n_epochs: int | None = None) -> optax.GradientTransformation:
        """Return the optimiser of a run of `n_steps` steps, with its schedule.

        n_epochs: of these steps; None: as many as the config says.
        """
        return make_optimiser(self.config, n_steps, n_epochs)

    def new_state(self, variables: Params, tx: optax.GradientTransformation) -> state.TrainState:
        """Return the state before the first step; computing in float16 needs a loss scale."""
        scale_loss = self.config.precision.compute == "float16"
        ema = bool(self.config.train.ema)
        ranges = aware.empty_ranges(self.config) if self.config.quantise.aware else None
        return state.create(variables, tx, scale_loss=scale_loss, ema=ema, ranges=ranges)

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
            loss_fn=of_mixed(self.loss_fn),
            tx=tx,
            ema=self.config.train.ema,
            axis_name=axis_name,
        )
        return functools.partial(steps.train_steps, step=step)


def with_labels(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Return a config with the names of classes and groups of its data set.

    Where there is no data set the config stays as it is: opening it says what is wrong.
    """
    config = config.copy_and_resolve_references().unlock()
    with contextlib.suppress(UserError):
        config.labels = ml_collections.ConfigDict(labels_of(config.data.dir).to_dict())
    return config.lock()


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
    loss_fn = make_loss(config)
    make_optimiser(config, 1)
    cost = measure(config)
    _check_parts(config, augmentations, loss_fn, cost["n_classes"])
    if config.quantise.aware:
        aware.read(config)  # before a workdir is made, if the network has no integers
    is_teacher = config.budget.role == limits.ROLES[1]
    within = limits.check_budget(
        cost["macs_by_layer"],
        cost["bytes_by_layer"],
        max_macs=cost["max_macs"],
        max_bytes=cost["max_bytes"],
        enforce=config.budget.enforce and not is_teacher,
    )
    return Experiment(config, cost, within, n_samples(config), augmentations, loss_fn)


def make_loss(config) -> Callable:
    """Return the loss of the section `loss`, compared with teachers as `distill` says.

    Raises:
      UserError: there is no such loss, or a value is not accepted.
    """
    loss_fn = bind(LOSSES, config.loss, "config.loss")
    if not config.distill.logits:
        return loss_fn
    parts = {"distilled": functools.partial(distillation.distilled, loss_fn)}
    section = {k: v for k, v in config.distill.items() if k not in ("logits", "meta_csv")}
    with errors_named("config.distill"):
        return bind(parts, {"name": "distilled", **section}, "config.distill")()


def make_optimiser(
    config, n_steps: int, n_epochs: int | None = None
) -> optax.GradientTransformation:
    """Return the optimiser of the sections `optim` and `schedule` for a run of `n_steps` steps.

    A schedule that takes `n_epochs` is given it: that of the config, if it is None here.

    Raises:
      UserError: there is no such part, or it rejects a value.
    """
    in_epochs = _is_in_epochs(config.schedule)
    supplied = ("n_epochs",) if in_epochs else ()
    schedule = bind(optim.SCHEDULES, config.schedule, "config.schedule", supplied=supplied)
    if in_epochs:
        schedule = functools.partial(schedule, n_epochs=n_epochs or config.train.n_epochs)
    optimiser = bind(optim.OPTIMISERS, config.optim, "config.optim")
    if config.train.clip_norm:
        optimiser = optim.clipped(optimiser, config.train.clip_norm)
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


def _is_in_epochs(section) -> bool:
    """Return whether a schedule asks for the number of epochs, and its section does not say it."""
    if "n_epochs" in section:
        return False
    with contextlib.suppress(ValueError):  # a part without a signature, which `bind` rejects
        return takes(find(optim.SCHEDULES, section.get("name"), "config.schedule"), "n_epochs")
    return False


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
        check_name(label, f"the section {label} of config.augment")
        order = section.get("order", 0)
        fits = isinstance(order, int | float)
        expect(f"config.augment.{label}.order", order, fits, "a number")
    made = []
    groups = {column: tuple(group["values"]) for column, group in config.labels.groups.items()}
    context = Context(config.features.sample_rate, groups=groups)
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
        if load and takes(fn.load_arrays, "context"):
            load = functools.partial(load, context=context)
        made.append(Augmentation(label, fn.stage, bound, fn.n_keys, takes(fn, "context"), load))
    return tuple(made)


def _check_parts(config, augmentations, loss_fn: Callable, n_classes: int) -> None:
    """Trace the augmentations and the loss on two clips, so that bad values are reported early.

    A part that reads a column which only the data knows is left to the first training step.
    """
    model(config, train=True)
    expected = len(config.labels.classes)
    if n_classes != expected:
        raise UserError(
            f"config.model gives {n_classes} logits for a clip, expected {expected}, one for each "
            "of config.labels.classes"
        )
    n_mels, n_frames, _ = log_mel_shape(config)
    dtypes = {"label": int, "batch_row": int, "mask": bool}
    dtypes |= {id_column(column): int for column in config.labels.groups}
    context = Context(config.features.sample_rate)
    batch = {name: _shape((2,), dtype) for name, dtype in dtypes.items()}
    shapes = (n_samples(config),), (n_mels, n_frames), (n_mels, n_frames, 1)
    for stage, name, shape in zip(STAGES, ("audio", *STAGES[1:]), shapes, strict=True):
        batch[name] = _shape((2, *shape), float)
        for each in augmentations:
            if each.stage == stage and each.load_arrays is None:
                with errors_named(f"config.augment.{each.label}"), contextlib.suppress(KeyError):
                    call = functools.partial(each, context=context)
                    batch = jax.eval_shape(call, jax.random.key(0), batch)
    if config.distill.logits:
        batch[distillation.COLUMN] = _shape((2, 1, n_classes), float)
    logits = _shape((2, n_classes), float)
    with errors_named("config.loss"), contextlib.suppress(KeyError):
        shape = jax.eval_shape(of_mixed(loss_fn), logits, batch).shape
        expect("name", config.loss.name, shape == (2,), f"a value for each clip, not {shape}")


def _shape(shape: tuple[int, ...], dtype: type) -> jax.ShapeDtypeStruct:
    """Return the shape of an array of Python's type, in 32 bits or 64 as JAX is set up."""
    return jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(dtype))


def train_forward(config, axis_name: str | None = None) -> Callable:
    """Return `(variables, batch, key) -> (logits, updates)`; a batch has `log_mel` and `mask`."""
    if config.quantise.aware:
        return aware.forward(config, axis_name)
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
