"""What all contestants are given: sizes, the config, clips made in memory, scenes on disk."""

import dataclasses
import importlib
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple

import ml_collections
import numpy as np

from asc_jax.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]
SPLITS = ("train_25pct", "train_50pct", "train_100pct")
CONFIGS = {
    "cp_mobile": "configs.splits.5pct",
    "tf_sepnet": "configs.tf_sepnet_40",
    "tf_sepnet_64": "configs.teachers.tf_sepnet_64",
    "cnn_gru": "configs.students.cnn_gru",
    "cp_mobile_12310": "configs.students.cp_mobile_12310",
    "cp_mobile_half": "configs.students.cp_mobile_half",
    "cp_mobile_61160": "configs.students.cp_mobile_61160",
    "cp_mobile_126952": "configs.teachers.cp_mobile_126952",
    "rep_mobile": "configs.students.rep_mobile",
    "cp_resnet": "configs.teachers.cp_resnet",
}
OTHER_NETWORKS = tuple(name for name in CONFIGS if name != "cp_mobile")
TOLERANCE = 1e-4  # on log-mels, logits, statistics; relative on the whole gradient
N_PROBE = 4  # clips on which contestants are compared before they are timed


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured.

    batches: of training, clips. growth: the same, for the growth with the batch. bulk: clips
    of a large inference batch. steps_per_call: of ours, as in training; peer_steps: of a peer,
    whose steps do not share anything. n_segments: made-up scenes, per scene, 10 clips each.
    seeds: models trained in one program. run_clips, run_epochs: of a whole run, the 5 % split's.
    build_clips: of data sets to be prepared; what the second takes longer is free of the start.
    toy: a small front end and network. networks: besides the first, keys of CONFIGS.
    """

    batches: tuple[int, ...] = (78, 130, 256)
    growth: tuple[int, ...] = (16, 32, 64, 128, 256)
    bulk: int = 256
    repeats: int = 7
    steps_per_call: int = 8
    peer_steps: int = 2
    n_segments: int = 20
    seeds: tuple[int, ...] = (1, 2, 4, 8, 16)
    run_clips: int = 6980
    run_epochs: int = 150
    build_clips: tuple[int, ...] = (12_288, 49_152)
    toy: bool = False
    networks: tuple[str, ...] = OTHER_NETWORKS


SIZES = {
    "full": Size(),
    "quick": Size((78,), (32, 64), 256, 3, 4, 1, 4, (1, 4), build_clips=(12_288, 24_576)),
    "toy": Size((12,), (4, 12), 16, 2, 2, 1, 1, (1, 2), 20, 2, (50, 150), toy=True),
}


class Job(NamedTuple):
    """`run()` does the work once and waits for its end; `work`: clips, steps or bytes of it."""

    run: Callable[[], None]
    work: float


class Mismatch(Exception):
    """A contestant does not compute what ours does: its time would say nothing."""


def make_config(size: Size, network: str = "cp_mobile") -> ml_collections.ConfigDict:
    """The report's system, or at toy size something like it that compiles in seconds.

    network: a key of CONFIGS. Dropout is off, or peers could not be compared.
    """
    config = importlib.import_module(CONFIGS[network]).get_config().unlock()
    config.model.update({name: 0.0 for name in config.model if name.endswith("dropout")})
    if size.toy:
        config.features.update(n_mels=32, hop_length=2000 if network == "cp_mobile" else 1000)
        config.model.update({"widths": (8, 16, 24)} if "widths" in config.model else {"width": 8})
        for section in config.augment.values():
            if section.get("max_width"):
                section.max_width = 8
    return config.lock()


def read_config(spec: Mapping) -> ml_collections.ConfigDict:
    """The config in a request."""
    return ml_collections.ConfigDict(_with_tuples(json.loads(spec["config"]))).lock()


def _with_tuples(value):
    """Return a value of JSON with tuples for its lists, as configs have them."""
    if isinstance(value, dict):
        return {key: _with_tuples(each) for key, each in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def waveforms(n_clips: int, rate: int) -> np.ndarray:
    """White noise, `[n_clips, rate]` float32, one second."""
    rng = np.random.default_rng(0)
    return 0.1 * rng.standard_normal((n_clips, rate), dtype=np.float32)


def log_mels(n_clips: int, n_mels: int, n_frames: int) -> np.ndarray:
    """Noise about where log-mels lie, `[n_clips, n_mels, n_frames]` float32."""
    rng = np.random.default_rng(1)
    return rng.standard_normal((n_clips, n_mels, n_frames), dtype=np.float32) - 1


def labels(n_clips: int) -> np.ndarray:
    """`[n_clips]` int32 in 0 … 9."""
    return np.arange(n_clips, dtype=np.int32) % 10


def require_equal(name: str, ours: np.ndarray, theirs: np.ndarray, scale: float = 1.0) -> None:
    """Compare a contestant's array with ours.

    Raises:
      Mismatch: they differ by more than TOLERANCE · scale, or are NaN.
    """
    gap = np.abs(np.asarray(theirs) - ours).max() / scale
    if not gap <= TOLERANCE:
        raise Mismatch(f"its {name} differ from ours by {gap:.2g} (at most {TOLERANCE:g} allowed)")


def write_scenes(out_dir: pathlib.Path, n_segments: int) -> None:
    """Write synthetic scenes in TAU's layout, `100 * n_segments` training clips.

    Raises:
      UserError: the command that writes them failed; its own last line is in the message.
    """
    command = [sys.executable, "-m", "asc_jax.cli.synthesize", f"--out_dir={out_dir}"]
    command += [f"--n_train_segments={n_segments}", "--n_test_segments=1"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    if done.returncode:
        reason = (done.stderr.strip() or "no message").splitlines()[-1]
        raise UserError(f"scenes on disk cannot be made: {reason}")
