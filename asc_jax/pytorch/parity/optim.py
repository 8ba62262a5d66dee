"""The parity table's loss, schedule and optimiser: one small function per stage."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from asc_jax.pytorch.parity.checks import Check, Reference, Tolerance, flat, joined
from asc_jax.pytorch.weights import from_torch
from asc_jax.training import losses, optim

PEAK_LR, WEIGHT_DECAY = 0.005, 1e-4
WARMUP_STEPS = 2000


def focal_loss(reference: Reference) -> list[Check]:
    """γ = 2 and γ = 0 (cross-entropy), on random logits and on extreme ones where there are."""
    arrays = reference("d_loss")
    values, slopes = [], []
    for kind in ("rand", "ext"):
        for name, gamma in (("focal", 2.0), ("ce", 0.0)):
            if f"{kind}_logits" not in arrays:
                continue
            logits, labels = (jnp.asarray(arrays[f"{kind}_{x}"]) for x in ("logits", "labels"))
            loss = losses.focal_loss(logits, labels, gamma=gamma)
            slope = jax.grad(_mean_loss)(logits, labels, gamma)
            values.append((loss, arrays[f"{kind}_{name}_per_example64"]))
            slopes.append((slope, arrays[f"{kind}_{name}_grad64"]))
    rounding = Tolerance("float32 rounding", absolute=1e-6, relative=1e-6)
    slope_rounding = Tolerance("float32 rounding", absolute=1e-6)
    return [
        Check("focal loss", "γ = 2 and γ = 0", *joined(values), rounding),
        Check("focal loss, gradient", "by logits", *joined(slopes), slope_rounding),
    ]


def schedule(reference: Reference) -> list[Check]:
    """The rate used by each optimiser step, of runs with batches of 78 and 256."""
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
    """One first step of AdamW in float64, as torch.optim.AdamW defines it.

    The moments of a first step, bias-corrected, are the gradient and its square.
    """

    def update(p, g):
        return p * (1 - PEAK_LR * WEIGHT_DECAY) - PEAK_LR * g / (np.sqrt(g * g) + 1e-8)

    return jax.tree.map(update, params, grads)


def adamw_step(reference: Reference, updated=adamw_by_hand) -> list[Check]:
    """One step at the peak rate, on the reference's gradients; `updated` is what they make."""
    state_dict = reference("c_init_state")
    buffers = {name: value for name, value in state_dict.items() if "running" in name}
    trees = [state_dict, reference("g_grads_step0_64") | buffers]
    params, grads = (_float64(from_torch(tree)["params"]) for tree in trees)
    with jax.enable_x64(True):
        # So long a run that a fault in the schedule, which has its own row, does not show here.
        tx = optim.make_tx(10**9, peak_lr=PEAK_LR, warmup_steps=0, weight_decay=WEIGHT_DECAY)
        ours = flat(jax.jit(functools.partial(_one_step, tx))(params, grads))
    tolerance = Tolerance("float64 rounding", relative=1e-9)
    return [Check("one AdamW step", "parameters", ours, flat(updated(params, grads)), tolerance)]


def _one_step(tx, params, grads):
    updates, _ = tx.update(grads, tx.init(params), params)
    return optax.apply_updates(params, updates)


def _mean_loss(logits, labels, gamma):
    return jnp.mean(losses.focal_loss(logits, labels, gamma=gamma))


def _float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


OPTIMISATION = (focal_loss, schedule, adamw_step)
