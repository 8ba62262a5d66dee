"""Where was this recorded? A scene for every second of a recording, and for all of it.

python -m asc_jax.cli.predict audio.wav folder/ --workdir runs/splits/5pct
python -m asc_jax.cli.predict audio.wav --workdir … --hop_s 0.5 --top_k 1 --format csv
python -m asc_jax.cli.predict audio.wav --workdir … --png timeline.png
ffmpeg -i film.mp4 -f s16le -ar 48000 -ac 2 - |
    python -m asc_jax.cli.predict - --rate 48000 --channels 2 --workdir …

Any format libsndfile reads, any rate, any number of channels, any length; of a folder, every file
below it with a suffix that libsndfile knows, except hidden ones. "-" is a stream of raw samples,
answered as it comes. One-second windows go through the deployed network, as eval.py does it; the
scene of a recording is that of their mean probabilities. If the last whole window leaves an end,
one more is moved back to end there.

Exit status: 0 all predicted; 2 wrong input. What is wrong with one of several recordings is said
on stderr and the others go on.
"""

import contextlib
import os
import sys
from collections.abc import Sequence

from absl import flags

from asc_jax import experiment
from asc_jax.cli import keep_compiled, run
from asc_jax.data import recordings
from asc_jax.data.recordings import OpenRecording
from asc_jax.data.tau.taxonomy import N_SCENES
from asc_jax.errors import UserError
from asc_jax.evaluation import evaluate
from asc_jax.models import precision
from asc_jax.prediction.figure import Timeline
from asc_jax.prediction.lines import KINDS
from asc_jax.prediction.predictor import Predictor, predict, say
from asc_jax.training.workdir import run_config

STDIN = "-"
BATCH_SIZE = 16  # windows computed together
HOPS_S = (0.01, 3600.0)


def main(argv: Sequence[str]) -> None:
    """Predict what the command line names."""
    given, paths = flags.FLAGS, argv[1:]
    if not paths or given.workdir is None:
        raise UserError(
            "which recordings, and which run? For example: "
            "python -m asc_jax.cli.predict audio.wav --workdir runs/splits/5pct"
        )
    _check_values(given, paths)
    streaming = paths == [STDIN]
    files = [] if streaming else recordings.find_recordings(paths)
    if given.png is not None and len(files) != 1:
        raise UserError(f"--png draws one recording from a file, not {len(files) or 'a stream'}")
    parts, predictor = load(given.workdir, given.checkpoint, given.stored, 1 if streaming else None)
    lines = KINDS[given.format](given.top_k, over_budget=not parts.within_budget)
    try:
        say(lines.start())
        if streaming:
            options = {"rate": given.rate, "n_channels": given.channels}
            stream = recordings.read_stream(
                sys.stdin.buffer, sample_format=given.sample_format, **options
            )
            predict(predictor, stream, lines, hop_s=given.hop_s, show_windows=given.windows)
        else:
            _predict_files(predictor, files, lines, given)
    except BrokenPipeError:  # whoever read our lines has had enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def load(workdir: str, checkpoint: str, stored: str | None, batch_size: int | None):
    """The run's `Experiment` and its network, ready to predict.

    Raises:
      UserError: there is no run or no checkpoint.
    """
    _, config = run_config.load(workdir)
    if stored is not None:
        config = config.copy_and_resolve_references()
        config.precision.stored = stored
    parts = experiment.make(config)
    name = "best" if checkpoint == "best" else "checkpoints"
    state, _, _ = evaluate.restore(parts, workdir, name=name)
    keep_compiled(workdir)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    return parts, Predictor(parts, variables, batch_size or BATCH_SIZE)


def _predict_files(predictor, files, lines, given) -> None:
    """Every file; what is wrong with one is said, and raised when the others are done."""
    failed = 0
    for file in files:
        timeline = None
        try:
            with recordings.open_recording(file) as recording:
                if given.png is not None:
                    timeline = _timeline(recording, predictor)
                options = {"hop_s": given.hop_s, "show_windows": given.windows}
                mean = predict(predictor, recording, lines, timeline=timeline, **options)
        except UserError as error:
            if len(files) == 1:
                raise
            failed += 1
            print(f"error: {error}", file=sys.stderr)
            continue
        if timeline is not None:
            with _writing(given.png):
                timeline.write(given.png, file.name, mean, over_budget=lines.over_budget)
    if failed:
        raise UserError(f"{failed} of {len(files)} recordings could not be predicted, see above")


def _timeline(recording: OpenRecording, predictor: Predictor) -> Timeline:
    if not recording.n_samples:
        raise UserError(f"{recording.name}: --png needs a file that says how long it is")
    return Timeline(recording.n_samples / recording.rate, predictor.features)


@contextlib.contextmanager
def _writing(path: str):
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _check_values(given, paths: Sequence[str]) -> None:
    """Flags out of range, and those that go with a stream without one."""
    if not 1 <= given.top_k <= N_SCENES:
        raise UserError(f"--top_k is {given.top_k}, expected 1 … {N_SCENES}")
    low, high = HOPS_S
    if not low <= given.hop_s <= high:
        raise UserError(f"--hop_s is {given.hop_s:g}, expected {low:g} … {high:g} seconds")
    if STDIN in paths and len(paths) > 1:
        raise UserError("'-' is a stream of its own: give no other recordings with it")
    if STDIN in paths and given.rate is None:
        raise UserError("'-' is a stream of raw samples: --rate is needed, for example 48000")
    for name in () if STDIN in paths else ("rate", "channels", "sample_format"):
        if given[name].present:
            raise UserError(f"--{name} goes with '-', a stream; a file says it itself")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "The run to predict with.")
    flags.DEFINE_enum("checkpoint", "last", ["last", "best"], "Which one of the run.")
    flags.DEFINE_enum(
        "stored", None, precision.STORED_DTYPES, "Number format; the run's own if not given."
    )
    flags.DEFINE_float("hop_s", 1.0, "Seconds from the start of a window to that of the next.")
    flags.DEFINE_integer("top_k", 3, "How many scenes to name, with their probabilities.")
    flags.DEFINE_enum("format", "table", list(KINDS), "Of the lines; json: one object a line.")
    flags.DEFINE_bool("windows", True, "Every window; --nowindows: only the recordings.")
    flags.DEFINE_string("png", None, "Picture to write: spectrogram and scenes over time.")
    flags.DEFINE_integer("rate", None, "Of a stream, Hz.")
    flags.DEFINE_integer("channels", 1, "Of a stream.")
    flags.DEFINE_enum(
        "sample_format", "s16le", list(recordings.SAMPLE_FORMATS), "Of a stream, as in ffmpeg -f."
    )
    run(main)
