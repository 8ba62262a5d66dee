"""Names of clips: which ten-second recording a clip was cut from, and where.

TAU's names read `audio/<scene>-<city>-<location>-<segment>-<cut>-<device>.wav`.

Source: the data set's documentation (Zenodo record 6337421).
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from asc_jax.errors import UserError

NAME_FORM = "<scene>-<city>-<location>-<segment>-<cut>-<device>.wav"


class ClipName(NamedTuple):
    """The fields of a clip's name."""

    scene: str
    city: str
    location: str
    segment: str
    cut: str
    device: str


def parse(filename: str) -> ClipName:
    """Split a clip's name, with or without its folder, into fields.

    Raises:
        UserError: it does not follow the data set's form.

    Example:
        >>> parse("audio/bus-lyon-1200-40200-7-a.wav").segment
        '40200'
    """
    fields = filename.removeprefix("audio/").removesuffix(".wav").split("-")
    if len(fields) != len(ClipName._fields):
        raise UserError(f"the clip {filename!r} is not named {NAME_FORM}")
    return ClipName(*fields)


def segment_names(filenames: Iterable[str]) -> np.ndarray:
    """Return the recording each clip was cut from, by one device: `[n]` str.

    Raises:
        UserError: a name does not follow the data set's form.

    Example:
        >>> segment_names(["audio/bus-lyon-1200-40200-7-a.wav"]).tolist()
        ['bus-lyon-1200-40200-a']
    """
    names = map(parse, filenames)
    return np.array(["-".join((*name[:4], name.device)) for name in names], dtype=str)


def moment_names(filenames: Sequence[str], recordings: Sequence[str]) -> np.ndarray:
    """Return the recording of each clip, `[n]` str, one for all devices that recorded a moment.

    Only a recording that is named as `segment_names` names it loses its device; others, such as
    those of a data set that is not in TAU's layout, stay as they are.

    Example:
        >>> moment_names(["bus-lyon-1200-40200-7-a.wav"], ["bus-lyon-1200-40200-a"]).tolist()
        ['bus-lyon-1200-40200']
    """
    names = []
    for filename, recording in zip(filenames, recordings, strict=True):
        fields = filename.removeprefix("audio/").removesuffix(".wav").split("-")
        of_tau = len(fields) == len(ClipName._fields)
        of_tau = of_tau and recording == "-".join((*fields[:4], fields[-1]))
        names.append("-".join(fields[:4]) if of_tau else recording)
    return np.array(names, dtype=str)


def location_names(filenames: Iterable[str]) -> np.ndarray:
    """Return city and location of each clip, as in the data set's `meta.csv`: `[n]` str.

    Raises:
        UserError: a name does not follow the data set's form.

    Example:
        >>> location_names(["audio/bus-lyon-1200-40200-7-a.wav"]).tolist()
        ['lyon-1200']
    """
    names = map(parse, filenames)
    return np.array([f"{name.city}-{name.location}" for name in names], dtype=str)


def means(segments: np.ndarray, probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean probabilities of each segment's clips.

    Args:
        segments: `[n_clips]` str, the segment of each clip.
        probs: `[n_clips, n_scenes]` float.

    Returns:
        `[n_segments]` int, the number of each segment's first clip, and
        `[n_segments, n_scenes]` float64, in the order of the segments' names.
    """
    _, first, segment_id, n_clips = np.unique(
        segments, return_index=True, return_inverse=True, return_counts=True
    )
    sums = np.zeros((len(first), probs.shape[1]))
    np.add.at(sums, segment_id, probs)
    return first, sums / n_clips[:, None]
