"""The parity table's network, in evaluation and in training, with the real `CPMobile`.

See `parity_front_end` for how stages are written.
"""

import jax
import numpy as np

from asc_jax.models import CPMobile, apply_training, precision
from asc_jax.pytorch.parity.checks import Check, Reference, Tolerance, flat, joined
from asc_jax.pytorch.parity.front_end import HOPS
from asc_jax.pytorch.weights import from_torch


def evaluation(reference: Reference) -> list[Check]:
    """Logits with trained weights and running statistics, in float32 and stored in float16."""
    arrays, inputs = reference("c_logits_calib"), _evaluation_inputs(reference)
    variables = from_torch(reference("c_state_calib"))
    ours, half = _logits(variables, inputs), _half_logits(variables, inputs)
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
    """Logits with the batch's statistics, and the running ones after it, at both hops.

    relative: tolerance of the statistics beside the absolute one, for clips of any kind.
    """
    state_dict, arrays = dict(reference("c_state3")), reference("c_logits")
    variables = from_torch(state_dict)
    forward = train_forward()
    logits, statistics = [], []
    for hop in HOPS:
        log_mel = reference("b_frontend")[f"logmel_hop{hop}"][..., None]
        out, updated, _ = forward(*(variables[k] for k in ("params", "batch_stats")), log_mel)
        prefix = f"train_hop{hop}|"
        after = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        logits.append((out, arrays[f"train_logits_hop{hop}"]))
        statistics.append((updated, from_torch(state_dict | after)["batch_stats"]))
    rounding = Tolerance("float32 rounding, divided by deviations", absolute=1e-3)
    small = Tolerance("float32 rounding", absolute=1e-5, relative=relative)
    size = f"{len(log_mel)} clips, hops {HOPS[0]} and {HOPS[1]}"
    return [
        Check("network in training", f"logits, {size}", *joined(logits), rounding),
        Check("running statistics", f"after {size}", *joined(statistics), small),
    ]


def network() -> CPMobile:
    """With the body for the device in use: "auto" looks at the machine's first only."""
    device = jax.config.jax_default_device or jax.devices()[0]
    return CPMobile(body="shifts" if device.platform == "cpu" else "lax")


def train_forward():
    """`train_step`'s forward: the network alone, from log-mels, without augmentation."""

    def forward(params, batch_stats, log_mel, mask=None, key=None, scratch=None):
        return apply_training(network(), params, batch_stats, log_mel, mask, scratch)

    return jax.jit(forward)


def _evaluation_inputs(reference: Reference) -> dict[tuple[str, ...], np.ndarray]:
    """Names of sets of logits → the log-mels they belong to, `[b, f, t, 1]` float32.

    Sets of one shape go together: every shape is another program to compile.
    """
    arrays = reference("b_frontend")
    sets = [((f"hop{hop}",), arrays[f"logmel_hop{hop}"]) for hop in HOPS]
    if "logits_held" in reference("c_logits_calib"):
        (names, log_mel), held = sets[-1], reference("g_trajectory")["held_x_q"]
        log_mel = np.concatenate([log_mel, held.astype(np.float32) / 16])
        sets[-1] = (*names, "held"), log_mel
    return {names: log_mel[..., None] for names, log_mel in sets}


def _logits(variables, inputs) -> np.ndarray:
    evaluate = jax.jit(network().apply)
    return flat([evaluate(variables, log_mel) for log_mel in inputs.values()])


def _half_logits(variables, inputs) -> np.ndarray:
    """Weights, statistics and log-mels rounded to float16, arithmetic in float32."""
    rounded = {k: v.astype(np.float16).astype(np.float32) for k, v in inputs.items()}
    return _logits(precision.cast(variables, "float16"), rounded)
