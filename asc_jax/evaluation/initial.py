"""Start a training from the parameters of another run, where names and shapes agree."""

import fnmatch
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from asc_jax.errors import UserError
from asc_jax.evaluation.evaluate import open_run
from asc_jax.experiment import Experiment
from asc_jax.training import aware
from asc_jax.types import Params


class Start(NamedTuple):
    """Hold where a training begins.

    variables: `{"params", "batch_stats"}`. factors: of each parameter's learning rate, a pytree of
    float32 scalars like `variables["params"]`; 0: frozen. report: lines for a person. ranges: of
    the results, where the training is aware of quantisation (`training.aware`).
    """

    variables: Params
    factors: Params
    report: list[str]
    ranges: Mapping[str, tuple[float, float]] | None = None


def start(experiment: Experiment, clips=None) -> Start:
    """Return the variables that the section `init` of a config asks for.

    Every array of the other run is taken that has the name and the shape of one of this network,
    BatchNorm's statistics included; all others are fresh, such as the head of a network for other
    classes. `init.fresh` and `init.freeze` are patterns of names, separated by commas, as
    `head/*,b6/*`: of parameters that are fresh whatever the other run has, and of those that are
    not trained. A frozen layer's statistics still follow the new clips. The learning rate of what
    was taken is multiplied by `init.rate`. A training that is aware of quantisation begins with the
    network as the other run deploys it, and finds the ranges of its results on `clips`, the
    training's.

    Raises:
      UserError: there is no such run, nothing of it fits, or a pattern fits no parameter.
    """
    init = experiment.config.init
    workdir = pathlib.Path(init.from_run).expanduser()
    is_aware = experiment.config.quantise.aware
    other = open_run(workdir, checkpoint=init.checkpoint, as_trained=not is_aware)
    there = {"params": other.variables["params"], "batch_stats": other.variables["batch_stats"]}
    arrays = _by_name(there)
    variables = jax.tree.map(np.asarray, experiment.variables())
    names = list(_by_name({"params": variables["params"]}))
    fresh = _chosen("fresh", init.fresh, names)
    frozen = _chosen("freeze", init.freeze, names)
    taken, left = [], []

    def choose(path, own):
        name = _name(path)
        found = arrays.get(name)
        layer = _without_collection(name)
        if layer in fresh or (_is_statistic(name) and _layer(layer) in map(_layer, fresh)):
            left.append(f"{name}: fresh, as init.fresh says")
        elif found is None:
            left.append(f"{name}: not there")
        elif found.shape != own.shape:
            left.append(f"{name}: {tuple(found.shape)} there, {tuple(own.shape)} here")
        else:
            taken.append(name)
            return np.asarray(found, own.dtype)
        return own

    variables = jax.tree_util.tree_map_with_path(choose, variables)
    if not taken:
        raise UserError(
            f"nothing of {init.from_run} fits this network: no array has the same name and shape. "
            "Give the section model the values of that run (asc-jax config show RUN)"
        )

    def factor(path, _):
        layer = _without_collection(_name((jax.tree_util.DictKey("params"), *path)))
        if layer in frozen:
            return np.float32(0)
        return np.float32(init.rate if f"params/{layer}" in taken else 1)

    factors = jax.tree_util.tree_map_with_path(factor, variables["params"])
    of_params = [name for name in taken if not _is_statistic(name)]
    report = [
        f"starting from {init.from_run}, step {other.step}: {len(of_params)} of {len(names)} "
        f"parameter arrays taken, {len(frozen)} frozen"
    ]
    report += [f"  {line}" for line in left if not line.startswith("batch_stats/")]
    if not is_aware:
        return Start(variables, factors, report)
    if clips is None:
        raise ValueError("a training that is aware of quantisation needs clips to find ranges on")
    ranges = aware.find_ranges(experiment.config, variables, clips)
    report.append(f"ranges of {len(ranges)} results found, to train as integers compute")
    return Start(variables, factors, report, ranges)


def _by_name(tree: Mapping) -> dict[str, np.ndarray]:
    """`{"params": {"head": {"kernel": …}}}` → `{"params/head/kernel": …}`."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _name(path) -> str:
    return "/".join(str(part.key) for part in path)


def _without_collection(name: str) -> str:
    return name.partition("/")[2]


def _layer(name: str) -> str:
    return name.rpartition("/")[0]


def _is_statistic(name: str) -> bool:
    return name.startswith("batch_stats/")


def _chosen(key: str, patterns: str, names: list[str]) -> set[str]:
    """Return the names of parameters that fit one of the patterns."""
    layers = [_without_collection(name) for name in names]
    chosen: set[str] = set()
    for pattern in filter(None, (part.strip() for part in patterns.split(","))):
        found = fnmatch.filter(layers, pattern)
        if not found:
            raise UserError(
                f"config.init.{key}: no parameter is named {pattern!r}; names are like "
                f"{layers[0]}, {layers[-1]}"
            )
        chosen.update(found)
    return chosen
