"""What a clip's name says: which ten-second recording it was cut from, and where.

TAU's names read `audio/<scene>-<city>-<location>-<segment>-<cut>-<device>.wav`.

Source: the data set's documentation (Zenodo record 6337421).
"""

from collections.abc import Iterable

import numpy as np

from asc_jax.errors import UserError

NAME_FORM = "<scene>-<city>-<location>-<segment>-<cut>-<device>.wav"


def segment_names(filenames: Iterable[str]) -> np.ndarray:
    """`[n]` str: the recording each clip was cut from, by one device.

    Raises:
        UserError: a name does not follow the data set's form.

    Example:
        >>> segment_names(["audio/bus-lyon-1200-40200-7-a.wav"]).tolist()
        ['bus-lyon-1200-40200-a']
    """
    fields = map(_fields, filenames)
    return np.array([f"{'-'.join(parts[:4])}-{parts[5]}" for parts in fields], dtype=str)


def location_names(filenames: Iterable[str]) -> np.ndarray:
    """`[n]` str: city and location of each clip, as in the data set's `meta.csv`.

    Raises:
        UserError: a name does not follow the data set's form.

    Example:
        >>> location_names(["audio/bus-lyon-1200-40200-7-a.wav"]).tolist()
        ['lyon-1200']
    """
    return np.array(["-".join(_fields(name)[1:3]) for name in filenames], dtype=str)


def means(segments: np.ndarray, probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean probabilities of each segment's clips.

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


def _fields(filename: str) -> list[str]:
    fields = filename.removesuffix(".wav").split("-")
    if len(fields) != 6:
        raise UserError(f"the clip {filename!r} is not named {NAME_FORM}")
    return [fields[0].removeprefix("audio/"), *fields[1:]]
