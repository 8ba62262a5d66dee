"""Predict the class of recordings, window by window and as a whole.

usage: asc-jax predict PATH [PATH …] --workdir RUN [options]
       asc-jax predict - --rate HZ --workdir RUN [options]

PATH is a recording in any format that libsndfile reads, of any rate, number of channels and
length, or a folder, of which every file is taken that has a suffix of such a format and is not
hidden; how many others it holds is said at the end. - is a stream of raw samples without a header,
predicted as it comes. Windows, as long as the clips of the run, go through the deployed network, as
in `asc-jax eval`; the class of a recording is that of their mean probabilities. If the last whole
window leaves an end of a tenth of a window or more, one more is moved back to end there.

examples:
  asc-jax predict clip.wav folder/ --workdir runs/demo
  asc-jax predict clip.wav --workdir runs/demo --hop_s 0.5 --top_k 1 --format csv
  asc-jax predict clip.wav --workdir runs/demo --png timeline.png
  ffmpeg -i film.mp4 -f s16le -ar 48000 -ac 2 - |
      asc-jax predict - --rate 48000 --channels 2 --workdir runs/demo

exit status: 0 all predicted, 2 wrong input; an error in one of several recordings is printed, and
the others are predicted
"""

import contextlib
import math
import sys
from collections.abc import Sequence

from absl import flags

from asc_jax.cli import prepare_jax, run
from asc_jax.cli.shared_flags import define_run_flags
from asc_jax.data import recordings
from asc_jax.data.recordings import OpenRecording
from asc_jax.errors import UserError
from asc_jax.evaluation import evaluate
from asc_jax.evaluation.report.figures import require_png
from asc_jax.library import check_hop
from asc_jax.prediction.figure import Timeline
from asc_jax.prediction.lines import KINDS
from asc_jax.prediction.predictor import Predictor, predict, say

STDIN = "-"
BATCH_SIZE = 16  # windows computed together


def define_flags() -> None:
    define_run_flags()
    flags.DEFINE_float(
        "hop_s",
        None,
        "Seconds from the start of a window to that of the next (default: the length of a window)",
    )
    flags.DEFINE_integer("top_k", None, "Classes in a line, the most probable first (default: 3)")
    flags.DEFINE_float(
        "min_peak_dbfs", -math.inf, "Leave out windows whose peak is lower, dB of full scale "
        "(default: none)"
    )  # fmt: skip
    flags.DEFINE_enum("format", "table", list(KINDS), "Form of the lines")
    flags.DEFINE_bool("windows", True, "Print every window, not only the whole recordings")
    flags.DEFINE_string("png", None, "File for a picture: spectrogram and classes over time")
    flags.DEFINE_integer("rate", None, "Sample rate of a stream, Hz (required with -)")
    flags.DEFINE_integer("channels", 1, "Channels of a stream")
    flags.DEFINE_enum(
        "sample_format",
        "s16le",
        list(recordings.SAMPLE_FORMATS),
        "Samples of a stream, as ffmpeg's -f",
    )


def main(argv: Sequence[str]) -> None:
    """Predict what the command line names."""
    values, paths = flags.FLAGS, argv[1:]
    if not paths or values.workdir is None:
        raise UserError(
            "which recordings, and which run? For example: "
            "asc-jax predict clip.wav --workdir runs/demo"
        )
    _check_values(values, paths)
    streaming = paths == [STDIN]
    if streaming and sys.stdin.isatty():
        raise UserError("'-' is a stream of raw samples, but nothing is piped in")
    files, not_looked_at = ([], None) if streaming else recordings.find_recordings(paths)
    if values.png is not None and len(files) != 1:
        raise UserError(f"--png draws one recording from a file, not {len(files) or 'a stream'}")
    if values.png is not None:
        require_png(values.png)
    opened = evaluate.open_run(values.workdir, checkpoint=values.checkpoint, stored=values.stored)
    top_k = _top_k(values.top_k, opened.experiment.labels.n_classes)
    prepare_jax(values.workdir)
    predictor = Predictor(opened.experiment, opened.variables, 1 if streaming else BATCH_SIZE)
    within = opened.experiment.within_budget
    lines = KINDS[values.format](predictor.classes, top_k, over_budget=not within)
    say(lines.start())
    if streaming:
        stream = recordings.read_stream(
            sys.stdin.buffer,
            rate=values.rate,
            n_channels=values.channels,
            sample_format=values.sample_format,
        )
        predict(predictor, stream, lines, **_options(values))
    else:
        try:
            failed = _predict_files(predictor, files, lines, values)
        finally:
            if not_looked_at:
                print(not_looked_at, file=sys.stderr)
        if failed:
            raise UserError(
                f"{failed} of {len(files)} recordings could not be predicted, see above"
            )


def _options(values) -> dict:
    """Return the flags that say which windows there are and what is printed."""
    return {
        "hop_s": values.hop_s,
        "min_peak_dbfs": values.min_peak_dbfs,
        "show_windows": values.windows,
    }


def _predict_files(predictor, files, lines, values) -> int:
    """Predict every file; print the errors of several, and return how many there were."""
    failed = 0
    for file in files:
        timeline = None
        try:
            with recordings.open_recording(file) as recording:
                if values.png is not None:
                    timeline = _timeline(recording, predictor)
                mean = predict(predictor, recording, lines, timeline=timeline, **_options(values))
        except UserError as error:
            if len(files) == 1:
                raise
            failed += 1
            print(f"error: {error}", file=sys.stderr)
            continue
        if timeline is not None:
            with _writing(values.png):
                timeline.write(values.png, file.name, mean, over_budget=lines.over_budget)
    return failed


def _timeline(recording: OpenRecording, predictor: Predictor) -> Timeline:
    if not recording.n_samples:
        raise UserError(
            f"{recording.name}: --png needs a file of known length; convert "
            f"it ({recordings.CONVERT})"
        )
    duration_s = recording.n_samples / recording.rate
    return Timeline(duration_s, predictor.features, predictor.classes, predictor.clip_s)


@contextlib.contextmanager
def _writing(path: str):
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _top_k(asked: int | None, n_classes: int) -> int:
    """Return how many classes a line has; a `UserError` if the run has not so many."""
    if asked is None:
        return min(3, n_classes)
    if asked > n_classes:
        raise UserError(f"--top_k is {asked}, and the run has {n_classes} classes")
    return asked


def _check_values(values, paths: Sequence[str]) -> None:
    """Raise a `UserError` for a flag out of range, or for one of a stream without a stream."""
    if values.top_k is not None and values.top_k < 1:
        raise UserError(f"--top_k is {values.top_k}, expected at least 1")
    if values.hop_s is not None:
        check_hop(values.hop_s)
    if not values.min_peak_dbfs <= 0:
        raise UserError(f"--min_peak_dbfs is {values.min_peak_dbfs:g}, expected at most 0 dB")
    if STDIN in paths and len(paths) > 1:
        raise UserError("'-' is a stream of its own: give no other recordings with it")
    if STDIN in paths and values.rate is None:
        raise UserError(
            "'-' is a stream of raw samples, without a header: --rate is needed, for example 48000"
        )
    for name in () if STDIN in paths else ("rate", "channels", "sample_format"):
        if values[name].present:
            raise UserError(f"--{name} is for a stream ('-') only: a file contains its own")


if __name__ == "__main__":
    run(main, define_flags)
