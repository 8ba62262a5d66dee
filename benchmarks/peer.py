"""PyTorch's jobs: the twin of our network in a training step, an epoch, inference, features."""

from collections.abc import Mapping

import torch

from asc_jax import features
from benchmarks import inputs, peer_network, peer_pipeline
from benchmarks.inputs import Job
from benchmarks.peer_network import DEVICE

WAV_RATE = 44_100  # Hz


def set_up(*, threads: int, **options) -> None:
    """Threads, and float32 that is float32 on a GPU too."""
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False


def model_step(spec: Mapping) -> Job:
    """The network's training step on log-mels."""
    config = inputs.read_config(spec)
    log_mel = torch.from_numpy(inputs.log_mels(spec["batch"], *_shape(config)))[:, None]
    return _training(spec, config, log_mel, lambda log_mel: log_mel)


def whole_step(spec: Mapping) -> Job:
    """The training step from the waveform, at the rate that ours is stored at."""
    config = inputs.read_config(spec)
    rate = config.features.sample_rate
    waveform = torch.from_numpy(inputs.waveforms(spec["batch"], rate))
    return _training(
        spec, config, waveform, peer_pipeline.make_training_input(config, rate, DEVICE)
    )


def epoch(spec: Mapping) -> Job:
    """A pass over wav files by a DataLoader; resampled every time, as the baseline does."""
    from asc_jax.data.tau.folder import read_recordings
    from asc_jax.data.tau.wav import read_wav

    config = inputs.read_config(spec)
    recordings = read_recordings(spec["tau_dir"], [spec["split"]])[spec["split"]]

    class Wavs(torch.utils.data.Dataset):
        def __len__(self):
            return len(recordings)

        def __getitem__(self, index):
            return torch.from_numpy(read_wav(recordings[index].path)), recordings[index].label

    # No worker processes: with two cores they only take time from the step.
    loader = torch.utils.data.DataLoader(Wavs(), spec["batch"], shuffle=True)
    step = peer_network.make_step(spec, config, peer_network.make_net(spec, config))
    training_input = peer_pipeline.make_training_input(config, WAV_RATE, DEVICE)

    def run():
        for waveform, label in loader:
            step(training_input(waveform.to(DEVICE)), label.to(DEVICE))
        _wait()

    return Job(run, len(recordings))


def inference(spec: Mapping) -> Job:
    """Evaluation, from the waveform or from log-mels."""
    config = inputs.read_config(spec)
    net = peer_network.make_net(spec, config).eval()
    front_end = peer_network.make_front_end(config)
    given = inputs.log_mels(spec["batch"], *_shape(config))[:, None]
    if spec["source"] == "waveform":
        given = inputs.waveforms(spec["batch"], config.features.sample_rate)
    given = torch.from_numpy(given)

    @torch.inference_mode()
    def run():
        batch = given.to(DEVICE)
        log_mel = front_end(batch) if spec["source"] == "waveform" else batch
        net(peer_network.formatted(spec, log_mel)).cpu()

    return Job(run, spec["batch"])


def log_mels(spec: Mapping) -> Job:
    """The front end alone."""
    config = inputs.read_config(spec)
    front_end = peer_network.make_front_end(config)
    waveform = torch.from_numpy(inputs.waveforms(spec["batch"], config.features.sample_rate))

    @torch.inference_mode()
    def run():
        front_end(waveform.to(DEVICE))
        _wait()

    return Job(run, len(waveform))


def _training(spec: Mapping, config, given, training_input) -> Job:
    """Some steps on one batch, from the host unless it is `resident`."""
    step = peer_network.make_step(spec, config, peer_network.make_net(spec, config))
    label = torch.from_numpy(inputs.labels(len(given))).long().to(DEVICE)
    given = given.to(DEVICE) if spec.get("resident") else given
    n_steps = spec.get("n_steps", spec["peer_steps"])

    def run():
        for _ in range(n_steps):
            step(training_input(given.to(DEVICE)), label)
        _wait()

    return Job(run, n_steps * len(given))


def _shape(config) -> tuple[int, int]:
    f = config.features
    return f.n_mels, features.n_frames(f.sample_rate, **f)


def _wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


JOBS = {
    "model_step": model_step,
    "whole_step": whole_step,
    "resident_step": lambda spec: whole_step({**spec, "resident": True}),
    "epoch": epoch,
    "inference": inference,
    "features": log_mels,
}
