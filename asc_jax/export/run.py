"""Export a finished run to files for other runtimes, written only after they are checked.

ONNX, LiteRT and StableHLO files are run in their own runtime. The C header, which holds data only,
is parsed and computed in JAX. The results are compared with those of the same parameters in JAX,
and these with what `eval.py` evaluates, which is rounded before the BatchNorms are folded.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping

from asc_jax.complexity import limits
from asc_jax.errors import UserError
from asc_jax.evaluation.evaluate import open_run, output_folder
from asc_jax.experiment import Experiment
from asc_jax.export import c_header, check, litert, onnx, stablehlo
from asc_jax.machine import files, version
from asc_jax.models import evaluation, precision
from asc_jax.models.from_config import model
from asc_jax.operations import network, reader
from asc_jax.operations.graph import ARTEFACTS, Deployment
from asc_jax.types import Params

# Kind → the module that writes it (`build`, EXTENSION) and reads it back (`load`).
KINDS = {"stablehlo": stablehlo, "onnx": onnx, "litert": litert, "c": c_header}
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
      out_dir: folder to write to; None: `export` inside the workdir (or its `best_checkpoint`).
      checkpoint: "last" or "best".
      weights: dtype in the file, "float16" or "float32"; all is computed in float32.
      clips: to compare on, as `data.clips` opens them; at most 1,024 are taken, and fewer than
        256 are filled up with noise. None: noise only.

    Returns:
      Lines to print: files, sizes, comparison.

    Raises:
      UserError: no such kind, run or package; the network is over the budget or its outputs are
        not finite; what the files compute differs from ours; or they cannot be written. Nothing
        is written then.
    """
    for name, value, known in (("kind", kind, KINDS), ("weights", weights, WEIGHTS)):
        if value not in known:
            raise UserError(f"unknown {name} {value!r}; known: {', '.join(known)}")
    out = require_out(workdir, checkpoint, out_dir)
    run, writer = open_run(workdir, checkpoint=checkpoint), KINDS[kind]
    metadata = {"config": run.name, "step": str(run.step)}
    any_network = kind == "stablehlo"
    deployment = deploy(run.experiment, run.variables, weights, metadata, any_network=any_network)
    built = writer.build(deployment)
    reference = check.make_reference(run.experiment, run.variables, deployment)
    batches = check.clip_batches(clips, run.experiment.n_samples)
    tally = check.compare(reference, writer.load(built), batches)
    check.require_agreement(tally)
    over = ".teacher" if run.experiment.is_teacher else ""
    over = ".over_budget" if "budget" in deployment.metadata else over
    contents = {out / f"{stem}{over}{writer.EXTENSION}": data for stem, data in built.items()}
    write(contents)
    return summary(kind, deployment, tally, contents, run.experiment.config.precision.stored)


def deploy(
    experiment: Experiment,
    variables: Params,
    weights: str,
    metadata: Mapping[str, str],
    *,
    any_network: bool = False,
) -> Deployment:
    """Read a network's operations, round to the dtype `weights`, and add the metadata.

    Args:
      experiment: of the network.
      variables: as trained.
      weights: dtype of the file.
      metadata: more of it.
      any_network: deploy a network as it is where a primitive of it has no rule in `reader`.

    Raises:
      UserError: a value overflows the dtype or is not finite, or a primitive has no rule.
    """
    config, operations, own = experiment.config, [], None
    try:
        operations = network.read(config, variables, weights)
    except reader.UnknownPrimitive:
        if not any_network:
            raise
        own = evaluation(model(config)), network.rounded(variables, weights)
    metadata = {
        "classes": json.dumps(config.labels.classes),
        "sample_rate": str(config.features.sample_rate),
        "clip_s": str(config.data.clip_s),
        "hop_length": str(config.features.hop_length),
        "weights": weights,
        "code_version": version.code_version(),
        **metadata,
    }
    deployment = Deployment(
        operations, config.features.to_dict(), experiment.n_samples, metadata, own
    )
    n_bytes = precision.tree_bytes(deployment.params)["total"]
    if experiment.is_teacher:
        metadata["role"] = limits.TEACHER
    elif not experiment.within_budget or n_bytes > experiment.cost["max_bytes"]:
        metadata["budget"] = f"over budget: {n_bytes:,} bytes, {experiment.cost['macs']:,} MACs"
    return deployment


def write(contents: Mapping[pathlib.Path, bytes]) -> None:
    """Write files of one folder, which is made if need be: all of them or none.

    Raises:
      UserError: they cannot be written; those that were there before still are.
    """
    (folder,) = {path.parent for path in contents}
    with _writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        files.write_together(contents)


def require_out(
    workdir: str | os.PathLike, checkpoint: str, out_dir: str | os.PathLike | None
) -> pathlib.Path:
    """Return the folder to export to, before all the work; see `export_run`.

    Raises:
      UserError: nothing can be written there.
    """
    folder = pathlib.Path(out_dir or output_folder(workdir, checkpoint) / "export")
    with _writing_to(folder):
        files.require_folder(folder)
    return folder


@contextlib.contextmanager
def _writing_to(folder: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}: {error.strerror or error}; {files.what_to_do(error)}choose "
            "another --out"
        ) from error


def summary(
    kind: str,
    deployment: Deployment,
    tally: Mapping,
    contents: Mapping[pathlib.Path, bytes],
    stored: str,
) -> list[str]:
    """Return the lines of `export_run`; `stored` is the dtype that `eval.py` evaluates."""

    def accuracy(name: str) -> str:
        return f"accuracy {100 * tally['n_correct'][name] / tally['n_labelled']:.2f} %"

    def agreement(name: str) -> str:
        same = 100 * tally["n_same"][name] / tally["n_clips"]
        what = "log probabilities" if name == "waveform_to_probs" else "logits"
        text = f"{what} within {tally['gap'][name]:.1e} of JAX, same top class on {same:.2f} %"
        return f"{text}, {accuracy(name)}" if tally["n_labelled"] else text

    metadata = deployment.metadata
    n_bytes = precision.tree_bytes(deployment.params)["total"]
    lines = [f"{path}: {len(data):,} bytes" for path, data in contents.items()]
    lines.append(f"network weights per file: {n_bytes:,} bytes of {metadata['weights']}")
    if "budget" in metadata:
        lines.append(metadata["budget"])
    if "role" in metadata:
        lines.append(metadata["role"])
    n_noise = tally["n_clips"] - tally["n_labelled"]
    noise = f", {n_noise:,} of them synthetic noise" if n_noise else ""
    lines.append(f"compared on {tally['n_clips']:,} clips{noise}:")
    lines += [f"  {name} {agreement(name)}" for name in ARTEFACTS]
    form = f"as asc-jax eval deploys it, {stored}"
    if stored == precision.INT8:  # the integers themselves are compared by --dtype int8
        form = "as trained, float32"
    lines.append(f"  {form}, not folded: {agreement(check.DEPLOYED)}")
    if tally["n_labelled"]:
        lines.append(f"  the same parameters in JAX: {accuracy(check.OURS)}")
    if kind == "onnx":
        lines.append(onnx.INT8[metadata["weights"]])
    if kind == "stablehlo":
        lines.append(stablehlo.PROMISE)
        read = f'bytearray(open("{next(iter(contents))}", "rb").read())'
        lines.append(f"to call one: jax.export.deserialize({read}).call(array)")
    return lines
