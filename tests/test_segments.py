"""Names of clips, and predictions averaged over ten-second recordings."""

import numpy as np
import pytest

from asc_jax.data.tau import clip_names
from asc_jax.errors import UserError


def test_devices_of_one_recording_are_segments_of_their_own():
    names = [f"audio/bus-lyon-1200-40200-{cut}-{device}.wav" for device in "ab" for cut in "01"]
    assert len(set(clip_names.segment_names(names))) == 2
    assert set(clip_names.location_names(names)) == {"lyon-1200"}


@pytest.mark.parametrize("name", ["0.wav", "audio/bus-lyon-1200-40200-a.wav", ""])
def test_names_of_another_form_are_refused(name):
    for read in (clip_names.segment_names, clip_names.location_names):
        with pytest.raises(UserError, match="is not named <scene>-<city>"):
            read([name])


def test_means_equal_a_loop():
    rng = np.random.default_rng(0)
    names = np.array(list("badacabad"))
    probs = rng.random((9, 3))
    first, means = clip_names.means(names, probs)
    assert first.tolist() == [1, 0, 4, 2]
    for row, name in zip(means, "abcd", strict=True):
        np.testing.assert_allclose(row, probs[names == name].mean(0), rtol=1e-15)
