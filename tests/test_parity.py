"""The parity table: what it says of this package, and of one with a fault put in."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity_faults import FAULTS, inject

from asc_jax.errors import UserError
from asc_jax.pytorch.parity import front_end_stages, table, training_stages
from asc_jax.pytorch.parity.checks import Check, Tolerance, judge, tolerance_text

GOLDEN = pathlib.Path(__file__).parents[1] / "asc_jax/pytorch/parity/golden"
CONSTANTS = (front_end_stages.hann_window, front_end_stages.mel_filterbank)
SPECTRA = (*CONSTANTS, front_end_stages.log_mel)
MASKS = (front_end_stages.frequency_mask, front_end_stages.masked_log_mel)
LOG_MELS = ["log-mel, hop 500", "log-mel, hop 472"]
# Fault → the stages run under it, and the rows that must fail, all of them and no other.
EXPECTED = {
    "biased running variance": ((training_stages.training,), ["running statistics"]),
    "biased variance in MixStyle": (
        (front_end_stages.mixstyle,),
        ["MixStyle", "MixStyle statistics"],
    ),
    "Slaney mel scale": (SPECTRA, ["mel filterbank", *LOG_MELS]),
    "hop off by one": (SPECTRA, LOG_MELS),
    "symmetric Hann window": (SPECTRA, ["Hann window", *LOG_MELS]),
    "window not centred in n_fft": (SPECTRA, LOG_MELS),
    "masks on the log-mel": ((front_end_stages.log_mel, *MASKS), ["masked log-mel"]),
    "masks one bin too wide": (MASKS, ["frequency mask, applied"]),
    "masks one bin further up": (MASKS, ["frequency mask, applied"]),
    "masks on frames": (MASKS, ["frequency mask, applied", "masked log-mel, bands"]),
    "one mask for all clips": (MASKS, ["frequency mask, applied", "masked log-mel, bands"]),
    "schedule off by one step": ((training_stages.schedule,), ["schedule"]),
    "step 0 not at rate 0": ((training_stages.schedule,), ["schedule"]),
    "no weight decay on BatchNorm": ((training_stages.adamw_step,), ["one AdamW step"]),
}
NETWORK_ROWS = [f"network in evaluation, {kind}" for kind in ("float32", "float16", "all float16")]
NETWORK_FAULTS = ("SAME padding", "padding not counted in the average pool")


@pytest.fixture(scope="module")
def reference():
    return table.golden_reference(GOLDEN)


def failed(rows):
    return [row.stage for row in rows if not row.within]


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, marks=pytest.mark.nightly if "running" in fault else ())
        for fault in EXPECTED
    ],
)
def test_fault_fails_the_rows_where_it_is_and_no_other(reference, fault):
    stages, rows = EXPECTED[fault]
    with inject(fault):
        assert failed(table.run(reference, stages)) == rows


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", [NETWORK_FAULTS[0], pytest.param(NETWORK_FAULTS[1], marks=pytest.mark.nightly)]
)
def test_fault_in_the_network_fails_its_logits(reference, fault):
    with inject(fault):
        assert failed(table.run(reference, [training_stages.evaluation])) == NETWORK_ROWS


def test_every_fault_is_tried():
    assert {*EXPECTED, *NETWORK_FAULTS} == {*FAULTS}


def test_fault_leaves_nothing_behind(reference):
    with inject("hop off by one"):
        pass
    assert failed(table.run(reference, [front_end_stages.log_mel])) == []


def test_second_device_is_run_too_and_its_distance_given(reference):
    seen = []

    def stage(reference):
        seen.extend(jnp.ones(1).devices())
        ours = np.float64(len(seen))  # 1 on the first device, 2 on the second
        return [Check("stage", "number", ours, np.float64(1), Tolerance("equal"))]

    devices = jax.devices()[:2]
    rows = table.run(reference, [stage, front_end_stages.resampled_waveform], devices)
    assert seen == devices
    assert [row.device_gap for row in rows] == [1.0, 0.0]
    assert failed(rows) == []  # the first device is the one that is judged


def test_one_device_leaves_the_distance_open(reference):
    (row,) = table.run(reference, [front_end_stages.mel_filterbank], jax.devices()[:1])
    assert row.device_gap is None


@pytest.mark.parametrize(
    ("ours", "tolerance", "within"),
    [
        ([1.0, 2.1], Tolerance("", absolute=0.11), True),
        ([1.0, 2.1], Tolerance("", absolute=0.09), False),
        ([1.0, 2.1], Tolerance("", relative=0.06), True),
        ([1.0, 2.1], Tolerance("", absolute=np.array([0.2, 0.0])), False),
        ([1.0, 2.1], Tolerance("", absolute=np.inf, norm=0.05), True),
        ([1.0, 2.1], Tolerance("", absolute=np.inf, norm=0.04), False),
    ],
)
def test_tolerance_is_absolute_relative_or_in_the_norm(ours, tolerance, within):
    row = judge(Check("stage", "", np.array(ours), np.array([1.0, 2.0]), tolerance))
    assert row.within == within
    assert row.max_abs == pytest.approx(0.1)
    assert row.relative == pytest.approx(0.1 / 5**0.5)


@pytest.mark.parametrize(
    ("ours", "problem"),
    [
        (np.zeros((3, 2)), "shape 3×2, expected 2"),
        (np.array([0.0, np.nan]), "not finite"),
    ],
)
def test_arrays_that_cannot_be_compared_fail_with_the_reason(ours, problem):
    row = judge(Check("stage", "", ours, np.zeros(2), Tolerance("", absolute=np.inf)))
    assert not row.within
    assert problem in row.problem
    assert row.max_abs is None


def test_nothing_to_compare_is_a_failure():
    row = judge(Check("stage", "", np.zeros(0), np.zeros(0), Tolerance("")))
    assert not row.within
    assert row.problem == "no values to compare"


def test_tolerance_by_clip_is_shown_as_its_range():
    assert tolerance_text(Tolerance("", absolute=np.array([1e-6, 2e-4]))) == "1e-06 … 0.0002"


@pytest.mark.parametrize("content", [None, b"PK\x03\x04 cut short", b""])
def test_missing_or_broken_reference_file_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "d_loss.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"d_loss\.npz .*check it out again"):
        table.golden_reference(tmp_path)("d_loss")
