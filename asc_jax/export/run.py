"""A finished run → files that run elsewhere, written only after they have been compared.

ONNX, LiteRT and StableHLO files are run in their own runtime. The C header, which holds data only,
is parsed and computed in JAX. The results are compared with those of the same parameters in JAX,
and these with what `eval.py` evaluates, which is rounded before the BatchNorms are folded.
"""

import contextlib
import errno
import functools
import os
import pathlib
from collections.abc import Mapping

import jax
import numpy as np

from asc_jax import experiment
from asc_jax.data.tau.taxonomy import SCENES
from asc_jax.errors import UserError
from asc_jax.evaluation import evaluate
from asc_jax.experiment import Experiment
from asc_jax.export import check as export_check
from asc_jax.export import stablehlo
from asc_jax.export.c import header as c_header
from asc_jax.export.c import reader as c_reader
from asc_jax.export.graph import ARTEFACTS, Deployment
from asc_jax.export.litert import build as litert
from asc_jax.export.onnx import build as onnx_graph
from asc_jax.machine import version
from asc_jax.models import precision
from asc_jax.models.folding import fold_batch_norm
from asc_jax.models.from_config import attributes
from asc_jax.training.workdir import run_config
from asc_jax.types import Params

# kind → (build, load, extension)
KINDS = {
    "stablehlo": (stablehlo.build, stablehlo.load, stablehlo.EXTENSION),
    "onnx": (onnx_graph.build, onnx_graph.load, onnx_graph.EXTENSION),
    "litert": (litert.build, litert.load, litert.EXTENSION),
    "c": (c_header.build, c_reader.load, c_header.EXTENSION),
}
WEIGHTS = ("float16", "float32")


def export_run(
    workdir: str | os.PathLike,
    kind: str,
    *,
    out_dir: str | os.PathLike | None = None,
    checkpoint: str = "last",
    weights: str = "float16",
    clips=None,
) -> list[str]:
    """Write the trained network of a workdir for another runtime.

    Args:
      workdir: of a run.
      kind: "stablehlo", "onnx", "litert" or "c".
      out_dir: where to; None: `export` inside the workdir (or its `best_checkpoint`).
      checkpoint: "last" or "best".
      weights: dtype in the file, "float16" or "float32"; all is computed in float32.
      clips: to compare on, as `data.pipeline` opens them; 1,024 of them at most, and noise
        makes up for what is missing to 256. None: noise only.

    Returns:
      Lines for a person: files, sizes, comparison.

    Raises:
      UserError: no such kind, run or package; the network is over the budget or gives no
        numbers; what the files compute differs from ours; or they cannot be written. Nothing is
        written then.
    """
    for name, value, known in (("kind", kind, KINDS), ("weights", weights, WEIGHTS)):
        if value not in known:
            raise UserError(f"unknown {name} {value!r}; known: {', '.join(known)}")
    workdir, best = pathlib.Path(workdir), checkpoint == "best"
    name, config = run_config.load(workdir)
    parts = experiment.make(config)
    state, _, step = evaluate.restore(parts, workdir, name="best" if best else "checkpoints")
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    deployment = deploy(parts, variables, weights, {"config": name, "step": str(step)})
    build, load, extension = KINDS[kind]
    files = build(deployment)
    reference = export_check.make_reference(parts, variables, deployment)
    batches = export_check.clip_batches(clips, parts.n_samples)
    tally = export_check.compare(reference, load(files), batches)
    export_check.require_agreement(tally)
    out = pathlib.Path(out_dir or (workdir / "best_checkpoint" if best else workdir) / "export")
    over = ".over_budget" if "budget" in deployment.metadata else ""
    paths = {out / f"{stem}{over}{extension}": data for stem, data in files.items()}
    write_together(paths)
    return summary(kind, deployment, tally, paths, config.precision.stored)


def deploy(
    parts: Experiment, variables: Params, weights: str, metadata: Mapping[str, str]
) -> Deployment:
    """Fold the BatchNorms, round to the dtype `weights`, and name what it is.

    Raises:
      UserError: a value overflows the dtype or is not finite.
    """
    config = parts.config
    with np.errstate(all="ignore"):  # what comes of it is looked at
        folded = fold_batch_norm(variables)["params"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(folded):
        if not np.all(np.isfinite(leaf)):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise UserError(
                f"{name}, its BatchNorm folded in, holds NaN or inf: the run's training diverged "
                "or its weights are spoilt. Take --checkpoint best, if there is one, or train again"
            )
    params = precision.cast(folded, weights)
    metadata = {
        "scenes": " ".join(SCENES),
        "sample_rate": str(config.features.sample_rate),
        "hop_length": str(config.features.hop_length),
        "weights": weights,
        "code_version": version.code_version(),
        **metadata,
    }
    n_bytes = precision.tree_bytes(params)["total"]
    if not parts.within_budget or n_bytes > parts.cost["max_bytes"]:
        metadata["budget"] = f"over budget: {n_bytes:,} bytes, {parts.cost['macs']:,} MACs"
    return Deployment(
        params=jax.tree.map(np.asarray, params),
        model=attributes(config),
        features=config.features.to_dict(),
        metadata=metadata,
    )


def write_together(paths: Mapping[pathlib.Path, bytes]) -> None:
    """Write files of one folder, which is made if need be: all of them or none.

    Raises:
      UserError: they cannot be written; those that were there before still are.
    """
    parts = {path: path.with_name(f"{path.name}.part") for path in paths}
    (folder,) = {path.parent for path in paths}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, part in parts.items():
            if path.is_dir():  # only this could stop the renaming halfway
                raise IsADirectoryError(errno.EISDIR, f"{path.name} is a folder")
            part.write_bytes(paths[path])
        for path, part in parts.items():
            os.replace(part, path)
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}: {error.strerror or error}; free some space, or choose "
            "another --out"
        ) from error
    finally:
        for part in parts.values():
            with contextlib.suppress(OSError):
                part.unlink()


def summary(
    kind: str,
    deployment: Deployment,
    tally: Mapping,
    paths: Mapping[pathlib.Path, bytes],
    stored: str,
) -> list[str]:
    """The lines that `export_run` returns."""
    metadata = deployment.metadata
    n_bytes = precision.tree_bytes(deployment.params)["total"]
    lines = [f"{path}: {len(data):,} bytes" for path, data in paths.items()]
    lines.append(f"network weights per file: {n_bytes:,} bytes of {metadata['weights']}")
    if "budget" in metadata:
        lines.append(metadata["budget"])
    n_noise = tally["n_clips"] - tally["n_labelled"]
    noise = f", {n_noise:,} of them made-up noise" if n_noise else ""
    lines.append(f"compared on {tally['n_clips']:,} clips{noise}:")
    describe = functools.partial(_describe, tally)
    lines += [f"  {name} {describe(name)}" for name in ARTEFACTS]
    lines.append(
        f"  as eval.py deploys it, {stored}, not folded: {describe(export_check.DEPLOYED)}"
    )
    if tally["n_labelled"]:
        lines.append(f"  the same parameters in JAX: {_accuracy(tally, export_check.OURS)}")
    if kind == "stablehlo":
        read = f'bytearray(open("{next(iter(paths))}", "rb").read())'
        lines.append(f"to call one: jax.export.deserialize({read}).call(array)")
    return lines


def _describe(tally: Mapping, name: str) -> str:
    same = 100 * tally["n_same"][name] / tally["n_clips"]
    what = "log probabilities" if name == "waveform_to_probs" else "logits"
    text = f"{what} within {tally['gap'][name]:.1e} of JAX, same top scene on {same:.2f} %"
    return f"{text}, {_accuracy(tally, name)}" if tally["n_labelled"] else text


def _accuracy(tally: Mapping, name: str) -> str:
    return f"accuracy {100 * tally['n_right'][name] / tally['n_labelled']:.2f} %"
