"""Our network without its front end: the steps of training and evaluation on log-mels."""

import functools
from collections.abc import Callable

import jax

from asc_jax import experiment
from asc_jax.machine import replicas
from asc_jax.models import evaluation
from asc_jax.models.from_config import model
from asc_jax.training import steps


def train_steps(parts: experiment.Experiment, tx) -> Callable:
    """`Experiment.train_steps` on log-mels, by all replicas together."""
    step = functools.partial(
        steps.train_step,
        augment=lambda key, batch, arrays: {**batch, "log_mel": batch["audio"][..., None]},
        forward=experiment.train_forward(parts.config, replicas.AXIS),
        loss_fn=parts.loss_fn,
        tx=tx,
        axis_name=replicas.AXIS,
    )
    return functools.partial(steps.train_steps, step=step)


def make_eval_step(config) -> Callable:
    """The evaluation step on log-mels, by all replicas together."""
    forward = functools.partial(_eval_forward, config=config)
    return lambda variables, batch: forward(variables, batch["audio"])


def _eval_forward(variables, log_mel, *, config):
    """`experiment.eval_forward` without its front end."""
    net = model(config)
    if jax.default_backend() != "cpu" or len(log_mel) <= experiment.CPU_CHUNK:
        return evaluation(net)(variables, log_mel)
    one = functools.partial(net.apply, variables)
    return jax.lax.map(lambda x: one(x[None])[0], log_mel, batch_size=experiment.CPU_CHUNK)
