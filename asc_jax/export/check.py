"""Run exported files back on clips and compare them with the same network in JAX."""

import collections
import functools
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from asc_jax import features
from asc_jax.errors import UserError
from asc_jax.evaluation.evaluate import require_finite, softmax
from asc_jax.experiment import Experiment
from asc_jax.models import evaluation, precision
from asc_jax.models.from_config import model
from asc_jax.operations.graph import ARTEFACTS, Deployment
from asc_jax.types import Array, Params

TOLERANCE = 1e-3  # on logits
MIN_AGREEMENT = 0.999  # fraction of clips with the same top class
# The same between two roundings of one network; measured: 100 % for float16, 98 % for bfloat16.
MIN_DEPLOYED_AGREEMENT = 0.95
MIN_CLIPS, MAX_CLIPS = 256, 1024
BATCH_SIZE = 32
SMALLEST_PROB = 1e-30  # smaller ones count as equal to it: float32 ends soon after
DEPLOYED = "deployed"  # what eval.py evaluates, beside the artefacts
OURS = "ours"

Batches = Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]


def make_reference(experiment: Experiment, variables: Params, deployment: Deployment) -> Callable:
    """Return a compiled `audio [b, n_samples] -> (log_mel, logits, deployed)`.

    `logits [b, n_classes]` are those of the deployment's parameters in JAX, `deployed` those of
    the network that `eval.py` evaluates.
    """
    config = experiment.config
    stored = config.precision.stored  # of int8, `convert --dtype int8` compares the integers
    rounded = precision.deployed(variables, "float32" if stored == precision.INT8 else stored)

    @jax.jit
    def reference(variables: Params, rounded: Params, audio: Array):
        log_mel = features.log_mel(audio, **config.features)
        logits = deployment.apply(variables, log_mel)
        return log_mel, logits, evaluation(model(config))(rounded, log_mel)

    # Arguments, because XLA's CPU compiler computes some constants wrongly: `c_header.load`.
    return functools.partial(reference, deployment.variables, jax.tree.map(jnp.asarray, rounded))


def clip_batches(clips, n_samples: int) -> Batches:
    """Yield batches of `audio [b, n_samples]`, `label [b]` (-1: noise) and `mask [b]`.

    Of more than MAX_CLIPS clips that many are taken, evenly spread; fewer than MIN_CLIPS are
    filled up with noise.
    """
    n_clips = 0 if clips is None else min(len(clips), MAX_CLIPS)
    if n_clips:
        spread = np.arange(n_clips) * len(clips) // n_clips
        for batch in clips.batches(spread, BATCH_SIZE):
            yield batch["audio"], batch["label"], batch["mask"]
    rng = np.random.default_rng(0)
    for missing in range(MIN_CLIPS - n_clips, 0, -BATCH_SIZE):
        mask = np.arange(BATCH_SIZE) < missing
        yield synthetic_noise(rng, BATCH_SIZE, n_samples), np.full(BATCH_SIZE, -1), mask


def synthetic_noise(rng: np.random.Generator, n_clips: int, n_samples: int) -> np.ndarray:
    """Return noise of varied colour (power falls with frequency to the 0 … 2) and loudness.

    `[n_clips, n_samples]` float32, root mean square 0.001 … 0.1.
    """
    spectrum = np.fft.rfft(rng.standard_normal((n_clips, n_samples)))
    slope, loudness = rng.uniform(0, 1, (n_clips, 1)), 10 ** rng.uniform(-3, -1, (n_clips, 1))
    spectrum *= np.arange(1, spectrum.shape[1] + 1) ** -slope
    audio = np.fft.irfft(spectrum, n_samples)
    return (audio / audio.std(axis=1, keepdims=True) * loudness).astype(np.float32)


def compare(reference: Callable, functions: Mapping[str, Callable], batches: Batches) -> dict:
    """Compute every batch by the files and in JAX, and count.

    Args:
      reference: what `make_reference` returns.
      functions: artefact → function of numpy arrays, as the `load` of a kind gives them.
      batches: as `clip_batches` gives them.

    Returns:
      `gap`, `n_same`, `n_correct`: by artefact, and by "deployed", the largest difference of
      logits (of log probabilities where a file gives those), the clips with our top class, and
      those with the correct one; `n_correct` also for "ours". `n_clips`, `n_labelled`.

    Raises:
      UserError: our own logits are not finite.
    """
    tally = {name: collections.Counter() for name in ("gap", "n_same", "n_correct")}
    tally |= {"n_clips": 0, "n_labelled": 0}
    for audio, label, mask in batches:
        log_mel, logits, deployed = map(np.asarray, reference(audio))
        require_finite(logits[mask], "the network to export")
        require_finite(deployed[mask], "the network as asc-jax eval deploys it")
        inputs = dict(zip(ARTEFACTS, (audio, log_mel), strict=True))
        results = {name: function(inputs[name]) for name, function in functions.items()}
        results |= {DEPLOYED: deployed, OURS: logits}
        labelled = mask & (label >= 0)
        tally["n_clips"] += int(mask.sum())
        tally["n_labelled"] += int(labelled.sum())
        for name, result in results.items():
            expected = logits
            if name == "waveform_to_probs":
                result, expected = _log(result), _log(softmax(logits))
            gap = np.abs(result - expected)[mask].max()
            tally["gap"][name] = np.maximum(tally["gap"][name], gap)  # unlike max, keeps NaN
            top = result.argmax(-1)
            tally["n_same"][name] += int(np.sum(mask & (top == logits.argmax(-1))))
            tally["n_correct"][name] += int(np.sum(labelled & (top == label)))
    return tally


def require_agreement(tally: Mapping) -> None:
    """Check that the files, and what `eval.py` evaluates, agree with our network.

    Args:
      tally: what `compare` returns.

    Raises:
      UserError: the logits of an artefact are too far from ours, or its top classes; or our top
        classes from those that `eval.py` evaluates.
    """
    clips = f"of {tally['n_clips']:,} clips"
    for name in ARTEFACTS:
        gap, same = tally["gap"][name], tally["n_same"][name] / tally["n_clips"]
        if not gap <= TOLERANCE or same < MIN_AGREEMENT:
            differ = f"differ by up to {gap:.2g}" if np.isfinite(gap) else "are NaN or inf"
            what_to_do = (
                "the logits do agree, so those of the first two classes are almost equal on these "
                "clips: has the network been trained long enough?"
                if gap <= TOLERANCE
                else "try --to with another kind, or --dtype float32"
            )
            raise UserError(
                f"{name}, run back in its own runtime, is not our network: logits {differ} (at "
                f"most {TOLERANCE:g} allowed), the top class is the same on {100 * same:.2f} % "
                f"{clips} (at least {100 * MIN_AGREEMENT:g} % needed). Nothing was written; "
                f"{what_to_do}"
            )
    same = tally["n_same"][DEPLOYED] / tally["n_clips"]
    if same < MIN_DEPLOYED_AGREEMENT:
        raise UserError(
            "the network to export, rounded after its BatchNorms are folded, is not the one that "
            "asc-jax eval evaluates, rounded before: the top class is the same on "
            f"{100 * same:.2f} % {clips} (at least "
            f"{100 * MIN_DEPLOYED_AGREEMENT:g} % needed). Nothing was written; "
            "try --dtype float32, and see what rounding costs with asc-jax eval --stored float32"
        )


def _log(probs: np.ndarray) -> np.ndarray:
    """Return the logarithm; NaN where a value is not finite, or -inf would count as small."""
    finite = np.where(np.isfinite(probs), probs, np.nan)
    return np.log(np.maximum(finite, SMALLEST_PROB))
