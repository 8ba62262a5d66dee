"""Collect the figures of a cross-validation from finished runs: one dict, ready for JSON.

`collect` returns

`folds`, `seeds`, `classes` (names), `systems` (name → label), `stored_dtypes`, `code_versions`,
`over_budget`, `trained_and_tested` (each title → what), `lacking` (fold → classes without a clip
in it), `clusters` (a word for what is resampled, see `clusters`; `recordings` below are these),
`in_several_classes` and `in_several_folds` (numbers of recordings with clips of several), `level`,
`n_replicates`;
`runs`: one dict per run: `system`, `fold`, `seed`, `workdir`, `n_clips` and the figures;
`results`: system →
  `config`, `complexity`;
  `folds`: fold → `n_clips`, `n_recordings`, `seeds`, the figures and `classes` (name → accuracy);
  `over_folds`: the figures, each `mean` and `sd` over folds; `classes`: name → `mean`, `sd` and
  `n_folds`, those that have clips of it;
  `pooled`: see `pools.pooled`, with `folds`, or None;
`comparison`: `first`, `second`, `folds`, `left_out` (folds), `by_fold` (fold → difference),
`over_folds` (`mean`, `sd`), `difference`, `interval`, `p`, `classes` (name → difference), each a
macro average of the first minus that of the second, the last ones pooled; or None;
`missing`: title of each run that is not there → why.

The figures are `macro_accuracy`, `accuracy` and `log_loss`. Those of a fold are means over its
seeds. Accuracies are fractions in [0, 1], log losses nats per clip. None stands for what cannot
be said: the standard deviation of one fold, an interval where a class has a single recording.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from asc_jax.crossval.runs import Run
from asc_jax.errors import UserError
from asc_jax.evaluation.campaign import bootstrap
from asc_jax.evaluation.campaign.pools import Pool, difference, pooled, spread
from asc_jax.evaluation.campaign.runs import Answers, read_all, unfinished

FIGURES = ("macro_accuracy", "accuracy", "log_loss")
Folds = Mapping[str, Mapping[int, Answers]]  # fold → seed → run


def collect(
    runs: Sequence[Run],
    labels: Mapping[str, str],
    *,
    n_replicates: int = bootstrap.N_REPLICATES,
    cluster: str | None = None,
) -> dict[str, Any]:
    """Return the figures of all runs that are done.

    Args:
      runs: of the whole cross-validation.
      labels: system → its label; with two of them, the first is compared with the second.
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
    folds = list(dict.fromkeys(run.fold for run in runs))
    systems: dict[str, dict[str, dict[int, Answers]]] = {}
    for fold in folds:
        for run in done:
            if run.fold == fold:
                of_fold = systems.setdefault(run.system, {}).setdefault(fold, {})
                of_fold[run.seed] = answers[run]
    systems = {name: systems[name] for name in labels if name in systems}
    classes = next(iter(answers.values())).labels.classes
    results = {name: result(systems[name], classes, n_replicates) for name in systems}
    return {
        "folds": folds,
        "seeds": sorted({run.seed for run in runs}),
        "classes": list(classes),
        "clusters": next(iter(answers.values())).clusters,
        "systems": dict(labels),
        **_about(answers, classes),
        "level": bootstrap.LEVEL,
        "n_replicates": n_replicates,
        "runs": [
            {
                "system": run.system,
                "fold": run.fold,
                "seed": run.seed,
                "workdir": str(run.workdir),
                "n_clips": len(answers[run].label),
                **{name: answers[run].summary[name] for name in FIGURES},
            }
            for run in done
        ],
        "results": results,
        "comparison": comparison(systems, folds, classes, n_replicates),
        "missing": {run.title: reason for run, reason in reasons.items() if reason is not None},
    }


def _about(answers: Mapping[Run, Answers], classes: Sequence[str]) -> dict[str, Any]:
    """Return what all runs have in common, and where they differ although they should not."""
    results = {run.title: read.results for run, read in answers.items()}
    folds = {run.fold: read for run, read in answers.items()}
    by_class = [
        pair
        for read in folds.values()
        for pair in zip(read.recording.tolist(), read.label.tolist(), strict=True)
    ]
    by_fold = [(name, fold) for fold, read in folds.items() for name in read.recording.tolist()]
    lacking = {
        fold: [name for number, name in enumerate(classes) if number not in read.label]
        for fold, read in folds.items()
    }
    both = {title: each.get("trained_and_tested") for title, each in results.items()}
    versions = {
        each[key] for each in results.values() for key in ("code_version", "evaluated_with")
    }
    return {
        "stored_dtypes": sorted({each["stored_dtype"] for each in results.values()}),
        "code_versions": sorted(versions),
        "over_budget": [title for title, each in results.items() if each["over_budget"]],
        "trained_and_tested": {title: found for title, found in both.items() if found},
        "lacking": {fold: names for fold, names in lacking.items() if names},
        "in_several_classes": _n_several(by_class),
        "in_several_folds": _n_several(by_fold),
    }


def _n_several(pairs: Sequence[tuple[str, Any]]) -> int:
    """Return how many first entries stand beside several different second ones."""
    return sum(n > 1 for n in Counter(first for first, _ in {*pairs}).values())


def result(folds: Folds, classes: Sequence[str], n_replicates: int) -> dict[str, Any]:
    """Return the figures of a system."""
    by_fold = {fold: _of_fold(seeds, classes) for fold, seeds in folds.items()}
    first = next(iter(next(iter(folds.values())).values())).results
    by_class = {
        name: [row["classes"][name] for row in by_fold.values() if name in row["classes"]]
        for name in classes
    }
    pool = pool_of(folds, list(folds))
    return {
        "config": first["config"],
        "complexity": first["complexity"],
        "folds": by_fold,
        "over_folds": {name: spread([row[name] for row in by_fold.values()]) for name in FIGURES},
        "classes": {
            name: spread(values) | {"n_folds": len(values)} for name, values in by_class.items()
        },
        "pooled": pool and {"folds": list(folds), **pooled(pool, classes, n_replicates)},
    }


def _of_fold(seeds: Mapping[int, Answers], classes: Sequence[str]) -> dict[str, Any]:
    """Return the figures of a fold, means over its seeds."""
    runs = list(seeds.values())
    label, correct = runs[0].label, np.stack([run.correct for run in runs])
    return {
        "n_clips": len(label),
        "n_recordings": len(np.unique(runs[0].recording)),
        "seeds": list(seeds),
        **{name: spread([run.summary[name] for run in runs])["mean"] for name in FIGURES},
        "classes": {
            classes[number]: float(correct[:, label == number].mean())
            for number in np.unique(label)
        },
    }


def pool_of(folds: Folds, chosen: Sequence[str]) -> Pool | None:
    """Pool the clips of the chosen folds; None if there is no fold or no common seed."""
    if not chosen:
        return None
    seeds = [seed for seed in folds[chosen[0]] if all(seed in folds[fold] for fold in chosen)]
    if not seeds:
        return None
    of_clips = [folds[fold][seeds[0]] for fold in chosen]
    weights = np.array([len(each.label) for each in of_clips])
    log_loss = [[folds[fold][seed].summary["log_loss"] for fold in chosen] for seed in seeds]
    columns = of_clips[0].labels.groups
    return Pool(
        seeds,
        label=np.concatenate([each.label for each in of_clips]),
        recording=np.concatenate([each.recording for each in of_clips]),
        groups={
            column: np.concatenate([each.groups[column] for each in of_clips]) for column in columns
        },
        columns=columns,
        predicted=np.stack(
            [np.concatenate([folds[fold][seed].predicted for fold in chosen]) for seed in seeds]
        ),
        log_loss=np.array(log_loss, float) @ weights / weights.sum(),  # None becomes NaN
    )


def comparison(
    systems: Mapping[str, Folds], folds: Sequence[str], classes: Sequence[str], n_replicates: int
) -> dict[str, Any] | None:
    """Return the first system's figures minus the second's, on the folds that both have."""
    if len(systems) < 2:
        return None
    first, second = systems.values()
    common = [fold for fold in folds if fold in first and fold in second]
    by_fold = {
        fold: _macro_mean(first[fold].values()) - _macro_mean(second[fold].values())
        for fold in common
    }
    pools = pool_of(first, common), pool_of(second, common)
    return {
        **dict(zip(("first", "second"), systems, strict=True)),
        "folds": common,
        "left_out": [fold for fold in folds if fold not in common],
        "by_fold": by_fold,
        "over_folds": spread(list(by_fold.values())),
        **difference(*pools, classes, n_replicates),
    }


def _macro_mean(runs) -> float:
    return bootstrap.mean_sd([run.summary["macro_accuracy"] for run in runs])[0]
