"""Confidence intervals and tests of accuracies: cluster bootstrap, paired test, mean and sd.

A clip is no independent observation: clips of one recording are correct or wrong together. What
is resampled are clusters of clips, such as the recordings or the locations that they are from.
Those of each class are resampled among themselves, which keeps every class in every replicate, as
a macro average needs.

Source: Rao and Wu, "Resampling inference with complex survey data", JASA 1988, for drawing one
cluster fewer than there are; Cameron, Gelbach and Miller, "Robust inference with multiway
clustering", JBES 2011, for counting the variance that runs and clusters share only once.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

N_REPLICATES = 10_000
LEVEL = 0.95
MAX_DRAWN = 5_000_000  # clusters at once, which take 80 MB


class Totals(NamedTuple):
    """Numbers of clips by cluster."""

    correct: np.ndarray  # [n_runs, n_clusters], classified correctly by each run
    clips: np.ndarray  # [n_clusters], all
    label: np.ndarray  # [n_clusters], number of their true class
    # [n_classes] of the classes that occur, adding up to 1: their weights in an average. None: all
    # alike, a macro average.
    weights: np.ndarray | None = None


def cluster_totals(correct: np.ndarray, label: np.ndarray, cluster: np.ndarray) -> Totals:
    """Add up the clips of each cluster; clips of two classes are never of one cluster.

    Args:
        correct: `[n_runs, n_clips]` bool, whether a run predicted the clip's class.
        label: `[n_clips]` int, number of the true class.
        cluster: `[n_clips]` int or str, what the clip belongs to.
    """
    _, number = np.unique(cluster, return_inverse=True)
    pairs = np.stack([label, number.reshape(-1)])
    (classes, _), index = np.unique(pairs, axis=1, return_inverse=True)
    index, n = index.reshape(-1), len(classes)
    sums = [np.bincount(index, row, minlength=n) for row in np.atleast_2d(correct)]
    return Totals(np.array(sums), np.bincount(index, minlength=n).astype(float), classes)


def weighed_by_clips(totals: Totals) -> Totals:
    """Return the same with classes that weigh as many clips as they have: the plain accuracy."""
    clips = np.array([clips.sum() for _, clips in _by_class(totals)])
    return totals._replace(weights=clips / clips.sum())


def macro_average(totals: Totals) -> np.ndarray:
    """Return `[n_runs]` float64 in [0, 1], the mean over classes of their accuracies."""
    accuracies = [correct.sum(1) / clips.sum() for correct, clips in _by_class(totals)]
    return np.average(accuracies, axis=0, weights=totals.weights)


def _weights(totals: Totals) -> np.ndarray:
    """Return `[n_classes]`, adding up to 1."""
    n_classes = len(np.unique(totals.label))
    return np.full(n_classes, 1 / n_classes) if totals.weights is None else totals.weights


def _by_class(totals: Totals) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return `correct` and `clips` class by class."""
    masks = [totals.label == label for label in np.unique(totals.label)]
    return [(totals.correct[:, mask], totals.clips[mask]) for mask in masks]


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and standard deviation (n − 1 in the denominator) of at least one number.

    Example:
        >>> mean_sd([0.25, 0.75]), mean_sd([0.5])
        ((0.5, 0.3535533905932738), (0.5, None))
    """
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def confidence_interval(
    totals: Totals,
    n_first: int | None = None,
    *,
    level: float = LEVEL,
    n_replicates: int = N_REPLICATES,
    seed: int = 0,
) -> dict[str, Any] | None:
    """Return the interval of a macro average, or of the difference of two, by cluster bootstrap.

    A replicate draws, in each class, one cluster fewer than there are, which gives a mean its
    unbiased variance, for all runs alike; its distance from the estimate is stretched as Student's
    t is wider than a normal distribution, since few clusters leave the variance itself uncertain.

    With several seeds a replicate also draws seed variance, from the spread over seeds and
    Student's t (three seeds are too few to resample); two systems share one estimate of that
    spread. Predictions that differ with another seed show both in the clusters and in the
    spread: the clusters' part is shrunk by them.

    Args:
        totals: of all runs; those of one system differ in nothing but the seed.
        n_first: the first so many runs are one system, the rest another, and the interval is
            that of the first minus the second; None: all are one system.
        level: confidence, in (0, 1).
        n_replicates, seed: of the resampling.

    Returns:
        `low` and `high` of the percentile interval, as fractions, and `with_training`, whether
        seed variance is part of it; None where a class has a single cluster.
    """
    if min(np.unique(totals.label, return_counts=True)[1]) < 2:
        return None
    systems = np.split(np.arange(len(totals.correct)), [] if n_first is None else [n_first])
    contrast = np.concatenate(
        [sign * np.full(len(s), 1 / len(s)) for s, sign in zip(systems, (1, -1), strict=False)]
    )
    rng = np.random.default_rng(seed)
    estimate = macro_average(totals) @ contrast
    replicates = estimate + _student(totals, contrast, n_replicates, rng) * (
        _resampled(totals, n_replicates, rng) @ contrast - estimate
    )
    n_spare = sum(len(s) - 1 for s in systems)
    if n_spare:
        weight = float(contrast @ contrast)
        training, shared = (weight * v for v in _variances(totals, systems, n_spare))
        clusters = max(np.var(replicates), shared)
        shrunk = math.sqrt(1 - shared / clusters) if clusters else 1.0
        seeds = math.sqrt(training) * rng.standard_t(n_spare, n_replicates)
        replicates = estimate + shrunk * (replicates - estimate) + seeds
    tail = (1 - level) / 2
    # Stretched, a few clusters may leave the range that averages and differences have.
    lowest = 0 if n_first is None else -1
    low, high = np.clip(np.quantile(replicates, (tail, 1 - tail)), lowest, 1)
    return {"low": float(low), "high": float(high), "with_training": n_spare > 0}


def paired_test(
    totals: Totals, n_first: int, *, n_replicates: int = N_REPLICATES, seed: int = 0
) -> float:
    """Return the two-sided p of "the two systems are equal on these clips", by randomisation.

    If they are, their predictions for a cluster might as well be swapped: the observed difference
    of macro averages is compared with those after random swaps. The predictions of a system's
    seeds, of which the first `n_first` are one system's, are averaged first; the test is about
    these trained networks and says nothing about other seeds. p is a multiple of
    1 / (n_replicates + 1). `scipy.stats.permutation_test` estimates it with other random draws.

    Source: Noreen, "Computer-intensive methods for testing hypotheses: an introduction", 1989.
    """
    means = totals.correct[:n_first].mean(0) - totals.correct[n_first:].mean(0)  # [n_clusters]
    index = np.unique(totals.label, return_inverse=True)[1]
    weighted = means * (_weights(totals) / np.bincount(index, totals.clips))[index]
    rng = np.random.default_rng(seed)
    limit = abs(weighted.sum()) - 1e-12  # sums in another order must not separate equal ones
    n_as_far = 0
    for first in range(0, n_replicates, 500):
        n = min(500, n_replicates - first)
        signs = rng.integers(0, 2, (n, len(weighted)), np.int8) * 2.0 - 1
        n_as_far += int(np.sum(np.abs(signs @ weighted) >= limit))
    return (n_as_far + 1) / (n_replicates + 1)


def _resampled(totals: Totals, n_replicates: int, rng: np.random.Generator) -> np.ndarray:
    """Return `[n_replicates, n_runs]` macro averages over resampled clusters."""
    average = np.zeros((n_replicates, len(totals.correct)))
    for weight, (correct, clips) in zip(_weights(totals), _by_class(totals), strict=True):
        k = len(clips)
        n_at_once = max(1, MAX_DRAWN // k)
        for first in range(0, n_replicates, n_at_once):
            n = min(n_at_once, n_replicates - first)
            drawn = rng.integers(0, k, (n, k - 1)) + k * np.arange(n)[:, None]
            # Counted: rng.multinomial takes more than twice as long.
            times = np.bincount(drawn.ravel(), minlength=n * k).reshape(-1, k)
            average[first : first + n] += weight * (times @ correct.T) / (times @ clips)[:, None]
    return average


def _student(
    totals: Totals, contrast: np.ndarray, n_replicates: int, rng: np.random.Generator
) -> np.ndarray:
    """Return `[n_replicates]` factors that turn a normal distribution into Student's t.

    Its degrees of freedom are Satterthwaite's, for a sum over classes of unequal variances.
    """
    _, index, n_clusters = np.unique(np.sort(totals.label), return_inverse=True, return_counts=True)
    variances = np.bincount(index, (contrast @ _influence(totals)) ** 2)
    if not variances.any():
        return np.ones(n_replicates)
    freedom = variances.sum() ** 2 / np.sum(variances**2 / (n_clusters - 1))
    return np.sqrt(freedom / rng.chisquare(freedom, n_replicates))


def _variances(totals: Totals, systems: Sequence[np.ndarray], n_spare: int) -> tuple[float, float]:
    """Return the variance of a macro average over seeds, and its part due to single clusters.

    Both are pooled over the systems, with `n_spare` degrees of freedom.
    """
    return tuple(
        float(sum(np.sum((x[s] - x[s].mean(0)) ** 2) for s in systems)) / n_spare
        for x in (macro_average(totals), _influence(totals))
    )


def _influence(totals: Totals) -> np.ndarray:
    """Return `[n_runs, n_clusters]`, how far each cluster moves a run's macro average."""
    influence = []
    for weight, (correct, clips) in zip(_weights(totals), _by_class(totals), strict=True):
        k, n = len(clips), clips.sum()
        residual = correct - correct.sum(1, keepdims=True) / n * clips
        influence.append(residual * weight / n * math.sqrt(k / (k - 1)))
    return np.concatenate(influence, axis=1)
