"""Compute the parity table's network, loss, schedule, optimiser and first 20 training steps.

`front_end_stages` explains how stages are written.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from asc_jax import models
from asc_jax.models import CPMobile, precision
from asc_jax.pytorch.parity.checks import Check, Reference, Tolerance, flat, joined
from asc_jax.pytorch.parity.front_end_stages import HOPS
from asc_jax.pytorch.weights import from_torch
from asc_jax.training import losses, optim, state, steps

PEAK_LR, WEIGHT_DECAY = 0.005, 1e-4
WARMUP_STEPS = 2000
# The reference's 20 steps are the first of a run of 40 with a warm-up of 10.
N_STEPS_OF_20, WARMUP_STEPS_OF_20 = 40, 10
N_ORDERLY = 3  # float32 steps before rounding has grown to the size of what it rounds
# PyTorch's own float32 runs: as they come, and with threads, memory layout or kernels changed.
PYTORCH_RUNS = ("loss", "loss_threads2", "loss_channels_last", "loss_no_mkldnn")


def evaluation(reference: Reference) -> list[Check]:
    """Compute logits with trained weights and running statistics, in float32 and from float16."""
    arrays, inputs = reference("c_logits_calib"), _evaluation_inputs(reference)
    variables = from_torch(reference("c_state_calib"))
    ours = _logits(variables, inputs)
    # Weights, statistics and log-mels rounded to float16, arithmetic in float32.
    rounded = {k: v.astype(np.float16).astype(np.float32) for k, v in inputs.items()}
    half = _logits(precision.cast(variables, "float16"), rounded)
    float32, math32, math16 = (
        flat([arrays[f"logits{kind}_{name}"] for names in inputs for name in names])
        for kind in ("", "_halfweights_f32math", "_half")
    )
    rounding = Tolerance("float32 rounding, 29 million products", absolute=1e-4)
    spread = np.abs(math32 - math16.astype(np.float64)).max() + 1e-4
    arithmetic = Tolerance("PyTorch's own gap, float16 to float32 arithmetic", spread)
    size = f"logits of {len(float32) // 10} clips"
    name = "network in evaluation"
    return [
        Check(f"{name}, float32", size, ours, float32, rounding),
        Check(f"{name}, float16", f"{size}, float32 arithmetic", half, math32, rounding),
        Check(f"{name}, all float16", f"{size}, theirs in float16", half, math16, arithmetic),
    ]


def training(reference: Reference, relative: float = 0.0) -> list[Check]:
    """Compute logits with the batch's statistics, and the running ones after it, at both hops.

    relative: tolerance of the statistics beside the absolute one, for clips of any kind.
    """
    state_dict, arrays = dict(reference("c_state3")), reference("c_logits")
    variables = from_torch(state_dict)
    forward = train_forward()
    logits, statistics = [], []
    for hop in HOPS:
        log_mel = reference("b_frontend")[f"logmel_hop{hop}"][..., None]
        out, updates = forward(variables, log_mel)
        prefix = f"train_hop{hop}|"
        after = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        logits.append((out, arrays[f"train_logits_hop{hop}"]))
        statistics.append((updates["batch_stats"], from_torch(state_dict | after)["batch_stats"]))
    rounding = Tolerance("float32 rounding, divided by deviations", absolute=1e-3)
    small = Tolerance("float32 rounding", absolute=1e-5, relative=relative)
    size = f"{len(log_mel)} clips, hops {HOPS[0]} and {HOPS[1]}"
    return [
        Check("network in training", f"logits, {size}", *joined(logits), rounding),
        Check("running statistics", f"after {size}", *joined(statistics), small),
    ]


def focal_loss(reference: Reference) -> list[Check]:
    """Compute losses with γ = 2 and γ = 0 (cross-entropy), of random and of extreme logits."""
    arrays = reference("d_loss")
    values, slopes = [], []
    for kind in ("rand", "ext"):
        for name, gamma in (("focal", 2.0), ("ce", 0.0)):
            if f"{kind}_logits" not in arrays:
                continue
            logits, labels = (jnp.asarray(arrays[f"{kind}_{x}"]) for x in ("logits", "labels"))
            loss_fn = functools.partial(losses.focal_loss, labels=labels, gamma=gamma)
            slope = jax.grad(lambda x, loss_fn=loss_fn: jnp.mean(loss_fn(x)))(logits)
            values.append((loss_fn(logits), arrays[f"{kind}_{name}_per_example64"]))
            slopes.append((slope, arrays[f"{kind}_{name}_grad64"]))
    rounding = Tolerance("float32 rounding", absolute=1e-6, relative=1e-6)
    slope_rounding = Tolerance("float32 rounding", absolute=1e-6)
    return [
        Check("focal loss", "γ = 2 and γ = 0", *joined(values), rounding),
        Check("focal loss, gradient", "by logits", *joined(slopes), slope_rounding),
    ]


def schedule(reference: Reference) -> list[Check]:
    """Compute the learning rate of optimiser steps, of runs with batches of 78 and 256."""
    arrays = reference("f_lr")
    pairs = []
    for batch in (78, 256):
        rate = optim.warmup_cosine(
            int(arrays[f"bs{batch}_total"]), peak_lr=PEAK_LR, warmup_steps=WARMUP_STEPS
        )
        ours = jax.vmap(rate)(jnp.asarray(arrays[f"bs{batch}_step"]))
        pairs.append((ours, arrays[f"bs{batch}_lr"]))
    tolerance = Tolerance("float32 rounding of the rate", absolute=1e-9)
    return [Check("schedule", "13,500 and 4,200 steps, sampled", *joined(pairs), tolerance)]


def adamw_by_hand(params: dict, grads: dict) -> dict:
    """Compute a first step of AdamW in float64, as torch.optim.AdamW defines it.

    The moments of a first step, bias-corrected, are the gradient and its square.
    """

    def update(p, g):
        return p * (1 - PEAK_LR * WEIGHT_DECAY) - PEAK_LR * g / (np.sqrt(g * g) + 1e-8)

    return jax.tree.map(update, params, grads)


def adamw_step(reference: Reference, updated=adamw_by_hand) -> list[Check]:
    """Compute one step at the peak rate from the reference's gradients.

    updated: `(params, grads) -> params`, the step to compare with.
    """

    def float64(tree):
        return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)

    params = float64(from_torch(reference("c_init_state"))["params"])
    grads = float64(_reference_gradients(reference))
    with jax.enable_x64(True):
        # So long a run that a fault in the schedule, which has its own row, does not show here.
        tx = optim.make_tx(10**9, peak_lr=PEAK_LR, warmup_steps=0, weight_decay=WEIGHT_DECAY)

        @jax.jit
        def step(params, grads):
            updates, _ = tx.update(grads, tx.init(params), params)
            return optax.apply_updates(params, updates)

        ours = flat(step(params, grads))
    tolerance = Tolerance("float64 rounding", relative=1e-9)
    return [Check("one AdamW step", "parameters", ours, flat(updated(params, grads)), tolerance)]


def gradients(reference: Reference) -> list[Check]:
    """Compute the gradients of the first step's loss, in float64."""
    with jax.enable_x64(True):
        return [_gradient_check(reference, run_steps(reference, np.float64)[2])]


def trajectory_float64(reference: Reference) -> list[Check]:
    """Compute 20 training steps: the first gradients, all losses, and the final state."""
    arrays, final = reference("g_trajectory"), from_torch(reference("g_final_state64"))
    held_out = arrays["held_x_q"].astype(np.float64)[..., None] / 16
    with jax.enable_x64(True):
        losses_of_steps, last, first_gradients = run_steps(reference, np.float64)
        logits = jax.jit(models.evaluation(CPMobile()))(last.variables, held_out)
    expected = arrays["held_logits64"]
    in_values = Tolerance("float64 rounding, grown by 20 steps", relative=1e-7)
    in_norm = Tolerance(in_values.basis, absolute=1e-7, norm=1e-7)
    of_largest = Tolerance(in_values.basis, absolute=1e-7 * np.abs(expected).max())
    params, statistics = (
        [flat(tree[name]) for tree in (last.variables, final)] for name in ("params", "batch_stats")
    )
    name = "20 steps, float64"
    return [
        _gradient_check(reference, first_gradients),
        Check(f"{name}: losses", "one per step", losses_of_steps, arrays["loss64"], in_values),
        Check(f"{name}: parameters", "after them", *params, in_norm),
        Check(f"{name}: statistics", "after them", *statistics, in_norm),
        Check(f"{name}: logits", "16 held-out clips", logits, expected, of_largest),
    ]


def trajectory_float32(reference: Reference) -> list[Check]:
    """Compute the losses of the first steps, and the distance of all 20 from float64's.

    float32 training is chaotic. From the fourth step on, another order of the clips in a batch
    moves a loss as much as PyTorch's threads, layout and kernels move its own, of whose four runs
    three leave, at some step, what the others span. So the tolerance of the steps before is the
    largest gap between any two of those runs and its float64 one; and that of our root-mean-square
    distance over all steps, the median of three orders, is the largest of PyTorch's.
    """
    arrays = reference("g_trajectory")
    exact, n = arrays["loss64"], N_ORDERLY
    theirs = np.stack([arrays[name] for name in PYTORCH_RUNS])
    gaps = np.maximum.accumulate(np.ptp(np.vstack([theirs, exact]), axis=0))[:n] + 1e-6
    ours = losses_by_order(reference, np.float32)

    def distance(runs):  # [n_runs, 20] -> [n_runs], root mean square over the steps
        return np.sqrt(np.mean((runs.astype(np.float64) - exact) ** 2, axis=1))

    compared = [*ours[0][:n], np.median(distance(ours))]
    limits = np.array([*gaps, np.max(distance(theirs))])
    tolerance = Tolerance("spread of PyTorch's own runs", absolute=limits)
    size = f"of steps 1 to {n}; distance over all"
    return [Check("20 steps, float32: losses", size, compared, [*exact[:n], 0.0], tolerance)]


STAGES = (
    *(evaluation, training, focal_loss, schedule, adamw_step),
    *(trajectory_float64, trajectory_float32),
)


def losses_by_order(reference: Reference, dtype) -> np.ndarray:
    """Return the losses of the reference's run with its batches in three orders, `[3, 20]`."""
    train, batches, first = _run_of_steps(reference, dtype)
    n_steps, n_clips = batches["label"].shape
    out = []
    for shift in (0, n_clips // 3, 2 * n_clips // 3):
        shifted = jax.tree.map(lambda x, shift=shift: np.roll(x, shift, axis=1), batches)
        metrics = train(first, shifted, n_steps, jax.random.key(0))[1]
        out.append(np.asarray(metrics["loss"]))
    return np.stack(out)


def run_steps(reference: Reference, dtype):
    """Return losses, last `TrainState` and gradients of step 0 of the reference's run."""
    train, batches, start = _run_of_steps(reference, dtype)
    key, n_rest = jax.random.key(0), len(batches["label"]) - 1
    first, metrics = train(start, batches, 1, key)
    # Adam's first moment is then (1 − 0.9) · gradient.
    gradients = jax.tree.map(lambda m: np.asarray(m) / 0.1, first.opt_state.inner[0].mu)
    rest = jax.tree.map(lambda x: np.roll(x, -1, axis=0), batches)
    last, metrics_of_rest = train(first, rest, n_rest, key)
    out = np.concatenate([metrics["loss"][:1], metrics_of_rest["loss"][:n_rest]])
    return out, last, gradients


def train_forward():
    """Return the network in training: `(variables, log_mel, mask) -> (logits, updates)`."""
    return jax.jit(models.training(CPMobile()))


def _evaluation_inputs(reference: Reference) -> dict[tuple[str, ...], np.ndarray]:
    """Return the log-mels, `[b, f, t, 1]` float32, of one or more sets of logits, by their names.

    Sets of one shape go together: every shape is another program to compile.
    """
    arrays = reference("b_frontend")
    sets = [((f"hop{hop}",), arrays[f"logmel_hop{hop}"]) for hop in HOPS]
    if "logits_held" in reference("c_logits_calib"):
        (names, log_mel), held_out = sets[-1], reference("g_trajectory")["held_x_q"]
        log_mel = np.concatenate([log_mel, held_out.astype(np.float32) / 16])
        sets[-1] = (*names, "held"), log_mel
    return {names: log_mel[..., None] for names, log_mel in sets}


def _logits(variables, inputs) -> np.ndarray:
    evaluate = jax.jit(models.evaluation(CPMobile()))
    return flat([evaluate(variables, log_mel) for log_mel in inputs.values()])


def _run_of_steps(reference: Reference, dtype):
    """Return the compiled steps of the reference's run, its batches and its first state."""
    arrays = reference("g_trajectory")
    variables = jax.tree.map(lambda x: x.astype(dtype), from_torch(reference("c_init_state")))
    tx = optim.make_tx(
        N_STEPS_OF_20,
        peak_lr=PEAK_LR,
        warmup_steps=WARMUP_STEPS_OF_20,
        weight_decay=WEIGHT_DECAY,
    )
    apply = train_forward()
    step = functools.partial(
        steps.train_step,
        augment=lambda key, batch, arrays: batch,
        forward=lambda variables, batch, key: apply(variables, batch["audio"], batch["mask"]),
        loss_fn=functools.partial(losses.focal, gamma=2.0),
        tx=tx,
    )
    batches = {
        "audio": arrays["x_q"].astype(dtype)[..., None] / 16,  # already log-mels
        "label": arrays["labels"],
        "mask": np.ones(arrays["labels"].shape, bool),
    }
    first = jax.jit(functools.partial(state.create, tx=tx))(variables)
    return jax.jit(functools.partial(steps.train_steps, step=step)), batches, first


def _reference_gradients(reference: Reference) -> dict:
    """Return PyTorch's gradients of the first step by our parameters."""
    state_dict = reference("c_init_state")
    buffers = {name: value for name, value in state_dict.items() if "running" in name}
    return from_torch(dict(reference("g_grads_step0_64")) | buffers)["params"]


def _gradient_check(reference: Reference, ours) -> Check:
    expected = flat(_reference_gradients(reference))
    tolerance = Tolerance("float64 rounding", absolute=np.inf, norm=1e-9)
    return Check("gradients, float64", "of step 0", flat(ours), expected, tolerance)
