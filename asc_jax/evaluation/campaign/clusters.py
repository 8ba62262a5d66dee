"""Which clips go together in intervals and tests: those of one recording, moment or group."""

from collections.abc import Mapping, Sequence

import numpy as np

from asc_jax.data.labels import UNKNOWN_NAME
from asc_jax.data.tau import clip_names
from asc_jax.errors import UserError

RECORDINGS, MOMENTS = "recordings", "moments"


def clusters_of(
    filenames: Sequence[str],
    recordings: Sequence[str],
    groups: Mapping[str, Sequence[str]],
    column: str | None = None,
) -> tuple[np.ndarray, str]:
    """Return the cluster of each clip, and a word for such clusters.

    The clips of one recording are correct or wrong together, and so are those of one moment that
    several devices recorded, as TAU's names tell; a microphone, a room or a day may reach further,
    which a group column says. Clips whose value of it is not known go by their recordings.

    Args:
      filenames, recordings: `[n]` str, as in `truth.csv`.
      groups: column → `[n]` str.
      column: group column to go by; None: moments where the clips' names tell them, recordings
        elsewhere.

    Returns:
      `[n]` str and "recordings", "moments" or "values of <column>".

    Raises:
      UserError: there is no such column.
    """
    names = clip_names.moment_names(filenames, recordings)
    if column is None:
        return names, RECORDINGS if np.array_equal(names, recordings) else MOMENTS
    if column not in groups:
        known = ", ".join(groups) or "none"
        raise UserError(f"--cluster {column}: no such group column; the data set has {known}")
    values = np.asarray(groups[column])
    of_recording = np.char.add("recording ", names.astype(str))
    known = np.char.add("value ", values.astype(str))
    return np.where(values == UNKNOWN_NAME, of_recording, known), f"values of {column}"
