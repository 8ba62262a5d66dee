"""The training step: a pure function of state, batch and key.

It runs alone, under `jit`, `vmap`, `lax.scan` and `pmap`. With `axis_name` each replica
holds a slice of the global batch, in order of position, and sums run over all of them.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from asc_jax.errors import UserError
from asc_jax.training import optim
from asc_jax.training.state import TrainState
from asc_jax.types import Array, Batch, Metrics, Params


def train_step(
    state: TrainState,
    batch: Batch,
    key: Array,
    arrays: Mapping | None = None,
    *,
    augment: Callable,
    forward: Callable,
    loss_fn: Callable,
    tx: optax.GradientTransformation,
    ema: float = 0.0,
    axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
    """Return the state after a step: augmentation, gradient, optimiser.

    Args:
      state: before the step.
      batch: `audio [b, n_samples]`, `label [b]`, `mask [b]` and every other numeric column of the
        data; this replica's clips.
      key: the run's root key, the same at every step.
      arrays: of the run, for `augment`.
      augment: `(key, batch, arrays) -> batch` with `log_mel [b, n_mels, n_frames, 1]`.
      forward: `(variables, batch, key) -> (logits [b, n], updates)`, the variables `params` and
        those of `state.model_state`, and the latter after the step.
      loss_fn: `(logits, batch) -> [b]`, with the augmented batch.
      tx: optax transformation.
      ema: decay of the average of the variables that the state keeps; 0: it keeps none.
      axis_name: replica axis, under pmap.

    Returns:
      The state after the step, and `loss` (mean over the global batch's valid clips),
      `n_correct`, `n_clips` (sums over it), `lr` (the learning rate), `skipped` (1 if the gradient
      is not finite). With a loss scale, such a step is skipped: it lowers the scale, and only the
      schedule moves on.
    """
    mask = batch["mask"]
    n_clips = _psum(jnp.sum(mask), axis_name)
    key = jax.random.fold_in(key, state.step)
    augmented = augment(key, batch, arrays)

    def objective(params: Params):
        variables = {"params": params, **state.model_state}
        logits, updates = forward(variables, augmented, key)
        losses = loss_fn(logits, augmented)
        if losses.shape != mask.shape:  # a mean, say, would be broadcast over the clips
            raise UserError(
                f"config.loss gives {losses.shape} for a batch of {mask.shape[0]} clips, expected "
                "a value for each clip"
            )
        # This replica's share of the mean; an all-padding replica adds nothing.
        loss = jnp.sum(jnp.where(mask, losses, 0)) / jnp.maximum(n_clips, 1)
        return loss, (logits, updates)

    loss, aux, grads, loss_scale, finite = _gradients(objective, state, axis_name)
    logits, updates = aux
    new_state = _updated(state, tx, grads, updates, loss_scale, finite)
    new_state = new_state.averaged(ema) if ema else new_state
    correct = mask & (jnp.argmax(logits, axis=-1) == batch["label"])
    n_correct = _psum(jnp.sum(correct), axis_name)
    skipped = 1 - jnp.asarray(finite, jnp.int32)
    metrics = {"loss": loss, "n_correct": n_correct, "n_clips": n_clips, "skipped": skipped}
    return new_state, metrics | {"lr": new_state.opt_state.rate}


def _updated(state: TrainState, tx, grads, updates, loss_scale, finite) -> TrainState:
    """The state after the step; with a loss scale and gradients not finite, of a step skipped."""
    changes, opt_state = tx.update(grads, state.opt_state, state.params)
    new_state = state.with_model_state(updates).replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, changes),
        opt_state=opt_state,
    )
    if loss_scale is None:
        return new_state
    names = "params", "batch_stats", "opt_state"
    kept = state.replace(opt_state=optim.skip_step(state.opt_state))
    pairs = [[getattr(s, name) for name in names] for s in (new_state, kept)]
    chosen = jax.tree.map(lambda new, old: jnp.where(finite, new, old), *pairs)
    return new_state.replace(loss_scale=loss_scale, **dict(zip(names, chosen, strict=True)))


def _gradients(objective: Callable, state: TrainState, axis_name: str | None):
    """`loss, aux, gradients, loss scale, whether all gradients are finite`, over all replicas."""
    if state.loss_scale is None:
        (loss, aux), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
        loss, grads = _psum((loss, grads), axis_name)
        return loss, aux, grads, None, _all_finite(grads)
    scaled = state.loss_scale.value_and_grad(objective, has_aux=True, axis_name=axis_name)
    loss_scale, finite, (loss, aux), grads = scaled(state.params)
    # Flax averages over the replicas; ours are shares of a sum.
    n_replicas = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    grads = jax.tree.map(
        lambda grad, param: (grad * n_replicas).astype(param.dtype), grads, state.params
    )
    return _psum(loss, axis_name), aux, grads, loss_scale, finite


def train_steps(
    state: TrainState,
    batches: Batch,
    n_steps: Array,
    key: Array,
    clips: Batch | None = None,
    arrays: Mapping | None = None,
    *,
    step: Callable,
) -> tuple[TrainState, Metrics]:
    """Several training steps in one call, so that their buffers are allocated once.

    The trip count is a traced value: however a run is cut into calls, it is the same
    compiled program, and the results are equal bit for bit.

    Args:
      state: before the first of them.
      batches: every entry with a leading axis of at least `n_steps`.
      n_steps: how many of the batches to use, int scalar.
      key: the run's root key.
      clips: if the batches hold only `row`, what to `gather` them from.
      arrays: as for a step.
      step: `train_step` with its static parts bound.

    Returns:
      The state after the last step, and the metrics of each, `[max steps]` (unused: 0).
    """

    def batch_of(index):
        batch = jax.tree.map(lambda leaf: leaf[index], batches)
        batch = batch if clips is None else gather(clips, batch["row"])
        return jax.lax.optimization_barrier(batch)  # the step is compiled alike in both cases

    step = jax.jit(step, inline=True)  # traced once for the shapes and the loop
    shapes = jax.eval_shape(lambda: step(state, batch_of(0), key, arrays)[1])
    n_slots = batches["mask"].shape[0]
    empty = jax.tree.map(lambda leaf: jnp.zeros((n_slots, *leaf.shape), leaf.dtype), shapes)

    def body(index, carry):
        state, collected = carry
        state, metrics_of_step = step(state, batch_of(index), key, arrays)
        collected = jax.tree.map(
            lambda all_steps, one: all_steps.at[index].set(one), collected, metrics_of_step
        )
        return state, collected

    return jax.lax.fori_loop(0, n_steps, body, (state, empty))


def gather(clips: Batch, rows: Array) -> Batch:
    """Return the batch of some resident clips.

    Args:
      clips: every numeric column, `[n, …]`; with int16 audio also `audio_scale [n]`, the value of
        one unit.
      rows: `[b]` int, clip numbers + 1; 0 fills up.

    Returns:
      The columns, `[b, …]`, audio floating, and `mask [b]`; zeros where a row fills up.
    """
    mask = rows > 0
    batch = {name: column[jnp.maximum(rows - 1, 0)] for name, column in clips.items()}
    if (scale := batch.pop("audio_scale", None)) is not None:
        batch["audio"] = batch["audio"].astype(scale.dtype) * scale[:, None]
    batch = {
        name: jnp.where(mask.reshape(-1, *[1] * (rows.ndim - 1)), rows, jnp.zeros_like(rows))
        for name, rows in batch.items()
    }
    return {**batch, "mask": mask}


def _all_finite(tree) -> Array:
    return jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]).all()


def _psum(tree, axis_name):
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)
