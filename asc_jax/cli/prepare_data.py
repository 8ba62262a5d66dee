"""Build the data set that training reads, from TAU's folder or recordings of your own.

usage: asc-jax prepare-data --tau_dir DIR [--data_dir DIR] [options]
       asc-jax prepare-data --layout folders --input_dir DIR [--data_dir DIR] [options]
       asc-jax prepare-data --layout table --input_table FILE.csv [--data_dir DIR] [options]
       asc-jax prepare-data --check [--data_dir DIR]

TAU's folder holds audio/, meta.csv and split_setup/, as TAU Urban Acoustic Scenes 2022 Mobile does
when it is unpacked. Of recordings of your own, of any length and format that libsndfile reads, the
class is the name of the folder they lie in, or stands in a table. They are cut into clips, and all
clips of a recording go to one split. The command can be interrupted at any time and run again.

examples:
  asc-jax prepare-data --tau_dir data/TAU --download
  asc-jax prepare-data --tau_dir data/demo/scenes --data_dir data/demo --splits 100,test
  asc-jax prepare-data --layout folders --input_dir sounds --data_dir data/sounds --folds 5
  asc-jax prepare-data --layout table --input_table sounds.csv --data_dir data/sounds
  asc-jax prepare-data --check --data_dir data/demo

exit status: 0 built, already there, or checked; 2 wrong input, or a damaged data set; 128 + its
number interrupted by a signal (130 by Ctrl-C, 143 by SIGTERM)
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from asc_jax.cli import align, own_flags, reject_words, run
from asc_jax.data.clips import DATASET, OWN_DATASET, dataset_folder
from asc_jax.data.own.inputs import fingerprint as fingerprint_of_inputs
from asc_jax.data.own.plan import Plan, make_plan
from asc_jax.data.resampling import SAMPLE_RATE, STORED_RATES
from asc_jax.data.stamps import file_stamps
from asc_jax.data.tau.download import LISTS_SHA256, download
from asc_jax.data.tau.folder import find_lists, fingerprint, notes, read_recordings
from asc_jax.data.tau.taxonomy import TRAIN_PERCENTS
from asc_jax.errors import UserError, printable
from asc_jax.machine import staging
from asc_jax.machine.progress import Progress

N_ROWS_100PCT = 139_620  # no hash of this list is published: it comes with the data set
READ_AT_ONCE = 64  # clips, by --check
TAU_DATA_DIR, OWN_DATA_DIR = "data/tau22", "data/own"
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
    _reject_other(data_dir, OWN_DATASET, "recordings of your own")
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

        rate = reader.rate_and_length(Path(data_dir) / DATASET)[0]
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


def prepare_own(request: own_flags.Request, data_dir: str, *, overwrite: bool = False) -> None:
    """Build a data set of recordings of one's own unless it is there; print what was done.

    Args:
      request: what is to be built, of what.
      data_dir: folder for the result.
      overwrite: build even if a data set is there.

    Raises:
      UserError: all that is wrong with the input, or `data_dir` holds another data set.
    """
    _reject_other(data_dir, DATASET, "TAU's clips")
    from asc_jax.data.store import own_dataset  # imports TensorFlow, which takes seconds

    source, cut = request.inputs.source, request.cut
    facts = {
        "inputs": {"all": fingerprint_of_inputs(request.inputs)},
        "settings": request.settings,
    }
    there = None if overwrite else own_dataset.built(data_dir)
    if there is not None and not request.problems.lines():
        _require_same(data_dir, facts, there)
        staging.remove_left(data_dir, OWN_DATASET)
        print(f"{data_dir}: already built from {source}; --overwrite builds it again")
        return
    paths = list(dict.fromkeys(stretch.path for stretch in request.inputs.stretches))
    before = file_stamps(paths)
    with Progress(total=len(paths), unit=" files", desc="read") as bar:
        plan = make_plan(request.inputs, cut, request.choices, request.problems, bar.update)
    for note in plan.notes:
        print(f"note: {printable(note)}")
    n_clips = {split: len(clips) for split, clips in plan.splits.items()}
    with Progress(total=sum(n_clips.values()), unit=" clips", desc="prepare-data") as bar:
        folder = own_dataset.build(
            plan, cut, data_dir, facts=facts, before=before, on_clips=bar.update
        )
    print("\n".join(_tables(plan)))
    _summarise(folder, n_clips)


def _require_same(data_dir: str, wanted: dict, there: dict) -> None:
    """Raise a `UserError` if a data set was made of other recordings or in another way."""
    new, old = wanted["settings"], there.get("settings") or {}
    differing = [
        f"--{name} {old.get(name)}, not {new[name]}" for name in new if new[name] != old.get(name)
    ]
    if not differing and wanted["inputs"] != there.get("inputs"):
        differing.append("other recordings, names or labels")
    if differing:
        raise UserError(
            f"{data_dir} holds a data set made with {'; '.join(differing)}: --overwrite replaces "
            "it, or choose another --data_dir"
        )


def _reject_other(data_dir: str, name: str, what: str) -> None:
    """Raise a `UserError` if a folder holds the other kind of data set."""
    if (Path(data_dir) / name).is_dir():
        raise UserError(
            f"{data_dir} holds a data set of {what} ({name}/), and a folder holds one of one kind: "
            "choose another --data_dir"
        )


def _tables(plan: Plan) -> list[str]:
    """Return the clips and recordings of each split, and the clips of each class by split."""
    quiet = plan.n_quiet
    rows = [("split", "clips", "recordings", "too quiet")]
    for split, clips in plan.splits.items():
        n_quiet = sum(n for (of, _), n in quiet.items() if of == split)
        n_recordings = len({clip.recording for clip in clips})
        rows.append((split, f"{len(clips):,}", f"{n_recordings:,}", f"{n_quiet:,}"))
    of_splits = align(rows, {1, 2, 3})
    rows = [("class", "clips", *plan.splits, "too quiet")]
    for number, name in enumerate(plan.labels.classes):
        n = [sum(clip.label == number for clip in clips) for clips in plan.splits.values()]
        n_quiet = sum(n for (_, label), n in quiet.items() if label == name)
        rows.append((name, *(f"{count:,}" for count in (sum(n), *n, n_quiet))))
    return [*of_splits, "", *align(rows, set(range(1, len(rows[0])))), ""]


def check(data_dir: str) -> None:
    """Read every clip of a data set; print how many there are.

    Raises:
      UserError: there is no data set, or it is not as it was built.
    """
    from asc_jax.data.store import reader as stored  # imports TensorFlow, which takes seconds

    folder = dataset_folder(data_dir)
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
    flags.DEFINE_enum(
        "layout", "tau", own_flags.LAYOUTS, "How the recordings and classes lie there"
    )
    flags.DEFINE_string("tau_dir", None, "Folder in TAU's layout (required for --layout tau)")
    flags.DEFINE_string(
        "data_dir", None, "Folder for the built data set (default: data/tau22, of your own "
        f"recordings {OWN_DATA_DIR})"
    )  # fmt: skip
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
    own_flags.define()


def main(argv: Sequence[str]) -> None:
    """Do what the flags say."""
    reject_words(argv[1:])
    options = flags.FLAGS
    is_own = options.layout != "tau"
    data_dir = options.data_dir or (OWN_DATA_DIR if is_own else TAU_DATA_DIR)
    if options.check:
        check(data_dir)
        return
    own_flags.check_layout(options)
    if is_own:
        prepare_own(own_flags.request(options), data_dir, overwrite=options.overwrite)
        return
    if options.tau_dir is None:
        raise UserError("which folder? --tau_dir names one in TAU's layout; --help lists the flags")
    if options.download:
        download(options.tau_dir)
    prepare(
        options.tau_dir,
        data_dir,
        splits=options.splits or None,
        overwrite=options.overwrite,
        sample_rate=int(options.sample_rate),
    )


if __name__ == "__main__":
    run(main, define_flags)
