"""Build the data set that training reads, from a folder in TAU's layout.

usage: asc-jax prepare-data --tau_dir DIR [--data_dir DIR] [options]
       asc-jax prepare-data --check [--data_dir DIR]

The folder holds audio/, meta.csv and split_setup/, as TAU Urban Acoustic Scenes 2022 Mobile does
when it is unpacked. The command can be interrupted at any time and run again.

examples:
  asc-jax prepare-data --tau_dir data/TAU --download
  asc-jax prepare-data --tau_dir data/demo/scenes --data_dir data/demo --splits 100,test
  asc-jax prepare-data --check --data_dir data/demo

exit status: 0 built, already there, or checked; 2 wrong input, or a damaged data set; 128 + its
number interrupted by a signal (130 by Ctrl-C, 143 by SIGTERM)
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from asc_jax.cli import reject_words, run
from asc_jax.data.clips import DATASET
from asc_jax.data.tau.download import LISTS_SHA256, download
from asc_jax.data.tau.folder import find_lists, fingerprint, notes, read_recordings
from asc_jax.data.tau.taxonomy import TRAIN_PERCENTS
from asc_jax.data.tau.wav import SAMPLE_RATE, STORED_RATES
from asc_jax.errors import UserError, printable
from asc_jax.machine import staging
from asc_jax.machine.progress import Progress

N_ROWS_100PCT = 139_620  # no hash of this list is published: it comes with the data set
READ_AT_ONCE = 64  # clips, by --check
SPLITS = {
    **{str(percent): f"train_{percent}pct" for percent in TRAIN_PERCENTS},
    "test": "test",
    "evaluation": "evaluation",
}


def prepare(
    tau_dir: str,
    data_dir: str,
    *,
    splits: Sequence[str] | None = None,
    overwrite: bool = False,
    sample_rate: int = SAMPLE_RATE,
) -> None:
    """Build the data set in `data_dir` unless it is there; print what was done.

    Args:
      tau_dir: folder in TAU's layout.
      data_dir: folder for the result.
      splits: names as in `SPLITS`; None takes those the folder has lists for.
      overwrite: build even if a data set is there.
      sample_rate: that clips are stored at, one of `STORED_RATES`, Hz.

    Raises:
      UserError: the folder is not as expected, or `data_dir` holds a data set that was made
        from other inputs.
    """
    names = None if splits is None else [_split_name(split) for split in splits]
    recordings = read_recordings(tau_dir, names)
    official = _official(tau_dir, recordings)
    for note in notes(recordings, official):
        print(f"note: {printable(note)}")
    from asc_jax.data.store import dataset  # imports TensorFlow, which takes seconds

    wanted = {split: fingerprint(clips) for split, clips in recordings.items()}
    built = None if overwrite else dataset.built_inputs(data_dir)
    if built is not None:
        from asc_jax.data.store import reader

        rate = reader.sample_rate(Path(data_dir) / DATASET)
        if rate != sample_rate:
            raise UserError(
                f"{data_dir} holds clips at {rate} Hz, not {sample_rate}: --overwrite replaces "
                "them, or choose another --data_dir"
            )
        if wanted.items() <= built.items():
            staging.remove_left(data_dir, DATASET)
            print(f"{data_dir}: already built from {tau_dir}; --overwrite builds it again")
            return
        differing = [split for split in wanted if wanted[split] != built.get(split)]
        if not any(split in built for split in differing):
            everything = [name for name, split in SPLITS.items() if split in {*built, *wanted}]
            raise UserError(
                f"{data_dir} lacks {', '.join(differing)}: build all splits together, with "
                f"--splits {','.join(everything)} --overwrite"
            )
        raise UserError(
            f"{data_dir} holds a data set made from other inputs (differing or missing "
            f"there: {', '.join(differing)}): --overwrite replaces it, or choose another "
            "--data_dir"
        )
    n_clips = sum(map(len, recordings.values()))
    with Progress(total=n_clips, unit=" clips", desc="prepare-data") as bar:
        folder = dataset.build(recordings, data_dir, bar.update, official, sample_rate)
    _summarise(folder, {split: len(clips) for split, clips in recordings.items()})


def check(data_dir: str) -> None:
    """Read every clip of a data set; print how many there are.

    Raises:
      UserError: there is no data set, or it is not as it was built.
    """
    from asc_jax.data.store import reader as stored  # imports TensorFlow, which takes seconds

    folder = Path(data_dir) / DATASET
    n_clips = stored.sizes(folder)
    with Progress(total=sum(n_clips.values()), unit=" clips", desc="check") as bar:
        for split, n in n_clips.items():
            reader = stored.open_reader(folder, split)
            for start in range(0, n, READ_AT_ONCE):
                indices = np.arange(start, min(start + READ_AT_ONCE, n))
                reader.read(indices)
                bar.update(len(indices))
    print(f"{data_dir}: {sum(n_clips.values()):,} clips, all as they were built")


def _split_name(split: str) -> str:
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r} in --splits; known are {', '.join(SPLITS)}")
    return SPLITS[split]


def _official(tau_dir: str, splits: Sequence[str]) -> list[str]:
    """Return the splits whose lists are the published ones; print which are not."""
    lists = find_lists(tau_dir)
    other = [split for split in splits if not _is_published(lists[split])]
    own = [lists[split].name for split in other if split != "evaluation"]
    if own:
        print(
            f"note: {', '.join(own)} in {tau_dir}/split_setup: not the official lists of "
            "DCASE 2024 Task 1, so results cannot be compared with published ones"
        )
    return [split for split in splits if split not in other]


def _is_published(path: Path) -> bool:
    """Return True for the published list, known by its hash; the 100 % list, by its length."""
    if path.name in LISTS_SHA256:
        return _sha256(path) == LISTS_SHA256[path.name]
    return path.read_bytes().strip().count(b"\n") == N_ROWS_100PCT


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes().replace(b"\r", b"")).hexdigest()


def _summarise(folder: Path, n_clips: dict[str, int]) -> None:
    """Print clips and bytes of every split."""
    total = 0
    for split, n in n_clips.items():
        n_bytes = sum(path.stat().st_size for path in folder.glob(f"*-{split}.*"))
        total += n_bytes
        print(f"{split:<14}{n:>9,} clips {n_bytes / 2**20:>10,.1f} MiB")
    print(f"{'total':<14}{sum(n_clips.values()):>9,} clips {total / 2**20:>10,.1f} MiB")
    print(f"in {folder}")


def define_flags() -> None:
    flags.DEFINE_string("tau_dir", None, "Folder in TAU's layout (required, except by --check)")
    flags.DEFINE_string("data_dir", "data/tau22", "Folder for the built data set")
    flags.DEFINE_bool("download", False, "First fetch what --tau_dir lacks (30.5 GB unpacked)")
    flags.DEFINE_list(
        "splits", [], f"Splits to build, some of {','.join(SPLITS)} (default: all with a list)"
    )
    flags.DEFINE_enum(
        "sample_rate",
        str(SAMPLE_RATE),
        list(map(str, STORED_RATES)),
        "Rate in Hz to store clips at, config.features.sample_rate of the runs that read them",
    )
    flags.DEFINE_bool("overwrite", False, "Replace a data set that is there")
    flags.DEFINE_bool("check", False, "Only read a data set and check it, clip by clip")


def main(argv: Sequence[str]) -> None:
    """Do what the flags say."""
    reject_words(argv[1:])
    options = flags.FLAGS
    if options.check:
        check(options.data_dir)
        return
    if options.tau_dir is None:
        raise UserError("which folder? --tau_dir names one in TAU's layout; --help lists the flags")
    if options.download:
        download(options.tau_dir)
    prepare(
        options.tau_dir,
        options.data_dir,
        splits=options.splits or None,
        overwrite=options.overwrite,
        sample_rate=int(options.sample_rate),
    )


if __name__ == "__main__":
    run(main, define_flags)
