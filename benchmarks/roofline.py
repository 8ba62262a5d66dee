"""Bytes and operations of a training step, by layer, and the limit that memory sets to it.

    python -m benchmarks.roofline

The bytes are those of a program that keeps nothing between operations. In values of its input x
and result y, a convolution forward reads x and writes y, its normalisation and activation read y
for the statistics, read it again and write z. Backward the normalisation reads y and z's gradient
twice (sums, then result) and writes y's gradient; the convolution reads that twice (for weights and
input) and x once, and writes x's gradient: 3 x + 11 y. Pools and sums read and write once each
way. Parameters are too few to count.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from asc_jax import features
from asc_jax.models import evaluation
from asc_jax.models.from_config import log_mel_shape, model
from asc_jax.operations import reader
from asc_jax.operations.graph import INPUT
from benchmarks import inputs

FLOAT32 = 4  # bytes
ITEMSIZES = {"float32": FLOAT32, "bfloat16": 2}
N_RUN_CLIPS = 150 * 6980  # clip presentations of a 5 % run
N_TABLE1_CLIPS = 150 * (6980 + 13_960 + 34_900 + 69_800 + 139_620) * 2 * 5  # systems, seeds


class Layer(NamedTuple):
    """One operation on one clip: its forward multiply-accumulates, its bytes in training."""

    name: str
    macs: int
    n_bytes: int


def layers(config, itemsize: int = FLOAT32) -> list[Layer]:
    """The front end, always float32 and without gradient, then the network's operations.

    Args:
      config: an experiment's.
      itemsize: bytes of an activation.
    """
    shape, network = log_mel_shape(config), model(config)
    clip = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), clip)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), variables)
    found, sizes = [Layer("front end", 0, _front_end_bytes(config.features))], {}
    sizes[INPUT] = math.prod(shape)
    for op in reader.read(evaluation(network), zeros, shape):
        if op.kind != "constant":
            n_in = max(sizes[name] for name in op.inputs if name in sizes)
            n_taps = op.arrays["kernel"].size if "kernel" in op.arrays else 0
            n_out = sizes[op.name] = math.prod(op.shape)
            n_values = 3 * n_in + 11 * n_out if n_taps else 2 * (n_in + n_out)
            macs = n_taps * math.prod(op.shape[:-1])
            found.append(Layer(op.name, macs, itemsize * n_values))
    return found


def _front_end_bytes(f) -> int:
    """Each written once and read once: rolled clip, frames, spectrum, power, mel power, log-mel."""
    n_frames, n_bins = features.n_frames(f.sample_rate, **f), f.n_fft // 2 + 1
    per_frame = f.win_length + 2 * n_bins + n_bins + 2 * f.n_mels
    return FLOAT32 * 2 * (f.sample_rate + n_frames * per_frame)


def summarise(results: Sequence[Mapping], config) -> dict:
    """What the rows of part j come to.

    Returns:
      `bytes_per_s` of the copy; by number format `bytes_per_clip`, `clips_per_s` (the best of
      one model), `share_of_memory_limit`, `best_n_seeds`, `seeds_clips_per_s` (all models
      together), and the seconds of a 5 % run at those rates: `run_s` of one model,
      `runs_of_all_seeds_s` of the best number of them; `table1_s` of Table 1 with five seeds at the
      latter rate. Empty without part j.
    """
    rows = [row for row in results if row["part"] == "j" and "ours" in row["results"]]
    if not rows:
        return {}

    def rates(job: str, **wanted) -> dict[int | None, float]:
        """The best rate by number of seeds."""
        found: dict[int | None, float] = {}
        for row in rows:
            if row["job"] == job and wanted.items() <= row["spec"].items():
                n, rate = row["spec"].get("n_seeds"), 1 / row["results"]["ours"]["median"]
                found[n] = max(found.get(n, 0), rate)
        return found

    copied = rates("copy")[None]
    summary: dict = {"bytes_per_s": copied}
    for dtype, itemsize in ITEMSIZES.items():
        by_seeds = rates("resident_step", dtype=dtype)
        alone = by_seeds.pop(None)
        best = max(by_seeds, key=by_seeds.get)
        n_bytes = sum(layer.n_bytes for layer in layers(config, itemsize))
        summary[dtype] = {
            "bytes_per_clip": n_bytes,
            "clips_per_s": alone,
            "share_of_memory_limit": alone * n_bytes / copied,
            "best_n_seeds": best,
            "seeds_clips_per_s": by_seeds[best],
            "run_s": N_RUN_CLIPS / alone,
            "runs_of_all_seeds_s": best * N_RUN_CLIPS / by_seeds[best],
            "table1_s": N_TABLE1_CLIPS / by_seeds[best],
        }
    return summary


def markdown(config) -> str:
    """The table by layer, float32."""
    table = layers(config)
    lines = ["| layer | MACs | bytes of a training step |", "|---|---|---|"]
    total = Layer("all", sum(x.macs for x in table), sum(x.n_bytes for x in table))
    lines += [f"| {name} | {macs:,} | {n_bytes:,} |" for name, macs, n_bytes in (*table, total)]
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown(inputs.make_config(inputs.SIZES["full"])))
