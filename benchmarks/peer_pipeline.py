"""The recipe before the network, in PyTorch: front end, roll, frequency mask, Freq-MixStyle.

Draws are arguments, so that tests can hold each function against ours.
"""

import math

import torch

from asc_jax import features
from asc_jax.features import filters
from asc_jax.features.augment import VARIANCE_OFFSET
from asc_jax.pytorch.parity.live_front_end import torchaudio_or_none


def make_resample(orig_rate: int, new_rate: int, device):
    """`[b, n_samples]` → the same second at another rate, by a polyphase convolution."""
    divisor = math.gcd(orig_rate, new_rate)
    orig, new = orig_rate // divisor, new_rate // divisor
    kernel = torch.from_numpy(filters.resample_kernel(orig_rate, new_rate)).to(device)[:, None]
    before = (kernel.shape[-1] - orig) // 2

    def resample(waveform):
        padded = torch.nn.functional.pad(waveform[:, None], (before, before + orig))
        phases = torch.nn.functional.conv1d(padded, kernel, stride=orig)  # [b, phase, step]
        n_out = math.ceil(waveform.shape[1] * new / orig)
        return phases.transpose(1, 2).flatten(1)[:, :n_out]

    return resample


def make_mel_power(config, device):
    """`[b, n_samples]` → mel power `[b, n_mels, n_frames]`, by torchaudio where it loads."""
    audio = torchaudio_or_none()
    if audio is not None:
        return audio.transforms.MelSpectrogram(**config).to(device)
    window = torch.hann_window(config["win_length"], device=device)
    names = ("n_fft", "n_mels", "sample_rate", "f_min", "f_max")
    bank = torch.from_numpy(filters.mel_filterbank(*(config[name] for name in names)))
    bank = bank.T.contiguous().to(device)

    def mel_power(waveform):
        spectrum = torch.stft(
            waveform,
            config["n_fft"],
            config["hop_length"],
            config["win_length"],
            window=window,
            pad_mode="reflect",
            return_complex=True,
        )
        return bank @ spectrum.abs().square()

    return mel_power


def time_roll(waveform, shifts):
    """Roll clip i by `shifts[i]` samples, a list; one by one is quickest on a CPU."""
    if waveform.is_cuda:
        index = torch.arange(waveform.shape[1], device=waveform.device)
        start = torch.tensor(shifts, device=waveform.device)[:, None]
        return waveform.gather(1, (index[None] - start) % waveform.shape[1])
    return torch.stack([clip.roll(shift) for clip, shift in zip(waveform, shifts, strict=True)])


def freq_mask(power, uniform, max_width: int):
    """Zero one band per clip of `power [b, f, t]`; `uniform [b, 2]` draws width and start."""
    n_mels = power.shape[1]
    width = uniform[:, 0] * max_width
    start = (uniform[:, 1] * (n_mels - width)).long()[:, None]
    index = torch.arange(n_mels, device=power.device)[None]
    inside = (index >= start) & (index < start + width.long()[:, None])
    return power.masked_fill(inside[:, :, None], 0.0)


def freq_mixstyle(log_mel, shares, partners):
    """Mix band statistics of `log_mel [b, 1, f, t]`: `shares [b]` own, the rest a partner's."""
    var, mean = torch.var_mean(log_mel, dim=(1, 3), keepdim=True)
    std = (var + VARIANCE_OFFSET).sqrt()
    shares = shares.view(-1, 1, 1, 1)
    mixed_std = torch.lerp(std[partners], std, shares)
    mixed_mean = torch.lerp(mean[partners], mean, shares)
    return (log_mel - mean) / std * mixed_std + mixed_mean


def make_training_input(config, rate: int, device):
    """Waveform `[b, rate]` → augmented log-mel `[b, 1, f, t]`, drawing as the recipe says."""
    augment, power_of = config.augment, make_mel_power(config.features.to_dict(), device)
    resample = make_resample(rate, config.features.sample_rate, device)
    max_shift = round(augment.time_roll.max_s * rate)
    alpha = torch.tensor(augment.freq_mixstyle.alpha, device=device)
    beta = torch.distributions.Beta(alpha, alpha)

    @torch.no_grad()
    def training_input(waveform):
        n_clips = len(waveform)
        shifts = torch.randint(-max_shift, max_shift + 1, (n_clips,)).tolist()
        waveform = time_roll(waveform, shifts)
        if rate != config.features.sample_rate:
            waveform = resample(waveform)
        uniform = torch.rand(n_clips, 2, device=device)
        power = freq_mask(power_of(waveform), uniform, augment.freq_mask.max_width)
        log_mel = (power + features.LOG_OFFSET).log()[:, None]
        if torch.rand(()) >= augment.freq_mixstyle.p:
            return log_mel
        partners = torch.randperm(n_clips, device=device)
        return freq_mixstyle(log_mel, beta.sample((n_clips,)), partners)

    return training_input
