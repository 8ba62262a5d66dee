"""Train teachers, store their logits, and train a student with and without them.

usage: asc-jax distil --student FILE --teacher FILE [--teacher FILE …] [--out DIR] [options]
                      [--config.SECTION.KEY=VALUE …] [--student.KEY=VALUE …] [--teacher.KEY=VALUE …]

Runs lie in DIR/teachers/<config>/seed<k>, DIR/undistilled/seed<k> and DIR/distilled/seed<k>, the
teachers' logits for the training split in DIR/teacher_logits.npz. What is done is skipped, and a
run that was interrupted is continued. All networks have the data set and the splits of the student.
Writes distil.json, .csv, .md, .txt and .html into DIR: every teacher's figures, those of all of
them together, and of the student without and with them, with intervals and a paired test.
--config.… changes a value in every run, --student.… and --teacher.… after that in those alone.
--impulse_responses DIR trains each teacher without and with device impulse responses.

examples:
  asc-jax distil --student students/cp_mobile_half.py --teacher teachers/cp_resnet.py
  asc-jax distil --student demo.py --teacher demo.py --teacher.model.width=64
      --teacher.budget.role=teacher --seeds 0 --out runs/d
  asc-jax distil --student demo.py --teacher demo.py --impulse_responses data/micirp

exit status: 0 done, 1 some runs failed and are missing in the tables, 2 wrong input
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
from absl import flags

from asc_jax.cli import reject_words, run
from asc_jax.cli.campaign_flags import (
    check_overrides,
    define_cluster_flag,
    end_if_failed,
    keep_accelerator_free,
    numbers,
    take_overrides,
)
from asc_jax.cli.config_flag import config_name, config_path, read_config
from asc_jax.complexity.limits import OverBudget
from asc_jax.data.clips import dataset_folder, open_for
from asc_jax.data.teacher_logits import read_sources
from asc_jax.distil import impulse_responses
from asc_jax.distil import report as distil_report
from asc_jax.distil.collect import collect
from asc_jax.distil.runs import STUDENTS, Run, in_file
from asc_jax.errors import UserError
from asc_jax.evaluation.campaign import processes
from asc_jax.evaluation.campaign.runs import unfinished
from asc_jax.experiment import make as make_experiment
from asc_jax.experiment import with_labels
from asc_jax.features.impulse_responses import chosen_values, load_bank
from asc_jax.machine import files

LOGITS = "teacher_logits.npz"
WITH_RESPONSES = "_dir"  # behind the name of a teacher
DEFAULT_VALUES = ("device", "a")  # whose clips get impulse responses, where there are such
ALL_CLIPS = "all"
# What the command sets itself: key → what to do instead.
CHOSEN = {
    "seed": "differs from run to run: choose with --seeds and --teacher_seeds",
    "train.n_seeds": "is not for a run: choose with --seeds; --seeds_together trains them at once",
    "distill.logits": "is made by this command, of the teachers",
}
# Beside these, of the teachers.
SHARED = ("data.dir", "data.clip_s", "data.train_split", "data.test_split")
OVERRIDES: list[str] = []  # the words --config.… of the command line
OF_STUDENT: list[str] = []  # the words --student.…
OF_TEACHERS: list[str] = []  # and the words --teacher.…


class System(NamedTuple):
    """Hold what is trained with several seeds: a teacher, or the student without or with them."""

    name: str  # of its folder
    label: str
    path: str  # of its config file, without impulse responses
    overrides: tuple[str, ...]
    section: Mapping[str, Any] | None  # of its impulse responses

    def read(self, *more: str) -> ml_collections.ConfigDict:
        """Return its config with further overrides."""
        config = read_config(self.path, (*self.overrides, *more))
        if self.section:
            try:
                config = impulse_responses.with_section(config, self.section)
            except UserError as error:
                raise UserError(f"{config_name(self.path)}: {error}") from error
        return with_labels(config)


def define_flags() -> None:
    flags.DEFINE_string("student", None, "Config file of the student (required)")
    flags.DEFINE_multi_string("teacher", [], "Config file of a teacher, once for each (required)")
    flags.DEFINE_string("out", "runs/distil", "Folder for the runs, the logits and the tables")
    flags.DEFINE_string(
        "teachers_dir",
        None,
        "Folder for the teachers' runs, which campaigns can share (default: teachers in --out)",
    )
    flags.DEFINE_list("teacher_seeds", ["0", "1", "2"], "Seeds of each teacher")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of the student")
    flags.DEFINE_string(
        "impulse_responses", None, "Folder of wav files: train each teacher without and with them"
    )
    flags.DEFINE_float("impulse_p", 0.6, "Probability that a clip gets an impulse response")
    flags.DEFINE_string(
        "impulse_clips",
        None,
        "COLUMN=VALUE,…: the clips that get them, or all (default: device=a, or all clips where "
        "the data set has no such device)",
    )
    flags.DEFINE_bool("impulse_student", False, "Train the students with impulse responses too")
    flags.DEFINE_bool("compare", True, "Train the student without teachers too")
    flags.DEFINE_bool(
        "leave_out_failed", False, "Distil from the other teachers where some have failed"
    )
    flags.DEFINE_bool(
        "seeds_together",
        False,
        "Train the seeds of a network in one process; on a GPU, in one program",
    )
    define_cluster_flag()
    flags.DEFINE_bool("collect_only", False, "Run nothing: write the tables of what is done")
    OVERRIDES.extend(take_overrides())
    OF_STUDENT.extend(take_overrides("student"))
    OF_TEACHERS.extend(take_overrides("teacher"))


def main(
    argv: Sequence[str],
    overrides: Sequence[str] = OVERRIDES,
    of_student: Sequence[str] = OF_STUDENT,
    of_teachers: Sequence[str] = OF_TEACHERS,
) -> None:
    """Run what is missing, then write the tables."""
    values = flags.FLAGS
    reject_words(argv[1:])
    if not (values.student and values.teacher):
        raise UserError(
            "which student, and which teachers? For example: asc-jax distil --student "
            "students/cp_mobile_half.py --teacher teachers/cp_resnet.py"
        )
    seeds = numbers("seeds", values.seeds)
    teacher_seeds = numbers("teacher_seeds", values.teacher_seeds)
    out = pathlib.Path(values.out)
    if "," in values.out:
        raise UserError(f"--out {out} has a comma, which separates files of logits: rename it")
    check_words(overrides, of_student, of_teachers)
    keep_accelerator_free()
    section = make_section(values, overrides, of_student)
    students, teachers = make_systems(
        values.student,
        values.teacher,
        [overrides, of_student, of_teachers],
        section,
        student_too=values.impulse_student,
    )
    students = students if values.compare else students[1:]
    n_clips = check_data(students[-1].read().data)
    teachers_dir = pathlib.Path(values.teachers_dir or out / "teachers")
    teacher_runs = plan_all(teachers, teachers_dir, teacher_seeds, n_clips, out)
    student_runs = plan_all(students, out, seeds, n_clips, out)
    failed = {}
    if not values.collect_only:
        check_configs([*teacher_runs, *student_runs], section)
        for each in student_runs:  # before the teachers are trained, which may take days
            unfinished(each)
        write_configs(out, [*teachers, *students])
        failed = carry_out(
            out,
            teacher_runs,
            student_runs,
            together=values.seeds_together,
            leave_out_failed=values.leave_out_failed,
        )
        if all(unfinished(run) for run in (*teacher_runs, *student_runs)):
            end_if_failed(failed)
    write_tables(
        out,
        teacher_runs,
        student_runs,
        {system.name: system.label for system in (*teachers, *students)},
        describe(values, student_runs[-1].config, section),
        values.cluster,
    )
    end_if_failed(failed)


def write_tables(
    out: pathlib.Path,
    teachers: Sequence[Run],
    students: Sequence[Run],
    labels: Mapping[str, str],
    description: Mapping[str, Any],
    cluster: str | None,
) -> None:
    """Write and print the tables of the runs that are done.

    labels: name of each system → its name in the tables. description: see `describe`. cluster:
    group column whose clips go together in intervals.
    """
    used = in_file(out / LOGITS, teachers, students[-1].config.data.train_split)
    collected = collect([*teachers, *students], labels, description, used, cluster=cluster)
    paths = distil_report.write(collected, out)
    print(distil_report.as_words(collected, "txt"))
    print(f"\nwritten to {out}: {' '.join(path.name for path in paths)}")


def check_words(
    overrides: Sequence[str], of_student: Sequence[str], of_teachers: Sequence[str]
) -> None:
    """Raise a UserError for an override of a key that is not for these runs."""
    role = "is not for a student: --teacher.budget.role=teacher is for teachers over the limits"
    for words in (overrides, of_student):
        check_overrides(words, CHOSEN | {"budget.role": role})
    shared = dict.fromkeys(SHARED, "is the student's: give it with --student.… or --config.…")
    check_overrides(of_teachers, CHOSEN | shared)


def describe(
    values, config: ml_collections.ConfigDict, section: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return what the tables say of the campaign; config: of a student."""
    return {
        "student": _label(values.student),
        "teachers": [_label(path) for path in values.teacher],
        "train_split": config.data.train_split,
        "test_split": config.data.test_split,
        "distill": {
            key: config.distill[key] for key in ("weight", "temperature", "reduction", "average")
        },
        "impulse_responses": section and {**section, "students": values.impulse_student},
    }


def make_section(
    values, overrides: Sequence[str], of_student: Sequence[str]
) -> dict[str, Any] | None:
    """Return the section of the impulse responses that the flags ask for; None: they ask for none.

    Raises:
      UserError: the folder or a value is wrong, or a flag needs a folder.
    """
    if not values.impulse_responses:
        if values.impulse_student or values.impulse_clips:
            raise UserError(
                "--impulse_student and --impulse_clips need --impulse_responses DIR, a folder of "
                "wav files"
            )
        return None
    if not 0 < values.impulse_p <= 1:
        raise UserError(f"--impulse_p={values.impulse_p:g}: expected above 0, to 1")
    student = with_labels(read_config(config_path(values.student), _words(overrides, of_student)))
    groups = {column: group["values"] for column, group in student.labels.groups.items()}
    if values.impulse_clips is None:
        column, chosen = DEFAULT_VALUES
        if chosen not in groups.get(column, ()):
            column = chosen = ""
    elif values.impulse_clips == ALL_CLIPS:
        column = chosen = ""
    else:
        column, equals, chosen = values.impulse_clips.partition("=")
        if not (equals and chosen):
            raise UserError(
                f"--impulse_clips={values.impulse_clips}: expected {ALL_CLIPS} or COLUMN=VALUE, "
                "such as device=a"
            )
        try:
            chosen_values(column, chosen, groups)
        except UserError as error:
            raise UserError(f"--impulse_clips={values.impulse_clips}: {error}") from error
    return {
        "name": impulse_responses.NAME,
        "dir": os.path.normpath(values.impulse_responses),
        "p": values.impulse_p,
        "column": column,
        "column_values": chosen,
    }


def make_systems(
    student: str,
    teachers: Sequence[str],
    words: Sequence[Sequence[str]],
    section: Mapping[str, Any] | None,
    *,
    student_too: bool,
) -> tuple[list[System], list[System]]:
    """Return the student without and with teachers, and the teachers.

    Args:
      student, teachers: config files, as for --config.
      words: the overrides of all, of the student and of the teachers.
      section: of the impulse responses; each teacher is then there without and with them.
      student_too: whether the student has them.

    Raises:
      UserError: a config cannot be read, names logits of its own, or has another sample rate than
        the student, or two teachers have one name.
    """
    of_all, of_student, of_teachers = words
    own = _words(of_all, of_student)
    path = config_path(student)
    students = [
        System(name, name, path, own, section if student_too else None) for name in STUDENTS
    ]
    config = students[0].read()
    if config.distill.logits:
        raise UserError(
            f"{config_name(path)} names files of logits itself: leave config.distill.logits out, "
            "the command makes them"
        )
    shared = [f"--config.{key}={_at(config, key)}" for key in SHARED]
    found: list[System] = []
    for teacher in teachers:
        path = config_path(teacher)
        name, own = pathlib.Path(path).stem, _words(of_all, of_teachers, shared)
        found.append(System(name, name, path, own, None))
        if section:
            named = f"{name}{WITH_RESPONSES}"
            found.append(System(named, f"{name} + responses", path, own, section))
    names = [system.name for system in found]
    if twice := [name for name in names if names.count(name) > 1 or name in STUDENTS]:
        raise UserError(
            f"--teacher: {twice[0]} would name two networks: give each config once, and rename "
            "files of one name"
        )
    for system in found:
        rate, expected = system.read().features.sample_rate, config.features.sample_rate
        if rate != expected:
            raise UserError(
                f"{config_name(system.path)} has a sample rate of {rate} Hz and the student "
                f"{expected} Hz: all read one data set, so take a teacher of {expected} Hz, or use "
                "asc-jax logits and config.distill.logits (docs/distillation.md)"
            )
    return students, found


def _words(*words: Sequence[str]) -> tuple[str, ...]:
    """Return overrides as `--config.…`, whatever word stood before their first dot."""
    return tuple(f"--config.{word.partition('.')[2]}" for some in words for word in some)


def _at(config: ml_collections.ConfigDict, key: str) -> Any:
    section, name = key.split(".")
    return config[section][name]


def _label(path: str) -> str:
    return config_name(config_path(path)).removesuffix(".py")


def check_data(data: ml_collections.ConfigDict) -> int:
    """Return the number of training clips.

    data: that section of the config of every run.

    Raises:
      UserError: there is no data set, or a split is trained and tested on.
    """
    from asc_jax.data.store import reader as stored

    train, test = data.train_split.split("+"), data.test_split.split("+")
    if both := [name for name in test if name in train]:
        raise UserError(
            f"{both[0]} is in data.train_split and in data.test_split: the students would learn "
            "from logits of test clips"
        )
    there = stored.sizes(dataset_folder(data.dir))
    if missing := [name for name in (*train, *test) if name not in there]:
        raise UserError(
            f"{data.dir} has no split {missing[0]!r}; it has {', '.join(sorted(there))}: choose "
            "with --config.data.train_split and --config.data.test_split"
        )
    return sum(there[name] for name in train)


def plan(system: System, folder: pathlib.Path, seed: int, n_clips: int, out: pathlib.Path) -> Run:
    """Return one run; `n_clips` is the number of training clips."""
    logits = [f"--config.distill.logits={out / LOGITS}"] * (system.name == STUDENTS[1])
    own = (*logits, f"--config.seed={seed}")
    return Run(
        system.name,
        seed=seed,
        config_name=str(written_config(out, system)) if system.section else system.path,
        overrides=(*system.overrides, *own),
        config=system.read(*own),
        workdir=folder / f"seed{seed}",
        n_clips=n_clips,
    )


def plan_all(
    systems: Sequence[System],
    folder: pathlib.Path,
    seeds: Sequence[int],
    n_clips: int,
    out: pathlib.Path,
) -> list[Run]:
    """Return all runs, seed by seed, so that a comparison, of one seed, is there first."""
    return [
        plan(system, folder / system.name, seed, n_clips, out)
        for seed in seeds
        for system in systems
    ]


def written_config(out: pathlib.Path, system: System) -> pathlib.Path:
    """Return the config file of a system with impulse responses."""
    return out.absolute() / "configs" / f"{system.name}.py"


def write_configs(out: pathlib.Path, systems: Sequence[System]) -> None:
    """Write the config files of the systems with impulse responses."""
    contents = {
        written_config(out, system): impulse_responses.file_with(system.path, system.section)
        for system in systems
        if system.section
    }
    with files.writing_to(out):
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_atomically(path, content)


def check_configs(runs: Sequence[Run], section: Mapping[str, Any] | None) -> None:
    """Raise a `UserError` for what would stop every run of a system: its config or its clips."""
    if section:
        try:
            load_bank(section["dir"], runs[-1].config.features.sample_rate)
        except UserError as error:
            raise UserError(f"--impulse_responses: {error}") from error
    for each in {each.system: each for each in runs}.values():
        try:
            make_experiment(each.config)
            for split in (each.config.data.train_split, each.config.data.test_split):
                open_for(each.config, split)
        except OverBudget as error:
            what_to_do = (
                "pass --teacher.budget.role=teacher, since a teacher may be"
                if each.is_teacher
                else "make it smaller, or pass --student.budget.enforce=False for students outside "
                "the task"
            )
            raise UserError(f"{each.title}: {error.excess}: {what_to_do}") from error
        except UserError as error:
            raise UserError(f"{each.title}: {error}") from error


def carry_out(
    out: pathlib.Path,
    teachers: Sequence[Run],
    students: Sequence[Run],
    *,
    together: bool,
    leave_out_failed: bool,
) -> dict[str, str]:
    """Train the teachers, store their logits, and train the students.

    Returns:
      Title of each run that failed → how it ended.
    """
    cache, path = out / ".jax_cache", out / LOGITS
    distilled = [run for run in students if run.system == STUDENTS[1]]
    if not leave_out_failed:
        require_own_students(path, teachers, distilled)
    failed = processes.carry_out(teachers, cache, together=together)
    used = [run for run in teachers if run.title not in failed]
    if not used or (failed and not leave_out_failed):
        print(
            f"not distilled: {len(failed)} of {len(teachers)} teachers failed. Run the same "
            "command again once that is fixed, or with --leave_out_failed"
        )
        students = [run for run in students if run not in distilled]
    elif reason := store_logits(path, used, distilled, cache):
        failed["the teachers' logits"] = reason
        students = [run for run in students if run not in distilled]
    if students:
        failed |= processes.carry_out(students, cache, together=together)
    return failed


def require_own_students(
    path: pathlib.Path, teachers: Sequence[Run], distilled: Sequence[Run]
) -> None:
    """Raise a `UserError` if students were trained with the logits of other teachers than these.

    Where the file of logits is gone or damaged, it is made anew, and what is compared then are the
    logits that students were trained with.
    """
    begun = [run for run in distilled if (run.workdir / "checkpoints").is_dir()]
    try:
        read_sources(path)
    except UserError:
        return
    found = in_file(path, teachers, teachers[0].config.data.train_split)
    if not begun or (found is not None and {*found} == {*teachers}):
        return
    left_out = found and any(unfinished(run) for run in teachers if run not in found)
    hint = ", or leave out again those that failed, with --leave_out_failed" if left_out else ""
    raise UserError(
        f"{begun[0].workdir} was trained with the logits of other teachers: move "
        f"{begun[0].workdir.parent} away, or choose another --out, with --teachers_dir="
        f"{teachers[0].workdir.parents[1]} to keep the teachers{hint}"
    )


def store_logits(
    path: pathlib.Path, teachers: Sequence[Run], distilled: Sequence[Run], cache: pathlib.Path
) -> str | None:
    """Write the teachers' logits for the training clips, if the file has not just these.

    Returns:
      None, or why they could not be written.

    Raises:
      UserError: students were trained with those of other teachers.
    """
    split = teachers[0].config.data.train_split
    # In an order that does not depend on that of the flags.
    teachers = sorted(teachers, key=lambda run: (run.system, run.seed))

    def made() -> bool:
        return in_file(path, teachers, split) == teachers

    if made():
        return None
    require_own_students(path, teachers, distilled)
    several = f"{len(teachers)} teachers" if len(teachers) > 1 else "1 teacher"
    print(f"the logits of {several} for {split} → {path}", flush=True)
    words = [f"--workdir={run.workdir}" for run in teachers]
    return processes.make(
        path, ("logits", *words, f"--split={split}", f"--out={path}"), cache, made
    )


if __name__ == "__main__":
    run(main, define_flags)
