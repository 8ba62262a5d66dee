"""Compute log-mels by torchaudio or, where that cannot be imported, in plain PyTorch.

torchaudio's extension loads only beside the PyTorch that it was built for.
"""

import importlib
import math

import numpy as np

from asc_jax.machine.optional_packages import require
from asc_jax.pytorch.parity.front_end_stages import MEL, RATES

LOG_OFFSET = 1e-5


def torchaudio_or_none():
    """Return the module; None where it is missing or does not load."""
    try:
        return importlib.import_module("torchaudio")
    except (ImportError, OSError):
        return None


def front_end_arrays(waveform: np.ndarray, hops) -> dict[str, np.ndarray]:
    """Return the arrays of the golden file `b_frontend` for these clips.

    Args:
      waveform: `[b, 44100]` float32 in [-1, 1).
      hops: hop lengths, samples.

    Returns:
      `wave`, `resampled`, `resample_kernel` and `…64`, `hann_window`, `mel_fb`,
      `logmel_hop…` and `logmel64_hop…` `[b, n_mels, n_frames]`.
    """
    torch = require("torch")
    audio = torchaudio_or_none()
    make = _plain if audio is None else lambda dtype: _of_torchaudio(audio, dtype)
    arrays = {"wave": waveform}
    for dtype, suffix in ((torch.float32, ""), (torch.float64, "64")):
        kernel, resample, window, filterbank, power = make(dtype)
        resampled = resample(torch.from_numpy(waveform).to(dtype))
        arrays |= {f"resample_kernel{suffix}": kernel, f"resampled{suffix}": resampled}
        for hop in hops:
            arrays[f"logmel{suffix}_hop{hop}"] = torch.log(power(resampled, hop) + LOG_OFFSET)
    # Both precisions have these in float32, widened.
    arrays |= {"hann_window": window.float(), "mel_fb": filterbank.float()}
    return {name: np.asarray(value) for name, value in arrays.items()}


def _of_torchaudio(audio, dtype):
    """Return kernel, resampling, window, filterbank and mel power of torchaudio."""
    # By default, as the baseline has it, only the phase of the kernel is rounded to float32.
    wanted = None if dtype == require("torch").float32 else dtype
    resample = audio.transforms.Resample(*RATES, dtype=wanted)

    def mel(hop):
        return audio.transforms.MelSpectrogram(**MEL, hop_length=hop).to(dtype)

    kernel, any_hop = resample.kernel[:, 0], mel(MEL["win_length"])
    window, filterbank = any_hop.spectrogram.window, any_hop.mel_scale.fb
    return kernel, resample.to(dtype), window, filterbank, lambda x, hop: mel(hop)(x)


def _plain(dtype):
    """Return the same five, from PyTorch's own operations."""
    torch = require("torch")
    kernel = _resample_kernel(dtype)
    orig, new = (rate // math.gcd(*RATES) for rate in RATES)
    window = torch.hann_window(MEL["win_length"]).to(dtype)
    filterbank = _mel_filterbank().to(dtype)

    def resample(waveform):
        before = (kernel.shape[1] - orig) // 2
        padded = torch.nn.functional.pad(waveform, (before, before + orig))
        phases = torch.nn.functional.conv1d(padded[:, None], kernel[:, None], stride=orig)
        n_out = math.ceil(waveform.shape[1] * new / orig)
        return phases.transpose(1, 2).flatten(1)[:, :n_out]

    def power(waveform, hop):
        spectrum = torch.stft(
            waveform,
            MEL["n_fft"],
            hop,
            MEL["win_length"],
            window=window,
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        return (filterbank.T @ spectrum.abs() ** 2).contiguous()

    return kernel, resample, window, filterbank, power


def _resample_kernel(dtype):
    """Return `[n_phases, n_taps]`: a sinc with 6 zero crossings on each side, under cos²."""
    torch = require("torch")
    orig, new = (rate // math.gcd(*RATES) for rate in RATES)
    cutoff = 0.99 * min(orig, new)
    side = math.ceil(6 * orig / cutoff)
    taps = torch.arange(-side, side + orig, dtype=torch.float64) / orig
    phase = torch.arange(0, -new, -1, dtype=dtype) / new
    t = torch.clamp((phase[:, None] + taps) * cutoff, -6, 6)
    kernel = torch.sinc(t) * torch.cos(t * math.pi / 12) ** 2 * (cutoff / orig)
    return kernel.to(dtype)


def _mel_filterbank():
    """Return `[n_bins, n_mels]` float32 triangles, equally spaced on the HTK scale."""
    torch = require("torch")
    low, high = (2595 * math.log10(1 + MEL[f] / 700) for f in ("f_min", "f_max"))
    edges = 700 * (10 ** (torch.linspace(low, high, MEL["n_mels"] + 2) / 2595) - 1)
    bins = torch.linspace(0, MEL["sample_rate"] // 2, MEL["n_fft"] // 2 + 1)
    distance, width = edges - bins[:, None], torch.diff(edges)
    sides = -distance[:, :-2] / width[:-1], distance[:, 2:] / width[1:]
    return torch.clamp(torch.minimum(*sides), min=0)
