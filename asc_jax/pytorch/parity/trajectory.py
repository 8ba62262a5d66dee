"""The parity table's 20 training steps and their first gradients, with the real `train_step`.

See `parity_front_end` for how stages are written.
"""

import functools

import jax
import numpy as np

from asc_jax.pytorch.parity.checks import Check, Reference, Tolerance, flat
from asc_jax.pytorch.parity.network import network, train_forward
from asc_jax.pytorch.parity.optim import PEAK_LR, WEIGHT_DECAY
from asc_jax.pytorch.weights import from_torch
from asc_jax.training import losses, optim, state, steps

# The reference's 20 steps are the first of a run of 40 with a warm-up of 10.
N_STEPS, WARMUP_STEPS = 40, 10
N_ORDERLY = 3  # float32 steps before rounding has grown to the size of what it rounds
# PyTorch's own float32 runs: as they come, and with threads, memory layout or kernels changed.
PYTORCH_RUNS = ("loss", "loss_threads2", "loss_channels_last", "loss_no_mkldnn")


def gradients(reference: Reference) -> list[Check]:
    """Of the first step's loss, in float64."""
    with jax.enable_x64(True):
        return [_gradient_check(reference, run_steps(reference, np.float64)[2])]


def trajectory_float64(reference: Reference) -> list[Check]:
    """20 training steps: gradients of the first, all losses, and what they end in."""
    arrays, final = reference("g_trajectory"), from_torch(reference("g_final_state64"))
    held = arrays["held_x_q"].astype(np.float64)[..., None] / 16
    with jax.enable_x64(True):
        out, current, first_gradients = run_steps(reference, np.float64)
        variables = {"params": current.params, "batch_stats": current.batch_stats}
        logits = jax.jit(network().apply)(variables, held)
    expected = arrays["held_logits64"]
    in_values = Tolerance("float64 rounding, grown by 20 steps", relative=1e-7)
    in_norm = Tolerance(in_values.basis, absolute=1e-7, norm=1e-7)
    of_largest = Tolerance(in_values.basis, absolute=1e-7 * np.abs(expected).max())
    name = "20 steps, float64"
    trees = {"parameters": "params", "statistics": "batch_stats"}
    return [
        _gradient_check(reference, first_gradients),
        Check(f"{name}: losses", "one per step", out, arrays["loss64"], in_values),
        *(
            Check(f"{name}: {what}", "after them", flat(variables[key]), flat(final[key]), in_norm)
            for what, key in trees.items()
        ),
        Check(f"{name}: logits", "16 held-out clips", logits, expected, of_largest),
    ]


def trajectory_float32(reference: Reference) -> list[Check]:
    """Losses of the first steps, one by one, and the distance of all 20 from float64's.

    float32 training is chaotic. From the fourth step on, another order of the clips in a batch
    moves a loss as much as PyTorch's threads, layout and kernels move its own, of whose four runs
    three leave, at some step, what the others span. So the steps before are held to the largest
    gap between any two of those runs and its float64 one; and over all steps our root-mean-square
    distance, the median of three orders, to the largest of PyTorch's.
    """
    arrays = reference("g_trajectory")
    exact, n = arrays["loss64"], N_ORDERLY
    theirs = np.stack([arrays[name] for name in PYTORCH_RUNS])
    gaps = np.maximum.accumulate(np.ptp(np.vstack([theirs, exact]), axis=0))[:n] + 1e-6
    ours = losses_by_order(reference, np.float32)
    out = [*ours[0][:n], np.median(_distance(ours, exact))]
    limits = np.array([*gaps, np.max(_distance(theirs, exact))])
    tolerance = Tolerance("spread of PyTorch's own runs", absolute=limits)
    size = f"of steps 1 to {n}; distance over all"
    return [Check("20 steps, float32: losses", size, out, [*exact[:n], 0.0], tolerance)]


def losses_by_order(reference: Reference, dtype) -> np.ndarray:
    """`[3, 20]`, the reference's run with the clips of a batch in three orders."""
    train, batches, variables, tx = _run_of_steps(reference, dtype)
    n_steps, n_clips = batches["label"].shape
    out = []
    for shift in (0, n_clips // 3, 2 * n_clips // 3):
        shifted = jax.tree.map(lambda x, shift=shift: np.roll(x, shift, axis=1), batches)
        first = jax.jit(functools.partial(state.create, tx=tx))(variables)
        metrics = train(first, shifted, n_steps, jax.random.key(0))[1]
        out.append(np.asarray(metrics["loss"]))
    return np.stack(out)


def run_steps(reference: Reference, dtype):
    """Losses, last `TrainState` and gradients of step 0 of the reference's run, in `dtype`."""
    train, batches, variables, tx = _run_of_steps(reference, dtype)
    key, n_rest = jax.random.key(0), len(batches["label"]) - 1
    first, metrics, _ = train(
        jax.jit(functools.partial(state.create, tx=tx))(variables), batches, 1, key
    )
    # Adam's first moment is then (1 − 0.9) · gradient.
    gradients = jax.tree.map(lambda m: np.asarray(m) / 0.1, first.opt_state.inner[0].mu)
    rest = jax.tree.map(lambda x: np.roll(x, -1, axis=0), batches)
    last, metrics_of_rest, _ = train(first, rest, n_rest, key)
    out = np.concatenate([metrics["loss"][:1], metrics_of_rest["loss"][:n_rest]])
    return out, last, gradients


def _run_of_steps(reference: Reference, dtype):
    """The compiled steps of the reference's run, its batches, first variables and optimiser."""
    arrays = reference("g_trajectory")
    variables = jax.tree.map(lambda x: x.astype(dtype), from_torch(reference("c_init_state")))
    tx = optim.make_tx(
        N_STEPS, peak_lr=PEAK_LR, warmup_steps=WARMUP_STEPS, weight_decay=WEIGHT_DECAY
    )
    apply = train_forward()
    step = functools.partial(
        steps.train_step,
        augment=lambda key, batch, arrays: batch,
        forward=lambda params, batch_stats, batch, key, scratch: apply(
            params, batch_stats, batch["audio"], batch["mask"]
        ),
        loss_fn=functools.partial(losses.focal, gamma=2.0),
        tx=tx,
    )
    batches = {
        "audio": arrays["x_q"].astype(dtype)[..., None] / 16,  # already log-mels
        "label": arrays["labels"],
        "mask": np.ones(arrays["labels"].shape, bool),
    }
    return jax.jit(functools.partial(steps.train_steps, step=step)), batches, variables, tx


def _distance(runs: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """`[n, 20]` → `[n]`, root mean square over the steps."""
    return np.sqrt(np.mean((runs.astype(np.float64) - exact) ** 2, axis=1))


def _gradient_check(reference: Reference, ours) -> Check:
    state_dict = reference("c_init_state")
    buffers = {name: value for name, value in state_dict.items() if "running" in name}
    expected = from_torch(dict(reference("g_grads_step0_64")) | buffers)["params"]
    tolerance = Tolerance("float64 rounding", absolute=np.inf, norm=1e-9)
    return Check("gradients, float64", "of step 0", flat(ours), flat(expected), tolerance)
