"""Windows of one second, resampling at odd rates, and the answers of `eval.py`."""

import itertools

import numpy as np
import pytest
from short import NAME
from small_run import restored, write_run

from asc_jax import features
from asc_jax.data.clips import from_arrays
from asc_jax.data.tau.wav import read_resampled
from asc_jax.evaluation import evaluate
from asc_jax.features.front_end import sparse_resample
from asc_jax.prediction.lines import top_k
from asc_jax.prediction.predictor import Predictor, _resampler, batched, windows

RATE = 10


@pytest.mark.parametrize(
    ("n_samples", "hop_s", "starts"),
    [
        (10, 1, [0]),
        (30, 1, [0, 10, 20]),
        (25, 1, [0, 10, 15]),  # moved back
        (11, 1, [0, 1]),
        (25, 0.5, [0, 5, 10, 15]),  # all heard: none is added
        (27, 0.5, [0, 5, 10, 15, 17]),
        (45, 2, [0, 20, 35]),  # moved back
        (35, 2, [0, 20]),  # nothing would have started in the rest
        (31, 1.05, [0, 10, 21]),  # starts are rounded one by one and do not drift
        (7, 1, [0]),  # filled up
        (0, 1, []),
    ],
)
@pytest.mark.parametrize("block", [1, 4, 1000])
def test_windows_hear_the_whole_recording(n_samples, hop_s, starts, block):
    waveform = np.arange(1, n_samples + 1, dtype=np.float32)
    blocks = [waveform[i : i + block] for i in range(0, n_samples, block)]
    found = list(windows(blocks, RATE, hop_s))
    assert [start for start, _ in found] == starts
    padded = np.pad(waveform, (0, max(0, RATE - n_samples)))
    for start, window in found:
        np.testing.assert_array_equal(window, padded[start : start + RATE])


@pytest.mark.parametrize("hop_s", [0.3, 1, 7])
def test_windows_of_an_endless_stream_come_as_it_plays(hop_s):
    n_read = 0

    def play():
        nonlocal n_read
        while True:
            n_read += 4
            yield np.arange(n_read - 4, n_read, dtype=np.float32)

    for start, window in itertools.islice(windows(play(), RATE, hop_s), 1000):
        np.testing.assert_array_equal(window, np.arange(start, start + RATE))
        assert n_read < start + RATE + 4, "a window is there with its last block"


def test_batches_keep_order_and_the_last_is_short():
    batches = list(batched(windows([np.arange(70, dtype=np.float32)], RATE), 3))
    assert [starts.tolist() for starts, _ in batches] == [[0, 10, 20], [30, 40, 50], [60]]
    assert [waveform.shape for _, waveform in batches] == [(3, 10), (3, 10), (1, 10)]


@pytest.mark.parametrize("rate", [8_005, 48_000])
def test_sparse_resampling_is_the_dense_one(rate):
    waveform = np.random.default_rng(rate).uniform(-1, 1, (2, rate)).astype(np.float32)
    dense = features.resample(waveform, rate, 32_000)
    sparse = sparse_resample(waveform, rate, 32_000)
    assert sparse.shape == dense.shape == (2, 32_000)
    np.testing.assert_allclose(sparse, dense, atol=1e-6)


@pytest.mark.parametrize("rate", [44_101, 191_999])
def test_rates_without_a_common_divisor_keep_a_tone(rate):
    """Their whole kernel would take gigabytes."""
    tone = np.sin(2 * np.pi * 1000 * np.arange(rate) / rate)[None].astype(np.float32)
    expected = np.sin(2 * np.pi * 1000 * np.arange(32_000) / 32_000)
    resampled = np.asarray(_resampler(rate, 32_000)(tone))[0]
    np.testing.assert_allclose(resampled[100:-100], expected[100:-100], atol=2e-3)


@pytest.mark.parametrize("rate", [44_100, 48_000, 16_000])
def test_window_in_a_batch_is_resampled_as_by_itself(rate):
    waveform = np.random.default_rng(1).uniform(-1, 1, (3, rate)).astype(np.float32)
    together = np.asarray(_resampler(rate, 32_000)(waveform))
    for row, one in zip(together, waveform, strict=True):
        alone = np.asarray(features.resample(one[None], rate, 32_000))[0]
        np.testing.assert_allclose(row, alone, atol=1e-6)


def test_top_k_is_sorted_and_equal_ones_keep_their_order():
    assert top_k(np.array([0.25, 0.25, 0.5]), 3) == [(2, 0.5), (0, 0.25), (1, 0.25)]


def test_clips_laid_end_to_end_get_what_evaluation_gives_them(tmp_path):
    """Each second of the long recording, against its own file through the data set's reader."""
    soundfile = pytest.importorskip("soundfile")
    rng = np.random.default_rng(0)
    loudness = 10.0 ** -np.arange(5)[:, None]
    audio = (rng.uniform(-0.5, 0.5, (5, 44_100)) * loudness).astype(np.float32)
    for number, clip in enumerate(audio):
        soundfile.write(tmp_path / f"{number}.wav", clip, 44_100, subtype="PCM_24")
    paths = [tmp_path / f"{number}.wav" for number in range(5)]
    clips = from_arrays(np.stack(list(read_resampled(paths))), np.zeros(5), np.zeros(5))
    experiment = write_run(tmp_path / "run", model__name=NAME)
    variables = restored(experiment, tmp_path / "run")
    _, evaluated = evaluate.evaluate_precisions(experiment, variables, clips)
    expected = evaluate.softmax(evaluated.logits)

    long = np.concatenate([soundfile.read(path, dtype="float32")[0] for path in paths])
    predictor = Predictor(experiment, variables, batch_size=2)
    ours = []
    for starts, waveform in batched(windows([long], 44_100), 2):
        ours.append(predictor.probs(predictor.resample(waveform, 44_100))[: len(starts)])
    assert np.ptp(expected, axis=0).max() > 0.3, "the clips must differ for this to mean something"
    np.testing.assert_allclose(np.concatenate(ours), expected, atol=1e-5)
