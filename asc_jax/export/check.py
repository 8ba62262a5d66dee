"""Exported files, run back on clips and held against the same network in JAX."""

import collections
import functools
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from asc_jax import features
from asc_jax.errors import UserError
from asc_jax.evaluation import evaluate
from asc_jax.experiment import Experiment
from asc_jax.export.graph import ARTEFACTS, Deployment
from asc_jax.models import precision
from asc_jax.models.from_config import model
from asc_jax.types import Array, Params

TOLERANCE = 1e-3  # on logits
MIN_AGREEMENT = 0.999  # share of clips with the same top scene
# The same between two roundings of one network; measured: 100 % for float16, 98 % for bfloat16.
MIN_DEPLOYED_AGREEMENT = 0.95
MIN_CLIPS, MAX_CLIPS = 256, 1024
BATCH_SIZE = 32
SMALLEST_PROB = 1e-30  # smaller ones count as equal to it: float32 ends soon after
DEPLOYED = "deployed"  # what eval.py evaluates, beside the artefacts
OURS = "ours"

Batches = Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]


def make_reference(parts: Experiment, variables: Params, deployment: Deployment) -> Callable:
    """A compiled `audio [b, n_samples] -> (log_mel, logits, deployed)`.

    `logits [b, n_scenes]` are those of the deployment's parameters in JAX, `deployed` those of
    what `eval.py` evaluates.
    """
    config = parts.config
    net = model(config).clone(folded=True)
    params = jax.tree.map(lambda x: x.astype(np.float32), deployment.params)
    rounded = precision.cast(variables, config.precision.stored)
    rounded = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), rounded)

    @jax.jit
    def reference(params: Params, rounded: Params, audio: Array):
        log_mel = features.log_mel(audio, **config.features)
        logits = net.apply({"params": params}, log_mel)
        return log_mel, logits, model(config).apply(rounded, log_mel)

    # Arguments, not constants, of which XLA's CPU compiler computes some wrongly: `c_reader.load`.
    return functools.partial(reference, params, rounded)


def clip_batches(clips, n_samples: int) -> Batches:
    """`audio [b, n_samples]`, `label [b]` (−1: noise) and `mask [b]`, one batch after the other.

    Of many clips MAX_CLIPS are taken, spread over all; noise makes up for few.
    """
    n_clips = 0 if clips is None else min(len(clips), MAX_CLIPS)
    if n_clips:
        spread = np.arange(n_clips) * len(clips) // n_clips
        for batch in clips.batches(spread, BATCH_SIZE):
            yield batch["audio"], batch["label"], batch["mask"]
    rng = np.random.default_rng(0)
    for missing in range(MIN_CLIPS - n_clips, 0, -BATCH_SIZE):
        unlabelled = np.full(BATCH_SIZE, -1)
        yield made_up_clips(rng, BATCH_SIZE, n_samples), unlabelled, unlabelled.cumsum() >= -missing


def made_up_clips(rng: np.random.Generator, n_clips: int, n_samples: int) -> np.ndarray:
    """Noise of varied colour (power falls with frequency to the 0 … 2) and loudness.

    `[n_clips, n_samples]` float32, root mean square 0.001 … 0.1.
    """
    spectrum = np.fft.rfft(rng.standard_normal((n_clips, n_samples)))
    slope, loudness = rng.uniform(0, 1, (n_clips, 1)), 10 ** rng.uniform(-3, -1, (n_clips, 1))
    spectrum *= np.arange(1, spectrum.shape[1] + 1) ** -slope
    audio = np.fft.irfft(spectrum, n_samples)
    return (audio / audio.std(axis=1, keepdims=True) * loudness).astype(np.float32)


def compare(reference: Callable, functions: Mapping[str, Callable], batches: Batches) -> dict:
    """Run files back and count.

    Args:
      reference: what `make_reference` returns.
      functions: artefact → function of numpy arrays, as the `load` of a kind gives them.
      batches: as `clip_batches` gives them.

    Returns:
      `gap`, `n_same`, `n_right`: by artefact, and by "deployed", the largest difference of
      logits (of log probabilities where a file gives those), the clips with our top scene, and
      those with the right one; `n_right` also for "ours". `n_clips`, `n_labelled`.

    Raises:
      UserError: our own logits are not finite.
    """
    tally = {name: collections.Counter() for name in ("gap", "n_same", "n_right")}
    tally |= {"n_clips": 0, "n_labelled": 0}
    for audio, label, mask in batches:
        log_mel, logits, deployed = map(np.asarray, reference(audio))
        evaluate.require_finite(logits[mask], "the network to export")
        evaluate.require_finite(deployed[mask], "the network as eval.py deploys it")
        given = dict(zip(ARTEFACTS, (audio, log_mel), strict=True))
        results = {name: function(given[name]) for name, function in functions.items()}
        results |= {DEPLOYED: deployed, OURS: logits}
        known = mask & (label >= 0)
        tally["n_clips"] += int(mask.sum())
        tally["n_labelled"] += int(known.sum())
        for name, result in results.items():
            expected = logits
            if name == "waveform_to_probs":
                result, expected = _log(result), _log(evaluate.softmax(logits))
            gap = np.abs(result - expected)[mask].max()
            tally["gap"][name] = np.maximum(tally["gap"][name], gap)  # unlike max, keeps NaN
            top = result.argmax(-1)
            tally["n_same"][name] += int(np.sum(mask & (top == logits.argmax(-1))))
            tally["n_right"][name] += int(np.sum(known & (top == label)))
    return tally


def require_agreement(tally: Mapping) -> None:
    """Hold the comparison of `compare` against what a file must keep.

    Raises:
      UserError: the logits of an artefact are too far from ours, or its top scenes; or our top
        scenes from those that `eval.py` evaluates.
    """
    clips = f"of {tally['n_clips']:,} clips"
    for name in ARTEFACTS:
        gap, same = tally["gap"][name], tally["n_same"][name] / tally["n_clips"]
        if not gap <= TOLERANCE or same < MIN_AGREEMENT:
            differ = f"differ by up to {gap:.2g}" if np.isfinite(gap) else "are NaN or inf"
            raise UserError(
                f"{name}, run back in its own runtime, is not our network: logits {differ} (at "
                f"most {TOLERANCE:g} allowed), the top scene is the same on {100 * same:.2f} % "
                f"{clips} (at least {100 * MIN_AGREEMENT:g} % needed). Nothing was written; try "
                "--to with another kind, or --dtype float32"
            )
    same = tally["n_same"][DEPLOYED] / tally["n_clips"]
    if same < MIN_DEPLOYED_AGREEMENT:
        raise UserError(
            "the network to export, rounded after its BatchNorms are folded, is not the one that "
            f"eval.py evaluates, rounded before: the top scene is the same on {100 * same:.2f} % "
            f"{clips} (at least {100 * MIN_DEPLOYED_AGREEMENT:g} % needed). Nothing was written; "
            "try --dtype float32, and see what rounding costs with eval.py --stored float32"
        )


def _log(probs: np.ndarray) -> np.ndarray:
    """NaN for what is no number: a maximum would make one of -inf."""
    known = np.where(np.isfinite(probs), probs, np.nan)
    return np.log(np.maximum(known, SMALLEST_PROB))
