"""Losses, rates and a step of AdamW as PyTorch computes them."""

import functools
import math

import jax
import numpy as np

from asc_jax.machine.optional_packages import require
from asc_jax.pytorch.parity.optim import PEAK_LR, WARMUP_STEPS, WEIGHT_DECAY

BATCHES = (78, 256)  # of the two sampled schedules


def losses(given) -> dict[str, np.ndarray]:
    """Losses and gradients of the golden logits, in float64."""
    torch = require("torch")
    arrays = dict(given)
    for kind in ("rand", "ext"):
        labels = torch.tensor(given[f"{kind}_labels"])
        for name, gamma in (("focal", 2.0), ("ce", 0.0)):
            logits = torch.tensor(given[f"{kind}_logits"].astype(np.float64), requires_grad=True)
            loss = focal_loss(logits, labels, gamma)
            loss.mean().backward()
            arrays[f"{kind}_{name}_per_example64"] = loss.detach().numpy()
            arrays[f"{kind}_{name}_grad64"] = logits.grad.numpy()
    return arrays


def focal_loss(logits, labels, gamma: float):
    """`[b]`, from cross-entropy."""
    torch = require("torch")
    ce = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    return (1 - torch.exp(-ce)) ** gamma * ce


def rates(given) -> dict[str, np.ndarray]:
    """Rates at the sampled steps, from an optimiser under LambdaLR."""
    torch = require("torch")
    arrays = dict(given)
    for batch in BATCHES:
        n_steps = int(given[f"bs{batch}_total"])
        tx = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK_LR)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            tx, functools.partial(_share_of_peak, n_steps=n_steps)
        )
        used = []
        for _ in range(n_steps + 1):
            used.append(tx.param_groups[0]["lr"])
            tx.step()
            scheduler.step()
        arrays[f"bs{batch}_lr"] = np.array(used)[given[f"bs{batch}_step"]]
    return arrays


def updated_by_torch(params: dict, grads: dict) -> dict:
    """One step of torch.optim.AdamW at the peak rate, float64."""
    torch = require("torch")
    leaves, treedef = jax.tree.flatten(params)
    tensors = [torch.nn.Parameter(torch.tensor(leaf)) for leaf in leaves]
    for tensor, grad in zip(tensors, jax.tree.leaves(grads), strict=True):
        tensor.grad = torch.tensor(grad)
    torch.optim.AdamW(tensors, lr=PEAK_LR, weight_decay=WEIGHT_DECAY).step()
    return jax.tree.unflatten(treedef, [tensor.detach().numpy() for tensor in tensors])


def _share_of_peak(step: int, n_steps: int) -> float:
    if step < WARMUP_STEPS:
        return step / WARMUP_STEPS
    return 0.5 + 0.5 * math.cos(math.pi * (step - WARMUP_STEPS) / (n_steps - WARMUP_STEPS))
