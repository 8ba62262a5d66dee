"""tensorflow-datasets builder: any recordings and classes → clips of one rate, in any order.

Only `asc_jax.cli.prepare_data` needs this module; training and evaluation read the result
through `data.clips`.
"""

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds  # imports TensorFlow only when it needs it

from asc_jax.data.labels import id_column
from asc_jax.data.own.cutting import Cut, waveforms
from asc_jax.data.own.plan import Clip, Plan
from asc_jax.data.stamps import Stamps, file_stamps, require_unchanged
from asc_jax.data.store.shards import (
    ShardBuilder,
    audio_feature,
    build_in_place,
    built_facts,
    example,
)

SHARD_BYTES = 2**28  # of the sound in a whole shard
NAMES_BYTES = 600  # of the names of a stored clip, rounded up


class OwnClips(ShardBuilder):
    """Clips of recordings and classes of one's own.

    Args:
      plan: the clips of each split.
      cut: how they are cut.
      facts: what goes into `metadata.json` besides the labels and the length of a clip.
      **kwargs: `on_clips`, called with the number of clips written since its last call, and tfds'
        own, e.g. `data_dir`.

    An example holds `audio` float32 [n_samples], `label`, `<column>_id` of each group column (-1
    where unknown), `recording` and `filename`.
    """

    name = "clips"

    def __init__(self, *, plan: Plan, cut: Cut, facts: Mapping[str, Any], **kwargs):
        self._plan, self._cut, self._facts = plan, cut, facts
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        groups = {id_column(name): tfds.features.Scalar(np.int32) for name in self._plan.columns}
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"Clips of {self._cut.clip_s:g} s at {self._cut.sample_rate} Hz.",
            features=tfds.features.FeaturesDict(
                {
                    "audio": audio_feature(self._cut.n_samples),
                    "label": tfds.features.ClassLabel(names=self._plan.labels.classes),
                    **groups,
                    "recording": tfds.features.Text(),
                    "filename": tfds.features.Text(),
                }
            ),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def splits(self) -> dict[str, list[Clip]]:
        """Return split name → its clips."""
        return self._plan.splits

    def facts(self) -> dict[str, Any]:
        """Return the names of classes and groups, and what the clips are made from."""
        return {
            "labels": self._plan.labels.to_dict(),
            "clip_s": self._cut.clip_s,
            "official": [],
            **self._facts,
        }

    def shard_clips(self) -> int:
        """Return the number of clips of a whole shard."""
        return max(1, SHARD_BYTES // (4 * self._cut.n_samples))

    def waveforms(self, clips: Sequence[Clip]) -> Iterator[np.ndarray]:
        """Yield `[n_samples]` float32 of each clip."""
        return waveforms([clip.window for clip in clips], self._cut)

    def serialise(self, clip: Clip, waveform: np.ndarray) -> bytes:
        """Return the record of a clip."""
        ids = map(id_column, self._plan.columns)
        return example(
            waveform,
            {
                "label": clip.label,
                **dict(zip(ids, clip.group_ids, strict=True)),
                "recording": clip.recording,
                "filename": clip.filename,
            },
        )


def dataset_folder(data_dir: str | os.PathLike) -> Path:
    """Return the folder in `data_dir` of the files of this version of the data set."""
    return Path(data_dir) / OwnClips.name / str(OwnClips.VERSION)


def built(data_dir: str | os.PathLike) -> dict[str, Any] | None:
    """Return `metadata.json` of a data set, or None if it is not as it was built.

    Raises:
      UserError: the system does not let it be read, so that it may be as it was.
    """
    return built_facts(dataset_folder(data_dir))


def build(
    plan: Plan,
    cut: Cut,
    data_dir: str | os.PathLike,
    *,
    facts: Mapping[str, Any],
    before: Stamps,
    on_clips: Callable[[int], object] = lambda n_clips: None,
) -> Path:
    """Build the data set beside the one that may be there, then replace that.

    A build that fails or is stopped leaves what was there before.

    Args:
      plan: the clips of each split.
      cut: how they are cut.
      data_dir: folder that is to hold the data set; made if needed.
      facts: what goes into `metadata.json` besides what the plan says.
      before: of the files, from before the plan was made.
      on_clips: called with the number of clips written since its last call.

    Returns:
      The folder of the data set's files.

    Raises:
      UserError: a file changed meanwhile, `data_dir` cannot be written, has too little room, or
        is being built by another process.
    """
    n_clips = sum(map(len, plan.splits.values()))
    return build_in_place(
        functools.partial(OwnClips, plan=plan, cut=cut, facts=facts, on_clips=on_clips),
        data_dir,
        OwnClips.name,
        n_bytes=n_clips * (4 * cut.n_samples + NAMES_BYTES),
        sample_rate=cut.sample_rate,
        n_samples=cut.n_samples,
        require_unchanged=lambda: require_unchanged(before, file_stamps(before)),
    )
