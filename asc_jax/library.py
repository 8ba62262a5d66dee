"""A trained run in Python: its config, weights and results, and its predictions.

Example:

    import asc_jax

    run = asc_jax.load_run("runs/demo")
    print(run.config.model, run.results["float16"]["macro_accuracy"])
    prediction = run.predict("clip.wav")
    print(prediction.label, prediction.start_s, prediction.probs)

A run computes in 32 bits, also in a program that has switched on JAX's 64.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from asc_jax.data import recordings
from asc_jax.errors import UserError
from asc_jax.evaluation import evaluate
from asc_jax.evaluation.result_files import upgraded
from asc_jax.experiment import Experiment, eval_forward
from asc_jax.machine import files
from asc_jax.models import precision
from asc_jax.prediction.lines import Lines
from asc_jax.prediction.predictor import Predictor, predict
from asc_jax.types import Params

BATCH_SIZE = 16  # windows computed together
HOPS_S = (0.01, 3600.0)


def load_run(
    workdir: str | os.PathLike, *, checkpoint: str = "last", stored: str | None = None
) -> "Run":
    """Open a trained run.

    Args:
      workdir: folder that `asc-jax train` or `asc-jax convert` wrote.
      checkpoint: "last" or "best".
      stored: dtype that the weights are rounded to for predictions, "float32", "bfloat16" or
        "float16"; None: that of the run's config.

    Raises:
      UserError: there is no such run or checkpoint, or its network is over the budget.
    """
    with _settled():
        opened = evaluate.open_run(workdir, checkpoint=checkpoint, stored=stored)
    return Run(pathlib.Path(workdir), checkpoint, opened.experiment, opened.variables, opened.step)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The classes of a recording.

    classes: names of the columns of `probs`. start_s, end_s: `[n_windows]`, seconds, where each
    window lies. probs: `[n_windows, n_classes]` float64, rows sum to 1. notes: what was done to
    the recording, and what makes its class doubtful.
    """

    classes: tuple[str, ...]
    start_s: np.ndarray
    end_s: np.ndarray
    probs: np.ndarray
    notes: Sequence[str]

    @property
    def mean(self) -> np.ndarray:
        """Probabilities of the whole recording, `[n_classes]`: the mean over its windows."""
        return self.probs.mean(axis=0)

    @property
    def label(self) -> str:
        """The most probable class of the whole recording."""
        return self.classes[self.mean.argmax()]

    @property
    def scene(self) -> str:
        """The same as `label`, its name in runs of TAU's scenes."""
        return self.label


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained run.

    workdir: its folder. checkpoint: "last" or "best". experiment: its config, bound to network,
    loss and optimiser. variables: `{"params", "batch_stats"}` as trained, not rounded. step: of
    the checkpoint.
    """

    workdir: pathlib.Path
    checkpoint: str
    experiment: Experiment = dataclasses.field(repr=False)
    variables: Params = dataclasses.field(repr=False)
    step: int

    @property
    def config(self) -> ml_collections.ConfigDict:
        """The config that the run was trained with."""
        return self.experiment.config

    @property
    def results(self) -> Mapping[str, Any]:
        """The parsed `results.json` that `asc-jax eval` wrote, an older one under today's keys.

        Raises:
          UserError: the run is not evaluated, or the file cannot be read.
        """
        path = evaluate.output_folder(self.workdir, self.checkpoint) / "results.json"
        best = " --checkpoint best" if self.checkpoint == "best" else ""
        again = f"evaluate the run with `asc-jax eval --workdir {self.workdir}{best}`"
        try:
            return upgraded(files.parse_json(path.read_text("utf-8")))
        except FileNotFoundError as error:
            raise UserError(f"{path} is missing: {again}") from error
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}): {again}") from error

    def predict(
        self,
        recording: str | os.PathLike | np.ndarray,
        rate: int | None = None,
        hop_s: float | None = None,
    ) -> Prediction:
        """Predict the classes of a recording, with the numbers of `asc-jax predict`.

        Args:
          recording: a file that libsndfile reads, or a waveform, `[n]` or `[n, n_channels]` floats
            in [-1, 1], of any length.
          rate: of a waveform, Hz; a file says its own.
          hop_s: seconds from the start of a window, as long as `config.data.clip_s`, to that of the
            next, 0.01 … 3600; None: its length.

        Raises:
          UserError: the recording cannot be read, or `rate` or `hop_s` does not fit.
        """
        if hop_s is not None:
            check_hop(hop_s)
        classes = self.experiment.labels.classes
        is_file = isinstance(recording, str | os.PathLike)
        if is_file != (rate is None):
            raise UserError("a waveform needs its rate in Hz, and a file says it by itself")
        kept = _Kept(classes, len(classes), windows=[], notes=[])
        source = (
            recordings.open_recording(recording)
            if is_file
            else contextlib.nullcontext(recordings.read_array(recording, rate))
        )
        with _settled(), source as opened:
            predict(self._predictor, opened, kept, hop_s=hop_s)
        start_s, end_s, probs = map(np.array, zip(*kept.windows, strict=True))
        return Prediction(classes, start_s, end_s, probs, kept.notes)

    def apply(self, waveform: np.ndarray) -> np.ndarray:
        """Return the logits `[b, n_classes]` float32 of the deployed network.

        Args:
          waveform: `[b, n_samples]` float32 in [-1, 1], clips of `config.data.clip_s` at the rate
            of `config.features.sample_rate`.

        Raises:
          UserError: it has another shape.
        """
        n_samples = self.experiment.n_samples
        if np.ndim(waveform) != 2 or np.shape(waveform)[1] != n_samples:
            raise UserError(
                f"the waveform has the shape {np.shape(waveform)}, expected [b, {n_samples}]: "
                f"{self.config.data.clip_s:g} s at {self.config.features.sample_rate} Hz; "
                "`predict` takes any length and rate"
            )
        with _settled():
            return np.asarray(self._forward(waveform))

    @functools.cached_property
    def _predictor(self) -> Predictor:
        return Predictor(self.experiment, self.variables, BATCH_SIZE)

    @functools.cached_property
    def _forward(self) -> Callable:
        variables = precision.deployed(self.variables, self.config.precision.stored)
        forward = jax.jit(functools.partial(eval_forward, config=self.config))
        return functools.partial(forward, variables)


@contextlib.contextmanager
def _settled():
    """Compute as a command does, in a program that has set JAX up for its own purposes."""
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        jax.transfer_guard("allow"),
    ):
        yield


def check_hop(hop_s: float) -> None:
    """Raise a `UserError` if a hop is not in `HOPS_S`."""
    low, high = HOPS_S
    if not low <= hop_s <= high:
        raise UserError(f"hop_s is {hop_s:g}, expected {low:g} … {high:g} seconds")


@dataclasses.dataclass(frozen=True)
class _Kept(Lines):
    """Keeps the windows and notes of a recording, where other `Lines` make text of them."""

    windows: list = dataclasses.field(default_factory=list)
    notes: list = dataclasses.field(default_factory=list)

    def window(self, name, start_s, end_s, probs):
        self.windows.append((start_s, end_s, probs))

    def whole(self, name, duration_s, n_windows, probs, notes):
        self.notes.extend(notes)
