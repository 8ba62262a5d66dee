"""What the steps of an epoch add up to: its training figures."""

import dataclasses

import numpy as np


@dataclasses.dataclass
class EpochSums:
    """Sums over the steps so far; a checkpoint within an epoch keeps them by these names."""

    loss_sum: float = 0.0
    n_correct: int = 0
    n_clips: int = 0
    n_skipped: int = 0

    def add(self, loss, n_correct, n_clips, skipped) -> None:
        """Steps more, an array `[n_steps]` each; a step's loss is the mean over its clips."""
        self.loss_sum += float(np.sum(loss.astype(np.float64) * n_clips))
        self.n_correct += int(n_correct.sum())
        self.n_clips += int(n_clips.sum())
        self.n_skipped += int(skipped.sum())

    @property
    def loss(self) -> float:
        """Mean over the clips."""
        return self.loss_sum / self.n_clips

    @property
    def accuracy(self) -> float:
        """Share of the clips, in [0, 1]."""
        return self.n_correct / self.n_clips
