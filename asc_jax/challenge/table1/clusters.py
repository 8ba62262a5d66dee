"""Right answers counted by cluster: the ten-second segment or the location a clip is from.

One-second clips of one recording are right or wrong together.
"""

from typing import NamedTuple

import numpy as np


class Totals(NamedTuple):
    """Clips by cluster: `right [n_runs, n_clusters]`, `clips` and `scene [n_clusters]`."""

    right: np.ndarray
    clips: np.ndarray
    scene: np.ndarray


def cluster_totals(right: np.ndarray, scene: np.ndarray, cluster: np.ndarray) -> Totals:
    """Add up the clips of each cluster; clips of two scenes are never of one cluster.

    Args:
        right: `[n_runs, n_clips]` bool, whether a run named the clip's scene.
        scene: `[n_clips]` int, the true scene.
        cluster: `[n_clips]` int or str, what the clip belongs to.
    """
    _, number = np.unique(cluster, return_inverse=True)
    pairs = np.stack([scene, number.reshape(-1)])
    (scenes, _), index = np.unique(pairs, axis=1, return_inverse=True)
    index, n = index.reshape(-1), len(scenes)
    sums = [np.bincount(index, row, minlength=n) for row in np.atleast_2d(right)]
    return Totals(np.array(sums), np.bincount(index, minlength=n).astype(float), scenes)


def macro_average(totals: Totals) -> np.ndarray:
    """`[n_runs]` float64 in [0, 1]: the plain mean over scenes of the share of right clips."""
    shares = [t.right.sum(1) / t.clips.sum() for t in by_scene(totals)]
    return np.mean(shares, axis=0)


def by_scene(totals: Totals) -> list[Totals]:
    """The totals of one scene after the other."""
    return [
        Totals(totals.right[:, of_scene], totals.clips[of_scene], totals.scene[of_scene])
        for of_scene in (totals.scene == scene for scene in np.unique(totals.scene))
    ]
