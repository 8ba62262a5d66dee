"""Collect the figures of a distillation campaign from finished runs: one dict, ready for JSON.

`collect` returns

`student`, `teachers` (names), `train_split`, `test_split`, `distill` (the values of that section
but the files), `impulse_responses` (the section, with `students`, whether they have it too; or
None), `seeds`, `teacher_seeds`, `classes`, `members` (column → set → its values), `systems` (name →
label), `clusters` (a word for what is resampled, see `clusters`; `recordings` below are these),
`stored_dtypes`, `code_versions`, `over_budget`, `trained_and_tested` (title → what),
`one_class` (title → the class that a network predicts for every clip), `level`, `n_replicates`,
`teachers_used` and `teachers_left_out` (titles);
`runs`: one dict per run: `system`, `seed`, `workdir`, `n_clips` and the figures;
`results`: system → `config`, `complexity`, `over_seeds` (the figures, each `mean` and `sd`), `sets`
(see `pools.by_set`) and what `pools.pooled` returns, over all seeds;
`ensemble`: what the students are told, as predictions of the test split: `sets` and what
`pools.pooled` returns; or None;
`comparison`: `seeds`, `left_out` (seeds), `by_seed` (seed → difference), `over_seeds` (`mean`,
`sd`), `difference`, `interval`, `p`, `classes` (name → difference), `groups` (column → value →
difference) and `sets` (column → set → `difference`, `interval`, `p`), each a macro average of the
distilled student minus that of the other, of the seeds that both have; or None;
`missing`: title of each run that is not there → why.

The figures are `macro_accuracy`, `accuracy` and `log_loss`. Accuracies are fractions in [0, 1],
log losses nats per clip. None stands for what cannot be said.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from asc_jax.distil.runs import STUDENTS, Run
from asc_jax.errors import UserError
from asc_jax.evaluation.campaign import bootstrap, pools
from asc_jax.evaluation.campaign.runs import Answers, read_all, read_probs, unfinished
from asc_jax.training.distillation import log_targets

FIGURES = ("macro_accuracy", "accuracy", "log_loss")
SMALLEST = np.finfo(np.float64).tiny  # of probabilities, whose logarithms are taken


def collect(
    runs: Sequence[Run],
    labels: Mapping[str, str],
    about: Mapping[str, Any],
    used: Sequence[Run] | None = None,
    *,
    n_replicates: int = bootstrap.N_REPLICATES,
    cluster: str | None = None,
) -> dict[str, Any]:
    """Return the figures of all runs that are done.

    Args:
      runs: of the whole campaign.
      labels: system → its label: the teachers, then the students.
      about: `student`, `teachers`, `train_split`, `test_split`, `distill` and `impulse_responses`.
      used: the teachers that the students learn from; None: not known, all that are done.
      n_replicates: of each interval and test.
      cluster: group column whose values are resampled; None: recordings or moments.

    Raises:
      UserError: no run is done, runs were tested on different clips, or a workdir belongs to a
        run with another config.
    """
    reasons = {run: unfinished(run) for run in runs}
    done = [run for run, reason in reasons.items() if reason is None]
    if not done:
        run, reason = next(iter(reasons.items()))
        raise UserError(f"no figures: none of the {len(runs)} runs is done: {run.title}: {reason}")
    answers = read_all(done, cluster)
    names = answers[done[0]].labels
    classes = names.classes
    teachers = [run for run in runs if run.is_teacher]
    used = [run for run in teachers if run in answers and (used is None or run in used)]
    by_system: dict[str, dict[int, Answers]] = {name: {} for name in labels}
    for run in done:
        by_system[run.system][run.seed] = answers[run]
    found = {name: seeds for name, seeds in by_system.items() if seeds}
    return {
        **about,
        "seeds": sorted({run.seed for run in runs if not run.is_teacher}),
        "teacher_seeds": sorted({run.seed for run in teachers}),
        "classes": list(classes),
        "clusters": answers[done[0]].clusters,
        "members": {
            column: {name: list(values) for name, values in group.sets.items()}
            for column, group in names.groups.items()
        },
        "systems": dict(labels),
        **_about({run.title: answers[run] for run in done}, classes),
        "over_budget": [  # a teacher may be
            run.title for run in done if not run.is_teacher and answers[run].results["over_budget"]
        ],
        "level": bootstrap.LEVEL,
        "n_replicates": n_replicates,
        "teachers_used": [run.title for run in used],
        "teachers_left_out": [run.title for run in teachers if run not in used],
        "runs": [
            {
                "system": run.system,
                "seed": run.seed,
                "workdir": str(run.workdir),
                "n_clips": len(answers[run].label),
                **{name: answers[run].summary[name] for name in FIGURES},
            }
            for run in done
        ],
        "results": {name: result(seeds, classes, n_replicates) for name, seeds in found.items()},
        "ensemble": ensemble(
            {run: answers[run] for run in used}, about["distill"], classes, n_replicates
        ),
        "comparison": comparison(found, classes, n_replicates),
        "missing": {run.title: reason for run, reason in reasons.items() if reason is not None},
    }


def _about(answers: Mapping[str, Answers], classes: Sequence[str]) -> dict[str, Any]:
    """Return what all runs have in common, and what is wrong with some."""
    results = {title: read.results for title, read in answers.items()}
    versions = {
        each[key] for each in results.values() for key in ("code_version", "evaluated_with")
    }
    predicted = {title: np.unique(read.predicted) for title, read in answers.items()}
    both = {title: each.get("trained_and_tested") for title, each in results.items()}
    return {
        "stored_dtypes": sorted({each["stored_dtype"] for each in results.values()}),
        "code_versions": sorted(versions),
        "trained_and_tested": {title: found for title, found in both.items() if found},
        "one_class": {
            title: classes[numbers[0]] for title, numbers in predicted.items() if len(numbers) == 1
        },
    }


def result(
    seeds: Mapping[int, Answers], classes: Sequence[str], n_replicates: int
) -> dict[str, Any]:
    """Return the figures of a system, of all its seeds that are done."""
    first = next(iter(seeds.values())).results
    pool = pools.pool_of_seeds(seeds)
    return {
        "config": first["config"],
        "complexity": first["complexity"],
        "over_seeds": {
            name: pools.spread([run.summary[name] for run in seeds.values()]) for name in FIGURES
        },
        **pools.pooled(pool, classes, n_replicates),
        "sets": pools.by_set(pool),
    }


def ensemble(
    answers: Mapping[Run, Answers],
    distill: Mapping[str, Any],
    classes: Sequence[str],
    n_replicates: int,
) -> dict[str, Any] | None:
    """Return the figures of all teachers together, as the students hear them.

    Their probabilities are those that the students would be told of the test clips, which they
    never are: of the logits of all teachers, averaged as `config.distill` says. The temperature
    counts where probabilities are averaged; the log loss is that at a temperature of 1.
    """
    if not answers:
        return None
    first = next(iter(answers.values()))
    probs = [read_probs(run.workdir, read) for run, read in answers.items()]
    logits = np.log(np.maximum(np.stack(probs, axis=1), SMALLEST))  # [n, n_teachers, n_classes]
    told = log_targets(logits, distill["temperature"], distill["average"])
    at_one = np.asarray(log_targets(logits, 1.0, distill["average"]))
    log_loss = -at_one[np.arange(len(first.label)), first.label].mean()
    pool = pools.pool_of_seeds({0: first})._replace(
        predicted=np.asarray(told).argmax(-1)[None], log_loss=np.array([log_loss])
    )
    return pools.pooled(pool, classes, n_replicates) | {"sets": pools.by_set(pool)}


def comparison(
    systems: Mapping[str, Mapping[int, Answers]], classes: Sequence[str], n_replicates: int
) -> dict[str, Any] | None:
    """Return the distilled student's figures minus the other's, of the seeds that both have."""
    if not {*STUDENTS} <= systems.keys():
        return None
    without, distilled = (systems[name] for name in STUDENTS)
    common = [seed for seed in distilled if seed in without]
    if not common:
        return None
    by_seed = {
        str(seed): distilled[seed].summary["macro_accuracy"]
        - without[seed].summary["macro_accuracy"]
        for seed in common
    }
    pair = [pools.pool_of_seeds({seed: of[seed] for seed in common}) for of in (distilled, without)]
    first, second = pair
    groups = [pools.by_value(pool) for pool in pair]
    return {
        "seeds": common,
        "left_out": sorted({*distilled, *without} - {*common}),
        "by_seed": by_seed,
        "over_seeds": pools.spread(list(by_seed.values())),
        **pools.difference(first, second, classes, n_replicates),
        "groups": {
            column: {
                value: figures["macro_accuracy"] - groups[1][column][value]["macro_accuracy"]
                for value, figures in values.items()
            }
            for column, values in groups[0].items()
        },
        "sets": {
            column: {
                name: _without_classes(
                    pools.difference(first.where(mask), second.where(mask), classes, n_replicates)
                )
                for name, mask in pools.masks_of_sets(first, column).items()
            }
            for column, group in first.columns.items()
            if group.sets
        },
    }


def _without_classes(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if name != "classes"}
