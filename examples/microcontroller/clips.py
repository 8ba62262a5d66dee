"""Write test clips of a run's data set, or a recording, at the network's sample rate.

    python clips.py --workdir runs/demo --n_clips 64 --out build
    python clips.py --workdir runs/demo --recording dog.ogg --out build

writes `samples.s16`, which the firmware reads, and the same clips, end to end, as `clips.wav`. A
recording, in any format that libsndfile reads, is cut and resampled as `asc-jax predict` does it.
"""

import argparse
import pathlib
import wave

import numpy as np

from asc_jax.data.clips import open_for
from asc_jax.data.recordings import open_recording
from asc_jax.data.resampling import resampler
from asc_jax.errors import UserError
from asc_jax.prediction.predictor import windows
from asc_jax.training.workdir import run_config


def main() -> None:
    """Write evenly spread clips of the run's test split, or those of a recording."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", required=True, help="of the run")
    parser.add_argument("--n_clips", type=int, default=64)
    parser.add_argument("--recording", help="file to take in place of test clips, all of it")
    parser.add_argument("--data_dir", help="of the data set, if not where the run was trained")
    parser.add_argument("--out", type=pathlib.Path, default="build", help="folder to write to")
    options = parser.parse_args()
    try:
        config = run_config.load(options.workdir)[1]
        if options.recording:
            audio = _cut(options.recording, config)
        else:
            audio = _test_clips(config, options.data_dir or config.data.dir, options.n_clips)
    except UserError as error:
        parser.exit(2, f"error: {error}\n")
    samples = np.clip(np.rint(audio * 32_768), -32_768, 32_767).astype("<i2").tobytes()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "samples.s16").write_bytes(samples)
    with wave.open(str(options.out / "clips.wav"), "wb") as file:
        file.setparams((1, 2, config.features.sample_rate, 0, "NONE", ""))
        file.writeframes(samples)
    print(
        f"{options.out}: samples.s16 and clips.wav, {len(audio)} clips of {config.data.clip_s:g} s"
    )


def _test_clips(config, data_dir, n_clips: int) -> np.ndarray:
    """Return at most so many test clips, `[b, n]` float32 in [-1, 1)."""
    clips = open_for(config, config.data.test_split, data_dir)
    n_clips = min(n_clips, len(clips))
    spread = np.arange(n_clips) * len(clips) // n_clips
    return np.concatenate([b["audio"][b["mask"]] for b in clips.batches(spread, 16)])


def _cut(path: str, config) -> np.ndarray:
    """Return all clips of a recording, `[b, n]` float32, each resampled by itself."""
    rate, clip_s = config.features.sample_rate, config.data.clip_s
    with open_recording(path) as recording:
        cut = [clip for _, clip in windows(recording.blocks, recording.rate, clip_s, clip_s)]
    resampled = np.asarray(resampler(recording.rate, rate)(np.stack(cut)))
    return resampled[:, : round(rate * clip_s)]


if __name__ == "__main__":
    main()
