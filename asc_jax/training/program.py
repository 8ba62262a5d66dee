"""The compiled training steps of runs that are trained at once, call after call."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from asc_jax.machine import replicas
from asc_jax.training.run import Run
from asc_jax.training.state import TrainState


class Program:
    """The compiled training steps of one run, or of several at once, and their states."""

    def __init__(self, runs: list[Run], states, train: Callable, held, arrays, steps_per_call):
        self._runs, self._train = runs, train
        self._memory = [replicas.BatchMemory(steps_per_call) for _ in runs]
        self._one = len(runs) == 1
        self._held, self._arrays = held, arrays
        stack = (lambda *leaves: leaves[0]) if self._one else (lambda *x: np.stack(x))
        self._state = replicas.replicate(jax.tree.map(stack, *states))
        keys = [run.key for run in runs]
        self._key = keys[0] if self._one else jnp.stack(keys)

    def __call__(self, calls) -> list[tuple]:
        """Run a call of each run; `(call, metrics)` of each, perhaps not computed yet."""
        batches = [
            memory.stack(call.batches) for memory, call in zip(self._memory, calls, strict=True)
        ]
        stack = (lambda *x: x[0]) if self._one else (lambda *x: np.stack(x, axis=1))
        batches = jax.tree.map(stack, *batches)
        n_steps = len(calls[0].batches)
        self._state, metrics = self._train(
            self._state, batches, n_steps, self._key, self._held, self._arrays
        )
        for memory in self._memory:
            memory.used_for(metrics)
        return [(call, self._of(metrics, k)) for k, call in enumerate(calls)]

    def record(self, pending: list[tuple] | None) -> None:
        """Wait for what a call has returned, and add it up in every run; None: nothing yet."""
        for run, metrics in zip(self._runs, pending or [None] * len(self._runs), strict=True):
            run.record(metrics)

    def state(self, k: int) -> TrainState:
        """Of the run with this number, `[replica, …]`."""
        return self._of(self._state, k)

    def save(self, n_epochs: int) -> None:
        """Save every run, after so many whole epochs."""
        for k, run in enumerate(self._runs):
            run.save(self.state(k), n_epochs)

    def _of(self, tree, k: int):
        return tree if self._one else jax.tree.map(lambda x: x[:, k], tree)
