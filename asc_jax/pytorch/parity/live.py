"""Compute the parity table's reference by the PyTorch that is installed, on clips of the user.

Arrays come under the golden files' names, so that the same stages run on them. The weights are
the golden ones, or those of a state dict; everything computed from them is PyTorch's.
"""

import functools
import math
from collections.abc import Mapping

import jax
import numpy as np

from asc_jax.errors import UserError
from asc_jax.machine.optional_packages import require
from asc_jax.pytorch import parts, weights
from asc_jax.pytorch.files import read as read_file
from asc_jax.pytorch.parity import front_end_stages, training_stages
from asc_jax.pytorch.parity.checks import Reference
from asc_jax.pytorch.parity.front_end_stages import HOPS
from asc_jax.pytorch.parity.live_front_end import front_end_arrays, torchaudio_or_none
from asc_jax.pytorch.parity.training_stages import PEAK_LR, WARMUP_STEPS, WEIGHT_DECAY
from asc_jax.pytorch.twin import make_twin

N_CLASSES = 10
OTHER_NETWORKS = (
    "For another network, asc-jax convert --from_torch makes a run of the file, whose logits "
    "asc_jax.load_run(…).apply gives to compare with your own PyTorch's"
)
WEIGHTS = ("c_state_calib", "c_state3", "c_init_state")  # of evaluation, training and gradients


def versions() -> str:
    """Return what computes the reference, for the table's title."""
    torch, audio = require("torch"), torchaudio_or_none()
    if audio is None:
        return f"PyTorch {torch.__version__}, front end in plain PyTorch (no torchaudio loads)"
    return f"PyTorch {torch.__version__}, torchaudio {audio.__version__}"


def live_reference(
    waveform: np.ndarray, golden: Reference, state_dict: Mapping[str, np.ndarray] | None = None
) -> Reference:
    """Return reference arrays computed here.

    Args:
      waveform: `[b, 44100]` float32 in [-1, 1).
      golden: the golden arrays, for weights, logits of which losses are computed, and the steps
        at which learning rates are compared.
      state_dict: weights in place of the golden ones, of the baseline's network, as
        `weights_of` returns them.

    Returns:
      File name → arrays, as `table.golden_reference` returns them.

    Raises:
      UserError: PyTorch is not installed.
    """
    require("torch")
    makers = {
        "b_frontend": lambda read: front_end_arrays(waveform, HOPS),
        "c_logits_calib": _evaluation_logits,
        "c_logits": _training_logits,
        "d_loss": lambda read: _losses(golden("d_loss")),
        "f_lr": lambda read: _learning_rates(golden("f_lr")),
        "g_trajectory": _first_batch,
        "g_grads_step0_64": _gradients,
    }
    if state_dict is not None:
        makers |= dict.fromkeys(WEIGHTS, lambda read: state_dict)

    @functools.cache
    def read(name: str):
        return makers[name](read) if name in makers else golden(name)

    return read


def weights_of(path: str, part: str | None = None) -> dict[str, np.ndarray]:
    """Read the weights of a PyTorch file that the table's stages can compute with.

    Args:
      path: as `asc-jax convert --from_torch` takes it.
      part: network to take, of a file that holds several.

    Returns:
      Name of the baseline's network → float32 array, counters of batches as they are or 0.

    Raises:
      UserError: PyTorch is not installed, the file cannot be read, or its network is not the
        baseline's in every size.
    """
    require("torch")
    file = read_file(path)
    found = file.arrays(parts.choose(file, part).names)
    expected = make_twin().state_dict()
    try:
        sizes = weights.infer_config(found)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    plain = weights.plain_names(found)
    if {name: tuple(tensor.shape) for name, tensor in expected.items() if tensor.shape} != {
        name: array.shape for name, array in plain.items() if array.shape
    }:
        raise UserError(
            f"{path}: a network of {', '.join(f'{k} {v}' for k, v in sizes.items())}; expected the "
            "baseline's, width 32 with 10 classes, which the table's stages compute. "
            f"{OTHER_NETWORKS}"
        )
    return {
        name: np.asarray(plain.get(name, 0), np.float32 if tensor.shape else np.int64)
        for name, tensor in expected.items()
    }


def log_mel_float64(reference: Reference):
    """Run the golden stage; quiet bins magnify the last bit of the window as in float32."""
    arrays = reference("b_frontend")
    float32 = [
        np.abs(arrays[f"logmel_hop{hop}"] - arrays[f"logmel64_hop{hop}"]).max(axis=(1, 2))
        for hop in HOPS
    ]
    limits = np.maximum(2e-4, np.max(float32, axis=0) / 100)
    return front_end_stages.log_mel_float64(reference, limits)


def _evaluation_logits(read: Reference) -> dict[str, np.ndarray]:
    """Compute in float32; with weights and input rounded to float16; and all in float16."""
    torch = require("torch")
    arrays = {}
    for kind, stored, computed in (
        ("", torch.float32, torch.float32),
        ("_halfweights_f32math", torch.float16, torch.float32),
        ("_half", torch.float16, torch.float16),
    ):
        twin = _twin(read("c_state_calib"), stored).to(computed).eval()
        for hop in HOPS:
            log_mel = _image(read("b_frontend")[f"logmel_hop{hop}"], stored).to(computed)
            with torch.no_grad():
                arrays[f"logits{kind}_hop{hop}"] = twin(log_mel).numpy()
    return arrays


def _training_logits(read: Reference) -> dict[str, np.ndarray]:
    """Compute logits with the batch's statistics, and the running statistics after it."""
    torch = require("torch")
    arrays = {}
    for hop in HOPS:
        twin = _twin(read("c_state3"), torch.float32).train()
        log_mel = _image(read("b_frontend")[f"logmel_hop{hop}"], torch.float32)
        with torch.no_grad():
            arrays[f"train_logits_hop{hop}"] = twin(log_mel).numpy()
        buffers = {k: v.numpy() for k, v in twin.state_dict().items() if "running" in k}
        arrays |= {f"train_hop{hop}|{name}": value for name, value in buffers.items()}
    return arrays


def _first_batch(read: Reference) -> dict[str, np.ndarray]:
    """Return one training batch, as the golden file stores it: 16 times the log-mels."""
    log_mel = read("b_frontend")[f"logmel64_hop{HOPS[-1]}"]
    return {"x_q": 16 * log_mel[None], "labels": np.arange(len(log_mel))[None] % N_CLASSES}


def _gradients(read: Reference) -> dict[str, np.ndarray]:
    """Compute the gradients of the first batch's focal loss in float64."""
    torch = require("torch")
    batch = read("g_trajectory")
    twin = _twin(read("c_init_state"), torch.float64).train()
    logits = twin(_image(batch["x_q"][0] / 16, torch.float64))
    _focal_loss(logits, torch.tensor(batch["labels"][0]), 2.0).mean().backward()
    return {name: tensor.grad.numpy() for name, tensor in twin.named_parameters()}


def _losses(golden: Mapping) -> dict[str, np.ndarray]:
    """Compute losses and gradients of the golden logits in float64."""
    torch = require("torch")
    arrays = dict(golden)
    for kind in ("rand", "ext"):
        labels = torch.tensor(golden[f"{kind}_labels"])
        for name, gamma in (("focal", 2.0), ("ce", 0.0)):
            logits = torch.tensor(golden[f"{kind}_logits"].astype(np.float64), requires_grad=True)
            loss = _focal_loss(logits, labels, gamma)
            loss.mean().backward()
            arrays[f"{kind}_{name}_per_example64"] = loss.detach().numpy()
            arrays[f"{kind}_{name}_grad64"] = logits.grad.numpy()
    return arrays


def _focal_loss(logits, labels, gamma: float):
    """Return `[b]` losses, computed from cross-entropy."""
    torch = require("torch")
    ce = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    return (1 - torch.exp(-ce)) ** gamma * ce


def _learning_rates(golden: Mapping) -> dict[str, np.ndarray]:
    """Return the rates at the sampled steps, from an optimiser under LambdaLR."""
    torch = require("torch")
    arrays = dict(golden)
    for batch in (78, 256):
        n_steps = int(golden[f"bs{batch}_total"])

        def fraction_of_peak(step: int, n_steps=n_steps) -> float:
            if step < WARMUP_STEPS:
                return step / WARMUP_STEPS
            after_warmup = (step - WARMUP_STEPS) / (n_steps - WARMUP_STEPS)
            return 0.5 + 0.5 * math.cos(math.pi * after_warmup)

        tx = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK_LR)
        scheduler = torch.optim.lr_scheduler.LambdaLR(tx, fraction_of_peak)
        used = []
        for _ in range(n_steps + 1):
            used.append(tx.param_groups[0]["lr"])
            tx.step()
            scheduler.step()
        arrays[f"bs{batch}_lr"] = np.array(used)[golden[f"bs{batch}_step"]]
    return arrays


def _updated_by_torch(params: dict, grads: dict) -> dict:
    """Compute one step of torch.optim.AdamW at the peak rate in float64."""
    torch = require("torch")
    leaves, treedef = jax.tree.flatten(params)
    tensors = [torch.nn.Parameter(torch.tensor(leaf)) for leaf in leaves]
    for tensor, grad in zip(tensors, jax.tree.leaves(grads), strict=True):
        tensor.grad = torch.tensor(grad)
    torch.optim.AdamW(tensors, lr=PEAK_LR, weight_decay=WEIGHT_DECAY).step()
    return jax.tree.unflatten(treedef, [tensor.detach().numpy() for tensor in tensors])


def _twin(state_dict: Mapping, dtype):
    torch = require("torch")
    twin = make_twin()
    twin.load_state_dict({k: torch.tensor(v) for k, v in state_dict.items()})
    return twin.to(dtype)


def _image(log_mel: np.ndarray, dtype):
    """Convert `[b, f, t]` to `[b, 1, f, t]`, PyTorch's layout."""
    return require("torch").tensor(log_mel)[:, None].to(dtype)


STAGES = (
    front_end_stages.resample_kernel,
    front_end_stages.resampled_waveform,
    front_end_stages.hann_window,
    front_end_stages.mel_filterbank,
    front_end_stages.log_mel,
    log_mel_float64,
    training_stages.evaluation,
    # The statistics of a silent clip are almost nothing but rounding.
    functools.partial(training_stages.training, relative=2e-5),
    training_stages.gradients,
    training_stages.focal_loss,
    training_stages.schedule,
    functools.partial(training_stages.adamw_step, updated=_updated_by_torch),
)
