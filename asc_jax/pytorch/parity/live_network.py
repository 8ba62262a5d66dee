"""Logits, running statistics and gradients that PyTorch computes with the twin of `CPMobile`."""

import numpy as np

from asc_jax.machine.optional_packages import require
from asc_jax.pytorch.parity.checks import Reference
from asc_jax.pytorch.parity.front_end import HOPS
from asc_jax.pytorch.parity.live_optim import focal_loss
from asc_jax.pytorch.twin import make_twin

N_SCENES = 10


def evaluation_logits(read: Reference) -> dict[str, np.ndarray]:
    """float32; weights and input rounded to float16; all in float16."""
    torch = require("torch")
    arrays = {}
    for kind, stored, computed in (
        ("", torch.float32, torch.float32),
        ("_halfweights_f32math", torch.float16, torch.float32),
        ("_half", torch.float16, torch.float16),
    ):
        twin = _twin(read("c_state_calib"), stored).to(computed).eval()
        for hop in HOPS:
            log_mel = _input(read("b_frontend")[f"logmel_hop{hop}"], stored).to(computed)
            with torch.no_grad():
                arrays[f"logits{kind}_hop{hop}"] = twin(log_mel).numpy()
    return arrays


def training_logits(read: Reference) -> dict[str, np.ndarray]:
    """With the batch's statistics, and the running ones after it."""
    torch = require("torch")
    arrays = {}
    for hop in HOPS:
        twin = _twin(read("c_state3"), torch.float32).train()
        log_mel = _input(read("b_frontend")[f"logmel_hop{hop}"], torch.float32)
        with torch.no_grad():
            arrays[f"train_logits_hop{hop}"] = twin(log_mel).numpy()
        buffers = {k: v.numpy() for k, v in twin.state_dict().items() if "running" in k}
        arrays |= {f"train_hop{hop}|{name}": value for name, value in buffers.items()}
    return arrays


def first_batch(read: Reference) -> dict[str, np.ndarray]:
    """One training batch, as the golden file stores it: 16 times the log-mels."""
    log_mel = read("b_frontend")[f"logmel64_hop{HOPS[-1]}"]
    return {"x_q": 16 * log_mel[None], "labels": np.arange(len(log_mel))[None] % N_SCENES}


def gradients(read: Reference) -> dict[str, np.ndarray]:
    """Of the first batch's focal loss, in float64."""
    torch = require("torch")
    batch = read("g_trajectory")
    twin = _twin(read("c_init_state"), torch.float64).train()
    logits = twin(_input(batch["x_q"][0] / 16, torch.float64))
    focal_loss(logits, torch.tensor(batch["labels"][0]), 2.0).mean().backward()
    return {name: tensor.grad.numpy() for name, tensor in twin.named_parameters()}


def _twin(state_dict, dtype):
    torch = require("torch")
    twin = make_twin()
    twin.load_state_dict({k: torch.tensor(v) for k, v in state_dict.items()})
    return twin.to(dtype)


def _input(log_mel: np.ndarray, dtype):
    """`[b, f, t]` → `[b, 1, f, t]`, PyTorch's layout."""
    return require("torch").tensor(log_mel)[:, None].to(dtype)
