"""Make the package that DCASE 2024 Task 1 asks for, or check one.

usage: asc-jax submission --author FILE --out DIR RUN RUN RUN RUN RUN [options]
       asc-jax submission --check DIR|ZIP
       asc-jax submission --zip DIR
       asc-jax submission --example_author_file

Takes one run for each training split, in any order, trained to its end and evaluated as it now
is. Each predicts the evaluation split as it would be deployed; its accuracies and log losses on the
development set come from results.json. Nothing is written unless --check finds no problem.

What is submitted is DIR/task1.zip, of the folder DIR/task1. The technical report is yours to add,
as a pdf beside the other files; --zip then writes the zip anew, if there is no problem.

examples:
  asc-jax submission --example_author_file > author.yaml
  asc-jax submission --author author.yaml --out submission runs/splits/*pct
  asc-jax submission --zip submission
  asc-jax submission --check submission/task1.zip

exit status: 0 no problem found; 2 wrong input, or problems, which are listed
"""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags

from asc_jax.challenge.submission import check as submission_check
from asc_jax.challenge.submission.author import EXAMPLE, read_author
from asc_jax.challenge.submission.package import (
    EvaluatedRun,
    open_runs,
    rank_score,
    write_package,
    write_zip,
)
from asc_jax.cli import prepare_jax, run
from asc_jax.data.clips import Clips, open_for
from asc_jax.data.labels import Labels
from asc_jax.data.resampling import SAMPLE_RATE
from asc_jax.data.tau.folder import EVALUATION_FOLDER
from asc_jax.errors import UserError
from asc_jax.machine.progress import Progress

USAGE = "asc-jax submission --author author.yaml --out submission runs/splits/{5,10,25,50,100}pct"


def define_flags() -> None:
    flags.DEFINE_string("author", None, "Author file; --example_author_file prints one")
    flags.DEFINE_string("out", None, "Folder for the package, DIR/task1/<label>/")
    flags.DEFINE_string(
        "data_dir", None, "Built data set, if it has moved (default: as in training)"
    )
    flags.DEFINE_bool("practice", False, "Take five runs and an evaluation split of other data")
    flags.DEFINE_string("check", None, "Folder or zip of a package to check, and nothing else")
    flags.DEFINE_string("zip", None, "Folder of a package to check and to zip, and nothing else")
    flags.DEFINE_bool("example_author_file", False, "Print an author file, and nothing else")


def main(argv: Sequence[str]) -> None:
    """Print an author file, check or zip a package, or make one."""
    values, workdirs = flags.FLAGS, argv[1:]
    finished = [name for name in ("check", "zip") if values[name].value is not None]
    if finished and workdirs:
        raise UserError(f"--{finished[0]} looks at a finished package alone, not at {workdirs[0]}")
    if values.example_author_file:
        print(EXAMPLE, end="")
    elif len(finished) > 1:
        raise UserError("--check or --zip: --zip checks as well")
    elif values.check is not None:
        check(values.check, practice=values.practice)
    elif values.zip is not None:
        zip_again(values.zip, practice=values.practice)
    elif not workdirs or values.author is None or values.out is None:
        raise UserError(f"which author file, which runs, and where to? For example: {USAGE}")
    else:
        prepare_jax(workdirs[0])
        make(
            values.author, workdirs, values.out, data_dir=values.data_dir, practice=values.practice
        )


def make(
    author: str,
    workdirs: Sequence[str],
    out: str,
    *,
    data_dir: str | None = None,
    practice: bool = False,
) -> None:
    """Make a package; what can be known before the long computation is checked before it.

    Raises:
      UserError: the author file, a run, the data set or the finished package is not as it must be.
    """
    who = read_author(author)
    runs = open_runs(workdirs, practice=practice)
    clips = [_evaluation_clips(run, data_dir) for run in runs]
    if not practice and len(clips[0]) != submission_check.N_EVALUATION_CLIPS:
        raise UserError(
            f"the evaluation split has {len(clips[0]):,} clips here, the challenge's has "
            f"{submission_check.N_EVALUATION_CLIPS:,}; --practice makes a package that cannot be "
            "submitted"
        )
    total = sum(map(len, clips))
    with Progress(total=total, unit=" clips", desc="submission") as bar:
        counted = [_Counted(of_run, bar) for of_run in clips]
        folder = write_package(who, runs, counted, out, practice=practice)
    _print_results(runs)
    print(f"\nwritten to {folder}; no problem found" + ", for practice only" * practice)
    print(f"to be submitted: {Path(out) / submission_check.ZIP}")
    print(
        f"still to add: the technical report, {folder.name}.technical_report.pdf, beside the other "
        f"files; then asc-jax submission --zip {out}"
    )


def check(out: str, *, practice: bool = False) -> None:
    """Check every entry in a folder or a zip; several problems get a line each on stderr.

    Raises:
      UserError: there is none, or one has problems.
    """
    _refuse(out, submission_check.check(Path(out), practice=practice))
    print(f"{out}: no problem found" + ", for practice only" * practice)
    path = Path(out) / submission_check.ZIP
    if not Path(out).is_file() and not path.exists():
        print(f"{path} is not there yet: asc-jax submission --zip {out}")


def zip_again(out: str, *, practice: bool = False) -> None:
    """Check every entry in a folder, and write the zip that is submitted.

    Raises:
      UserError: there is none, one has problems, or the zip cannot be written.
    """
    _refuse(out, submission_check.check_folder(Path(out), practice=practice))
    print(f"{out}: no problem found" + ", for practice only" * practice)
    print(f"written to {write_zip(out)}")


def _refuse(out: str, problems: Sequence[str]) -> None:
    if len(problems) == 1:
        raise UserError(f"{out} cannot be submitted: {problems[0]}")
    if problems:
        print(*problems, sep="\n", file=sys.stderr)
        raise UserError(f"{out} cannot be submitted: {len(problems)} problems, see above")


@dataclasses.dataclass(frozen=True)
class _Counted:
    """Clips that say how many of them have been taken."""

    clips: Clips
    bar: Progress

    @property
    def labels(self) -> Labels | None:
        return self.clips.labels

    def __len__(self) -> int:
        return len(self.clips)

    def in_order(self, batch_size: int) -> Iterator[dict]:
        for batch in self.clips.in_order(batch_size):
            yield batch
            self.bar.update(int(batch["mask"].sum()))


def _print_results(runs: Sequence[EvaluatedRun]) -> None:
    print("\ntraining split    accuracy  log loss   development set, macro average")
    for each in runs:
        accuracy, log_loss = (each.summary[f"macro_{key}"] for key in ("accuracy", "log_loss"))
        print(f"{each.percent:>11} %   {100 * accuracy:>10.2f}{log_loss:>10.3f}")
    print(f"{'mean, the rank':<16}{100 * rank_score(runs):>10.2f}")


def _evaluation_clips(run: EvaluatedRun, data_dir: str | None) -> Clips:
    config = run.experiment.config
    other = config.features.sample_rate != SAMPLE_RATE
    rate = f" --sample_rate {config.features.sample_rate}" if other else ""
    try:
        return open_for(config, "evaluation", data_dir)
    except UserError as error:
        raise UserError(
            f"{error}. To build the evaluation split by itself, unpack {EVALUATION_FOLDER} beside "
            "TAU's folder, run asc-jax prepare-data with --splits evaluation --data_dir "
            f"data/evaluation{rate}, and give --data_dir data/evaluation here"
        ) from error


if __name__ == "__main__":
    run(main, define_flags)
