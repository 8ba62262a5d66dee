"""The differences between the two worlds, injected one at a time.

    python tests/parity_faults.py

prints the table of `docs/parity.md`: which rows of the parity table each one fails, by how much,
and what it does to the logits of the four golden clips, from waveform to logits.
"""

import contextlib
import math
import pathlib
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from asc_jax import features
from asc_jax.features import augment, augmentation, filters, front_end
from asc_jax.models import CPMobile, layers
from asc_jax.pytorch.parity import front_end_stages, table
from asc_jax.pytorch.parity.front_end_stages import HOPS, MEL, RATES
from asc_jax.pytorch.weights import from_torch
from asc_jax.training import optim


@contextlib.contextmanager
def inject(name):
    """The fault called `name`, inside the `with` block; programs are traced anew."""
    jax.clear_caches()
    try:
        with contextlib.ExitStack() as stack:
            for module, attribute, value in FAULTS[name]():
                stack.enter_context(mock.patch.object(module, attribute, value))
            yield
    finally:
        jax.clear_caches()


def same_padding():
    """TensorFlow's SAME pads an even axis under stride 2 at its end only."""

    def padding(x, size, strides):
        return jax.lax.padtype_to_pads(x.shape[1:3], size, strides, "SAME")

    def conv(x, kernel, strides=(1, 1), groups=1, _=None):
        return true_conv(x, kernel, strides, groups, padding(x, kernel.shape[:2], strides))

    def avg_pool(x, size, strides, _):
        return true_avg_pool(x, size, strides, padding(x, size, strides))

    true_conv, true_avg_pool = layers.conv, layers.avg_pool
    return [(layers, "conv", conv), (layers, "avg_pool", avg_pool)]


def biased_variance():
    """Flax's running variance: divided by n."""
    return [(layers, "unbiased_variance", lambda var, count: var)]


def biased_mixstyle():
    """Freq-MixStyle's deviation from the variance divided by n."""
    true = augment.band_statistics

    def band_statistics(log_mel):
        mean, std = true(log_mel)
        n = log_mel.shape[2] * log_mel.shape[3]
        offset = augment.VARIANCE_OFFSET
        return mean, jnp.sqrt((std**2 - offset) * (n - 1) / n + offset)

    return [(augment, "band_statistics", band_statistics)]


def slaney_mel():
    """librosa's default scale: linear below 1 kHz, logarithmic above (norm left out)."""

    def filterbank(n_fft, n_mels, sample_rate, f_min, f_max, dtype=np.float32):
        linear, step = 3 / 200, math.log(6.4) / 27  # mels per Hz; log per mel

        def to_mel(f):
            return 15 + math.log(f / 1000) / step if f >= 1000 else f * linear

        mels = np.linspace(to_mel(f_min), to_mel(f_max), n_mels + 2)
        edges = np.where(mels < 15, mels / linear, 1000 * np.exp(step * (mels - 15)))
        freqs = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)[:, None]
        up = (freqs - edges[:-2]) / np.diff(edges)[:-1]
        down = (edges[2:] - freqs) / np.diff(edges)[1:]
        return np.maximum(0, np.minimum(up, down)).astype(dtype)

    return [(filters, "mel_filterbank", filterbank)]


def _in_front_end(**functions):
    """Replace functions of the front end wherever they are looked up."""
    modules = (features, front_end, augmentation)
    return [(module, name, new) for module in modules for name, new in functions.items()]


def hop_off_by_one():
    """One sample more between frames."""
    true = features.mel_power

    def mel_power(waveform, *, hop_length, **rest):
        return true(waveform, hop_length=hop_length + 1, **rest)

    return _in_front_end(mel_power=mel_power)


def symmetric_hann():
    """The filter designer's window, its last sample 0."""
    return [(filters, "hann_window", lambda n: np.hanning(n).astype(np.float32))]


def window_at_the_start():
    """The window at the start of n_fft, zeros after it, instead of centred."""

    def mel_power(waveform, *, sample_rate, n_fft, win_length, hop_length, n_mels, f_min, f_max):
        half, n = n_fft // 2, waveform.shape[1]
        padded = jnp.pad(waveform, ((0, 0), (half, half)), mode="reflect")
        starts = range(0, n + 1, hop_length)
        frames = jnp.stack([padded[:, s : s + win_length] for s in starts], axis=1)
        window = filters.hann_window(win_length).astype(waveform.dtype)
        power = jnp.abs(jnp.fft.rfft(frames * window[None, None], n=n_fft)) ** 2
        bank = filters.mel_filterbank(n_fft, n_mels, sample_rate, f_min, f_max)
        return jnp.swapaxes(power @ bank.astype(waveform.dtype), 1, 2)

    return _in_front_end(mel_power=mel_power)


def mask_on_log():
    """Masks set 0 after the logarithm, which is a loud sound, not silence."""
    true_power, true_log = features.mel_power, features.log_compress
    return _in_front_end(
        mel_power=lambda *a, **k: true_log(true_power(*a, **k))[..., 0],
        log_compress=lambda log_mel: log_mel[..., None],
    )


def _changed_mask(change):
    """`change(start, width, axis)` gives what `augment.mask_band` gets instead."""
    true = augment.mask_band

    def mask_band(power, start, width, *, axis, **rest):
        start, width, axis = change(start, width, axis)
        return true(power, start, width, axis=axis, **rest)

    return [(augment, "mask_band", mask_band)]


def mask_too_wide():
    """The last bin of a mask masked, too."""
    return _changed_mask(lambda start, width, axis: (start, width + 1, axis))


def mask_shifted():
    """Bins counted from 1."""
    return _changed_mask(lambda start, width, axis: (start + 1, width, axis))


def mask_of_frames():
    """Frames masked instead of mel bins."""
    return _changed_mask(lambda start, width, axis: (start, width, 3 - axis))


def one_mask_for_all():
    """The first clip's mask for the whole batch."""

    def first(start, width, axis):
        return jnp.full_like(start, start[0]), jnp.full_like(width, width[0]), axis

    return _changed_mask(first)


def _moved_schedule(move):
    true = optim.warmup_cosine

    def warmup_cosine(n_steps, **rest):
        schedule = true(n_steps, **rest)
        return lambda step: schedule(move(step))

    return [(optim, "warmup_cosine", warmup_cosine)]


def schedule_off_by_one():
    """The rate of the next step."""
    return _moved_schedule(lambda step: step + 1)


def step_0_at_a_rate():
    """Step 0 at the rate of step 1 instead of 0."""
    return _moved_schedule(lambda step: jnp.maximum(step, 1))


def no_decay_on_batch_norm():
    """Weight decay on convolution kernels only."""
    true = optim.optax.adamw

    def adamw(schedule, **rest):
        kernels = lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)  # noqa: E731
        return true(schedule, **rest, mask=kernels)

    return [(optim.optax, "adamw", adamw)]


def padding_not_counted():
    """The shortcut's average pool divides by the samples inside the map."""
    true = layers.avg_pool

    def avg_pool(x, *window):
        return true(x, *window) / true(jnp.ones_like(x), *window)

    return [(layers, "avg_pool", avg_pool)]


FAULTS = {
    "SAME padding": same_padding,
    "padding not counted in the average pool": padding_not_counted,
    "biased running variance": biased_variance,
    "biased variance in MixStyle": biased_mixstyle,
    "Slaney mel scale": slaney_mel,
    "hop off by one": hop_off_by_one,
    "symmetric Hann window": symmetric_hann,
    "window not centred in n_fft": window_at_the_start,
    "masks on the log-mel": mask_on_log,
    "masks one bin too wide": mask_too_wide,
    "masks one bin further up": mask_shifted,
    "masks on frames": mask_of_frames,
    "one mask for all clips": one_mask_for_all,
    "schedule off by one step": schedule_off_by_one,
    "step 0 not at rate 0": step_0_at_a_rate,
    "no weight decay on BatchNorm": no_decay_on_batch_norm,
}


def end_to_end(reference):
    """Trained network on the golden clips from 44.1 kHz on, hop 472: logits `[4, 10]`."""
    waveform = features.resample(jnp.asarray(reference("b_frontend")["wave"]), *RATES)
    log_mel = features.log_mel(waveform, hop_length=HOPS[1], **MEL)
    return np.asarray(CPMobile().apply(from_torch(reference("c_state_calib")), log_mel))


def stages_of(name):
    """Stages that a fault can reach: each starts from the reference's input of it."""
    if all(module in (features, front_end, augment, augmentation) for module, *_ in FAULTS[name]()):
        return front_end_stages.STAGES
    return [stage for stage in table.STAGES if stage not in front_end_stages.STAGES]


def main():
    reference = table.golden_reference(ROOT / "asc_jax/pytorch/parity/golden")
    expected = end_to_end(reference)
    print("| fault | rows that fail: largest error | logits, end to end |")
    print("|---|---|---|")
    for name in FAULTS:
        with inject(name):
            rows = table.run(reference, stages_of(name))
            moved = np.abs(end_to_end(reference) - expected).max()
        failed = [
            f"{row.stage}: {row.problem or f'{row.max_abs:.1e}'}" for row in rows if not row.within
        ]
        print(f"| {name} | {'; '.join(failed)} | {moved:.1e} |", flush=True)


if __name__ == "__main__":
    main()
