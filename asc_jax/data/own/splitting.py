"""Recordings → splits: whole recordings, and of every class as many clips as asked for.

Source: the greedy rule of scikit-learn's StratifiedGroupKFold, for splits of any sizes.
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np


def assign(
    clips: Mapping[str, Mapping[str, int]], fractions: Mapping[str, float], seed: int
) -> dict[str, str]:
    """Choose a split for each recording.

    The recordings that are hardest to place, with many clips of one class, are placed first, each
    where the shares of its classes become most even. A class that has just enough recordings left
    gets one into each split that has none of it.

    Args:
      clips: recording → class → number of clips, each at least 1.
      fractions: split → its share of the clips, above 0, 1 together.
      seed: decides between recordings that are alike, ≥ 0.

    Returns:
      Recording → split. It depends on the names, not on the order of the recordings.

    Example:
      >>> clips = {name: {"dog": 2} for name in "abcd"}
      >>> sorted(assign(clips, {"train": 0.5, "test": 0.5}, seed=0).values())
      ['test', 'test', 'train', 'train']
    """
    classes = sorted({name for counts in clips.values() for name in counts})
    names, splits = sorted(clips), list(fractions)
    table = np.zeros((len(names), len(classes)))  # [recording, class] clips
    column = {name: number for number, name in enumerate(classes)}
    for row, name in enumerate(names):
        for label, n in clips[name].items():
            table[row, column[label]] = n
    share = np.array([fractions[split] for split in splits])[:, None]  # [split, 1]
    scaled = table / np.maximum(table.sum(0), 1)
    order = np.random.Generator(np.random.PCG64(seed)).random(len(names)).argsort(kind="stable")
    order = order[np.argsort(-table[order].std(axis=1), kind="stable")]
    filled = np.zeros((len(splits), len(classes)))  # [split, class] shares of a class's clips
    left = (table > 0).sum(0)  # [class] recordings not placed yet
    result = {}
    for row in order:
        own = np.flatnonzero(table[row])
        lacks = filled[:, own] == 0  # [split, class]
        urgent = lacks & (left[own] <= lacks.sum(0))
        n_urgent = urgent.sum(1)
        # [split it is put into, split, class]
        trial = np.repeat(filled[None, :, own], len(splits), axis=0)
        trial[np.arange(len(splits)), np.arange(len(splits))] += scaled[row, own]
        uneven = (trial / share).std(axis=1).mean(axis=1).round(9)
        best = np.lexsort((filled.sum(1) / share[:, 0], uneven, -n_urgent))[0]
        filled[best, own] += scaled[row, own]
        left[own] -= 1
        result[names[row]] = splits[best]
    return result


def lacking(
    clips: Mapping[str, Mapping[str, int]], split_of: Mapping[str, str]
) -> dict[str, list[str]]:
    """Return class → splits that have no recording of it, where there are such splits.

    Args:
      clips: recording → class → number of clips.
      split_of: recording → split.
    """
    there = Counter((label, split_of[name]) for name, counts in clips.items() for label in counts)
    classes, splits = ({key[i] for key in there} for i in (0, 1))
    missing = {
        label: sorted(split for split in splits if not there[label, split])
        for label in sorted(classes)
    }
    return {label: found for label, found in missing.items() if found}
