"""Our jobs that build a data set, through the code of `prepare_data`."""

import pathlib
import tempfile
from collections.abc import Mapping

from benchmarks import inputs
from benchmarks.inputs import Job


def build(spec: Mapping) -> Job:
    """Wav folder → data set, test list and all."""
    from asc_jax.cli.prepare_data import prepare
    from asc_jax.data.tau.folder import read_recordings

    names = [split.removeprefix("train_").removesuffix("pct") for split in inputs.SPLITS]
    recordings = read_recordings(spec["tau_dir"], inputs.SPLITS)

    def run():
        prepare(spec["tau_dir"], spec["data_dir"], splits=names, overwrite=True)

    return Job(run, sum(map(len, recordings.values())))


def build_many(spec: Mapping) -> Job:
    """Wavs → data set, of more clips than there are wavs: each is read many times."""
    from asc_jax.data.store import dataset
    from asc_jax.data.tau.folder import read_recordings

    n, split = spec["n_clips"], inputs.SPLITS[-1]
    few = read_recordings(spec["tau_dir"], [split])[split]
    clips = [few[k % len(few)]._replace(filename=f"{k}.wav") for k in range(n)]

    def run():
        with tempfile.TemporaryDirectory(dir=pathlib.Path(spec["data_dir"]).parent) as folder:
            dataset.build({split: clips}, folder)

    return Job(run, n)
