"""The parity table's reference computed by the PyTorch that is installed, on given clips.

Arrays come under the golden files' names, so that the same stages run on them. The weights are
the golden ones; everything made of them is PyTorch's.
"""

import functools

import numpy as np

from asc_jax.machine.optional_packages import require
from asc_jax.pytorch.parity import front_end as parity_front_end
from asc_jax.pytorch.parity import live_network, live_optim
from asc_jax.pytorch.parity import network as parity_network
from asc_jax.pytorch.parity import optim as parity_optim
from asc_jax.pytorch.parity import trajectory as parity_trajectory
from asc_jax.pytorch.parity.checks import Reference
from asc_jax.pytorch.parity.front_end import HOPS
from asc_jax.pytorch.parity.live_front_end import front_end_arrays, torchaudio_or_none


def versions() -> str:
    """What computes the reference, for the table's title."""
    torch, audio = require("torch"), torchaudio_or_none()
    if audio is None:
        return f"PyTorch {torch.__version__}, front end in plain PyTorch (no torchaudio loads)"
    return f"PyTorch {torch.__version__}, torchaudio {audio.__version__}"


def live_reference(waveform: np.ndarray, golden: Reference) -> Reference:
    """Reference arrays made here.

    Args:
      waveform: `[b, 44100]` float32 in [-1, 1).
      golden: the golden arrays, for weights, logits to take losses of, and sampled steps.

    Returns:
      File name → arrays, as `parity.golden_reference` gives them.

    Raises:
      UserError: PyTorch is not installed.
    """
    require("torch")
    makers = {
        "b_frontend": lambda read: front_end_arrays(waveform, HOPS),
        "c_logits_calib": live_network.evaluation_logits,
        "c_logits": live_network.training_logits,
        "d_loss": lambda read: live_optim.losses(golden("d_loss")),
        "f_lr": lambda read: live_optim.rates(golden("f_lr")),
        "g_trajectory": live_network.first_batch,
        "g_grads_step0_64": live_network.gradients,
    }

    @functools.cache
    def read(name: str):
        return makers[name](read) if name in makers else golden(name)

    return read


def log_mel_float64(reference: Reference):
    """As the golden stage. Quiet bins magnify the last bit of the window as they do float32's."""
    arrays = reference("b_frontend")
    float32 = [
        np.abs(arrays[f"logmel_hop{hop}"] - arrays[f"logmel64_hop{hop}"]).max(axis=(1, 2))
        for hop in HOPS
    ]
    limits = np.maximum(2e-4, np.max(float32, axis=0) / 100)
    return parity_front_end.log_mel_float64(reference, limits)


def training(reference: Reference):
    """As the golden stage. A clip of silence has statistics of almost nothing but rounding."""
    return parity_network.training(reference, relative=2e-5)


def adamw_step(reference: Reference):
    """As the golden stage, against torch.optim.AdamW itself."""
    return parity_optim.adamw_step(reference, live_optim.updated_by_torch)


STAGES = (
    parity_front_end.resample_kernel,
    parity_front_end.resampled_waveform,
    parity_front_end.hann_window,
    parity_front_end.mel_filterbank,
    parity_front_end.log_mel,
    log_mel_float64,
    parity_network.evaluation,
    training,
    parity_trajectory.gradients,
    parity_optim.focal_loss,
    parity_optim.schedule,
    adamw_step,
)
