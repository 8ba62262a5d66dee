"""Write test clips of a run's data set at the network's sample rate.

    python clips.py --workdir runs/demo --n_clips 64 --out build

writes `samples.s16`, which the firmware reads, and the same clips, end to end, as `clips.wav`.
"""

import argparse
import pathlib
import wave

import numpy as np

from asc_jax.data.clips import open_for
from asc_jax.training.workdir import run_config


def main() -> None:
    """Write evenly spread clips of the run's test split."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", required=True, help="of the run")
    parser.add_argument("--n_clips", type=int, default=64)
    parser.add_argument("--data_dir", help="of the data set, if not where the run was trained")
    parser.add_argument("--out", type=pathlib.Path, default="build", help="folder to write to")
    options = parser.parse_args()
    config = run_config.load(options.workdir)[1]
    clips = open_for(config, config.data.test_split, options.data_dir or config.data.dir)
    n_clips = min(options.n_clips, len(clips))
    spread = np.arange(n_clips) * len(clips) // n_clips
    batches = [batch["audio"][batch["mask"]] for batch in clips.batches(spread, 16)]
    audio = np.concatenate(batches)
    samples = np.clip(np.rint(audio * 32_768), -32_768, 32_767).astype("<i2").tobytes()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "samples.s16").write_bytes(samples)
    with wave.open(str(options.out / "clips.wav"), "wb") as file:
        file.setparams((1, 2, config.features.sample_rate, 0, "NONE", ""))
        file.writeframes(samples)
    print(f"{options.out}: samples.s16 and clips.wav, {n_clips} clips of {config.data.clip_s:g} s")


if __name__ == "__main__":
    main()
