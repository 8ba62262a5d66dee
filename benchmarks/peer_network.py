"""PyTorch's twin of our network: held against ours, then trained by one step at a time."""

from collections.abc import Mapping

import numpy as np
import torch

from asc_jax import features
from asc_jax.models.from_config import attributes
from asc_jax.pytorch.twin import make_twin
from benchmarks import inputs, peer_cnn_gru, peer_cp_resnet, peer_pipeline, peer_tf_sepnet

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TWINS = {
    "cp_mobile": make_twin,
    "tf_sepnet": peer_tf_sepnet.TFSepNet,
    "cp_resnet": peer_cp_resnet.CPResNet,
    "cnn_gru": peer_cnn_gru.CNNGRU,
}
MIXED = {"bfloat16": torch.bfloat16}  # under autocast


def make_front_end(config):
    """Waveform `[b, n]` → log-mel `[b, 1, f, t]`."""
    mel_power = peer_pipeline.make_mel_power(config.features.to_dict(), DEVICE)
    return lambda waveform: (mel_power(waveform) + features.LOG_OFFSET).log()[:, None]


def load_twin(config, reference: Mapping):
    """The twin with the weights of `reference`, on the device."""
    twin = _fresh_twin(config)
    weights = {
        name.removeprefix("weight|"): torch.from_numpy(value)
        for name, value in reference.items()
        if name.startswith("weight|")
    }
    twin.load_state_dict(weights)
    return twin.to(DEVICE)


def make_net(spec: Mapping, config):
    """The twin in its layout, perhaps compiled, and held against ours unless `unchecked`."""
    if spec.get("unchecked"):
        return _arranged(spec, _fresh_twin(config).to(DEVICE))
    reference = dict(np.load(spec["reference"]))
    twin = load_twin(config, reference)
    net = _arranged(spec, twin)
    _check(spec, config, twin, net, reference)
    torch._dynamo.reset()  # what it compiled for the check must not count as seen before
    return _arranged(spec, load_twin(config, reference))


def make_twin_of(name: str, attributes: Mapping, n_mels: int):
    """Return a fresh twin of the network `name` of `models.MODELS`, for log-mels of `n_mels`."""
    given = {k: v for k, v in attributes.items() if k != "kernel_init"}
    given |= {"n_mels": n_mels} if name == "cnn_gru" else {}
    return TWINS[name](**given)


def _fresh_twin(config):
    return make_twin_of(config.model.name, attributes(config), config.features.n_mels)


def _arranged(spec: Mapping, twin):
    if spec["layout"] == "channels_last":
        twin = twin.to(memory_format=torch.channels_last)
    return torch.compile(twin, dynamic=False) if spec.get("compile") else twin


def _check(spec: Mapping, config, twin, net, reference: Mapping) -> None:
    """Front end, logits, statistics, and in float64 the gradient; raises `Mismatch`."""
    log_mel = torch.from_numpy(reference["log_mel"])[:, None].to(DEVICE)
    if "network" not in spec:  # the others' front ends are no part of their rows
        log_mel = make_front_end(config)(torch.from_numpy(reference["waveform"]).to(DEVICE))
        inputs.require_equal("log-mels", reference["log_mel"], log_mel[:, 0].cpu())
    log_mel = formatted(spec, log_mel)
    with torch.no_grad():
        logits = net.eval()(log_mel)
    inputs.require_equal("evaluation logits", reference["eval_logits"], logits.cpu())
    with torch.no_grad():
        logits = net.train()(log_mel)
    inputs.require_equal("training logits", reference["train_logits"], logits.cpu())
    for name, value in twin.state_dict().items():
        if "running" in name:
            inputs.require_equal(f"updated {name}", reference[f"after|{name}"], value.cpu())
    exact = load_twin(config, reference).double().train()
    label = torch.from_numpy(inputs.labels(len(log_mel))).long().to(DEVICE)
    given = torch.from_numpy(reference["log_mel"])[:, None].double().to(DEVICE)
    _focal_loss(exact(given), label, config.loss.gamma).backward()
    grads = {name: value.grad.cpu().numpy() for name, value in exact.named_parameters()}
    ours = np.concatenate([reference[f"after|{name}"].ravel() for name in grads])
    theirs = np.concatenate([grad.ravel() for grad in grads.values()])
    inputs.require_equal("gradients", ours, theirs, scale=np.linalg.norm(ours))


def make_step(spec: Mapping, config, net):
    """`step(log_mel, label)`: forward, focal loss, gradient, Adam(W) under a warm-up."""
    net.train()
    peak_lr, n_warm_up = config.schedule.peak_lr, max(1, config.schedule.get("warmup_steps", 0))
    make = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[config.optim.name]
    tx = make(net.parameters(), peak_lr, weight_decay=config.optim.weight_decay)
    warm_up = torch.optim.lr_scheduler.LambdaLR(tx, lambda n: min(1, n / n_warm_up))
    dtype = MIXED.get(spec.get("dtype"))

    def step(log_mel, label):
        tx.zero_grad()
        with torch.autocast(DEVICE.type, dtype, enabled=dtype is not None):
            logits = net(formatted(spec, log_mel))
        _focal_loss(logits.float(), label, config.loss.gamma).backward()
        if config.train.clip_norm:
            torch.nn.utils.clip_grad_norm_(net.parameters(), config.train.clip_norm)
        tx.step()
        warm_up.step()

    return step


def _focal_loss(logits, label, gamma: float):
    miss_log = torch.nn.functional.cross_entropy(logits, label, reduction="none")
    return ((1 - torch.exp(-miss_log)) ** gamma * miss_log).mean()


def formatted(spec: Mapping, log_mel):
    channels_last = spec["layout"] == "channels_last"
    return log_mel.contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )
